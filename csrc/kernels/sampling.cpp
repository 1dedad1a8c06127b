#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/step_kernels.h"

namespace abruzzi {
namespace {

struct Candidate {
  float value;  // logit / temperature
  std::uint32_t id;
};

bool before(const Candidate& a, const Candidate& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

constexpr double kEverything = std::numeric_limits<double>::infinity();
// How far below the best a candidate may lie, one after the other until they suffice.
constexpr double kCuts[] = {3, 6, 12, 24, kEverything};

}  // namespace

std::size_t largest(const float* x, std::size_t n) { return static_cast<std::size_t>(std::max_element(x, x + n) - x); }

double log_partition(Isa isa, const float* x, std::size_t n, float temperature) {
  const float top = x[largest(x, n)] / temperature;
  return static_cast<double>(top) + std::log(step_kernels(isa).sum_exp(x, n, temperature, top));
}

std::size_t sample(Isa isa, const float* x, std::size_t n, const Draw& draw) {
  const std::size_t best = largest(x, n);
  const float top = x[best] / draw.temperature;
  const double all = step_kernels(isa).sum_exp(x, n, draw.temperature, top);
  const bool whole = !draw.top_k && draw.top_p >= 1 && draw.min_p <= 0;
  std::vector<Candidate> kept;
  std::vector<double> weight;
  for (const double cut : kCuts) {
    kept.clear();
    for (std::size_t i = 0; i < n; ++i) {
      const float value = x[i] / draw.temperature;
      if (static_cast<double>(top) - static_cast<double>(value) <= cut)
        kept.push_back({value, static_cast<std::uint32_t>(i)});
    }
    std::sort(kept.begin(), kept.end(), before);
    weight.resize(kept.size());
    double mass = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      weight[i] = std::exp(static_cast<double>(kept[i].value) - static_cast<double>(top));
      mass += weight[i];
    }
    // top_p is a share of top_k's mass, so with both of them min_p alone does not end the search.
    const bool by_min_p = draw.min_p > 0 && std::exp(-cut) < draw.min_p && !(draw.top_k && draw.top_p < 1);
    const bool enough = cut == kEverything || (draw.top_k && kept.size() >= draw.top_k) || by_min_p ||
                        (!draw.top_k && draw.top_p < 1 && mass >= draw.top_p * all) ||
                        (whole && mass > draw.uniform * all);
    if (enough) break;
  }
  std::size_t count = kept.size();
  double total = all;
  if (draw.top_k && draw.top_k < count) count = draw.top_k;
  if (draw.top_k) {
    total = 0;
    for (std::size_t i = 0; i < count; ++i) total += weight[i];
  }
  if (draw.top_p < 1) {
    double mass = 0;
    std::size_t i = 0;
    for (; i < count && (i == 0 || mass / total < draw.top_p); ++i) mass += weight[i];
    count = i;
  }
  if (draw.min_p > 0)
    while (count > 1 && weight[count - 1] < draw.min_p * weight[0]) --count;
  if (!whole) {
    total = 0;
    for (std::size_t i = 0; i < count; ++i) total += weight[i];
  }
  double mass = 0;
  for (std::size_t i = 0; i < count; ++i) {
    mass += weight[i];
    if (mass > draw.uniform * total && weight[i] > 0) return kept[i].id;
  }
  return count ? kept[count - 1].id : best;
}

}  // namespace abruzzi
