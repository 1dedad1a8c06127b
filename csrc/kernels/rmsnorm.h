// The kernels, over plain pointers. Shapes are checked by the Python side; nothing here knows
// Python.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/isa.h"

namespace abruzzi {

// y[T, D] = x[T, D] / sqrt(mean(x^2) + eps) * weight[D], row by row.
void rmsnorm(Isa isa, const float* x, const float* weight, float* y, std::size_t rows, std::size_t width, float eps);

}  // namespace abruzzi
