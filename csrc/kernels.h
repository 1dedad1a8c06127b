// The kernels, over plain pointers. Shapes are checked by the Python side; nothing here knows Python.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace abruzzi {

// y[O] = W[O, I] x[I], W in INT4 as compressed-tensors packs it: `packed` [O, I/8] words of eight
// codes + 8, lowest bits first; `scale` [O, I/32] bfloat16 bits. I is a multiple of 32. float32 throughout.
void int4_matvec(Isa isa, const std::uint32_t* packed, const std::uint16_t* scale, const float* x, float* y,
                 std::size_t rows, std::size_t width);

// y[T, D] = x[T, D] / sqrt(mean(x^2) + eps) * weight[D], row by row.
void rmsnorm(Isa isa, const float* x, const float* weight, float* y, std::size_t rows, std::size_t width, float eps);

}  // namespace abruzzi
