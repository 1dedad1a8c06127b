// Sixteen and eight floats at once, in plain C++: any machine, any compiler. What avx2.h and
// avx512.h do with registers; the *_impl.h of kernels/ are written against these names.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace abruzzi {
namespace {

struct Scalar {
  static constexpr int kTokens = 4;  // tokens that share one pass over a block of weights
  static constexpr int kAhead = 1;   // groups of columns that one token runs at once, to hide latency
  static constexpr int kAhead4 = 1;  // the same for INT4

  struct F8 {
    float v[8];
  };
  // The widest vector, for attention: its name, its lanes, and rows that share one pass over
  // others.
  using FV = F8;
  static constexpr std::size_t kLanes = 8;
  static constexpr int kRowsAtOnce = 4;
  struct F16 {
    float v[16];
  };
  struct W16 {
    std::uint32_t v[16];
  };

  static float from_bf16(std::uint16_t bits) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }

  static float from_half(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u;
    std::uint32_t rest = bits & 1023u, wide = sign;
    if (exponent == 31) {
      wide |= 0x7f800000u | rest << 13;
    } else if (exponent != 0) {
      wide |= (exponent + 112) << 23 | rest << 13;
    } else {
      const float small = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
      std::memcpy(&rest, &small, sizeof rest);
      wide |= rest;
    }
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }

  static F16 zero16() { return F16{}; }
  static F16 load16(const float* p) {
    F16 r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static void store16(float* p, const F16& a) { std::memcpy(p, a.v, sizeof a.v); }
  static F16 bf16x16(const std::uint16_t* p) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = from_bf16(p[i]);
    return r;
  }
  // Sixteen numbers of float16, of unsigned and of signed bytes.
  static F16 f16x16(const std::uint16_t* p) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = from_half(p[i]);
    return r;
  }
  static F16 u8x16(const std::uint8_t* p) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(p[i]);
    return r;
  }
  static F16 i8x16(const std::int8_t* p) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(p[i]);
    return r;
  }
  static W16 words(const std::uint32_t* p) {
    W16 r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static F16 nibble(const W16& w, int k) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(static_cast<std::int32_t>(w.v[i] << (28 - 4 * k)) >> 28);
    return r;
  }
  static F16 fma16(const F16& a, float b, const F16& c) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] * b + c.v[i];
    return r;
  }
  static F16 fma16(const F16& a, const F16& b, const F16& c) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] * b.v[i] + c.v[i];
    return r;
  }
  static F16 add16(const F16& a, const F16& b) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] + b.v[i];
    return r;
  }

  static F16 mul16(const F16& a, const F16& b) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] * b.v[i];
    return r;
  }
  static F16 set16(float x) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = x;
    return r;
  }

  static F16 byte(const W16& w, int k) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(static_cast<std::int8_t>((w.v[i] >> (8 * k)) & 255u));
    return r;
  }

  // Fast mode. Codes + 8 of the even (low) or odd (high) columns of each word, one in a byte.
  static constexpr int kByteTokens = 4;  // tokens that share one pass over 8-bit products
  struct Sum {
    std::int32_t v[16];
  };
  using Sum8 = Sum;
  static W16 low_nibbles(const W16& w) {
    W16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = (w.v[i] ^ 0x88888888u) & 0x0f0f0f0fu;
    return r;
  }
  static W16 high_nibbles(const W16& w) {
    W16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = ((w.v[i] ^ 0x88888888u) >> 4) & 0x0f0f0f0fu;
    return r;
  }
  template <std::size_t>
  static void prefetch(const void*) {}
  // begin, end: `more` (-8 or -128 times the sum of x) takes the offset of unsigned codes out
  // again, at one end or the other. dot: four products of each lane's bytes with the four signed
  // bytes of x, added up.
  static Sum begin4(std::int32_t) { return Sum{}; }
  static Sum dot4(const Sum& sum, const W16& codes, std::int32_t x) {
    Sum r = sum;
    const auto bits = static_cast<std::uint32_t>(x);
    for (int k = 0; k < 4; ++k) {
      const std::int32_t number = static_cast<std::int8_t>((bits >> (8 * k)) & 255u);
      for (int i = 0; i < 16; ++i) r.v[i] += static_cast<std::int32_t>((codes.v[i] >> (8 * k)) & 255u) * number;
    }
    return r;
  }
  static F16 end4(const Sum& sum, std::int32_t more) {
    F16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(sum.v[i] + more);
    return r;
  }
  // The same for signed codes of 8 bits.
  static W16 codes8(const std::uint32_t* p) { return words(p); }
  static Sum begin8(std::int32_t) { return Sum{}; }
  static Sum dot8(const Sum& sum, const W16& codes, std::int32_t x) {
    Sum r = sum;
    const auto bits = static_cast<std::uint32_t>(x);
    for (int k = 0; k < 4; ++k) {
      const std::int32_t number = static_cast<std::int8_t>((bits >> (8 * k)) & 255u);
      for (int i = 0; i < 16; ++i)
        r.v[i] += static_cast<std::int32_t>(static_cast<std::int8_t>((codes.v[i] >> (8 * k)) & 255u)) * number;
    }
    return r;
  }
  static F16 end8(const Sum& sum, std::int32_t) { return end4(sum, 0); }
  // 32 numbers divided by scale and rounded, in the order of bytes_impl.h; their sum.
  static std::int32_t quantize32(const float* x, float scale, std::int32_t* to) {
    std::int32_t sum = 0;
    for (int w = 0; w < 8; ++w) {
      std::uint32_t word = 0;
      for (int i = 0; i < 4; ++i) {
        const float exact = x[w / 2 * 8 + 2 * i + w % 2] / scale;
        const auto q = static_cast<std::int32_t>((exact + 12582912.0f) - 12582912.0f);
        sum += q;
        word |= (static_cast<std::uint32_t>(q) & 255u) << (8 * i);
      }
      to[w] = static_cast<std::int32_t>(word);
    }
    return sum;
  }

  static F8 set8(float x) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = x;
    return r;
  }
  static F8 load8(const float* p) {
    F8 r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static void store8(float* p, const F8& a) { std::memcpy(p, a.v, sizeof a.v); }
  static F8 fma8(const F8& a, const F8& b, const F8& c) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] * b.v[i] + c.v[i];
    return r;
  }
  static F8 add8(const F8& a, const F8& b) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] + b.v[i];
    return r;
  }
  static F8 mul8(const F8& a, const F8& b) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] * b.v[i];
    return r;
  }
  static F8 div8(const F8& a, const F8& b) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] / b.v[i];
    return r;
  }
  // A NaN in `b` stays one, here and in the vector versions.
  static F8 max8(const F8& a, const F8& b) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return r;
  }
  static F8 min8(const F8& a, const F8& b) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return r;
  }
  // To the nearest whole number, halves to even; |a| < 2^22.
  static F8 round8(const F8& a) {
    F8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = (a.v[i] + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: no room for halves
    return r;
  }
  // a * 2^n for whole n from -126 to 127.
  static F8 scale8(const F8& a, const F8& n) {
    F8 r;
    for (int i = 0; i < 8; ++i) {
      // A NaN has no whole part: its power is of no matter, as the product is NaN.
      const std::int32_t power = n.v[i] == n.v[i] ? static_cast<std::int32_t>(n.v[i]) : 0;
      const std::uint32_t bits = static_cast<std::uint32_t>(power + 127) << 23;
      float two;
      std::memcpy(&two, &bits, sizeof two);
      r.v[i] = a.v[i] * two;
    }
    return r;
  }
  static FV setv(float x) { return set8(x); }
  static FV loadv(const float* p) { return load8(p); }
  static void storev(float* p, const FV& a) { store8(p, a); }
  static FV fmav(const FV& a, const FV& b, const FV& c) { return fma8(a, b, c); }
  static FV mulv(const FV& a, const FV& b) { return mul8(a, b); }
  static float sumv(const FV& a) { return sum8(a); }
  // The sums across 4 x 4 vectors, in the order of sumv, to out[i * stride + j].
  static void sums4x4(const FV (&sum)[4][4], float* out, std::size_t stride) {
    for (std::size_t i = 0; i < 4; ++i)
      for (std::size_t j = 0; j < 4; ++j) out[i * stride + j] = sumv(sum[i][j]);
  }
  // The largest; a must not hold a NaN.
  static float top8(const F8& a) {
    float top = a.v[0];
    for (int i = 1; i < 8; ++i) top = a.v[i] > top ? a.v[i] : top;
    return top;
  }
  static float sum8(const F8& a) {
    const float b[4] = {a.v[0] + a.v[4], a.v[1] + a.v[5], a.v[2] + a.v[6], a.v[3] + a.v[7]};
    return (b[0] + b[2]) + (b[1] + b[3]);
  }
};

}  // namespace
}  // namespace abruzzi
