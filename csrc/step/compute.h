// The kernels of one instruction set over one pool of threads, in one precision: what every half of
// a layer calls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/pool.h"
#include "kernels/step_kernels.h"
#include "simd/isa.h"
#include "step/buffers.h"

namespace abruzzi {

// Floating-point operations below which sharing costs more than it gives.
constexpr double kSerial = 8e5;

inline double flops_of(const Matrix& m, std::size_t tokens) {
  return 2.0 * static_cast<double>(m.rows) * static_cast<double>(m.columns) * static_cast<double>(tokens);
}

class Compute {
 public:
  // fast: matrices of codes take their input in 8 bits (W4A8, W8A8).
  Compute(Isa isa, std::size_t threads, bool fast)
      : isa(isa), kernels(step_kernels(isa)), pool(threads), bytes_scratch(pool.threads()), fast_(fast) {}

  const Isa isa;
  const StepKernels& kernels;
  Pool pool;
  Scratch<std::int32_t> bytes_scratch;

  // Whether the matrix takes its input in 8 bits.
  bool in_bytes(const Matrix& m) const { return fast_ && has_codes(m.kind); }

  // RMSNorm of `tokens` rows; x and y may be the same.
  void norm(const std::vector<float>& weight, float eps, const float* x, float* y, std::size_t stride,
            std::size_t tokens);

  // Rows [0, count) as the products take them; in 8 bits, too, where `bytes` says so.
  void operand(Rows& rows, std::size_t count, bool bytes, Operand& to);

  // y[t] = m x[t], shared out among the threads.
  void multiply(const Matrix& m, const Operand& x, const std::vector<float*>& y);

  // The same for a few rows of floats, by the thread that calls.
  void multiply_alone(const Matrix& m, const std::vector<const float*>& x, const std::vector<float*>& y,
                      std::size_t thread);

  // y[t][rows of blocks first..last) = m x[t] for rows [at, at + count) of the operand.
  void product(const Matrix& m, std::size_t first, std::size_t last, const Operand& x, std::size_t at,
               std::size_t count, float* const* y) const {
    if (in_bytes(m))
      kernels.matmul8(m, first, last, x.bytes.data() + at, count, y);
    else
      kernels.matmul(m, first, last, x.rows.data() + at, count, y);
  }

  // y[t][...] += weight[t] * (m x[t])
  void product_add(const Matrix& m, std::size_t first, std::size_t last, const Operand& x, std::size_t at,
                   std::size_t count, const float* weight, float* const* y) const {
    if (in_bytes(m))
      kernels.matmul_add8(m, first, last, x.bytes.data() + at, count, weight, y);
    else
      kernels.matmul_add(m, first, last, x.rows.data() + at, count, weight, y);
  }

  // y[t][...] = silu(gate x[t]) * (up x[t])
  void gate_up(const Matrix& gate, const Matrix& up, std::size_t first, std::size_t last, const Operand& x,
               std::size_t at, std::size_t count, float* const* y) const {
    if (in_bytes(gate))
      kernels.gate_up8(gate, up, first, last, x.bytes.data() + at, count, y);
    else
      kernels.gate_up(gate, up, first, last, x.rows.data() + at, count, y);
  }

  // Splits `blocks` of 16 rows into jobs, work(first, last, thread).
  template <class Work>
  void by_rows(std::size_t blocks, double flops, const Work& work) {
    if (flops < kSerial) return work(0, blocks, 0);
    const std::size_t each = std::max<std::size_t>(1, blocks / (pool.threads() * 4));
    pool.run((blocks + each - 1) / each, [&](std::size_t job, std::size_t thread) {
      work(job * each, std::min(blocks, (job + 1) * each), thread);
    });
  }

  // job(number, thread) for numbers below `jobs`, shared out only where that pays.
  template <class Job>
  void run(std::size_t jobs, double flops, const Job& job) {
    if (flops >= kSerial) return pool.run(jobs, job);
    for (std::size_t i = 0; i < jobs; ++i) job(i, 0);
  }

 private:
  const bool fast_;
};

}  // namespace abruzzi
