// Causal attention within the documents of packed rows, forward and backward, for training in
// bfloat16 on a CPU with instructions for it (AVX-512 BF16). What model/fast/packed_attention.py does
// with torch, in one pass per document and head.
//
// Tokens of all documents lie one behind the other: M tokens, N heads, K nope and P rope columns (A
// = K + P), H value columns (J = K + H). Queries and keys come as their projections are: not
// rotated, not scaled.
#pragma once

#include <cstddef>
#include <cstdint>

namespace abruzzi {

using Bf16 = std::uint16_t;

struct DocumentAttention {
  const std::int64_t* edges;  // [documents + 1]: where each begins, and where the last one ends
  std::size_t documents, heads, nope, rope, value;
  float scale;
  const Bf16* q;     // [M, N, A], nope then rope
  const Bf16* kv;    // [M, N, J], nope then value
  const Bf16* k_pe;  // [M, P], shared by all heads
  const float* cos;  // [M, P / 2]
  const float* sin;  // [M, P / 2]
};

// Whether this CPU and this build can.
bool can_attend_documents();

// o [M, N, H]; log_sum [M, N], of the softmax inputs; largest [M, N], the largest of them.
void attend_documents(const DocumentAttention& given, std::size_t threads, Bf16* o, float* log_sum, float* largest);

// From d_o, with o and log_sum of the forward pass: dq [M, N, A], dkv [M, N, J], and dk_pe [M, N,
// P], each head's share.
void attend_documents_backward(const DocumentAttention& given, std::size_t threads, const Bf16* o, const float* log_sum,
                               const Bf16* d_o, Bf16* dq, Bf16* dkv, float* dk_pe);

// One document and head of them, in a thread's memory of document_arena(given, longest document)
// bytes, 64-aligned.
bool built_for_bf16();
std::size_t document_arena(const DocumentAttention& given, std::size_t longest);
void attend_document(const DocumentAttention& given, std::size_t document, std::size_t head, void* arena, Bf16* o,
                     float* log_sum, float* largest);
void attend_document_backward(const DocumentAttention& given, std::size_t document, std::size_t head, void* arena,
                              const Bf16* o, const float* log_sum, const Bf16* d_o, Bf16* dq, Bf16* dkv, float* dk_pe);

}  // namespace abruzzi
