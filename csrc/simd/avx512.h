// Sixteen floats in one AVX-512 register; eight as in AVX2. The names are explained in
// scalar.h.
#pragma once

#include "simd/avx2.h"

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
  ABRUZZI_INLINE FV mulv(FV a, FV b) { return _mm512_mul_ps(a, b); }
  ABRUZZI_INLINE float sumv(FV a) {
    return sum8(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
  }
  // Each stage adds lanes 8, 4, 2 and 1 apart, as sumv does, and keeps two vectors in one.
  ABRUZZI_INLINE void sums4x4(const FV (&sum)[4][4], float* out, std::size_t stride) {
    FV four[4];  // of position j: four lanes for each of the rows i
    for (int j = 0; j < 4; ++j) {
      const FV a = _mm512_add_ps(_mm512_shuffle_f32x4(sum[0][j], sum[1][j], 0x44),
                                 _mm512_shuffle_f32x4(sum[0][j], sum[1][j], 0xee));
      const FV b = _mm512_add_ps(_mm512_shuffle_f32x4(sum[2][j], sum[3][j], 0x44),
                                 _mm512_shuffle_f32x4(sum[2][j], sum[3][j], 0xee));
      four[j] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }
    FV two[2];
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(four[2 * j]), y = _mm512_castps_pd(four[2 * j + 1]);
      two[j] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    const FV all = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd));
    _mm_storeu_ps(out, _mm512_castps512_ps128(all));
    _mm_storeu_ps(out + stride, _mm512_extractf32x4_ps(all, 1));
    _mm_storeu_ps(out + 2 * stride, _mm512_extractf32x4_ps(all, 2));
    _mm_storeu_ps(out + 3 * stride, _mm512_extractf32x4_ps(all, 3));
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
  ABRUZZI_INLINE F16 f16x16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  ABRUZZI_INLINE F16 u8x16(const std::uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  ABRUZZI_INLINE F16 i8x16(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  ABRUZZI_INLINE W16 words(const std::uint32_t* p) { return _mm512_loadu_si512(p); }
  // vpermps looks at the low four bits of each lane only: a table of the codes replaces mask and
  // conversion.
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
