// RMSNorm of each row. The scalar sum is double: a row of large values must not lose the small
// ones.
#include "kernels/rmsnorm.h"

#include <cmath>

#if defined(ABRUZZI_X86)
#include <immintrin.h>
#endif

namespace abruzzi {
namespace {

void rmsnorm_scalar(const float* x, const float* weight, float* y, std::size_t rows, std::size_t width, float eps) {
  for (std::size_t r = 0; r < rows; ++r, x += width, y += width) {
    double sum = 0.0;
    for (std::size_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const float factor =
        static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(width) + static_cast<double>(eps)));
    for (std::size_t i = 0; i < width; ++i) y[i] = x[i] * factor * weight[i];
  }
}

#if defined(ABRUZZI_X86)

ABRUZZI_AVX2 void rmsnorm_avx2(const float* x, const float* weight, float* y, std::size_t rows, std::size_t width,
                               float eps) {
  for (std::size_t r = 0; r < rows; ++r, x += width, y += width) {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    std::size_t i = 0;
    for (; i + 8 <= width; i += 8) {
      const __m256 v = _mm256_loadu_ps(x + i);
      const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
      low = _mm256_fmadd_pd(a, a, low);
      high = _mm256_fmadd_pd(b, b, high);
    }
    double parts[4];
    _mm256_storeu_pd(parts, _mm256_add_pd(low, high));
    double sum = parts[0] + parts[1] + parts[2] + parts[3];
    for (; i < width; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const float factor =
        static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(width) + static_cast<double>(eps)));
    const __m256 f = _mm256_set1_ps(factor);
    for (i = 0; i + 8 <= width; i += 8)
      _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), f), _mm256_loadu_ps(weight + i)));
    for (; i < width; ++i) y[i] = x[i] * factor * weight[i];
  }
}

ABRUZZI_AVX512 void rmsnorm_avx512(const float* x, const float* weight, float* y, std::size_t rows, std::size_t width,
                                   float eps) {
  for (std::size_t r = 0; r < rows; ++r, x += width, y += width) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    std::size_t i = 0;
    for (; i + 16 <= width; i += 16) {
      const __m512d a = _mm512_cvtps_pd(_mm256_loadu_ps(x + i)), b = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8));
      low = _mm512_fmadd_pd(a, a, low);
      high = _mm512_fmadd_pd(b, b, high);
    }
    double sum = _mm512_reduce_add_pd(_mm512_add_pd(low, high));
    for (; i < width; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const float factor =
        static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(width) + static_cast<double>(eps)));
    const __m512 f = _mm512_set1_ps(factor);
    for (i = 0; i + 16 <= width; i += 16)
      _mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), f), _mm512_loadu_ps(weight + i)));
    for (; i < width; ++i) y[i] = x[i] * factor * weight[i];
  }
}

#endif

}  // namespace

void rmsnorm(Isa isa, const float* x, const float* weight, float* y, std::size_t rows, std::size_t width, float eps) {
#if defined(ABRUZZI_X86)
  if (isa == Isa::avx512_vnni) return rmsnorm_avx512(x, weight, y, rows, width, eps);
  if (isa == Isa::avx2) return rmsnorm_avx2(x, weight, y, rows, width, eps);
#endif
  (void)isa;
  rmsnorm_scalar(x, weight, y, rows, width, eps);
}

}  // namespace abruzzi
