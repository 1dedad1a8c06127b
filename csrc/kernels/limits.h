// What this machine can do at most: the rates that a bench is held against, measured in the same
// minutes.
#pragma once

#include <cstddef>
#include <vector>

#include "simd/isa.h"

namespace abruzzi {

// Bytes per second of reading `bytes` of memory once, by that many threads side by side; one number
// per pass, for about `seconds`, at least one. `bytes` should be well beyond the caches.
std::vector<double> measure_bandwidth(std::size_t threads, std::size_t bytes, double seconds);

// Operations per second (a multiplication and an addition are two) of 8-bit products with 32-bit
// sums in registers.
std::vector<double> measure_int8_peak(Isa isa, std::size_t threads, double seconds);

}  // namespace abruzzi
