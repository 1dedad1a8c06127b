// From logits to the next token. The readable twin is kernels/ref.py's `sample`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/isa.h"

namespace abruzzi {

struct Draw {
  float temperature = 1.0f;  // above 0
  std::size_t top_k = 0;     // 0: all
  double top_p = 1.0, min_p = 0.0;
  double uniform = 0.0;  // in [0, 1)
};

// The logarithm of sum(exp(x / temperature)): x / temperature minus it is a log-probability. NaN
// where a logit is.
double log_partition(Isa isa, const float* x, std::size_t n, float temperature);

// The largest, the first of equals.
std::size_t largest(const float* x, std::size_t n);

// One of the candidates: ids by probability, of equals the lower first; top_k of them, then the
// fewest whose mass reaches top_p, then those at least min_p times as likely as the first. Sorts no
// more of them than it needs.
std::size_t sample(Isa isa, const float* x, std::size_t n, const Draw& draw);

}  // namespace abruzzi
