// Products whose inputs are rounded to 8 bits (the fast mode: W4A8 and W8A8), for an instruction
// set S.
//
// One scale a token; sums of a group of columns in whole numbers, so that every instruction set,
// and one token or many, give the same bits. A quantized row has for each group of columns: -8 and
// -128 times the sum of its numbers (codes are taken as code + 8, or code + 128 where the hardware
// wants one factor unsigned), then 8 words of 4 numbers in the order in which the nibbles lie: word
// 2 w + h has columns 8 w + 2 i + h. At the end stands the scale.
#pragma once

#include <cstring>

#include "kernels/products_impl.h"

namespace abruzzi {
namespace {

template <class S>
struct Bytes {
  using F8 = typename S::F8;
  using F16 = typename S::F16;
  using W16 = typename S::W16;
  using Row = const std::int32_t*;

  static constexpr std::size_t kTokenBlock = 96;  // tokens whose sums stay in the first-level cache
  static constexpr int kTokens = S::kByteTokens;  // that share one pass over the weights

  static void quantize(const float* x, std::size_t groups, std::int32_t* row) {
    F8 top = S::set8(0.0f), nothing = S::set8(0.0f);
    for (std::size_t i = 0; i < groups * kColumns; i += 8) {
      const F8 v = S::load8(x + i);
      top = S::max8(S::max8(v, S::mul8(v, S::set8(-1.0f))), top);
      nothing = S::add8(nothing, S::mul8(v, S::set8(0.0f)));  // NaN where x is no finite number
    }
    alignas(32) float tops[8];
    S::store8(tops, top);
    float scale = 0.0f;
    for (int i = 0; i < 8; ++i) scale = tops[i] > scale ? tops[i] : scale;
    scale = scale / 127.0f + S::sum8(nothing);
    std::memcpy(row + groups * kQuantizedGroup, &scale, sizeof scale);
    if (!(scale > 0.0f)) {  // zeros, or NaN: the scale says all
      for (std::size_t i = 0; i < groups * kQuantizedGroup; ++i) row[i] = 0;
      return;
    }
    for (std::size_t g = 0; g < groups; ++g, row += kQuantizedGroup) {
      const std::int32_t sum = S::quantize32(x + g * kColumns, scale, row + 2);
      row[0] = -8 * sum;
      row[1] = -128 * sum;
    }
  }

  // Of the signed numbers in four words: as unsigned ones, 128 more each, summed four lanes of 16 bits
  // at a time.
  static inline std::int32_t sum_of(const std::int32_t* words) {
    constexpr std::uint64_t kSigns = 0x8080808080808080u, kEven = 0x00ff00ff00ff00ffu, kOnes = 0x0001000100010001u;
    std::uint64_t eight[2];
    std::memcpy(eight, words, sizeof eight);
    eight[0] ^= kSigns;
    eight[1] ^= kSigns;
    const std::uint64_t lanes =
        (eight[0] & kEven) + (eight[0] >> 8 & kEven) + (eight[1] & kEven) + (eight[1] >> 8 & kEven);
    return static_cast<std::int32_t>(lanes * kOnes >> 48) - 16 * 128;
  }

  // What differs between the kinds of weights. Tiles: where a kind's groups lie. A form sums one
  // group for some tokens (add_tile) and adds it to their totals (finish).
  template <class T>
  struct Plain {
    const T* p;
    explicit Plain(const unsigned char* data) : p(reinterpret_cast<const T*>(data)) {}
    ABRUZZI_ALWAYS const T& tile(std::size_t g) const { return p[g]; }
  };

  template <int T>
  ABRUZZI_ALWAYS static void add_nibbles(const std::uint32_t (&tile)[4][kRows], const Row* x, std::size_t at,
                                         typename S::Sum* sum) {
#pragma GCC unroll 4
    for (std::size_t w = 0; w < 4; ++w) {
      const W16 words = S::words(tile[w]), low = S::low_nibbles(words), high = S::high_nibbles(words);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t)
        sum[t] = S::dot4(S::dot4(sum[t], low, x[t][at + 2 + 2 * w]), high, x[t][at + 3 + 2 * w]);
    }
  }

  template <bool Half>
  struct Form4 {
    using Sum = typename S::Sum;
    using Tile = Int4Tile;
    using Tiles = Plain<Tile>;
    struct Scales {
      F16 scale;
    };
    ABRUZZI_ALWAYS static Scales scales(const Tiles& all, std::size_t g) {
      return {Products<S>::template scales<Half>(all.tile(g).scale)};
    }
    ABRUZZI_ALWAYS static Sum begin(Row group) { return S::begin4(group[0]); }
    ABRUZZI_ALWAYS static F16 finish(const Sum& sum, Row group, const Scales& by, const F16& total) {
      return S::add16(total, S::mul16(S::end4(sum, group[0]), by.scale));
    }
    template <int T>
    ABRUZZI_ALWAYS static void add_tile(const Tile& tile, const Row* x, std::size_t at, Sum* sum) {
      add_nibbles<T>(tile.words, x, at, sum);
    }
  };

  template <bool Half>
  struct Form8 {
    using Sum = typename S::Sum8;
    using Tile = Int8Tile;
    using Tiles = Plain<Tile>;
    struct Scales {
      F16 scale;
    };
    ABRUZZI_ALWAYS static Scales scales(const Tiles& all, std::size_t g) {
      return {Products<S>::template scales<Half>(all.tile(g).scale)};
    }
    ABRUZZI_ALWAYS static Sum begin(Row group) { return S::begin8(group[1]); }
    ABRUZZI_ALWAYS static F16 finish(const Sum& sum, Row group, const Scales& by, const F16& total) {
      return S::add16(total, S::mul16(S::end8(sum, group[1]), by.scale));
    }
    template <int T>
    ABRUZZI_ALWAYS static void add_tile(const Tile& tile, const Row* x, std::size_t at, Sum* sum) {
#pragma GCC unroll 8
      for (std::size_t w = 0; w < 8; ++w) {
        const W16 words = S::codes8(tile.words[w]);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) sum[t] = S::dot8(sum[t], words, x[t][at + 2 + w]);
      }
    }
  };

  // scale * code + least, codes from 0 to 15: the sums of the codes' products, and of x alone.
  template <class T>
  ABRUZZI_ALWAYS static F16 with_least(const T& sum, Row group, const F16& scale, const F16& least, const F16& total) {
    const F16 all = S::set16(static_cast<float>(group[0] / -8));
    return S::fma16(least, all, S::add16(total, S::mul16(S::end4(sum, 0), scale)));
  }

  struct Form41 {
    using Sum = typename S::Sum;
    using Tile = Q41Tile;
    using Tiles = Plain<Tile>;
    struct Scales {
      F16 scale, least;
    };
    ABRUZZI_ALWAYS static Scales scales(const Tiles& all, std::size_t g) {
      return {S::f16x16(all.tile(g).scale), S::f16x16(all.tile(g).min)};
    }
    ABRUZZI_ALWAYS static Sum begin(Row) { return S::begin4(0); }
    ABRUZZI_ALWAYS static F16 finish(const Sum& sum, Row group, const Scales& by, const F16& total) {
      return with_least(sum, group, by.scale, by.least, total);
    }
    template <int T>
    ABRUZZI_ALWAYS static void add_tile(const Tile& tile, const Row* x, std::size_t at, Sum* sum) {
      add_nibbles<T>(tile.words, x, at, sum);
    }
  };

  template <class Block, class T>
  struct Super {
    const Block* p;
    explicit Super(const unsigned char* data) : p(reinterpret_cast<const Block*>(data)) {}
    ABRUZZI_ALWAYS const Block& block(std::size_t g) const { return p[g / kSuper]; }
    ABRUZZI_ALWAYS const T& tile(std::size_t g) const { return p[g / kSuper].tile[g % kSuper]; }
  };

  struct Form4k {
    using Sum = typename S::Sum;
    using Tile = Q4kTile;
    using Tiles = Super<Q4kBlock, Tile>;
    struct Scales {
      F16 scale, least;
    };
    ABRUZZI_ALWAYS static Scales scales(const Tiles& all, std::size_t g) {
      const Q4kBlock& block = all.block(g);
      const F16 least = S::mul16(S::f16x16(block.min), S::u8x16(all.tile(g).min));
      return {S::mul16(S::f16x16(block.scale), S::u8x16(all.tile(g).scale)), S::mul16(least, S::set16(-1.0f))};
    }
    ABRUZZI_ALWAYS static Sum begin(Row) { return S::begin4(0); }
    ABRUZZI_ALWAYS static F16 finish(const Sum& sum, Row group, const Scales& by, const F16& total) {
      return with_least(sum, group, by.scale, by.least, total);
    }
    template <int T>
    ABRUZZI_ALWAYS static void add_tile(const Tile& tile, const Row* x, std::size_t at, Sum* sum) {
      add_nibbles<T>(tile.words, x, at, sum);
    }
  };

  // Codes from 0 to 63 of which 32 is taken off; each 16 columns have a scale.
  struct Form6k {
    struct Sum {
      typename S::Sum8 half[2];
    };
    using Tile = Q6kTile;
    using Tiles = Super<Q6kBlock, Tile>;
    struct Scales {
      F16 half[2];
    };
    ABRUZZI_ALWAYS static Scales scales(const Tiles& all, std::size_t g) {
      const F16 scale = S::f16x16(all.block(g).scale);
      const Tile& tile = all.tile(g);
      return {{S::mul16(scale, S::i8x16(tile.scale[0])), S::mul16(scale, S::i8x16(tile.scale[1]))}};
    }
    ABRUZZI_ALWAYS static Sum begin(Row) { return {{S::begin8(0), S::begin8(0)}}; }
    ABRUZZI_ALWAYS static F16 finish(const Sum& sum, Row group, const Scales& by, F16 total) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const F16 less = S::set16(static_cast<float>(-32 * sum_of(group + 2 + 4 * h)));
        total = S::add16(total, S::mul16(S::add16(S::end8(sum.half[h], 0), less), by.half[h]));
      }
      return total;
    }
    template <int T>
    ABRUZZI_ALWAYS static void add_tile(const Tile& tile, const Row* x, std::size_t at, Sum* sum) {
#pragma GCC unroll 8
      for (std::size_t w = 0; w < 8; ++w) {
        const W16 words = S::words(tile.words[w]);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) sum[t].half[w / 4] = S::dot8(sum[t].half[w / 4], words, x[t][at + 2 + w]);
      }
    }
  };

  static inline F16 scale_of(const std::int32_t* x, std::size_t groups) {
    float scale;
    std::memcpy(&scale, x + groups * kQuantizedGroup, sizeof scale);
    return S::set16(scale);
  }

  // Weights are unpacked on the way, one stream of memory. Unpacking them ahead for hundreds of
  // tokens, two blocks of rows at once, was no faster (docs/LOG.md). out[t][16].
  template <class Form, int T>
  static inline void stream(const typename Form::Tiles& all, std::size_t groups, const Row* x, float* out) {
    F16 total[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) total[t] = S::zero16();
    for (std::size_t g = 0, at = 0; g < groups; ++g, at += kQuantizedGroup) {
      const typename Form::Tile& tile = all.tile(g);
      S::template prefetch<sizeof(typename Form::Tile)>(&tile);
      typename Form::Sum sum[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) sum[t] = Form::begin(x[t] + at);
      Form::template add_tile<T>(tile, x, at, sum);
      const typename Form::Scales by = Form::scales(all, g);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) total[t] = Form::finish(sum[t], x[t] + at, by, total[t]);
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) S::store16(out + t * kRows, S::mul16(total[t], scale_of(x[t], groups)));
  }

  struct Block {
    const Matrix* m;
    std::size_t b;
  };

  // Sixteen rows stay in the first-level cache while one run of tokens after the other passes:
  // out[t][16].
  template <class Form>
  static inline void block(const Block& at, const Row* x, std::size_t tokens, float* out) {
    const typename Form::Tiles p(at.m->data + at.b * at.m->groups * tile_bytes(at.m->kind));
#if defined(ABRUZZI_PLANT_BUG)
    // One group too many: what scripts/sanitize.sh must notice.
    if (at.b + 1 == at.m->blocks) out[0] += static_cast<float>(at.m->data[at.m->bytes() + 64]);
#endif
    Elementwise<S>::template in_runs<kTokens>(tokens, [&](auto count, std::size_t t) {
      stream<Form, decltype(count)::value>(p, at.m->groups, x + t, out + t * kRows);
    });
  }

  // For each block of rows and of tokens: use(token, block, sums[16]); next(i) is the i-th block.
  template <class Form, class Next, class Use>
  static inline void products_of(std::size_t count, const Row* x, std::size_t tokens, const Next& next,
                                 const Use& use) {
    alignas(64) float out[kTokenBlock * kRows];
    for (std::size_t t = 0; t < tokens; t += kTokenBlock) {
      const std::size_t n = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
      for (std::size_t i = 0; i < count; ++i) {
        block<Form>(next(i), x + t, n, out);
        for (std::size_t k = 0; k < n; ++k) use(t + k, i, out + k * kRows);
      }
    }
  }

  template <class Next, class Use>
  static inline void products(Kind kind, std::size_t count, const Row* x, std::size_t tokens, const Next& next,
                              const Use& use) {
    switch (kind) {
      case Kind::int8:
        return products_of<Form8<false>>(count, x, tokens, next, use);
      case Kind::q8_0:
        return products_of<Form8<true>>(count, x, tokens, next, use);
      case Kind::q4_0:
        return products_of<Form4<true>>(count, x, tokens, next, use);
      case Kind::q4_1:
        return products_of<Form41>(count, x, tokens, next, use);
      case Kind::q4_k:
        return products_of<Form4k>(count, x, tokens, next, use);
      case Kind::q6_k:
        return products_of<Form6k>(count, x, tokens, next, use);
      default:
        return products_of<Form4<false>>(count, x, tokens, next, use);
    }
  }

  static inline std::size_t rows_of(const Matrix& m, std::size_t b) {
    return m.rows - b * kRows < kRows ? m.rows - b * kRows : kRows;
  }

  static void matmul(const Matrix& m, std::size_t first, std::size_t last, const Row* x, std::size_t tokens,
                     float* const* y) {
    products(
        m.kind, last - first, x, tokens, [&](std::size_t i) { return Block{&m, first + i}; },
        [&](std::size_t t, std::size_t i, const float* sums) {
          Elementwise<S>::put_rows(y[t] + (first + i) * kRows, sums, rows_of(m, first + i));
        });
  }

  static void matmul_add(const Matrix& m, std::size_t first, std::size_t last, const Row* x, std::size_t tokens,
                         const float* weight, float* const* y) {
    products(
        m.kind, last - first, x, tokens, [&](std::size_t i) { return Block{&m, first + i}; },
        [&](std::size_t t, std::size_t i, const float* sums) {
          Elementwise<S>::add_rows(y[t] + (first + i) * kRows, sums, weight[t], rows_of(m, first + i));
        });
  }

  // Blocks come in turn from gate and up.
  static void gate_up(const Matrix& gate, const Matrix& up, std::size_t first, std::size_t last, const Row* x,
                      std::size_t tokens, float* const* y) {
    products(
        gate.kind, 2 * (last - first), x, tokens,
        [&](std::size_t i) { return Block{i % 2 ? &up : &gate, first + i / 2}; },
        [&](std::size_t t, std::size_t i, const float* sums) {
          float* to = y[t] + (first + i / 2) * kRows;
          const std::size_t rows = rows_of(gate, first + i / 2);
          alignas(64) float out[kRows];
          if (i % 2 == 0) {
            for (std::size_t r = 0; r < rows; ++r) to[r] = sums[r];
            return;
          }
          for (std::size_t r = 0; r < rows; ++r) out[r] = to[r];
          for (std::size_t r = rows; r < kRows; ++r) out[r] = 0.0f;
          Elementwise<S>::silu_mul(out, sums, out, kRows);
          for (std::size_t r = 0; r < rows; ++r) to[r] = out[r];
        });
  }
};

}  // namespace
}  // namespace abruzzi
