// INT4 matrix times one vector, in the exact mode: float32 activations and accumulators.
//
// The checkpoint's words hold eight consecutive columns. Shifting a vector of words right by 4k leaves
// column 8w + k in the low nibble of lane w; so lanes run over words, and x is gathered once per call
// into that order (all columns k = 0 of 16 words, then k = 1, ...), which costs nothing beside the matrix.
// Each group of 32 columns is four words and has one scale.
#include <cstring>
#include <memory>

#include "kernels.h"

#if defined(ABRUZZI_X86)
#include <immintrin.h>
#endif

namespace abruzzi {
namespace {

constexpr std::size_t kGroup = 32;
constexpr std::size_t kGroupWords = kGroup / 8;

float bf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Groups [first, groups) of one row, in plain order: the whole row for `scalar`, the tail for the others.
float row_scalar(const std::uint32_t* packed, const std::uint16_t* scale, const float* x, std::size_t first,
                 std::size_t groups) {
  float sum = 0.0f;
  for (std::size_t g = first; g < groups; ++g) {
    float part = 0.0f;
    for (std::size_t w = 0; w < kGroupWords; ++w) {
      const std::uint32_t word = packed[g * kGroupWords + w];
      for (std::size_t k = 0; k < 8; ++k) {
        const int code = static_cast<int>((word >> (4 * k)) & 15u) - 8;
        part += static_cast<float>(code) * x[g * kGroup + w * 8 + k];
      }
    }
    sum += part * bf16(scale[g]);
  }
  return sum;
}

void matvec_scalar(const std::uint32_t* packed, const std::uint16_t* scale, const float* x, float* y, std::size_t rows,
                   std::size_t width) {
  const std::size_t groups = width / kGroup;
  for (std::size_t r = 0; r < rows; ++r)
    y[r] = row_scalar(packed + r * groups * kGroupWords, scale + r * groups, x, 0, groups);
}

#if defined(ABRUZZI_X86)

// x in the order of the lanes: block b of `lanes` words, then column k, then word.
std::unique_ptr<float[]> by_lanes(const float* x, std::size_t blocks, std::size_t lanes) {
  std::unique_ptr<float[]> out(new float[blocks * lanes * 8 + 1]);
  for (std::size_t b = 0; b < blocks; ++b)
    for (std::size_t k = 0; k < 8; ++k)
      for (std::size_t w = 0; w < lanes; ++w) out[(b * 8 + k) * lanes + w] = x[(b * lanes + w) * 8 + k];
  return out;
}

// The sum of -8 x over each lane's word: the shift of the codes, taken out of the inner loop.
std::unique_ptr<float[]> offsets(const float* laned, std::size_t blocks, std::size_t lanes) {
  std::unique_ptr<float[]> out(new float[blocks * lanes + 1]);
  for (std::size_t b = 0; b < blocks; ++b)
    for (std::size_t w = 0; w < lanes; ++w) {
      float sum = 0.0f;
      for (std::size_t k = 0; k < 8; ++k) sum += laned[(b * 8 + k) * lanes + w];
      out[b * lanes + w] = -8.0f * sum;
    }
  return out;
}

// Eight words are two groups; sixteen are four. Each lane is scaled by its group's scale at the end of
// the block, so the scale multiplies once per word and not once per column.
ABRUZZI_AVX2 void matvec_avx2(const std::uint32_t* packed, const std::uint16_t* scale, const float* x, float* y,
                              std::size_t rows, std::size_t width) {
  constexpr std::size_t lanes = 8;
  const std::size_t groups = width / kGroup, words = groups * kGroupWords, blocks = words / lanes;
  const auto laned = by_lanes(x, blocks, lanes);
  const auto shift = offsets(laned.get(), blocks, lanes);
  const __m256i mask = _mm256_set1_epi32(15);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::uint32_t* row = packed + r * words;
    const std::uint16_t* s = scale + r * groups;
    __m256 sum = _mm256_setzero_ps();
    for (std::size_t b = 0; b < blocks; ++b) {
      __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + b * lanes));
      const float* xb = laned.get() + b * 8 * lanes;
      __m256 even = _mm256_loadu_ps(shift.get() + b * lanes), odd = _mm256_setzero_ps();
      for (int k = 0; k < 8; k += 2) {
        const __m256i a = _mm256_and_si256(word, mask);
        const __m256i c = _mm256_and_si256(_mm256_srli_epi32(word, 4), mask);
        even = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), _mm256_loadu_ps(xb + k * lanes), even);
        odd = _mm256_fmadd_ps(_mm256_cvtepi32_ps(c), _mm256_loadu_ps(xb + (k + 1) * lanes), odd);
        word = _mm256_srli_epi32(word, 8);
      }
      const __m256 scales = _mm256_set_m128(_mm_set1_ps(bf16(s[2 * b + 1])), _mm_set1_ps(bf16(s[2 * b])));
      sum = _mm256_fmadd_ps(_mm256_add_ps(even, odd), scales, sum);
    }
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    half = _mm_add_ss(half, _mm_shuffle_ps(half, half, 1));
    y[r] = _mm_cvtss_f32(half) + row_scalar(row, s, x, blocks * 2, groups);
  }
}

// Scales of four groups, each spread over the four words of its group.
ABRUZZI_AVX512 inline __m512 spread_scales(const std::uint16_t* s) {
  const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  std::uint64_t four;
  std::memcpy(&four, s, sizeof four);
  const __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_cvtsi64_si128(static_cast<long long>(four))), 16);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(bits)));
}

// vpermps looks at the low four bits of each lane only: a table of the sixteen codes turns a shifted word
// into weights in one step, without mask, conversion or offset. Rows share the loads of x.
template <int kRows>
ABRUZZI_AVX512 inline void rows_avx512(const std::uint32_t* packed, const std::uint16_t* scale, const float* laned,
                                       float* y, std::size_t words, std::size_t groups, std::size_t blocks) {
  constexpr std::size_t lanes = 16;
  const __m512 codes = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  __m512 sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
  for (std::size_t b = 0; b < blocks; ++b) {
    __m512i word[kRows];
    __m512 part[kRows];
    for (int r = 0; r < kRows; ++r) {
      const std::uint32_t* at = packed + r * words + b * lanes;
      word[r] = _mm512_loadu_si512(at);
      _mm_prefetch(reinterpret_cast<const char*>(at) + 1024, _MM_HINT_T0);
      part[r] = _mm512_setzero_ps();
    }
    const float* xb = laned + b * 8 * lanes;
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      const __m512 x = _mm512_loadu_ps(xb + k * lanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        part[r] = _mm512_fmadd_ps(_mm512_permutexvar_ps(word[r], codes), x, part[r]);
        word[r] = _mm512_srli_epi32(word[r], 4);
      }
    }
    for (int r = 0; r < kRows; ++r)
      sum[r] = _mm512_fmadd_ps(part[r], spread_scales(scale + r * groups + 4 * b), sum[r]);
  }
  for (int r = 0; r < kRows; ++r) y[r] = _mm512_reduce_add_ps(sum[r]);
}

ABRUZZI_AVX512 void matvec_avx512(const std::uint32_t* packed, const std::uint16_t* scale, const float* x, float* y,
                                  std::size_t rows, std::size_t width) {
  const std::size_t groups = width / kGroup, words = groups * kGroupWords, blocks = words / 16;
  const auto laned = by_lanes(x, blocks, 16);
  std::size_t r = 0;
  for (; r + 4 <= rows; r += 4)
    rows_avx512<4>(packed + r * words, scale + r * groups, laned.get(), y + r, words, groups, blocks);
  for (; r < rows; ++r)
    rows_avx512<1>(packed + r * words, scale + r * groups, laned.get(), y + r, words, groups, blocks);
  if (blocks * 4 < groups)
    for (r = 0; r < rows; ++r) y[r] += row_scalar(packed + r * words, scale + r * groups, x, blocks * 4, groups);
}

#endif

}  // namespace

void int4_matvec(Isa isa, const std::uint32_t* packed, const std::uint16_t* scale, const float* x, float* y,
                 std::size_t rows, std::size_t width) {
#if defined(ABRUZZI_PLANT_BUG)
  // One word behind the matrix: what scripts/sanitize.sh must notice.
  y[0] = static_cast<float>(packed[rows * width / 8]);
#endif
#if defined(ABRUZZI_X86)
  if (isa == Isa::avx512_vnni) return matvec_avx512(packed, scale, x, y, rows, width);
  if (isa == Isa::avx2) return matvec_avx2(packed, scale, x, y, rows, width);
#endif
  (void)isa;
  matvec_scalar(packed, scale, x, y, rows, width);
}

}  // namespace abruzzi
