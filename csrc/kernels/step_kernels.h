// The kernels of a forward step, one table of them per instruction set. All float32, all over plain
// pointers. Whatever shares a call, a result is made of the same sums in the same order: a token
// gets the same bits alone or beside others, and whoever calls may split rows, heads and tokens
// among threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"
#include "simd/isa.h"

namespace abruzzi {

// Where the latent of each position lies: row table[s / block] * block + s % block. A row is c_kv,
// then k_pe.
struct Latents {
  const float* base;
  std::size_t row;  // floats from one row to the next
  const std::int32_t* table;
  std::size_t block;

  const float* at(std::size_t s) const {
    return base + (static_cast<std::size_t>(table[s / block]) * block + s % block) * row;
  }
};

// Sizes of one layer's attention, padded: rank and nope to 32 (they are multiplied), rope and value
// to 16.
struct MlaShape {
  std::size_t heads, rank, nope, rope, value;
  std::size_t rank_pad, nope_pad, rope_pad, value_pad;

  std::size_t latent_row() const { return rank_pad + rope_pad; }
  std::size_t query_row() const { return nope_pad + rope_pad; }
};

inline MlaShape mla_shape(std::size_t heads, std::size_t rank, std::size_t nope, std::size_t rope, std::size_t value) {
  return {heads,
          rank,
          nope,
          rope,
          value,
          padded(rank, kColumns),
          padded(nope, kColumns),
          padded(rope, kRows),
          padded(value, kRows)};
}

// Sizes of one layer's grouped-query attention; a head's width is filled up to whole vectors.
struct GqaShape {
  std::size_t heads, kv_heads, width, width_pad;

  // Keys of every head, then values of every head.
  std::size_t cache_row() const { return 2 * kv_heads * width_pad; }
};

inline GqaShape gqa_shape(std::size_t heads, std::size_t kv_heads, std::size_t width) {
  return {heads, kv_heads, width, padded(width, kRows)};
}

// How a router's logits become scores. Python gives the number (kernels/ops.py:SCORES).
enum class Score : int { sigmoid = 0, softmax = 1 };

struct Router {
  std::size_t experts = 0, top_k = 0, groups = 1, kept_groups = 1;
  bool renormalize = true;
  float scale = 1.0f;
  Score score = Score::sigmoid;
};

// Floats that `route` works in.
inline std::size_t route_scratch(const Router& r) { return 2 * padded(r.experts, 8) + r.groups; }

// Positions that attention works on at once, from multiples of it on.
constexpr std::size_t kPositions = 32;

// Words of a group of columns in 8 bits: its sum twice, and 32 numbers.
constexpr std::size_t kQuantizedGroup = 10;

inline std::size_t quantized_row(std::size_t groups) { return groups * kQuantizedGroup + 1; }

// Every kernel: its name and the member of a template over the instruction set that makes it
// (table_impl.h).
#define ABRUZZI_STEP_KERNELS(X)                  \
  X(matmul, Products<S>::matmul)                 \
  X(matmul_add, Products<S>::matmul_add)         \
  X(gate_up, Products<S>::gate_up)               \
  X(quantize, Bytes<S>::quantize)                \
  X(matmul8, Bytes<S>::matmul)                   \
  X(matmul_add8, Bytes<S>::matmul_add)           \
  X(gate_up8, Bytes<S>::gate_up)                 \
  X(sum_exp, Elementwise<S>::sum_exp)            \
  X(silu_mul, Elementwise<S>::silu_mul)          \
  X(rope, Elementwise<S>::rope)                  \
  X(route, Elementwise<S>::route)                \
  X(mla_absorbed, MlaAttention<S>::mla_absorbed) \
  X(mla_merge, MlaAttention<S>::mla_merge)       \
  X(mla_naive, MlaAttention<S>::mla_naive)       \
  X(gqa, GqaAttention<S>::gqa)                   \
  X(gqa_merge, GqaAttention<S>::gqa_merge)

struct StepKernels {
  // y[t][rows of blocks first..last) = m x[t]; only the matrix's own rows are written.
  void (*matmul)(const Matrix& m, std::size_t first, std::size_t last, const float* const* x, std::size_t tokens,
                 float* const* y);
  // y[t][...] += weight[t] * (m x[t])
  void (*matmul_add)(const Matrix& m, std::size_t first, std::size_t last, const float* const* x, std::size_t tokens,
                     const float* weight, float* const* y);
  // y[t][...] = silu(gate x[t]) * (up x[t])
  void (*gate_up)(const Matrix& gate, const Matrix& up, std::size_t first, std::size_t last, const float* const* x,
                  std::size_t tokens, float* const* y);
  // Fast mode: a row of x in 8 bits (quantized_row numbers), and the same products from such rows,
  // for int4 and int8.
  void (*quantize)(const float* x, std::size_t groups, std::int32_t* row);
  void (*matmul8)(const Matrix& m, std::size_t first, std::size_t last, const std::int32_t* const* x,
                  std::size_t tokens, float* const* y);
  void (*matmul_add8)(const Matrix& m, std::size_t first, std::size_t last, const std::int32_t* const* x,
                      std::size_t tokens, const float* weight, float* const* y);
  void (*gate_up8)(const Matrix& gate, const Matrix& up, std::size_t first, std::size_t last,
                   const std::int32_t* const* x, std::size_t tokens, float* const* y);
  // The sum of exp(x / temperature - top), in double precision.
  double (*sum_exp)(const float* x, std::size_t n, float temperature, float top);
  // y[n] = silu(gate) * up
  void (*silu_mul)(const float* gate, const float* up, float* y, std::size_t n);
  // Pairs (0,1), (2,3), ... of x are turned by cos, sin [pairs]; y has the even ones first, then
  // the odd ones.
  void (*rope)(const float* x, const float* cos, const float* sin, float* y, std::size_t pairs);
  // Experts of one token, best first, and their weights. `scratch`: route_scratch floats.
  void (*route)(const Router& r, const float* logits, const float* bias, float* scratch, std::int32_t* chosen,
                float* weight);
  // One query (all heads, or some: q, m, l, u begin at the first of them) over positions [first,
  // last), first a multiple of kPositions: largest score m, sum of exponentials l, and the unscaled
  // sum of latents u, per head.
  void (*mla_absorbed)(const MlaShape& s, std::size_t heads, const float* q, const Latents& c, std::size_t first,
                       std::size_t last, float scale, float* m, float* l, float* u);
  // The parts of one head, in order, put together: out[rank_pad].
  void (*mla_merge)(const MlaShape& s, std::size_t parts, std::size_t part_heads, const float* m, const float* l,
                    const float* u, float* out);
  // One head, `tokens` queries at positions start.., keys and values decompressed. q[t] and out[t]
  // by stride. `scratch`: mla_scratch floats.
  void (*mla_naive)(const MlaShape& s, const Matrix& uk, const Matrix& uv, const float* q, std::size_t q_stride,
                    std::size_t tokens, std::size_t start, const Latents& c, float scale, float* scratch, float* out,
                    std::size_t out_stride);
  // Heads [first_head, last_head) of keys and values, and for each the `tokens` queries at positions
  // start.. of the heads that share it (q [tokens][heads / kv_heads][width_pad], the next head's
  // q_stride further), over positions [first, last) as far as each sees them, first a multiple of
  // kPositions: largest score m, sum of exponentials l, and the unscaled sum of values u, per query
  // ([kv_heads][tokens][heads / kv_heads], of all heads). A query that sees none has l = 0. `scratch`:
  // kPositions floats for each query of a head.
  void (*gqa)(const GqaShape& s, std::size_t first_head, std::size_t last_head, const float* q, std::size_t q_stride,
              std::size_t tokens, std::size_t start, const Latents& c, std::size_t first, std::size_t last, float scale,
              float* scratch, float* m, float* l, float* u);
  // The parts of one query, in order, put together: out[width]. Parts lie `apart` queries from each
  // other.
  void (*gqa_merge)(std::size_t width, std::size_t parts, std::size_t apart, const float* m, const float* l,
                    const float* u, float* out);
};

// The list and the table have the same members: each is a pointer, and the list names it.
#define ABRUZZI_COUNT(name, function) +1
static_assert(sizeof(StepKernels) == (0 ABRUZZI_STEP_KERNELS(ABRUZZI_COUNT)) * sizeof(void (*)()),
              "a kernel is missing in ABRUZZI_STEP_KERNELS");
#undef ABRUZZI_COUNT

inline std::size_t mla_scratch(const MlaShape& s, std::size_t tokens) {
  return kPositions * (2 * s.query_row() + s.value_pad) + tokens * (s.value_pad + kPositions + 2);
}

const StepKernels& step_kernels(Isa isa);

// One per file; those that a machine's compiler cannot make are absent.
const StepKernels& step_kernels_scalar();
#if defined(ABRUZZI_X86)
const StepKernels& step_kernels_avx2();
const StepKernels& step_kernels_avx512();
#endif

}  // namespace abruzzi
