// Grouped-query attention for an instruction set S, over MLA's two loops: scores of rows against
// rows, and weighted sums of rows.
#pragma once

#include "kernels/mla_impl.h"

namespace abruzzi {
namespace {

template <class S>
struct GqaAttention {
  using A = MlaAttention<S>;
  using E = Elementwise<S>;

  // Positions [first, last) for `tokens` queries, those of one head of keys and values, at positions
  // start..; `each` rows a token. A token sees positions up to its own.
  static void gqa(const GqaShape& s, std::size_t head, const float* q, std::size_t tokens, std::size_t start,
                  const Latents& c, std::size_t first, std::size_t last, float scale, float* scratch, float* m,
                  float* l, float* u) {
    const std::size_t each = s.heads / s.kv_heads, width = s.width_pad, rows = tokens * each;
    const std::size_t key_at = head * width, value_at = (s.kv_heads + head) * width;
    float* p = scratch;  // [rows][kPositions]
    for (std::size_t i = 0; i < rows; ++i) {
      m[i] = E::kTaken;
      l[i] = 0.0f;
    }
    for (std::size_t i = 0; i < rows * width; i += 8) S::store8(u + i, S::set8(0.0f));
    const float *keys[kPositions], *values[kPositions];
    for (std::size_t at = first; at < last; at += kPositions) {
      const std::size_t n = last - at < kPositions ? last - at : kPositions;
      for (std::size_t j = 0; j < n; ++j) {
        const float* row = c.at(at + j);
        keys[j] = row + key_at;
        values[j] = row + value_at;
      }
      const std::size_t before = at > start ? at - start : 0;  // tokens that see none of it
      if (before >= tokens) continue;
      A::dots(q + before * each * width, width, (tokens - before) * each, keys, n, width, nullptr, p);
      for (std::size_t t = before; t < tokens; ++t) {
        const std::size_t seen = start + t + 1 - at < n ? start + t + 1 - at : n;
        for (std::size_t i = t * each; i < (t + 1) * each; ++i)
          A::softmax_step(p + (i - before * each) * kPositions, seen, scale, m + i, l + i, u + i * width, width);
      }
      // Tokens on the diagonal one by one, each over what it sees: 0 * NaN of a later position would
      // be NaN.
      const std::size_t all = at + n > start + before + 1 ? at + n - 1 - start : before;  // the first that sees all
      for (std::size_t t = before; t < all && t < tokens; ++t)
        A::sums(u + t * each * width, width, each, p + (t - before) * each * kPositions, values, start + t + 1 - at,
                width);
      if (all < tokens)
        A::sums(u + all * each * width, width, (tokens - all) * each, p + (all - before) * each * kPositions, values, n,
                width);
    }
  }

  // The parts of one row, in order, put together: out[width]. Parts lie `apart` rows from each other.
  static void gqa_merge(std::size_t width, std::size_t parts, std::size_t apart, const float* m, const float* l,
                        const float* u, float* out) {
    float top = E::kTaken;
    for (std::size_t i = 0; i < parts; ++i)
      if (!(m[i * apart] <= top)) top = m[i * apart];
    float total = 0.0f;
    for (std::size_t c = 0; c < width; c += 8) S::store8(out + c, S::set8(0.0f));
    for (std::size_t i = 0; i < parts; ++i) {
      const float share = E::exp1(m[i * apart] - top);
      total += l[i * apart] * share;
      const auto all = S::set8(share);
      const float* from = u + i * apart * width;
      for (std::size_t c = 0; c < width; c += 8)
        S::store8(out + c, S::fma8(S::load8(from + c), all, S::load8(out + c)));
    }
    const auto all = S::set8(1.0f / total);
    for (std::size_t c = 0; c < width; c += 8) S::store8(out + c, S::mul8(S::load8(out + c), all));
  }
};

}  // namespace
}  // namespace abruzzi
