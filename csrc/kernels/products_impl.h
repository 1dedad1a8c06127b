// Products with float32 inputs and sums (the exact mode), for an instruction set S.
#pragma once

#include "kernels/elementwise_impl.h"

namespace abruzzi {
namespace {

template <class S>
struct Products {
  using F16 = typename S::F16;
  using W16 = typename S::W16;

  static constexpr std::size_t kTokenBlock = 192;  // tokens whose sums stay in the first-level cache

  // Products. Sixteen rows are one vector. Each group of 32 columns is summed from zero and then
  // added to the total (for INT4 times its scale), in order: the same sums whether one token or
  // many run, and short chains.

  struct DenseF32 {
    const float* p;
    explicit DenseF32(const unsigned char* data) : p(reinterpret_cast<const float*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const {
      S::template prefetch<kColumns * kRows * 4>(p + g * kColumns * kRows);
    }
    template <int T>
    ABRUZZI_ALWAYS void add_group(std::size_t g, const float* const* x, F16* part) const {
      const float* w = p + g * kColumns * kRows;
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) {
        const F16 weight = S::load16(w + c * kRows);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + c], part[t]);
      }
    }
    ABRUZZI_ALWAYS F16 finish(std::size_t, const F16& part, const F16& total) const { return S::add16(total, part); }
  };

  struct DenseBf16 {
    const std::uint16_t* p;
    explicit DenseBf16(const unsigned char* data) : p(reinterpret_cast<const std::uint16_t*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const {
      S::template prefetch<kColumns * kRows * 2>(p + g * kColumns * kRows);
    }
    template <int T>
    ABRUZZI_ALWAYS void add_group(std::size_t g, const float* const* x, F16* part) const {
      const std::uint16_t* w = p + g * kColumns * kRows;
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) {
        const F16 weight = S::bf16x16(w + c * kRows);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + c], part[t]);
      }
    }
    ABRUZZI_ALWAYS F16 finish(std::size_t, const F16& part, const F16& total) const { return S::add16(total, part); }
  };

  // Half: scales are float16, else bfloat16.
  template <bool Half>
  ABRUZZI_ALWAYS static F16 scales(const std::uint16_t* p) {
    if constexpr (Half)
      return S::f16x16(p);
    else
      return S::bf16x16(p);
  }

  template <bool Half>
  struct Int4 {
    const Int4Tile* p;
    explicit Int4(const unsigned char* data) : p(reinterpret_cast<const Int4Tile*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const { S::template prefetch<sizeof(Int4Tile)>(p + g); }
    template <int T>
    ABRUZZI_ALWAYS void add_group(std::size_t g, const float* const* x, F16* part) const {
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
    ABRUZZI_ALWAYS F16 finish(std::size_t g, const F16& part, const F16& total) const {
      return S::fma16(part, scales<Half>(p[g].scale), total);
    }
  };

  template <bool Half>
  struct Int8 {
    const Int8Tile* p;
    explicit Int8(const unsigned char* data) : p(reinterpret_cast<const Int8Tile*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const { S::template prefetch<sizeof(Int8Tile)>(p + g); }
    template <int T>
    ABRUZZI_ALWAYS void add_group(std::size_t g, const float* const* x, F16* part) const {
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
    ABRUZZI_ALWAYS F16 finish(std::size_t g, const F16& part, const F16& total) const {
      return S::fma16(part, scales<Half>(p[g].scale), total);
    }
  };

  // Kinds with a minimum: a weight is scale * code + base, made on the way. Lines: of a group, how
  // its words lie and what its 16 rows' scale and base are.
  struct Lines {
    const std::uint32_t (*words)[kRows];
    F16 scale, base;
  };

  struct Q41 {
    const Q41Tile* p;
    explicit Q41(const unsigned char* data) : p(reinterpret_cast<const Q41Tile*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const { S::template prefetch<sizeof(Q41Tile)>(p + g); }
    ABRUZZI_ALWAYS Lines lines(std::size_t g) const {
      const F16 scale = S::f16x16(p[g].scale);
      return {p[g].words, scale, S::fma16(scale, 8.0f, S::f16x16(p[g].min))};  // codes are code - 8
    }
  };

  struct Q4k {
    const Q4kBlock* p;
    explicit Q4k(const unsigned char* data) : p(reinterpret_cast<const Q4kBlock*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const {
      S::template prefetch<sizeof(Q4kTile)>(p[g / kSuper].tile + g % kSuper);
    }
    ABRUZZI_ALWAYS Lines lines(std::size_t g) const {
      const Q4kBlock& block = p[g / kSuper];
      const Q4kTile& tile = block.tile[g % kSuper];
      const F16 scale = S::mul16(S::f16x16(block.scale), S::u8x16(tile.scale));
      const F16 least = S::mul16(S::f16x16(block.min), S::u8x16(tile.min));
      return {tile.words, scale, S::fma16(scale, 8.0f, S::mul16(least, S::set16(-1.0f)))};
    }
  };

  template <class Kind4>
  struct WithMinimum : Kind4 {
    using Kind4::Kind4;
    template <int T>
    ABRUZZI_ALWAYS void add_group(std::size_t g, const float* const* x, F16* part) const {
      const Lines of = this->lines(g);
      for (std::size_t w = 0; w < 4; ++w) {
        const W16 words = S::words(of.words[w]);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
          const F16 weight = S::fma16(S::nibble(words, k), of.scale, of.base);
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + w * 8 + k], part[t]);
        }
      }
    }
    ABRUZZI_ALWAYS F16 finish(std::size_t, const F16& part, const F16& total) const { return S::add16(total, part); }
  };

  struct Q6k {
    const Q6kBlock* p;
    explicit Q6k(const unsigned char* data) : p(reinterpret_cast<const Q6kBlock*>(data)) {}
    ABRUZZI_ALWAYS void fetch(std::size_t g) const {
      S::template prefetch<sizeof(Q6kTile)>(p[g / kSuper].tile + g % kSuper);
    }
    template <int T>
    ABRUZZI_ALWAYS void add_group(std::size_t g, const float* const* x, F16* part) const {
      const Q6kBlock& block = p[g / kSuper];
      const Q6kTile& tile = block.tile[g % kSuper];
      for (std::size_t w = 0; w < 4; ++w) {
        const F16 scale = S::mul16(S::f16x16(block.scale), S::i8x16(tile.scale[w / 2]));
        const F16 base = S::mul16(scale, S::set16(-32.0f));
        const W16 even = S::words(tile.words[2 * w]), odd = S::words(tile.words[2 * w + 1]);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
          const F16 weight = S::fma16(S::byte(k % 2 ? odd : even, k / 2), scale, base);
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) part[t] = S::fma16(weight, x[t][g * kColumns + w * 8 + k], part[t]);
        }
      }
    }
    ABRUZZI_ALWAYS F16 finish(std::size_t, const F16& part, const F16& total) const { return S::add16(total, part); }
  };

  // Groups [0, groups) for T tokens, added to the totals out[t][16]; A groups at once, which hides
  // latency.
  template <int T, int A, class W>
  static inline void run_groups(const W& w, std::size_t groups, const float* const* x, float* out) {
    F16 total[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) total[t] = S::load16(out + t * kRows);
    std::size_t g = 0;
    if constexpr (A > 1) {
      for (; g + A <= groups; g += A) {
        F16 part[A][T];
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a) w.fetch(g + a);
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
      w.fetch(g);
      w.template add_group<T>(g, x, part);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) total[t] = w.finish(g, part[t], total[t]);
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) S::store16(out + t * kRows, total[t]);
  }

  // A groups side by side, column by column: A * T chains of sums. The same sums as add_group
  // makes.
  template <int T, int A>
  ABRUZZI_ALWAYS static void ahead(const DenseF32& w, std::size_t g, const float* const* x, F16 (&part)[A][T]) {
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
  ABRUZZI_ALWAYS static void ahead(const DenseBf16& w, std::size_t g, const float* const* x, F16 (&part)[A][T]) {
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
  template <int T, int A, class Kind4>
  ABRUZZI_ALWAYS static void ahead(const WithMinimum<Kind4>& w, std::size_t g, const float* const* x,
                                   F16 (&part)[A][T]) {
    clear<T, A>(part);
    Lines of[A];
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) of[a] = w.lines(g + a);
    for (std::size_t i = 0; i < 4; ++i) {
      W16 words[A];
#pragma GCC unroll 4
      for (int a = 0; a < A; ++a) words[a] = S::words(of[a].words[i]);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k)
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a) {
          const F16 weight = S::fma16(S::nibble(words[a], k), of[a].scale, of[a].base);
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) part[a][t] = S::fma16(weight, x[t][(g + a) * kColumns + i * 8 + k], part[a][t]);
        }
    }
  }
  template <int T, int A, bool Half>
  ABRUZZI_ALWAYS static void ahead(const Int4<Half>& w, std::size_t g, const float* const* x, F16 (&part)[A][T]) {
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
  ABRUZZI_ALWAYS static void clear(F16 (&part)[A][T]) {
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a)
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) part[a][t] = S::zero16();
  }

  // A says how many groups a single token runs at once, two tokens half of them. Tokens come in
  // runs of nearly equal length; the sixteen rows stay in the cache meanwhile.
  template <int A, class W>
  static void all_tokens(const W& w, std::size_t groups, const float* const* x, std::size_t tokens, float* out) {
    Elementwise<S>::template in_runs<S::kTokens>(tokens, [&](auto count, std::size_t t) {
      constexpr int T = decltype(count)::value;
      run_groups<T, T == 1 ? A : T == 2 ? (A + 1) / 2 : 1>(w, groups, x + t, out + t * kRows);
    });
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
    switch (m.kind) {
      case Kind::f32:
        return all_tokens<S::kAhead>(DenseF32(data), m.groups, x, tokens, out);
      case Kind::bf16:
        return all_tokens<S::kAhead>(DenseBf16(data), m.groups, x, tokens, out);
      case Kind::int4:
        return all_tokens<S::kAhead4>(Int4<false>(data), m.groups, x, tokens, out);
      case Kind::int8:
        return all_tokens<1>(Int8<false>(data), m.groups, x, tokens, out);
      case Kind::q4_0:
        return all_tokens<S::kAhead4>(Int4<true>(data), m.groups, x, tokens, out);
      case Kind::q8_0:
        return all_tokens<1>(Int8<true>(data), m.groups, x, tokens, out);
      case Kind::q4_1:
        return all_tokens<S::kAhead4>(WithMinimum<Q41>(data), m.groups, x, tokens, out);
      case Kind::q4_k:
        return all_tokens<S::kAhead4>(WithMinimum<Q4k>(data), m.groups, x, tokens, out);
      case Kind::q6_k:
        return all_tokens<1>(Q6k(data), m.groups, x, tokens, out);
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
      Elementwise<S>::put_rows(y[t] + row, sums, rows);
    });
  }

  static void matmul_add(const Matrix& m, std::size_t first, std::size_t last, const float* const* x,
                         std::size_t tokens, const float* weight, float* const* y) {
    products(m, first, last, x, tokens, [&](std::size_t t, std::size_t row, std::size_t rows, const float* sums) {
      Elementwise<S>::add_rows(y[t] + row, sums, weight[t], rows);
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
