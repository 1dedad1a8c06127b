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

  static constexpr std::size_t kLine = 16;  // floats of a line of the cache

  // See step_kernels.h. Blocks of positions outside, heads inside: the next block comes into the cache
  // while this one is worked on, whose rows of all heads lie side by side.
  static void gqa(const GqaShape& s, std::size_t first_head, std::size_t last_head, const float* q,
                  std::size_t q_stride, std::size_t tokens, std::size_t start, const Latents& c, std::size_t first,
                  std::size_t last, float scale, float* scratch, float* m, float* l, float* u) {
    const std::size_t width = s.width_pad, rows = tokens * (s.heads / s.kv_heads);
    for (std::size_t i = first_head * rows; i < last_head * rows; ++i) {
      m[i] = E::kTaken;
      l[i] = 0.0f;
    }
    for (std::size_t i = first_head * rows * width; i < last_head * rows * width; i += 8)
      S::store8(u + i, S::set8(0.0f));
    const float *here[kPositions], *next[kPositions];
    for (std::size_t at = first; at < last; at += kPositions) {
      const std::size_t n = last - at < kPositions ? last - at : kPositions;
      const std::size_t more = at + kPositions >= last ? 0 : last - at - kPositions;
      const std::size_t wanted = more < kPositions ? more : kPositions;
      for (std::size_t j = 0; j < n; ++j) here[j] = c.at(at + j);
      for (std::size_t j = 0; j < wanted; ++j) next[j] = c.at(at + kPositions + j);
      for (std::size_t h = first_head; h < last_head; ++h) {
        for (std::size_t j = 0; j < wanted; ++j)
          for (std::size_t k = 0; k < width; k += kLine) {
            __builtin_prefetch(next[j] + h * width + k);
            __builtin_prefetch(next[j] + (s.kv_heads + h) * width + k);
          }
        block(s, h, q + h * q_stride, tokens, start, here, at, n, scale, scratch, m + h * rows, l + h * rows,
              u + h * rows * width);
      }
    }
  }

  // One block of positions for one head of keys and values.
  static inline void block(const GqaShape& s, std::size_t head, const float* q, std::size_t tokens, std::size_t start,
                           const float* const* rows, std::size_t at, std::size_t n, float scale, float* p, float* m,
                           float* l, float* u) {
    const std::size_t each = s.heads / s.kv_heads, width = s.width_pad;
    const std::size_t before = at > start ? at - start : 0;  // tokens that see none of it
    if (before >= tokens) return;
    const float *keys[kPositions], *values[kPositions];
    for (std::size_t j = 0; j < n; ++j) {
      keys[j] = rows[j] + head * width;
      values[j] = rows[j] + (s.kv_heads + head) * width;
    }
    A::dots(q + before * each * width, width, (tokens - before) * each, keys, n, width, nullptr, p);
    for (std::size_t t = before; t < tokens; ++t) {
      const std::size_t seen = start + t + 1 - at < n ? start + t + 1 - at : n;
      for (std::size_t i = t * each; i < (t + 1) * each; ++i)
        A::softmax_step(p + (i - before * each) * kPositions, seen, scale, m + i, l + i, u + i * width, width);
    }
    // Tokens on the diagonal one by one, each over what it sees: 0 * NaN of a later position would be
    // NaN.
    const std::size_t all = at + n > start + before + 1 ? at + n - 1 - start : before;  // the first that sees all
    for (std::size_t t = before; t < all && t < tokens; ++t)
      A::sums(u + t * each * width, width, each, p + (t - before) * each * kPositions, values, start + t + 1 - at,
              width);
    if (all < tokens)
      A::sums(u + all * each * width, width, (tokens - all) * each, p + (all - before) * each * kPositions, values, n,
              width);
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
