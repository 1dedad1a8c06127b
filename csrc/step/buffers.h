// What a step works in, and how its products are called: shared by the model's source files, and by nothing else.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "step/model.h"

namespace abruzzi {

constexpr double kSerial = 8e5;  // floating-point operations below which sharing costs more than it gives

// Rows of floats with zeros between their end and a multiple of 32, which products read.
struct Rows {
  std::vector<float> data;
  std::size_t stride = 0;

  void shape(std::size_t rows, std::size_t width) {
    const std::size_t wanted = padded(width, kColumns);
    if (wanted != stride || rows * wanted > data.size()) {
      stride = wanted;
      data.assign(std::max(rows * stride, data.size()), 0.0f);
    }
  }
  float* at(std::size_t row) { return data.data() + row * stride; }
};

struct Pair {
  std::size_t token;
  float weight;
};

// What is multiplied: rows of floats, and the same in 8 bits where the matrix wants them so (fast mode).
struct Operand {
  std::vector<const float*> rows;
  std::vector<const std::int32_t*> bytes;  // empty where no matrix wants them
  std::vector<std::int32_t> memory;        // of the bytes
};

struct Model::Buffers {
  std::size_t tokens = 0;
  std::vector<std::size_t> position;             // [T]
  std::vector<std::size_t> chunk;                // [T]
  std::vector<std::size_t> absorbed;             // tokens that attend in the latent space
  std::vector<float> cos, sin;                   // [T, P / 2]
  Rows x, normed, q_a, q_raw, kv_raw, attended;  // [T, ...]
  Rows q;                                        // [T, N (nope_pad + rope_pad)]
  Rows latent_q, latent_out;                     // [absorbed, N ...]
  Rows router, moe, shared_inner;                // [T, ...]
  Rows inner;                                    // [T * K, F], sorted by expert
  std::vector<float> part_m, part_l, part_u;
  std::vector<std::vector<float>> scratch;              // of each thread
  std::vector<std::vector<std::int32_t>> byte_scratch;  // of each thread
  std::vector<std::int32_t> chosen;                     // [T, K]
  std::vector<float> chosen_weight;
  std::vector<std::size_t> expert_first;  // [E + 1], in the sorted pairs
  std::vector<Pair> pairs;
  Operand normed_in, q_a_in, attended_in, shared_in, inner_in, pairs_in;
  std::vector<float*> out, more_out;
  std::vector<float> weights, ones;
};

inline double flops_of(const Matrix& m, std::size_t tokens) {
  return 2.0 * static_cast<double>(m.rows) * static_cast<double>(m.columns) * static_cast<double>(tokens);
}

template <class Work>
void Model::by_rows(std::size_t blocks, double flops, const Work& work) {
  if (flops < kSerial) return work(0, blocks, 0);
  const std::size_t each = std::max<std::size_t>(1, blocks / (pool_.threads() * 4));
  pool_.run((blocks + each - 1) / each,
            [&](std::size_t job, std::size_t thread) { work(job * each, std::min(blocks, (job + 1) * each), thread); });
}

inline bool Model::in_bytes(const Matrix& m) const {
  return shape_.fast && (m.kind == Kind::int4 || m.kind == Kind::int8);
}

// y[t][rows of blocks first..last) = m x[t] for rows [at, at + count) of the operand.
inline void Model::product(const Matrix& m, std::size_t first, std::size_t last, const Operand& x, std::size_t at,
                           std::size_t count, float* const* y) const {
  if (in_bytes(m))
    kernels_.matmul8(m, first, last, x.bytes.data() + at, count, y);
  else
    kernels_.matmul(m, first, last, x.rows.data() + at, count, y);
}

// y[t][...] += weight[t] * (m x[t])
inline void Model::product_add(const Matrix& m, std::size_t first, std::size_t last, const Operand& x, std::size_t at,
                               std::size_t count, const float* weight, float* const* y) const {
  if (in_bytes(m))
    kernels_.matmul_add8(m, first, last, x.bytes.data() + at, count, weight, y);
  else
    kernels_.matmul_add(m, first, last, x.rows.data() + at, count, weight, y);
}

}  // namespace abruzzi
