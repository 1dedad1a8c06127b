#include "step/compute.h"

#include "kernels/rmsnorm.h"

namespace abruzzi {

void Compute::norm(const std::vector<float>& weight, float eps, const float* x, float* y, std::size_t stride,
                   std::size_t tokens) {
  const std::size_t each = 32;
  pool.run((tokens + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t t = job * each; t < std::min(tokens, (job + 1) * each); ++t)
      rmsnorm(isa, x + t * stride, weight.data(), y + t * stride, 1, weight.size(), eps);
  });
}

void Compute::operand(Rows& rows, std::size_t count, bool bytes, Operand& to) {
  to.rows.resize(count);
  for (std::size_t i = 0; i < count; ++i) to.rows[i] = rows.at(i);
  to.bytes.clear();
  if (!bytes) return;
  const std::size_t groups = rows.stride / kColumns, row = quantized_row(groups), each = 16;
  to.memory.resize(std::max(to.memory.size(), count * row));
  to.bytes.resize(count);
  for (std::size_t i = 0; i < count; ++i) to.bytes[i] = to.memory.data() + i * row;
  pool.run((count + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t i = job * each; i < std::min(count, (job + 1) * each); ++i)
      kernels.quantize(rows.at(i), groups, to.memory.data() + i * row);
  });
}

void Compute::multiply(const Matrix& m, const Operand& x, const std::vector<float*>& y) {
  const std::size_t count = x.rows.size();
  by_rows(m.blocks, flops_of(m, count),
          [&](std::size_t first, std::size_t last, std::size_t) { product(m, first, last, x, 0, count, y.data()); });
}

void Compute::multiply_alone(const Matrix& m, const std::vector<const float*>& x, const std::vector<float*>& y,
                             std::size_t thread) {
  if (!in_bytes(m)) return kernels.matmul(m, 0, m.blocks, x.data(), x.size(), y.data());
  const std::size_t row = quantized_row(m.groups);
  std::int32_t* memory = bytes_scratch.of(thread, x.size() * row);
  std::vector<const std::int32_t*> bytes(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    kernels.quantize(x[i], m.groups, memory + i * row);
    bytes[i] = memory + i * row;
  }
  kernels.matmul8(m, 0, m.blocks, bytes.data(), x.size(), y.data());
}

}  // namespace abruzzi
