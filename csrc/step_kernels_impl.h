// The kernels of a forward step for an instruction set S (simd_*.h). Included by kernels_*.cpp only; everything
// here is a member of a template over a type that exists in one file, so that no code compiled for a newer
// machine can be linked into the path of an older one. For the same reason: no containers, no exceptions.
#pragma once

#include <cstring>

#include "step_kernels.h"

namespace abruzzi {
namespace {

template <class S>
struct Step {
  using F8 = typename S::F8;
  using F16 = typename S::F16;
  using W16 = typename S::W16;

  static constexpr std::size_t kTokenBlock = 192;  // tokens whose sums stay in the first-level cache
  static constexpr std::size_t kUnpacked = 8;      // groups of columns that are unpacked at once: 16 KB

  // Products. Sixteen rows are one vector. Each group of 32 columns is summed from zero and then added to the
  // total (for INT4 times its scale), in order: the same sums whether one token or many run, and short chains.

  struct DenseF32 {
    const float* p;
    explicit DenseF32(const unsigned char* data) : p(reinterpret_cast<const float*>(data)) {}
    template <int T>
    inline void add_group(std::size_t g, const float* const* x, F16* part) const {
      const float* w = p + g * kColumns * kRows;
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) {
        const F16 weight = S::load16(w + c * kRows);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + c], part[t]);
      }
    }
    inline F16 finish(std::size_t, const F16& part, const F16& total) const { return S::add16(total, part); }
  };

  struct DenseBf16 {
    const std::uint16_t* p;
    explicit DenseBf16(const unsigned char* data) : p(reinterpret_cast<const std::uint16_t*>(data)) {}
    template <int T>
    inline void add_group(std::size_t g, const float* const* x, F16* part) const {
      const std::uint16_t* w = p + g * kColumns * kRows;
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) {
        const F16 weight = S::bf16x16(w + c * kRows);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + c], part[t]);
      }
    }
    inline F16 finish(std::size_t, const F16& part, const F16& total) const { return S::add16(total, part); }
  };

  struct Int4 {
    const Int4Tile* p;
    explicit Int4(const unsigned char* data) : p(reinterpret_cast<const Int4Tile*>(data)) {}
    template <int T>
    inline void add_group(std::size_t g, const float* const* x, F16* part) const {
      for (std::size_t w = 0; w < 4; ++w) {
        const W16 words = S::words(p[g].words[w]);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
          const F16 weight = S::nibble(words, k);
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + w * 8 + k], part[t]);
        }
      }
    }
    inline F16 finish(std::size_t g, const F16& part, const F16& total) const {
      return S::fma16(part, S::bf16x16(p[g].scale), total);
    }
  };

  // Codes of some groups, unpacked to floats, with the scales where they were: what many tokens share.
  struct Unpacked4 {
    const float* codes;
    const Int4Tile* p;
    template <int T>
    inline void add_group(std::size_t g, const float* const* x, F16* part) const {
      DenseF32(reinterpret_cast<const unsigned char*>(codes)).template add_group<T>(g, x, part);
    }
    inline F16 finish(std::size_t g, const F16& part, const F16& total) const {
      return S::fma16(part, S::bf16x16(p[g].scale), total);
    }
  };

  // Groups [0, groups) for T tokens, added to the totals out[t][16]; A groups at once, which hides latency.
  template <int T, int A, class W>
  static inline void run_groups(const W& w, std::size_t groups, const float* const* x, float* out) {
    F16 total[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) total[t] = S::load16(out + t * kRows);
    std::size_t g = 0;
    if constexpr (A > 1) {
      for (; g + A <= groups; g += A) {
        F16 part[A][T];
        ahead<T, A>(w, g, x, part);
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a)
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) total[t] = w.finish(g + a, part[a][t], total[t]);
      }
    }
    for (; g < groups; ++g) {
      F16 part[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) part[t] = S::zero16();
      w.template add_group<T>(g, x, part);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) total[t] = w.finish(g, part[t], total[t]);
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) S::store16(out + t * kRows, total[t]);
  }

  // A groups side by side, column by column: A * T chains of sums. The same sums as add_group makes.
  template <int T, int A>
  static inline void ahead(const DenseF32& w, std::size_t g, const float* const* x, F16 (&part)[A][T]) {
    clear<T, A>(part);
    const float* p = w.p + g * kColumns * kRows;
    for (std::size_t c = 0; c < kColumns; ++c)
#pragma GCC unroll 4
      for (int a = 0; a < A; ++a) {
        const F16 weight = S::load16(p + (a * kColumns + c) * kRows);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) part[a][t] = S::fma16(weight, x[t][(g + a) * kColumns + c], part[a][t]);
      }
  }
  template <int T, int A>
  static inline void ahead(const DenseBf16& w, std::size_t g, const float* const* x, F16 (&part)[A][T]) {
    clear<T, A>(part);
    const std::uint16_t* p = w.p + g * kColumns * kRows;
    for (std::size_t c = 0; c < kColumns; ++c)
#pragma GCC unroll 4
      for (int a = 0; a < A; ++a) {
        const F16 weight = S::bf16x16(p + (a * kColumns + c) * kRows);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) part[a][t] = S::fma16(weight, x[t][(g + a) * kColumns + c], part[a][t]);
      }
  }
  template <int T, int A>
  static inline void ahead(const Int4& w, std::size_t g, const float* const* x, F16 (&part)[A][T]) {
    clear<T, A>(part);
    for (std::size_t i = 0; i < 4; ++i) {
      W16 words[A];
#pragma GCC unroll 4
      for (int a = 0; a < A; ++a) words[a] = S::words(w.p[g + a].words[i]);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k)
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a) {
          const F16 weight = S::nibble(words[a], k);
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) part[a][t] = S::fma16(weight, x[t][(g + a) * kColumns + i * 8 + k], part[a][t]);
        }
    }
  }
  template <int T, int A>
  static inline void clear(F16 (&part)[A][T]) {
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a)
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) part[a][t] = S::zero16();
  }

  // Up to kTokens tokens; A says how many groups a single token runs at once, two tokens half of them.
  template <int A, class W>
  static void few_tokens(const W& w, std::size_t groups, const float* const* x, std::size_t tokens, float* out) {
    switch (tokens) {
      case 1:
        return run_groups<1, A>(w, groups, x, out);
      case 2:
        return run_groups<2, (A + 1) / 2>(w, groups, x, out);
      case 3:
        return run_groups<3, 1>(w, groups, x, out);
      case 4:
        return run_groups<4, 1>(w, groups, x, out);
      default:
        break;
    }
    if constexpr (S::kTokens > 4) {
      switch (tokens) {
        case 5:
          return run_groups<5, 1>(w, groups, x, out);
        case 6:
          return run_groups<6, 1>(w, groups, x, out);
        default:
          break;
      }
    }
    if constexpr (S::kTokens > 6) {
      switch (tokens) {
        case 7:
          return run_groups<7, 1>(w, groups, x, out);
        case 8:
          return run_groups<8, 1>(w, groups, x, out);
        case 9:
          return run_groups<9, 1>(w, groups, x, out);
        case 10:
          return run_groups<10, 1>(w, groups, x, out);
        case 11:
          return run_groups<11, 1>(w, groups, x, out);
        case 12:
          return run_groups<12, 1>(w, groups, x, out);
        default:
          break;
      }
    }
  }

  // Tokens in runs of nearly equal length, at most kTokens.
  template <class W>
  static void many_tokens(const W& w, std::size_t groups, std::size_t column, const float* const* x, std::size_t tokens,
                          float* out) {
    const std::size_t runs = (tokens + S::kTokens - 1) / S::kTokens;
    const float* moved[S::kTokens];
    std::size_t t = 0;
    for (std::size_t i = 0; i < runs; ++i) {
      const std::size_t n = (tokens - t + (runs - i) - 1) / (runs - i);
      for (std::size_t j = 0; j < n; ++j) moved[j] = x[t + j] + column;
      few_tokens<1>(w, groups, moved, n, out + t * kRows);
      t += n;
    }
  }

  // Block b of 16 rows for up to kTokenBlock tokens: out[t][16].
  static void row_block(const Matrix& m, std::size_t b, const float* const* x, std::size_t tokens, float* out) {
    for (std::size_t i = 0; i < tokens * kRows; i += kRows) S::store16(out + i, S::zero16());
#if defined(ABRUZZI_PLANT_BUG)
    // One group too many: what scripts/sanitize.sh must notice.
    if (b + 1 == m.blocks) out[0] += static_cast<float>(m.data[m.bytes() + 64]);
#endif
    const std::size_t tile = tile_bytes(m.kind);
    const unsigned char* data = m.data + b * m.groups * tile;
    if (tokens <= static_cast<std::size_t>(S::kTokens)) {
      if (m.kind == Kind::f32) return few_tokens<S::kAhead>(DenseF32(data), m.groups, x, tokens, out);
      if (m.kind == Kind::bf16) return few_tokens<S::kAhead>(DenseBf16(data), m.groups, x, tokens, out);
      return few_tokens<S::kAhead4>(Int4(data), m.groups, x, tokens, out);
    }
    alignas(64) float unpacked[kUnpacked * kColumns * kRows];
    for (std::size_t g = 0; g < m.groups; g += kUnpacked) {
      const std::size_t n = m.groups - g < kUnpacked ? m.groups - g : kUnpacked;
      const unsigned char* at = data + g * tile;
      if (m.kind == Kind::f32) {
        many_tokens(DenseF32(at), n, g * kColumns, x, tokens, out);
      } else if (m.kind == Kind::bf16) {
        const std::uint16_t* p = reinterpret_cast<const std::uint16_t*>(at);
        for (std::size_t i = 0; i < n * kColumns * kRows; i += kRows) S::store16(unpacked + i, S::bf16x16(p + i));
        many_tokens(DenseF32(reinterpret_cast<const unsigned char*>(unpacked)), n, g * kColumns, x, tokens, out);
      } else {
        const Int4Tile* p = reinterpret_cast<const Int4Tile*>(at);
        float* to = unpacked;
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t w = 0; w < 4; ++w) {
            const W16 words = S::words(p[i].words[w]);
#pragma GCC unroll 8
            for (int k = 0; k < 8; ++k, to += kRows) S::store16(to, S::nibble(words, k));
          }
        many_tokens(Unpacked4{unpacked, p}, n, g * kColumns, x, tokens, out);
      }
    }
  }

  // Fast mode (W4A8): x in 8 bits, one scale a token; sums of a group in whole numbers, so that every instruction set
  // gives the same bits. A quantized row has, for each group of columns, -8 times the sum of its numbers (codes are
  // taken as code + 8), then 8 words of 4 numbers in the order in which the nibbles lie; at the end the scale.

  static void quantize(const float* x, std::size_t groups, std::int32_t* row) {
    F8 top = S::set8(0.0f), nothing = S::set8(0.0f);
    for (std::size_t i = 0; i < groups * kColumns; i += 8) {
      const F8 v = S::load8(x + i);
      top = S::max8(S::max8(v, S::mul8(v, S::set8(-1.0f))), top);
      nothing = S::add8(nothing, S::mul8(v, S::set8(0.0f)));  // NaN where x is no finite number
    }
    alignas(32) float tops[8], all[kColumns];
    S::store8(tops, top);
    float scale = 0.0f;
    for (int i = 0; i < 8; ++i) scale = tops[i] > scale ? tops[i] : scale;
    scale = scale / 127.0f + S::sum8(nothing);
    std::memcpy(row + groups * kQuantizedGroup, &scale, sizeof scale);
    const bool usable = scale > 0.0f;  // not for zeros, nor NaN
    const F8 by = S::set8(usable ? scale : 1.0f);
    for (std::size_t g = 0; g < groups; ++g, row += kQuantizedGroup) {
      for (std::size_t i = 0; i < kColumns; i += 8)
        S::store8(all + i, S::round8(S::div8(usable ? S::load8(x + g * kColumns + i) : S::set8(0.0f), by)));
      std::int32_t sum = 0;
      for (std::size_t w = 0; w < 8; ++w) {
        std::uint32_t word = 0;
        for (std::size_t i = 0; i < 4; ++i) {
          const auto q = static_cast<std::int32_t>(all[w / 2 * 8 + 2 * i + w % 2]);
          sum += q;
          word |= (static_cast<std::uint32_t>(q) & 255u) << (8 * i);
        }
        row[1 + w] = static_cast<std::int32_t>(word);
      }
      row[0] = -8 * sum;
    }
  }

  template <int T>
  static inline void few_bytes(const Int4Tile* p, std::size_t groups, const std::int32_t* const* x, float* out) {
    F16 total[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) total[t] = S::zero16();
    for (std::size_t g = 0; g < groups; ++g) {
      typename S::Sum sum[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) sum[t] = S::zero_sum();
      for (std::size_t w = 0; w < 4; ++w) {
        const W16 words = S::words(p[g].words[w]), low = S::low_nibbles(words), high = S::high_nibbles(words);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          const std::int32_t* row = x[t] + g * kQuantizedGroup + 1 + 2 * w;
          sum[t] = S::dot4(S::dot4(sum[t], low, row[0]), high, row[1]);
        }
      }
      const F16 scale = S::bf16x16(p[g].scale);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t)
        total[t] = S::add16(total[t], S::mul16(S::to_float(sum[t], x[t][g * kQuantizedGroup]), scale));
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      float scale;
      std::memcpy(&scale, x[t] + groups * kQuantizedGroup, sizeof scale);
      S::store16(out + t * kRows, S::mul16(total[t], S::set16(scale)));
    }
  }

  static void row_block(const Matrix& m, std::size_t b, const std::int32_t* const* x, std::size_t tokens, float* out) {
    const Int4Tile* p = reinterpret_cast<const Int4Tile*>(m.data) + b * m.groups;
    for (; tokens >= 4; tokens -= 4, x += 4, out += 4 * kRows) few_bytes<4>(p, m.groups, x, out);
    if (tokens >= 2) {
      few_bytes<2>(p, m.groups, x, out);
      x += 2, out += 2 * kRows, tokens -= 2;
    }
    if (tokens) few_bytes<1>(p, m.groups, x, out);
  }

  // For each block of rows and of tokens: use(token, first row, rows, sums[16]).
  template <class X, class Use>
  static inline void products(const Matrix& m, std::size_t first, std::size_t last, const X* const* x,
                              std::size_t tokens, const Use& use) {
    alignas(64) float out[kTokenBlock * kRows];
    for (std::size_t t = 0; t < tokens; t += kTokenBlock) {
      const std::size_t n = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
      for (std::size_t b = first; b < last; ++b) {
        row_block(m, b, x + t, n, out);
        const std::size_t rows = m.rows - b * kRows < kRows ? m.rows - b * kRows : kRows;
        for (std::size_t i = 0; i < n; ++i) use(t + i, b * kRows, rows, out + i * kRows);
      }
    }
  }

  template <class X>
  static void matmul(const Matrix& m, std::size_t first, std::size_t last, const X* const* x, std::size_t tokens,
                     float* const* y) {
    products(m, first, last, x, tokens, [&](std::size_t t, std::size_t row, std::size_t rows, const float* sums) {
      float* to = y[t] + row;
      if (rows == kRows) return S::store16(to, S::load16(sums));
      for (std::size_t r = 0; r < rows; ++r) to[r] = sums[r];
    });
  }

  template <class X>
  static void matmul_add(const Matrix& m, std::size_t first, std::size_t last, const X* const* x, std::size_t tokens,
                         const float* weight, float* const* y) {
    products(m, first, last, x, tokens, [&](std::size_t t, std::size_t row, std::size_t rows, const float* sums) {
      float* to = y[t] + row;
      if (rows == kRows) return S::store16(to, S::fma16(S::load16(sums), weight[t], S::load16(to)));
      alignas(64) float last_rows[kRows] = {};
      for (std::size_t r = 0; r < rows; ++r) last_rows[r] = to[r];
      S::store16(last_rows, S::fma16(S::load16(sums), weight[t], S::load16(last_rows)));
      for (std::size_t r = 0; r < rows; ++r) to[r] = last_rows[r];
    });
  }

  template <class X>
  static void gate_up(const Matrix& gate, const Matrix& up, std::size_t first, std::size_t last, const X* const* x,
                      std::size_t tokens, float* const* y) {
    alignas(64) float g[kTokenBlock * kRows], u[kTokenBlock * kRows];
    for (std::size_t t = 0; t < tokens; t += kTokenBlock) {
      const std::size_t n = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
      for (std::size_t b = first; b < last; ++b) {
        row_block(gate, b, x + t, n, g);
        row_block(up, b, x + t, n, u);
        silu_mul(g, u, g, n * kRows);
        const std::size_t rows = gate.rows - b * kRows < kRows ? gate.rows - b * kRows : kRows;
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t r = 0; r < rows; ++r) y[t + i][b * kRows + r] = g[i * kRows + r];
      }
    }
  }

  // Elementwise.

  // exp as in the Cephes library (S. Moshier, expf): 2^n times a polynomial; within 2 ulp. Clamped to +-87.
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

  static void silu_mul(const float* gate, const float* up, float* y, std::size_t n) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const F8 g = S::load8(gate + i);
      S::store8(y + i, S::mul8(S::mul8(g, sigmoid8(g)), S::load8(up + i)));
    }
    if (i == n) return;
    alignas(32) float g[8] = {}, u[8] = {};
    for (std::size_t j = i; j < n; ++j) g[j - i] = gate[j], u[j - i] = up[j];
    const F8 last = S::load8(g);
    S::store8(g, S::mul8(S::mul8(last, sigmoid8(last)), S::load8(u)));
    for (std::size_t j = i; j < n; ++j) y[j] = g[j - i];
  }

  static void rope(const float* x, const float* cos, const float* sin, float* y, std::size_t pairs) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const float even = x[2 * i], odd = x[2 * i + 1];
      y[i] = even * cos[i] - odd * sin[i];
      y[pairs + i] = odd * cos[i] + even * sin[i];
    }
  }

  static void route(const Router& r, const float* logits, const float* bias, float* scratch, std::int32_t* chosen,
                    float* weight) {
    const std::size_t experts = r.experts, each = experts / r.groups;
    float* score = scratch;
    float* choice = scratch + padded(experts, 8);
    float* group = choice + padded(experts, 8);
    std::size_t e = 0;
    for (; e + 8 <= experts; e += 8) S::store8(score + e, sigmoid8(S::load8(logits + e)));
    if (e < experts) {
      alignas(32) float last[8] = {};
      for (std::size_t i = e; i < experts; ++i) last[i - e] = logits[i];
      S::store8(score + e, sigmoid8(S::load8(last)));
    }
    for (e = 0; e < experts; ++e) choice[e] = score[e] + bias[e];
    // Groups: those with the largest sum of their two best biased scores stay; of equals, the first.
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

  static constexpr float kInfinity = __builtin_huge_valf();
  static constexpr float kTaken = -kInfinity;

  // The first of the largest that is not taken. Always one that exists, even among NaN.
  static std::size_t largest(const float* v, std::size_t n) {
    std::size_t best = n;
    for (std::size_t i = 0; i < n; ++i)
      if (v[i] != kTaken && (best == n || v[i] > v[best])) best = i;
    return best == n ? 0 : best;
  }

  // Attention. Two loops serve both forms: scores of rows against rows, and weighted sums of rows.

  // out[i][j] = a_i . b_j over `width` (a multiple of 8) for Q rows and P rows.
  template <int Q, int P>
  static inline void dots_tile(const float* a, std::size_t a_stride, const float* const* b, std::size_t width,
                               float* out) {
    F8 sum[Q][P];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < P; ++j) sum[i][j] = S::set8(0.0f);
    for (std::size_t k = 0; k < width; k += 8) {
      F8 other[P];
#pragma GCC unroll 8
      for (int j = 0; j < P; ++j) other[j] = S::load8(b[j] + k);
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i) {
        const F8 mine = S::load8(a + i * a_stride + k);
#pragma GCC unroll 8
        for (int j = 0; j < P; ++j) sum[i][j] = S::fma8(mine, other[j], sum[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < P; ++j) out[i * kPositions + j] = S::sum8(sum[i][j]);
  }

  template <int Q, int P>
  static inline void dots_rows(const float* a, std::size_t a_stride, const float* const* b, std::size_t n,
                               std::size_t width, float* out) {
    std::size_t j = 0;
    for (; j + P <= n; j += P) dots_tile<Q, P>(a, a_stride, b + j, width, out + j);
    for (; j < n; ++j) dots_tile<Q, 1>(a, a_stride, b + j, width, out + j);
  }

  static void dots(const float* a, std::size_t a_stride, std::size_t rows, const float* const* b, std::size_t n,
                   std::size_t width, float* out) {
    std::size_t i = 0;
    for (; i + 4 <= rows; i += 4) dots_rows<4, 2>(a + i * a_stride, a_stride, b, n, width, out + i * kPositions);
    for (; i + 2 <= rows; i += 2) dots_rows<2, 4>(a + i * a_stride, a_stride, b, n, width, out + i * kPositions);
    for (; i < rows; ++i) dots_rows<1, 8>(a + i * a_stride, a_stride, b, n, width, out + i * kPositions);
  }

  // acc[i][0..width) += sum over j of p[i][j] * b_j, width a multiple of 16.
  template <int Q, int V>
  static inline void sums_tile(float* acc, std::size_t stride, const float* p, const float* const* b, std::size_t n,
                               std::size_t column) {
    F8 sum[Q][V];
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[i][v] = S::load8(acc + i * stride + column + 8 * v);
    for (std::size_t j = 0; j < n; ++j) {
      F8 row[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) row[v] = S::load8(b[j] + column + 8 * v);
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i) {
        const F8 share = S::set8(p[i * kPositions + j]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[i][v] = S::fma8(share, row[v], sum[i][v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) S::store8(acc + i * stride + column + 8 * v, sum[i][v]);
  }

  static void sums(float* acc, std::size_t stride, std::size_t rows, const float* p, const float* const* b,
                   std::size_t n, std::size_t width) {
    std::size_t i = 0;
    for (; i + 4 <= rows; i += 4)
      for (std::size_t c = 0; c < width; c += 16)
        sums_tile<4, 2>(acc + i * stride, stride, p + i * kPositions, b, n, c);
    for (; i < rows; ++i) {
      std::size_t c = 0;
      for (; c + 64 <= width; c += 64) sums_tile<1, 8>(acc + i * stride, stride, p + i * kPositions, b, n, c);
      for (; c < width; c += 16) sums_tile<1, 2>(acc + i * stride, stride, p + i * kPositions, b, n, c);
    }
  }

  // Scores of n positions, scaled, become shares relative to the new largest m; l and acc follow it.
  static inline void softmax_step(float* p, std::size_t n, float scale, float* m, float* l, float* acc,
                                  std::size_t width) {
    float top = *m;
    for (std::size_t j = 0; j < n; ++j) {
      p[j] *= scale;
      if (!(p[j] <= top)) top = p[j];  // a NaN becomes the largest, and everything after it NaN
    }
    if (top != *m) {
      const float shrink = *m == kTaken ? 0.0f : exp1(*m - top);
      *l *= shrink;
      const F8 all = S::set8(shrink);
      for (std::size_t c = 0; c < width; c += 8) S::store8(acc + c, S::mul8(S::load8(acc + c), all));
      *m = top;
    }
    for (std::size_t j = n; j < kPositions; ++j) p[j] = 0.0f;
    const F8 minus = S::set8(-top);
    for (std::size_t j = 0; j < n; j += 8) S::store8(p + j, exp8(S::add8(S::load8(p + j), minus)));
    float sum = *l;
    for (std::size_t j = 0; j < n; ++j) sum += p[j];
    for (std::size_t j = n; j < kPositions; ++j) p[j] = 0.0f;  // what exp made of the filling
    *l = sum;
  }

  static void mla_absorbed(const MlaShape& s, std::size_t heads, const float* q, const Latents& c, std::size_t first,
                           std::size_t last, float scale, float* m, float* l, float* u) {
    constexpr std::size_t kHeads = 64;  // at once; more run in turns
    for (std::size_t h = 0; h < heads; ++h) {
      m[h] = kTaken;
      l[h] = 0.0f;
    }
    for (std::size_t i = 0; i < heads * s.rank_pad; i += 8) S::store8(u + i, S::set8(0.0f));
    alignas(64) float p[kHeads * kPositions];
    const float* rows[kPositions];
    for (std::size_t at = first; at < last; at += kPositions) {
      const std::size_t n = last - at < kPositions ? last - at : kPositions;
      for (std::size_t j = 0; j < n; ++j) rows[j] = c.at(at + j);
      for (std::size_t h = 0; h < heads; h += kHeads) {
        const std::size_t some = heads - h < kHeads ? heads - h : kHeads;
        dots(q + h * s.latent_row(), s.latent_row(), some, rows, n, s.latent_row(), p);
        for (std::size_t i = 0; i < some; ++i)
          softmax_step(p + i * kPositions, n, scale, m + h + i, l + h + i, u + (h + i) * s.rank_pad, s.rank_pad);
        sums(u + h * s.rank_pad, s.rank_pad, some, p, rows, n, s.rank_pad);
      }
    }
  }

  static void mla_merge(const MlaShape& s, std::size_t parts, std::size_t part_heads, const float* m, const float* l,
                        const float* u, float* out) {
    float top = kTaken;
    for (std::size_t i = 0; i < parts; ++i)
      if (!(m[i * part_heads] <= top)) top = m[i * part_heads];
    float total = 0.0f;
    for (std::size_t c = 0; c < s.rank_pad; c += 8) S::store8(out + c, S::set8(0.0f));
    for (std::size_t i = 0; i < parts; ++i) {
      const float share = exp1(m[i * part_heads] - top);
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
    float* keys = scratch;
    float* values = keys + kPositions * width;
    float* o = values + kPositions * s.value_pad;
    float* p = o + tokens * s.value_pad;
    float* m = p + tokens * kPositions;
    float* l = m + tokens;
    for (std::size_t i = 0; i < kPositions * (width + s.value_pad) + tokens * s.value_pad; ++i) scratch[i] = 0.0f;
    for (std::size_t t = 0; t < tokens; ++t) {
      m[t] = kTaken;
      l[t] = 0.0f;
    }
    const float *latents[kPositions], *key_rows[kPositions], *value_rows[kPositions];
    float *key_out[kPositions], *value_out[kPositions];
    for (std::size_t j = 0; j < kPositions; ++j) {
      key_rows[j] = key_out[j] = keys + j * width;
      value_rows[j] = value_out[j] = values + j * s.value_pad;
    }
    const std::size_t end = start + tokens;
    for (std::size_t at = 0; at < end; at += kPositions) {
      const std::size_t n = end - at < kPositions ? end - at : kPositions;
      for (std::size_t j = 0; j < n; ++j) latents[j] = c.at(at + j);
      matmul(uk, 0, uk.blocks, latents, n, key_out);
      matmul(uv, 0, uv.blocks, latents, n, value_out);
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t i = 0; i < s.rope_pad; ++i) key_out[j][s.nope_pad + i] = latents[j][s.rank_pad + i];
      const std::size_t before = at > start ? at - start : 0;  // queries that see none of these positions
      dots(q + before * q_stride, q_stride, tokens - before, key_rows, n, width, p);
      for (std::size_t t = before; t < tokens; ++t) {
        const std::size_t seen = start + t + 1 - at < n ? start + t + 1 - at : n;
        softmax_step(p + (t - before) * kPositions, seen, scale, m + t, l + t, o + t * s.value_pad, s.value_pad);
      }
      // Queries on the diagonal one by one, each over what it sees: 0 * NaN of a later position would be NaN.
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

  static constexpr StepKernels table() {
    return {matmul<float>,
            matmul_add<float>,
            gate_up<float>,
            quantize,
            matmul<std::int32_t>,
            matmul_add<std::int32_t>,
            gate_up<std::int32_t>,
            silu_mul,
            rope,
            route,
            mla_absorbed,
            mla_merge,
            mla_naive};
  }
};

}  // namespace
}  // namespace abruzzi
