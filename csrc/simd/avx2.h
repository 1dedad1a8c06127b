// Sixteen and eight floats in AVX2 registers; the names are explained in scalar.h.
// Only kernels/avx2.cpp and kernels/avx512.cpp include this, compiled for such a machine.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define ABRUZZI_INLINE __attribute__((always_inline)) static inline

namespace abruzzi {
namespace {

struct Avx2 {
  static constexpr int kTokens = 6;  // 12 accumulators, 2 weights, 1 broadcast: 15 of 16 registers
  static constexpr int kAhead = 4;   // two fma a cycle, four cycles each: eight chains keep them busy
  static constexpr int kAhead4 = 2;

  using F8 = __m256;
  using FV = __m256;
  static constexpr std::size_t kLanes = 8;
  static constexpr int kRowsAtOnce = 4;
  struct F16 {
    __m256 a, b;
  };
  struct W16 {
    __m256i a, b;
  };

  ABRUZZI_INLINE F16 zero16() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  ABRUZZI_INLINE F16 load16(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  ABRUZZI_INLINE void store16(float* p, F16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  ABRUZZI_INLINE __m256 bf16x8(const std::uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  ABRUZZI_INLINE F16 bf16x16(const std::uint16_t* p) { return {bf16x8(p), bf16x8(p + 8)}; }
  ABRUZZI_INLINE F16 f16x16(const std::uint16_t* p) {
    const auto* at = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
  }
  ABRUZZI_INLINE F16 u8x16(const std::uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  ABRUZZI_INLINE F16 i8x16(const std::int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  ABRUZZI_INLINE W16 words(const std::uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
  }
  ABRUZZI_INLINE __m256 nibble8(__m256i w, int k) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w, 28 - 4 * k), 28));
  }
  ABRUZZI_INLINE F16 nibble(W16 w, int k) { return {nibble8(w.a, k), nibble8(w.b, k)}; }
  ABRUZZI_INLINE F16 fma16(F16 x, float y, F16 z) {
    const __m256 all = _mm256_set1_ps(y);
    return {_mm256_fmadd_ps(x.a, all, z.a), _mm256_fmadd_ps(x.b, all, z.b)};
  }
  ABRUZZI_INLINE F16 fma16(F16 x, F16 y, F16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  ABRUZZI_INLINE F16 add16(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }

  ABRUZZI_INLINE F16 mul16(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  ABRUZZI_INLINE F16 set16(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

  ABRUZZI_INLINE __m256 byte8(__m256i w, int k) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w, 24 - 8 * k), 24));
  }
  ABRUZZI_INLINE F16 byte(W16 w, int k) { return {byte8(w.a, k), byte8(w.b, k)}; }

  static constexpr std::size_t kAheadBytes = 8192;
  static constexpr int kByteTokens = 4;  // 8 sums, 2 codes, 1 broadcast, and what the products need on the way

  // Sums of pairs in 16 bits. A group adds eight of them to a lane: 8 * 2 * 15 * 127 = 30480 fits.
  struct Sum {
    __m256i a, b;
  };
  ABRUZZI_INLINE __m256i low8(__m256i w) {
    return _mm256_and_si256(_mm256_xor_si256(w, _mm256_set1_epi8(-120)), _mm256_set1_epi8(15));
  }
  ABRUZZI_INLINE W16 low_nibbles(W16 w) { return {low8(w.a), low8(w.b)}; }
  ABRUZZI_INLINE W16 high_nibbles(W16 w) { return {low8(_mm256_srli_epi32(w.a, 4)), low8(_mm256_srli_epi32(w.b, 4))}; }
  // Some pages ahead, where the hardware's own prefetch does not look.
  template <std::size_t Bytes>
  ABRUZZI_INLINE void prefetch(const void* p) {
    const char* at = static_cast<const char*>(p) + kAheadBytes;
#pragma GCC unroll 32
    for (std::size_t i = 0; i < (Bytes + 63) / 64; ++i) _mm_prefetch(at + 64 * i, _MM_HINT_T0);
  }
  ABRUZZI_INLINE Sum begin4(std::int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  ABRUZZI_INLINE Sum dot4(Sum sum, W16 codes, std::int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(codes.a, all)),
            _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(codes.b, all))};
  }
  ABRUZZI_INLINE __m256 to_float8(__m256i pairs, std::int32_t more) {
    const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(more)));
  }
  ABRUZZI_INLINE F16 end4(Sum sum, std::int32_t more) { return {to_float8(sum.a, more), to_float8(sum.b, more)}; }

  // One factor must be unsigned: the sign of the code goes to x. Pairs stay below 2 * 127 * 127 =
  // 32258.
  using Sum8 = Sum;  // whole numbers of 32 bits here
  ABRUZZI_INLINE W16 codes8(const std::uint32_t* p) { return words(p); }
  ABRUZZI_INLINE Sum8 begin8(std::int32_t) { return begin4(0); }
  ABRUZZI_INLINE __m256i dot8_half(__m256i sum, __m256i codes, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  ABRUZZI_INLINE Sum8 dot8(Sum8 sum, W16 codes, std::int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return {dot8_half(sum.a, codes.a, all), dot8_half(sum.b, codes.b, all)};
  }
  ABRUZZI_INLINE F16 end8(Sum8 sum, std::int32_t) { return {_mm256_cvtepi32_ps(sum.a), _mm256_cvtepi32_ps(sum.b)}; }

  ABRUZZI_INLINE std::int32_t quantize32(const float* x, float scale, std::int32_t* to) {
    const __m256 by = _mm256_set1_ps(scale);
    __m256i q[4];
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(x + 8 * i), by));
    // Both packs work within halves: the words of four numbers come out as 0 2 4 6 1 3 5 7.
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i apart = _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0, 2, 4, 6, 1, 3, 5, 7,
                                           8, 10, 12, 14, 9, 11, 13, 15);
    bytes = _mm256_shuffle_epi8(bytes, apart);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    const __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }

  ABRUZZI_INLINE F8 set8(float x) { return _mm256_set1_ps(x); }
  ABRUZZI_INLINE F8 load8(const float* p) { return _mm256_loadu_ps(p); }
  ABRUZZI_INLINE void store8(float* p, F8 x) { _mm256_storeu_ps(p, x); }
  ABRUZZI_INLINE F8 fma8(F8 a, F8 b, F8 c) { return _mm256_fmadd_ps(a, b, c); }
  ABRUZZI_INLINE F8 add8(F8 a, F8 b) { return _mm256_add_ps(a, b); }
  ABRUZZI_INLINE F8 mul8(F8 a, F8 b) { return _mm256_mul_ps(a, b); }
  ABRUZZI_INLINE F8 div8(F8 a, F8 b) { return _mm256_div_ps(a, b); }
  ABRUZZI_INLINE F8 max8(F8 a, F8 b) { return _mm256_max_ps(a, b); }  // the second one where either is NaN
  ABRUZZI_INLINE F8 min8(F8 a, F8 b) { return _mm256_min_ps(a, b); }
  ABRUZZI_INLINE F8 round8(F8 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  ABRUZZI_INLINE F8 scale8(F8 a, F8 n) {
    const __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
  }
  ABRUZZI_INLINE FV setv(float x) { return _mm256_set1_ps(x); }
  ABRUZZI_INLINE FV loadv(const float* p) { return _mm256_loadu_ps(p); }
  ABRUZZI_INLINE void storev(float* p, FV x) { _mm256_storeu_ps(p, x); }
  ABRUZZI_INLINE FV fmav(FV a, FV b, FV c) { return _mm256_fmadd_ps(a, b, c); }
  ABRUZZI_INLINE FV mulv(FV a, FV b) { return _mm256_mul_ps(a, b); }
  ABRUZZI_INLINE float sumv(FV a) { return sum8(a); }
  ABRUZZI_INLINE void sums4x4(const FV (&sum)[4][4], float* out, std::size_t stride) {
    for (std::size_t i = 0; i < 4; ++i)
      for (std::size_t j = 0; j < 4; ++j) out[i * stride + j] = sumv(sum[i][j]);
  }
  ABRUZZI_INLINE float top8(F8 a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  ABRUZZI_INLINE float sum8(F8 a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
};

}  // namespace
}  // namespace abruzzi
