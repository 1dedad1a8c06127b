// Elementwise operations of a forward step and the router, for an instruction set S (simd/).
// Everything in the *_impl.h files is a member of a template over a type that exists in one file,
// so that no code compiled for a newer machine can be linked into the path of an older one. For the
// same reason: no containers, no exceptions.
#pragma once

#include "kernels/step_kernels.h"

// The inner loops keep their sums in registers only if nothing of them becomes a call.
#define ABRUZZI_ALWAYS __attribute__((always_inline)) inline

namespace abruzzi {
namespace {

template <class S>
struct Elementwise {
  using F8 = typename S::F8;

  static constexpr float kInfinity = __builtin_huge_valf();
  static constexpr float kTaken = -kInfinity;

  template <int N>
  struct Number {
    static constexpr int value = N;
  };

  // use(Number<n>) with n known to the compiler.
  template <int N, int Last, class Use>
  static inline void dispatch(std::size_t n, const Use& use) {
    if (n == static_cast<std::size_t>(N)) return use(Number<N>{});
    if constexpr (N < Last) dispatch<N + 1, Last>(n, use);
  }

  // Tokens in runs of nearly equal length, at most Most.
  template <int Most, class Use>
  static inline void in_runs(std::size_t tokens, const Use& use) {
    const std::size_t runs = (tokens + Most - 1) / Most;
    for (std::size_t i = 0, t = 0; i < runs; ++i) {
      const std::size_t n = (tokens - t + (runs - i) - 1) / (runs - i);
      dispatch<1, Most>(n, [&](auto count) { use(count, t); });
      t += n;
    }
  }

  // Sixteen sums to the rows that the matrix has of a block: a few less at its end.
  ABRUZZI_ALWAYS static void put_rows(float* to, const float* sums, std::size_t rows) {
    if (rows == kRows) return S::store16(to, S::load16(sums));
    for (std::size_t r = 0; r < rows; ++r) to[r] = sums[r];
  }

  // The same, times weight and added.
  ABRUZZI_ALWAYS static void add_rows(float* to, const float* sums, float weight, std::size_t rows) {
    if (rows == kRows) return S::store16(to, S::fma16(S::load16(sums), weight, S::load16(to)));
    alignas(64) float last_rows[kRows] = {};
    for (std::size_t r = 0; r < rows; ++r) last_rows[r] = to[r];
    S::store16(last_rows, S::fma16(S::load16(sums), weight, S::load16(last_rows)));
    for (std::size_t r = 0; r < rows; ++r) to[r] = last_rows[r];
  }

  // exp as in the Cephes library (S. Moshier, expf): 2^n times a polynomial; within 2 ulp. Clamped
  // to +-87.
  static inline F8 exp8(F8 x) {
    x = S::max8(S::set8(-87.0f), x);
    x = S::min8(S::set8(87.0f), x);
    const F8 n = S::round8(S::mul8(x, S::set8(1.44269504088896341f)));
    F8 r = S::fma8(n, S::set8(-0.693359375f), x);
    r = S::fma8(n, S::set8(2.12194440e-4f), r);
    F8 p = S::set8(1.9875691500e-4f);
    p = S::fma8(p, r, S::set8(1.3981999507e-3f));
    p = S::fma8(p, r, S::set8(8.3334519073e-3f));
    p = S::fma8(p, r, S::set8(4.1665795894e-2f));
    p = S::fma8(p, r, S::set8(1.6666665459e-1f));
    p = S::fma8(p, r, S::set8(5.0000001201e-1f));
    p = S::add8(S::fma8(p, S::mul8(r, r), r), S::set8(1.0f));
    return S::scale8(p, n);
  }

  static inline float exp1(float x) {
    alignas(32) float out[8];
    S::store8(out, exp8(S::set8(x)));
    return out[0];
  }

  static inline F8 sigmoid8(F8 x) {
    const F8 one = S::set8(1.0f);
    return S::div8(one, S::add8(one, exp8(S::mul8(x, S::set8(-1.0f)))));
  }

  // Eight at a time in float32, each such sum added in double precision. What lies further below
  // than exp reaches in float32 counts as 1e-38.
  static double sum_exp(const float* x, std::size_t n, float temperature, float top) {
    const F8 by = S::set8(temperature), minus = S::set8(-top);
    double sum = 0;
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) sum += static_cast<double>(S::sum8(exp8(S::add8(S::div8(S::load8(x + i), by), minus))));
    for (; i < n; ++i) sum += static_cast<double>(exp1(x[i] / temperature - top));
    return sum;
  }

  static void silu_mul(const float* gate, const float* up, float* y, std::size_t n) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const F8 g = S::load8(gate + i);
      S::store8(y + i, S::mul8(S::mul8(g, sigmoid8(g)), S::load8(up + i)));
    }
    const std::size_t rest = n - i;
    if (rest == 0 || rest >= 8) return;  // never 8 or more; the compiler is to know it
    alignas(32) float g[8] = {}, u[8] = {};
    for (std::size_t j = 0; j < rest; ++j) g[j] = gate[i + j], u[j] = up[i + j];
    const F8 last = S::load8(g);
    S::store8(g, S::mul8(S::mul8(last, sigmoid8(last)), S::load8(u)));
    for (std::size_t j = 0; j < rest; ++j) y[i + j] = g[j];
  }

  static void rope(const float* x, const float* cos, const float* sin, float* y, std::size_t pairs) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const float even = x[2 * i], odd = x[2 * i + 1];
      y[i] = even * cos[i] - odd * sin[i];
      y[pairs + i] = odd * cos[i] + even * sin[i];
    }
  }

  // Eight at a time; y has room for padded(n, 8).
  static inline void sigmoids(const float* x, std::size_t n, float* y) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) S::store8(y + i, sigmoid8(S::load8(x + i)));
    if (i == n) return;
    alignas(32) float last[8] = {};
    for (std::size_t j = i; j < n; ++j) last[j - i] = x[j];
    S::store8(y + i, sigmoid8(S::load8(last)));
  }

  // e^x over the sum of all; y has room for padded(n, 8). A NaN makes all of them NaN.
  static inline void softmax(const float* x, std::size_t n, float* y) {
    float top = x[0], sum = 0.0f;
    for (std::size_t i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
    for (std::size_t i = 0; i < n; ++i) y[i] = x[i] - top;
    for (std::size_t i = n; i < padded(n, 8); ++i) y[i] = 0.0f;
    for (std::size_t i = 0; i < n; i += 8) S::store8(y + i, exp8(S::load8(y + i)));
    for (std::size_t i = 0; i < n; ++i) sum += y[i];
    for (std::size_t i = 0; i < n; ++i) y[i] = y[i] / sum;
  }

  static inline void scores(const Router& r, const float* logits, float* score) {
    switch (r.score) {
      case Score::sigmoid:
        return sigmoids(logits, r.experts, score);
      case Score::softmax:
        return softmax(logits, r.experts, score);
    }
  }

  static void route(const Router& r, const float* logits, const float* bias, float* scratch, std::int32_t* chosen,
                    float* weight) {
    const std::size_t experts = r.experts, each = experts / r.groups;
    float* score = scratch;
    float* choice = scratch + padded(experts, 8);
    float* group = choice + padded(experts, 8);
    scores(r, logits, score);
    std::size_t e = 0;
    for (; e < experts; ++e) choice[e] = score[e] + bias[e];
    // Groups: those with the largest sum of their two best biased scores stay; of equals, the
    // first.
    for (std::size_t g = 0; g < r.groups; ++g) {
      float best = choice[g * each], second = -kInfinity;
      for (std::size_t i = 1; i < each; ++i) {
        const float c = choice[g * each + i];
        if (c > best) {
          second = best;
          best = c;
        } else if (c > second) {
          second = c;
        }
      }
      group[g] = r.groups > 1 ? best + second : 0.0f;
    }
    for (std::size_t kept = 0; kept < r.kept_groups; ++kept) {
      const std::size_t g = largest(group, r.groups);
      group[g] = kTaken;
    }
    for (e = 0; e < experts; ++e)
      if (group[e / each] != kTaken) choice[e] = kTaken;
    float sum = 0.0f;
    for (std::size_t k = 0; k < r.top_k; ++k) {
      const std::size_t best = largest(choice, experts);
      choice[best] = kTaken;
      chosen[k] = static_cast<std::int32_t>(best);
      weight[k] = score[best];
      sum += score[best];
    }
    for (std::size_t k = 0; k < r.top_k; ++k) {
      if (r.renormalize) weight[k] = weight[k] / (sum + 1e-20f);
      weight[k] *= r.scale;
    }
  }

  // The first of the largest that is not taken. Always one that exists, even among NaN.
  static std::size_t largest(const float* v, std::size_t n) {
    std::size_t best = n;
    for (std::size_t i = 0; i < n; ++i)
      if (v[i] != kTaken && (best == n || v[i] > v[best])) best = i;
    return best == n ? 0 : best;
  }
};

}  // namespace
}  // namespace abruzzi
