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

#include "kernels/elementwise_impl.h"

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

  // What differs between the two widths of weights.
  struct Form4 {
    using Sum = typename S::Sum;
    using Tile = Int4Tile;
    ABRUZZI_ALWAYS static Sum begin(Row group) { return S::begin4(group[0]); }
    ABRUZZI_ALWAYS static F16 end(const Sum& sum, Row group) { return S::end4(sum, group[0]); }
    template <int T>
    ABRUZZI_ALWAYS static void add_tile(const Tile& tile, const Row* x, std::size_t at, Sum* sum) {
#pragma GCC unroll 4
      for (std::size_t w = 0; w < 4; ++w) {
        const W16 words = S::words(tile.words[w]), low = S::low_nibbles(words), high = S::high_nibbles(words);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t)
          sum[t] = S::dot4(S::dot4(sum[t], low, x[t][at + 2 + 2 * w]), high, x[t][at + 3 + 2 * w]);
      }
    }
  };

  struct Form8 {
    using Sum = typename S::Sum8;
    using Tile = Int8Tile;
    ABRUZZI_ALWAYS static Sum begin(Row group) { return S::begin8(group[1]); }
    ABRUZZI_ALWAYS static F16 end(const Sum& sum, Row group) { return S::end8(sum, group[1]); }
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

  static inline F16 scale_of(const std::int32_t* x, std::size_t groups) {
    float scale;
    std::memcpy(&scale, x + groups * kQuantizedGroup, sizeof scale);
    return S::set16(scale);
  }

  // Weights are unpacked on the way, one stream of memory. Unpacking them ahead for hundreds of
  // tokens, two blocks of rows at once, was no faster (docs/LOG.md). out[t][16].
  template <class Form, int T>
  static inline void stream(const typename Form::Tile* p, std::size_t groups, const Row* x, float* out) {
    F16 total[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) total[t] = S::zero16();
    for (std::size_t g = 0, at = 0; g < groups; ++g, at += kQuantizedGroup) {
      S::template prefetch<sizeof(typename Form::Tile)>(p + g);
      typename Form::Sum sum[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) sum[t] = Form::begin(x[t] + at);
      Form::template add_tile<T>(p[g], x, at, sum);
      const F16 scale = S::bf16x16(p[g].scale);
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) total[t] = S::add16(total[t], S::mul16(Form::end(sum[t], x[t] + at), scale));
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
    const auto* p = reinterpret_cast<const typename Form::Tile*>(at.m->data) + at.b * at.m->groups;
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
    if (kind == Kind::int8)
      products_of<Form8>(count, x, tokens, next, use);
    else
      products_of<Form4>(count, x, tokens, next, use);
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
