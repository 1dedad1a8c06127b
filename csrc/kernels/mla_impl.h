// MLA for an instruction set S. Two loops serve both forms: scores of rows against rows, and
// weighted sums of rows.
#pragma once

#include "kernels/products_impl.h"

namespace abruzzi {
namespace {

template <class S>
struct MlaAttention {
  using E = Elementwise<S>;
  using F8 = typename S::F8;
  using FV = typename S::FV;  // the widest vector, of kLanes floats

  static constexpr std::size_t kLanes = S::kLanes;

  // out[i][j] = a_i . b_j over `width` (a multiple of kLanes) for Q rows and P rows.
  template <int Q, int P>
  static inline void dots_tile(const float* a, std::size_t a_stride, const float* const* b, std::size_t width,
                               float* out) {
    FV sum[Q][P];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < P; ++j) sum[i][j] = S::setv(0.0f);
    for (std::size_t k = 0; k < width; k += kLanes) {
      FV other[P];
#pragma GCC unroll 8
      for (int j = 0; j < P; ++j) other[j] = S::loadv(b[j] + k);
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i) {
        const FV mine = S::loadv(a + i * a_stride + k);
#pragma GCC unroll 8
        for (int j = 0; j < P; ++j) sum[i][j] = S::fmav(mine, other[j], sum[i][j]);
      }
    }
    if constexpr (Q == 4 && P == 4) {
      S::sums4x4(sum, out, kPositions);
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < P; ++j) out[i * kPositions + j] = S::sumv(sum[i][j]);
    }
  }

  template <int Q, int P>
  static inline void dots_rows(const float* a, std::size_t a_stride, const float* const* b, std::size_t n,
                               std::size_t width, float* out) {
    std::size_t j = 0;
    for (; j + P <= n; j += P) dots_tile<Q, P>(a, a_stride, b + j, width, out + j);
    for (; j < n; ++j) dots_tile<Q, 1>(a, a_stride, b + j, width, out + j);
  }

  // next: rows that are wanted soon, of the same width, fetched into the cache on the way; null:
  // none.
  static void dots(const float* a, std::size_t a_stride, std::size_t rows, const float* const* b, std::size_t n,
                   std::size_t width, const float* const* next, float* out) {
    std::size_t i = 0;
    if (rows >= 4 && next != nullptr) {
      // A bit at each step, in the order in which they lie in memory.
      constexpr std::size_t kLine = 16;
      const std::size_t lines = width / kLine, steps = rows / 4 * (kPositions / 4);
      const std::size_t share = (kPositions * lines + steps - 1) / steps;
      std::size_t row = 0, line = 0;
      for (; i + 4 <= rows; i += 4) {
        std::size_t j = 0;
        for (; j + 4 <= n; j += 4) {
          for (std::size_t k = 0; k < share && row < kPositions; ++k) {
            __builtin_prefetch(next[row] + line * kLine);
            if (++line == lines) line = 0, ++row;
          }
          dots_tile<4, 4>(a + i * a_stride, a_stride, b + j, width, out + i * kPositions + j);
        }
        for (; j < n; ++j) dots_tile<4, 1>(a + i * a_stride, a_stride, b + j, width, out + i * kPositions + j);
      }
    }
    for (; i + 4 <= rows; i += 4)
      dots_rows<4, S::kRowsAtOnce / 2>(a + i * a_stride, a_stride, b, n, width, out + i * kPositions);
    for (; i + 2 <= rows; i += 2) dots_rows<2, 4>(a + i * a_stride, a_stride, b, n, width, out + i * kPositions);
    for (; i < rows; ++i) dots_rows<1, 8>(a + i * a_stride, a_stride, b, n, width, out + i * kPositions);
  }

  // acc[i][0..width) += sum over j of p[i][j] * b_j, width a multiple of 16.
  template <int Q, int V>
  static inline void sums_tile(float* acc, std::size_t stride, const float* p, const float* const* b, std::size_t n,
                               std::size_t column) {
    FV sum[Q][V];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[i][v] = S::loadv(acc + i * stride + column + kLanes * v);
    for (std::size_t j = 0; j < n; ++j) {
      FV row[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) row[v] = S::loadv(b[j] + column + kLanes * v);
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i) {
        const FV share = S::setv(p[i * kPositions + j]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[i][v] = S::fmav(share, row[v], sum[i][v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) S::storev(acc + i * stride + column + kLanes * v, sum[i][v]);
  }

  // V vectors at once, then one at a time.
  template <int Q, int V>
  static inline void sums_rows(float* acc, std::size_t stride, const float* p, const float* const* b, std::size_t n,
                               std::size_t width) {
    std::size_t c = 0;
    for (; c + V * kLanes <= width; c += V * kLanes) sums_tile<Q, V>(acc, stride, p, b, n, c);
    for (; c < width; c += kLanes) sums_tile<Q, 1>(acc, stride, p, b, n, c);
  }

  static void sums(float* acc, std::size_t stride, std::size_t rows, const float* p, const float* const* b,
                   std::size_t n, std::size_t width) {
    constexpr int kQ = S::kRowsAtOnce;
    std::size_t i = 0;
    for (; i + kQ <= rows; i += kQ) sums_rows<kQ, 2>(acc + i * stride, stride, p + i * kPositions, b, n, width);
    for (; i < rows; ++i) sums_rows<1, 8>(acc + i * stride, stride, p + i * kPositions, b, n, width);
  }

  // out[i][0..kPositions) = a_i times a matrix [width][kPositions]: the scores where many rows meet
  // the same positions, without sums across a vector.
  template <int Q>
  static inline void scores_tile(const float* a, std::size_t a_stride, const float* matrix, std::size_t width,
                                 float* out) {
    constexpr int kV = static_cast<int>(kPositions / kLanes) < 2 ? 1 : 2;
    for (std::size_t c = 0; c < kPositions; c += kV * kLanes) {
      FV sum[Q][kV];
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) sum[i][v] = S::setv(0.0f);
      for (std::size_t k = 0; k < width; ++k) {
        FV row[kV];
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) row[v] = S::loadv(matrix + k * kPositions + c + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
          const FV all = S::setv(a[i * a_stride + k]);
#pragma GCC unroll 2
          for (int v = 0; v < kV; ++v) sum[i][v] = S::fmav(all, row[v], sum[i][v]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) S::storev(out + i * kPositions + c + v * kLanes, sum[i][v]);
    }
  }

  static void scores(const float* a, std::size_t a_stride, std::size_t rows, const float* matrix, std::size_t width,
                     float* out) {
    constexpr int kQ = S::kRowsAtOnce;
    std::size_t i = 0;
    for (; i + kQ <= rows; i += kQ) scores_tile<kQ>(a + i * a_stride, a_stride, matrix, width, out + i * kPositions);
    for (; i < rows; ++i) scores_tile<1>(a + i * a_stride, a_stride, matrix, width, out + i * kPositions);
  }

  // Scores of n positions, scaled, become shares relative to the new largest m; l and acc follow
  // it. Always all kPositions numbers, those from n on as nothing: the same sums however many are
  // seen. A NaN among the scores stays one among the shares, so everything after it becomes NaN.
  static inline void softmax_step(float* p, std::size_t n, float scale, float* m, float* l, float* acc,
                                  std::size_t width) {
    constexpr std::size_t kVectors = kPositions / 8;
    for (std::size_t j = n; j < kPositions; ++j) p[j] = E::kTaken;
    F8 v[kVectors], best = S::set8(*m);
    for (std::size_t k = 0; k < kVectors; ++k) {
      v[k] = S::mul8(S::load8(p + 8 * k), S::set8(scale));
      best = S::max8(v[k], best);
    }
    const float top = S::top8(best);
    if (top != *m) {
      const float shrink = *m == E::kTaken ? 0.0f : E::exp1(*m - top);
      *l *= shrink;
      const FV all = S::setv(shrink);
      for (std::size_t c = 0; c < width; c += kLanes) S::storev(acc + c, S::mulv(S::loadv(acc + c), all));
      *m = top;
    }
    const F8 minus = S::set8(-top);
    for (std::size_t k = 0; k < kVectors; ++k) S::store8(p + 8 * k, E::exp8(S::add8(v[k], minus)));
    for (std::size_t j = n; j < kPositions; ++j) p[j] = 0.0f;
    F8 sum = S::load8(p);
    for (std::size_t k = 1; k < kVectors; ++k) sum = S::add8(sum, S::load8(p + 8 * k));
    *l += S::sum8(sum);
  }

  static void mla_absorbed(const MlaShape& s, std::size_t heads, const float* q, const Latents& c, std::size_t first,
                           std::size_t last, float scale, float* m, float* l, float* u) {
    constexpr std::size_t kHeads = 64;  // at once; more run in turns
    for (std::size_t h = 0; h < heads; ++h) {
      m[h] = E::kTaken;
      l[h] = 0.0f;
    }
    for (std::size_t i = 0; i < heads * s.rank_pad; i += 8) S::store8(u + i, S::set8(0.0f));
    alignas(64) float p[kHeads * kPositions];
    const float *rows[kPositions], *next[kPositions];
    for (std::size_t at = first; at < last; at += kPositions) {
      const std::size_t n = last - at < kPositions ? last - at : kPositions;
      for (std::size_t j = 0; j < n; ++j) rows[j] = c.at(at + j);
      const bool more = at + 2 * kPositions <= last;
      for (std::size_t j = 0; more && j < kPositions; ++j) next[j] = c.at(at + kPositions + j);
      for (std::size_t h = 0; h < heads; h += kHeads) {
        const std::size_t some = heads - h < kHeads ? heads - h : kHeads;
        dots(q + h * s.latent_row(), s.latent_row(), some, rows, n, s.latent_row(), more && h == 0 ? next : nullptr, p);
        for (std::size_t i = 0; i < some; ++i)
          softmax_step(p + i * kPositions, n, scale, m + h + i, l + h + i, u + (h + i) * s.rank_pad, s.rank_pad);
        sums(u + h * s.rank_pad, s.rank_pad, some, p, rows, n, s.rank_pad);
      }
    }
  }

  static void mla_merge(const MlaShape& s, std::size_t parts, std::size_t part_heads, const float* m, const float* l,
                        const float* u, float* out) {
    float top = E::kTaken;
    for (std::size_t i = 0; i < parts; ++i)
      if (!(m[i * part_heads] <= top)) top = m[i * part_heads];
    float total = 0.0f;
    for (std::size_t c = 0; c < s.rank_pad; c += 8) S::store8(out + c, S::set8(0.0f));
    for (std::size_t i = 0; i < parts; ++i) {
      const float share = E::exp1(m[i * part_heads] - top);
      total += l[i * part_heads] * share;
      const F8 all = S::set8(share);
      const float* from = u + i * part_heads * s.rank_pad;
      for (std::size_t c = 0; c < s.rank_pad; c += 8)
        S::store8(out + c, S::fma8(S::load8(from + c), all, S::load8(out + c)));
    }
    const F8 all = S::set8(1.0f / total);
    for (std::size_t c = 0; c < s.rank_pad; c += 8) S::store8(out + c, S::mul8(S::load8(out + c), all));
  }

  static void mla_naive(const MlaShape& s, const Matrix& uk, const Matrix& uv, const float* q, std::size_t q_stride,
                        std::size_t tokens, std::size_t start, const Latents& c, float scale, float* scratch,
                        float* out, std::size_t out_stride) {
    const std::size_t width = s.query_row();
    float* keys = scratch;                      // [kPositions][nope_pad]
    float* turned = keys + kPositions * width;  // [width][kPositions]
    float* values = turned + kPositions * width;
    float* o = values + kPositions * s.value_pad;
    float* p = o + tokens * s.value_pad;
    float* m = p + tokens * kPositions;
    float* l = m + tokens;
    for (std::size_t i = 0; i < kPositions * (2 * width + s.value_pad) + tokens * s.value_pad; ++i) scratch[i] = 0.0f;
    for (std::size_t t = 0; t < tokens; ++t) {
      m[t] = E::kTaken;
      l[t] = 0.0f;
    }
    const float *latents[kPositions], *value_rows[kPositions];
    float *key_out[kPositions], *value_out[kPositions];
    for (std::size_t j = 0; j < kPositions; ++j) {
      key_out[j] = keys + j * width;
      value_rows[j] = value_out[j] = values + j * s.value_pad;
    }
    const std::size_t end = start + tokens;
    for (std::size_t at = 0; at < end; at += kPositions) {
      const std::size_t n = end - at < kPositions ? end - at : kPositions;
      for (std::size_t j = 0; j < n; ++j) latents[j] = c.at(at + j);
      Products<S>::matmul(uk, 0, uk.blocks, latents, n, key_out);
      Products<S>::matmul(uv, 0, uv.blocks, latents, n, value_out);
      for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t i = 0; i < s.nope; ++i) turned[i * kPositions + j] = key_out[j][i];
        for (std::size_t i = 0; i < s.rope; ++i) turned[(s.nope_pad + i) * kPositions + j] = latents[j][s.rank_pad + i];
      }
      const std::size_t before = at > start ? at - start : 0;  // queries that see none of it
      scores(q + before * q_stride, q_stride, tokens - before, turned, width, p);
      for (std::size_t t = before; t < tokens; ++t) {
        const std::size_t seen = start + t + 1 - at < n ? start + t + 1 - at : n;
        softmax_step(p + (t - before) * kPositions, seen, scale, m + t, l + t, o + t * s.value_pad, s.value_pad);
      }
      // Queries on the diagonal one by one, each over what it sees: 0 * NaN of a later position
      // would be NaN.
      const std::size_t all = at + n > start + before + 1 ? at + n - 1 - start : before;  // the first that sees all
      for (std::size_t t = before; t < all && t < tokens; ++t)
        sums(o + t * s.value_pad, s.value_pad, 1, p + (t - before) * kPositions, value_rows, start + t + 1 - at,
             s.value_pad);
      if (all < tokens)
        sums(o + all * s.value_pad, s.value_pad, tokens - all, p + (all - before) * kPositions, value_rows, n,
             s.value_pad);
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      const float share = 1.0f / l[t];
      for (std::size_t i = 0; i < s.value; ++i) out[t * out_stride + i] = o[t * s.value_pad + i] * share;
    }
  }
};

}  // namespace
}  // namespace abruzzi
