// Products with float32 inputs and sums (the exact mode), for an instruction set S.
#pragma once

#include "elementwise_impl.h"

namespace abruzzi {
namespace {

template <class S>
struct Products {
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

  struct Int8 {
    const Int8Tile* p;
    explicit Int8(const unsigned char* data) : p(reinterpret_cast<const Int8Tile*>(data)) {}
    template <int T>
    inline void add_group(std::size_t g, const float* const* x, F16* part) const {
      for (std::size_t w = 0; w < 4; ++w) {
        const W16 even = S::words(p[g].words[2 * w]), odd = S::words(p[g].words[2 * w + 1]);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
          const F16 weight = S::byte(k % 2 ? odd : even, k / 2);
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
  template <class Tile>
  struct Unpacked {
    const float* codes;
    const Tile* p;
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
      if (m.kind == Kind::int8) return few_tokens<1>(Int8(data), m.groups, x, tokens, out);
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
      } else if (m.kind == Kind::int8) {
        const Int8Tile* p = reinterpret_cast<const Int8Tile*>(at);
        float* to = unpacked;
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t w = 0; w < 4; ++w) {
            const W16 even = S::words(p[i].words[2 * w]), odd = S::words(p[i].words[2 * w + 1]);
#pragma GCC unroll 8
            for (int k = 0; k < 8; ++k, to += kRows) S::store16(to, S::byte(k % 2 ? odd : even, k / 2));
          }
        many_tokens(Unpacked<Int8Tile>{unpacked, p}, n, g * kColumns, x, tokens, out);
      } else {
        const Int4Tile* p = reinterpret_cast<const Int4Tile*>(at);
        float* to = unpacked;
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t w = 0; w < 4; ++w) {
            const W16 words = S::words(p[i].words[w]);
#pragma GCC unroll 8
            for (int k = 0; k < 8; ++k, to += kRows) S::store16(to, S::nibble(words, k));
          }
        many_tokens(Unpacked<Int4Tile>{unpacked, p}, n, g * kColumns, x, tokens, out);
      }
    }
  }
  // For each block of rows and of tokens: use(token, first row, rows, sums[16]).
  template <class Use>
  static inline void products(const Matrix& m, std::size_t first, std::size_t last, const float* const* x,
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

  static void matmul(const Matrix& m, std::size_t first, std::size_t last, const float* const* x, std::size_t tokens,
                     float* const* y) {
    products(m, first, last, x, tokens, [&](std::size_t t, std::size_t row, std::size_t rows, const float* sums) {
      float* to = y[t] + row;
      if (rows == kRows) return S::store16(to, S::load16(sums));
      for (std::size_t r = 0; r < rows; ++r) to[r] = sums[r];
    });
  }

  static void matmul_add(const Matrix& m, std::size_t first, std::size_t last, const float* const* x,
                         std::size_t tokens, const float* weight, float* const* y) {
    products(m, first, last, x, tokens, [&](std::size_t t, std::size_t row, std::size_t rows, const float* sums) {
      float* to = y[t] + row;
      if (rows == kRows) return S::store16(to, S::fma16(S::load16(sums), weight[t], S::load16(to)));
      alignas(64) float last_rows[kRows] = {};
      for (std::size_t r = 0; r < rows; ++r) last_rows[r] = to[r];
      S::store16(last_rows, S::fma16(S::load16(sums), weight[t], S::load16(last_rows)));
      for (std::size_t r = 0; r < rows; ++r) to[r] = last_rows[r];
    });
  }

  static void gate_up(const Matrix& gate, const Matrix& up, std::size_t first, std::size_t last, const float* const* x,
                      std::size_t tokens, float* const* y) {
    alignas(64) float g[kTokenBlock * kRows], u[kTokenBlock * kRows];
    for (std::size_t t = 0; t < tokens; t += kTokenBlock) {
      const std::size_t n = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
      for (std::size_t b = first; b < last; ++b) {
        row_block(gate, b, x + t, n, g);
        row_block(up, b, x + t, n, u);
        Elementwise<S>::silu_mul(g, u, g, n * kRows);
        const std::size_t rows = gate.rows - b * kRows < kRows ? gate.rows - b * kRows : kRows;
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t r = 0; r < rows; ++r) y[t + i][b * kRows + r] = g[i * kRows + r];
      }
    }
  }
};

}  // namespace
}  // namespace abruzzi
