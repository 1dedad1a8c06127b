#include "kernels/limits.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/pool.h"

#if defined(ABRUZZI_X86)
#include <immintrin.h>
#endif

namespace abruzzi {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Sum of 64-bit words: what keeps the reads from being left out. Four streams, and prefetches ahead
// of them: what gave the highest rate of the ways that were tried.
std::uint64_t read_words(const std::uint64_t* p, std::size_t count) {
  constexpr std::size_t streams = 4, ahead = 512;
  const std::size_t each = count / streams / 8 * 8;
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i < each; i += 8)
    for (std::size_t s = 0; s < streams; ++s) {
      const std::uint64_t* at = p + s * each + i;
      __builtin_prefetch(at + ahead);
      for (std::size_t k = 0; k < 8; ++k) sum[k] += at[k];
    }
  std::uint64_t all = 0;
  for (const std::uint64_t s : sum) all += s;
  return all;
}

constexpr std::size_t kRound = 20000;  // of a loop with 8 independent sums

std::size_t products_plain() {
  std::int32_t sum[8] = {};
  volatile std::int8_t start = 3;
  const std::int8_t x = start;
  for (std::size_t i = 0; i < kRound; ++i)
    for (int k = 0; k < 8; ++k) sum[k] += static_cast<std::int32_t>(x) * static_cast<std::int8_t>(i + k);
  volatile std::int32_t keep = 0;
  for (const std::int32_t s : sum) keep = keep + s;
  return kRound * 8 * 2;
}

#if defined(ABRUZZI_X86)
ABRUZZI_AVX2 std::size_t products_avx2() {
  __m256i sum[8];
  for (auto& s : sum) s = _mm256_setzero_si256();
  const __m256i x = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  __m256i w = _mm256_set1_epi8(5);
  for (std::size_t i = 0; i < kRound; ++i) {
    for (auto& s : sum) s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
    __asm__ volatile("" : "+x"(w));
  }
  volatile int keep = 0;
  for (const auto& s : sum) keep = keep + _mm256_extract_epi32(s, 0);
  return kRound * 8 * 32 * 2;
}

ABRUZZI_AVX512 std::size_t products_avx512() {
  __m512i sum[16];
  for (auto& s : sum) s = _mm512_setzero_si512();
  const __m512i x = _mm512_set1_epi8(3);
  __m512i w = _mm512_set1_epi8(5);
  for (std::size_t i = 0; i < kRound; ++i) {
    for (auto& s : sum) s = _mm512_dpbusd_epi32(s, w, x);
    __asm__ volatile("" : "+v"(w));
  }
  volatile int keep = 0;
  for (const auto& s : sum) keep = keep + _mm_cvtsi128_si32(_mm512_castsi512_si128(s));
  return kRound * 16 * 64 * 2;
}
#endif

std::size_t products(Isa isa) {
#if defined(ABRUZZI_X86)
  if (isa == Isa::avx512_vnni) return products_avx512();
  if (isa == Isa::avx2) return products_avx2();
#endif
  (void)isa;
  return products_plain();
}

}  // namespace

std::vector<double> measure_bandwidth(std::size_t threads, std::size_t bytes, double seconds) {
  const std::size_t count = bytes / 64 / threads * threads * 8;  // words of 8 bytes, whole lines for each thread
  // The prefetches look a little behind the end. Huge pages, as the weights have.
  constexpr std::size_t page = 2u << 20;
  const std::size_t room = (count * 8 / page + 2) * page;
  auto* memory = static_cast<std::uint64_t*>(std::aligned_alloc(page, room));
  if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(memory, room, MADV_HUGEPAGE);
#endif
  std::memset(memory, 1, count * 8);
  Pool pool(threads);
  std::vector<double> rates;
  volatile std::uint64_t keep = 0;
  for (const double end = now() + seconds; rates.empty() || now() < end;) {
    const double start = now();
    pool.run(threads, [&](std::size_t job, std::size_t) {
      keep = keep + read_words(memory + count / threads * job, count / threads);
    });
    rates.push_back(static_cast<double>(count * 8) / (now() - start));
  }
  std::free(memory);
  return rates;
}

std::vector<double> measure_int8_peak(Isa isa, std::size_t threads, double seconds) {
  Pool pool(threads);
  std::vector<double> rates;
  for (const double end = now() + seconds; rates.empty() || now() < end;) {
    const double start = now();
    std::vector<std::size_t> done(threads, 0);
    pool.run(threads, [&](std::size_t job, std::size_t) {
      for (int i = 0; i < 50; ++i) done[job] += products(isa);
    });
    std::size_t all = 0;
    for (const std::size_t d : done) all += d;
    rates.push_back(static_cast<double>(all) / (now() - start));
  }
  return rates;
}

}  // namespace abruzzi
