// Sixteen floats in one AVX-512 register; eight as in AVX2. The names are explained in simd_scalar.h.
#pragma once

#include "simd_avx2.h"

namespace abruzzi {
namespace {

struct Avx512 : Avx2 {
  static constexpr int kTokens = 12;
  static constexpr int kAhead = 4;
  static constexpr int kAhead4 = 4;

  using FV = __m512;
  static constexpr std::size_t kLanes = 16;
  static constexpr int kRowsAtOnce = 8;
  ABRUZZI_INLINE FV setv(float x) { return _mm512_set1_ps(x); }
  ABRUZZI_INLINE FV loadv(const float* p) { return _mm512_loadu_ps(p); }
  ABRUZZI_INLINE void storev(float* p, FV x) { _mm512_storeu_ps(p, x); }
  ABRUZZI_INLINE FV fmav(FV a, FV b, FV c) { return _mm512_fmadd_ps(a, b, c); }
  ABRUZZI_INLINE float sumv(FV a) {
    return sum8(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
  }

  using F16 = __m512;
  using W16 = __m512i;

  ABRUZZI_INLINE F16 zero16() { return _mm512_setzero_ps(); }
  ABRUZZI_INLINE F16 load16(const float* p) { return _mm512_loadu_ps(p); }
  ABRUZZI_INLINE void store16(float* p, F16 x) { _mm512_storeu_ps(p, x); }
  ABRUZZI_INLINE F16 bf16x16(const std::uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  ABRUZZI_INLINE W16 words(const std::uint32_t* p) { return _mm512_loadu_si512(p); }
  // vpermps looks at the low four bits of each lane only: a table of the codes replaces mask and conversion.
  ABRUZZI_INLINE F16 nibble(W16 w, int k) {
    const __m512 codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(w, 4 * k), codes);
  }
  ABRUZZI_INLINE F16 fma16(F16 x, float y, F16 z) { return _mm512_fmadd_ps(x, _mm512_set1_ps(y), z); }
  ABRUZZI_INLINE F16 fma16(F16 x, F16 y, F16 z) { return _mm512_fmadd_ps(x, y, z); }
  ABRUZZI_INLINE F16 add16(F16 x, F16 y) { return _mm512_add_ps(x, y); }
  ABRUZZI_INLINE F16 mul16(F16 x, F16 y) { return _mm512_mul_ps(x, y); }
  ABRUZZI_INLINE F16 set16(float x) { return _mm512_set1_ps(x); }

  ABRUZZI_INLINE F16 byte(W16 w, int k) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w, 24 - 8 * k), 24));
  }

  static constexpr int kByteTokens = 12;  // 12 sums, 12 totals, 2 codes
  using Sum = __m512i;
  using Sum8 = __m512i;
  ABRUZZI_INLINE W16 low_nibbles(W16 w) {
    return _mm512_and_si512(_mm512_xor_si512(w, _mm512_set1_epi8(-120)), _mm512_set1_epi8(15));
  }
  ABRUZZI_INLINE W16 high_nibbles(W16 w) { return low_nibbles(_mm512_srli_epi32(w, 4)); }
  ABRUZZI_INLINE Sum begin4(std::int32_t more) { return _mm512_set1_epi32(more); }
  ABRUZZI_INLINE Sum dot4(Sum sum, W16 codes, std::int32_t x) {
    return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x));
  }
  ABRUZZI_INLINE F16 end4(Sum sum, std::int32_t) { return _mm512_cvtepi32_ps(sum); }
  ABRUZZI_INLINE W16 codes8(const std::uint32_t* p) {
    return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
  }
  ABRUZZI_INLINE Sum8 begin8(std::int32_t more) { return _mm512_set1_epi32(more); }
  ABRUZZI_INLINE Sum8 dot8(Sum8 sum, W16 codes, std::int32_t x) { return dot4(sum, codes, x); }
  ABRUZZI_INLINE F16 end8(Sum8 sum, std::int32_t) { return _mm512_cvtepi32_ps(sum); }
};

}  // namespace
}  // namespace abruzzi
