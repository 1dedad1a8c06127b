// One document and head of document_attention.h. Compiled with AVX-512 BF16 switched on, so nothing
// here may end up in code that other machines run: no containers, no algorithms of the standard
// library.
//
// Outside the scheme of simd/ on purpose. There a template gives the same sums on every instruction
// set, down to scalar. This has one set only: it is built on dpbf16 (two bfloat16 products added to
// a float32, without denormals), which no other set has and which none could repeat bit for bit at
// a useful speed; other machines train through torch. Its exponential is another trade, too: for
// x <= 0 only, with scalef, which is AVX-512.
#include <cmath>
#include <cstring>

#include "simd/isa.h"
#include "train/document_attention.h"

#if defined(ABRUZZI_X86) && defined(__AVX512BF16__)
#include <immintrin.h>
#define ABRUZZI_BF16 1
#endif

namespace abruzzi {

#if defined(ABRUZZI_BF16)

namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kBlock = 64;  // queries, or keys in the backward pass, at a time

std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

std::size_t rounded(std::size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

__mmask16 first(std::size_t lanes) { return lanes >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << lanes) - 1); }

__m512 widen(const Bf16* x, __mmask16 m) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x)), 16));
}

void narrow(Bf16* y, __mmask16 m, __m512 x) { _mm256_mask_storeu_epi16(y, m, (__m256i)_mm512_cvtneps_pbh(x)); }

// e^x for x <= 0, to 2e-7 of it: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; 0 for minus
// infinity.
__m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-104.f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145751953125f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.428606765330187e-6f), r);
  __m512 p = _mm512_set1_ps(1.f / 720);
  const float factors[] = {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
  for (const float factor : factors) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(p, n);
}

// c [rows, 16 V] (+)= a [rows, 2 pairs] b; a: rows of lda numbers; b: [pairs, ldb, 2].
template <int R, int V>
void tile(const Bf16* a, std::size_t lda, const Bf16* b, std::size_t ldb, float* c, std::size_t ldc, std::size_t pairs,
          bool add) {
  __m512 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = add ? _mm512_loadu_ps(c + r * ldc + v * kLanes) : _mm512_setzero_ps();
  for (std::size_t k = 0; k < pairs; ++k) {
    __m512bh column[V];
    for (int v = 0; v < V; ++v) column[v] = (__m512bh)_mm512_loadu_si512(b + 2 * (k * ldb + v * kLanes));
    for (int r = 0; r < R; ++r) {
      std::int32_t pair;
      std::memcpy(&pair, a + r * lda + 2 * k, sizeof pair);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], both, column[v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + r * ldc + v * kLanes, sum[r][v]);
}

template <int V>
void strip(const Bf16* a, std::size_t lda, const Bf16* b, std::size_t ldb, float* c, std::size_t ldc, std::size_t rows,
           std::size_t pairs, bool add) {
  constexpr int R = V >= 4 ? 6 : V == 3 ? 8 : 12;
  std::size_t r = 0;
  for (; r + R <= rows; r += R) tile<R, V>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, pairs, add);
  for (; r + 2 <= rows; r += 2) tile<2, V>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, pairs, add);
  for (; r < rows; ++r) tile<1, V>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, pairs, add);
}

// c [rows, columns] (+)= a [rows, 2 pairs] b [pairs, columns, 2]; columns a multiple of 16.
void product(const Bf16* a, std::size_t lda, const Bf16* b, std::size_t ldb, float* c, std::size_t ldc,
             std::size_t rows, std::size_t columns, std::size_t pairs, bool add = false) {
  for (std::size_t j = 0; j < columns;) {
    const std::size_t vectors = smaller(4, (columns - j) / kLanes);
    const Bf16* bj = b + 2 * j;
    switch (vectors) {
      case 4:
        strip<4>(a, lda, bj, ldb, c + j, ldc, rows, pairs, add);
        break;
      case 3:
        strip<3>(a, lda, bj, ldb, c + j, ldc, rows, pairs, add);
        break;
      case 2:
        strip<2>(a, lda, bj, ldb, c + j, ldc, rows, pairs, add);
        break;
      default:
        strip<1>(a, lda, bj, ldb, c + j, ldc, rows, pairs, add);
    }
    j += vectors * kLanes;
  }
}

// Rows [length, width] of stride apart, as they are, into [padded, width]; zeros below.
void rows_of(const Bf16* x, std::size_t apart, std::size_t length, std::size_t padded, std::size_t width, Bf16* y) {
  for (std::size_t t = 0; t < length; ++t) std::memcpy(y + t * width, x + t * apart, width * sizeof(Bf16));
  std::memset(y + length * width, 0, (padded - length) * width * sizeof(Bf16));
}

// [padded, width] into [width / 2, padded, 2]: what is multiplied along its columns.
void pair_columns(const Bf16* x, std::size_t padded, std::size_t width, Bf16* y) {
  const std::size_t pairs = width / 2;
  for (std::size_t t = 0; t < padded; ++t)
    for (std::size_t k = 0; k < pairs; ++k) std::memcpy(y + 2 * (k * padded + t), x + t * width + 2 * k, 4);
}

// [padded, width] into [padded / 2, wide, 2], zeros behind the width: what is multiplied along its
// rows.
void pair_rows(const Bf16* x, std::size_t padded, std::size_t width, std::size_t wide, Bf16* y) {
  for (std::size_t t = 0; t < padded; t += 2) {
    const Bf16 *even = x + t * width, *odd = even + width;
    Bf16* to = y + t * wide;
    for (std::size_t w = 0; w < wide; w += kLanes) {
      const __mmask16 m = first(width > w ? width - w : 0);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, even + w));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, odd + w)), 16);
      _mm512_storeu_si512(to + 2 * w, _mm512_or_si512(low, high));
    }
  }
}

// Takes pieces of a thread's memory, each at a cache line.
struct Arena {
  unsigned char* next;

  template <class T>
  T* take(std::size_t count) {
    T* piece = reinterpret_cast<T*>(next);
    next += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

struct Job {
  const DocumentAttention& g;
  std::size_t head, start, length, padded;  // head, and the tokens of its document

  std::size_t width() const { return g.nope + g.rope; }
  std::size_t joined() const { return g.nope + g.value; }
  std::size_t at(std::size_t t) const { return (start + t) * g.heads + head; }

  // x turned by its position's angles, or (back) the other way round.
  __m512 turn(__m512 x, std::size_t t, std::size_t column, __mmask16 m, bool back) const {
    const __mmask8 half = static_cast<__mmask8>((1u << ((_mm_popcnt_u32(m) + 1) / 2)) - 1);
    const std::size_t at = (start + t) * (g.rope / 2) + column / 2;
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(half, g.cos + at)));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(half, g.sin + at)));
    const __m512 across = _mm512_mul_ps(_mm512_permute_ps(x, 0xB1), s);
    // even: x c - y s, odd: y c + x s; back: the signs of s exchanged.
    return back ? _mm512_fmsubadd_ps(x, c, across) : _mm512_fmaddsub_ps(x, c, across);
  }

  // Scaled and rotated queries [padded, A].
  void queries(Bf16* y) const {
    const __m512 scale = _mm512_set1_ps(g.scale);
    for (std::size_t t = 0; t < length; ++t) {
      const Bf16* x = g.q + at(t) * width();
      Bf16* to = y + t * width();
      for (std::size_t w = 0; w < g.nope; w += kLanes) {
        const __mmask16 m = first(g.nope - w);
        narrow(to + w, m, _mm512_mul_ps(widen(x + w, m), scale));
      }
      for (std::size_t w = 0; w < g.rope; w += kLanes) {
        const __mmask16 m = first(g.rope - w);
        const __m512 turned = turn(widen(x + g.nope + w, m), t, w, m, false);
        narrow(to + g.nope + w, m, _mm512_mul_ps(turned, scale));
      }
    }
    std::memset(y + length * width(), 0, (padded - length) * width() * sizeof(Bf16));
  }

  // Rotated keys [padded, A].
  void keys(Bf16* y) const {
    for (std::size_t t = 0; t < length; ++t) {
      Bf16* to = y + t * width();
      std::memcpy(to, g.kv + at(t) * joined(), g.nope * sizeof(Bf16));
      const Bf16* x = g.k_pe + (start + t) * g.rope;
      for (std::size_t w = 0; w < g.rope; w += kLanes) {
        const __mmask16 m = first(g.rope - w);
        narrow(to + g.nope + w, m, turn(widen(x + w, m), t, w, m, false));
      }
    }
    std::memset(y + length * width(), 0, (padded - length) * width() * sizeof(Bf16));
  }

  void values(Bf16* y) const {
    rows_of(g.kv + at(0) * joined() + g.nope, g.heads * joined(), length, padded, g.value, y);
  }

  void forward(Arena s, Bf16* o, float* log_sum, float* largest) const;
  void backward(Arena s, const Bf16* o, const float* log_sum, const Bf16* d_o, Bf16* dq, Bf16* dkv, float* dk_pe) const;
};

void Job::forward(Arena s, Bf16* o, float* log_sum, float* largest) const {
  const std::size_t A = width(), H = g.value, wide = rounded(H);
  Bf16* q = s.take<Bf16>(padded * A);
  Bf16* k = s.take<Bf16>(padded * A);
  Bf16* v = s.take<Bf16>(padded * H);
  Bf16* k_columns = s.take<Bf16>(padded * A);
  Bf16* v_pairs = s.take<Bf16>(padded * wide);
  queries(q), keys(k), values(v);
  pair_columns(k, padded, A, k_columns);
  pair_rows(v, padded, H, wide, v_pairs);
  float* logits = s.take<float>(kBlock * padded);
  Bf16* probability = s.take<Bf16>(kBlock * padded);
  float* sums = s.take<float>(kBlock * wide);
  const __m512 none = _mm512_set1_ps(-INFINITY);
  for (std::size_t i0 = 0; i0 < length; i0 += kBlock) {
    const std::size_t rows = smaller(kBlock, length - i0), seen = rounded(i0 + rows);
    product(q + i0 * A, A, k_columns, padded, logits, seen, rows, seen, A / 2);
    float scale_of[kBlock];
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t own = i0 + r + 1;
      float* row = logits + r * seen;
      Bf16* p = probability + r * seen;
      __m512 most = none;
      for (std::size_t j = 0; j < own; j += kLanes)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(none, first(own - j), row + j));
      const float top = _mm512_reduce_max_ps(most);
      const __m512 tops = _mm512_set1_ps(top);
      __m512 total = _mm512_setzero_ps();
      for (std::size_t j = 0; j < seen; j += kLanes) {
        const __mmask16 m = first(own > j ? own - j : 0);
        const __m512 e = _mm512_maskz_mov_ps(m, exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), tops)));
        total = _mm512_add_ps(total, e);
        narrow(p + j, 0xFFFF, e);
      }
      const float sum = _mm512_reduce_add_ps(total);
      scale_of[r] = 1.f / sum;
      largest[at(i0 + r)] = top;
      log_sum[at(i0 + r)] = top + std::log(sum);
    }
    product(probability, seen, v_pairs, wide, sums, wide, rows, wide, seen / 2);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t w = 0; w < H; w += kLanes)
        narrow(o + at(i0 + r) * H + w, first(H - w),
               _mm512_mul_ps(_mm512_loadu_ps(sums + r * wide + w), _mm512_set1_ps(scale_of[r])));
  }
}

void Job::backward(Arena s, const Bf16* o, const float* log_sum, const Bf16* d_o, Bf16* dq, Bf16* dkv,
                   float* dk_pe) const {
  const std::size_t A = width(), H = g.value, J = joined(), wide = rounded(H), broad = rounded(A);
  Bf16* q = s.take<Bf16>(padded * A);
  Bf16* k = s.take<Bf16>(padded * A);
  Bf16* v = s.take<Bf16>(padded * H);
  Bf16* dout = s.take<Bf16>(padded * H);
  queries(q), keys(k), values(v);
  rows_of(d_o + at(0) * H, g.heads * H, length, padded, H, dout);
  Bf16* q_columns = s.take<Bf16>(padded * A);
  Bf16* do_columns = s.take<Bf16>(padded * H);
  Bf16* q_pairs = s.take<Bf16>(padded * broad);
  Bf16* do_pairs = s.take<Bf16>(padded * wide);
  Bf16* k_turned = s.take<Bf16>(padded * A);
  pair_columns(q, padded, A, q_columns), pair_columns(dout, padded, H, do_columns);
  pair_rows(q, padded, A, broad, q_pairs), pair_rows(dout, padded, H, wide, do_pairs);
  for (std::size_t t = 0; t < padded; ++t)
    for (std::size_t a = 0; a < A; ++a) k_turned[a * padded + t] = k[t * A + a];
  // Of each query: its log-sum, and what its gradient has along its output. Padding: no
  // probability.
  float* along = s.take<float>(2 * padded);
  float* sums = along + padded;
  for (std::size_t t = 0; t < padded; ++t) {
    __m512 total = _mm512_setzero_ps();
    for (std::size_t w = 0; t < length && w < H; w += kLanes) {
      const __mmask16 m = first(H - w);
      total = _mm512_fmadd_ps(widen(o + at(t) * H + w, m), widen(dout + t * H + w, m), total);
    }
    along[t] = _mm512_reduce_add_ps(total);
    sums[t] = t < length ? log_sum[at(t)] : INFINITY;
  }
  float* logits = s.take<float>(kBlock * padded);
  float* d_probability = s.take<float>(kBlock * padded);
  Bf16* probability = s.take<Bf16>(kBlock * padded);
  Bf16* d_logits = s.take<Bf16>(kBlock * padded);
  Bf16* d_pairs = s.take<Bf16>(kBlock * padded);
  float* dv = s.take<float>(kBlock * wide);
  float* dk = s.take<float>(kBlock * broad);
  float* dq_turned = s.take<float>(A * padded);
  std::memset(dq_turned, 0, A * padded * sizeof(float));
  for (std::size_t j0 = 0; j0 < length; j0 += kBlock) {
    const std::size_t rows = smaller(kBlock, length - j0), seen = padded - j0;
    product(k + j0 * A, A, q_columns + 2 * j0, padded, logits, seen, rows, seen, A / 2);
    product(v + j0 * H, H, do_columns + 2 * j0, padded, d_probability, seen, rows, seen, H / 2);
    if (rows % 2) std::memset(d_logits + rows * seen, 0, seen * sizeof(Bf16));
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < seen; i += kLanes) {
        // Queries before the key do not see it.
        const __mmask16 m = i >= r ? 0xFFFF : static_cast<__mmask16>(~first(r - i));
        const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(logits + r * seen + i), _mm512_loadu_ps(sums + j0 + i));
        const __m512 p = _mm512_maskz_mov_ps(m, exponential(_mm512_min_ps(x, _mm512_setzero_ps())));
        const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(d_probability + r * seen + i), _mm512_loadu_ps(along + j0 + i));
        narrow(probability + r * seen + i, 0xFFFF, p);
        narrow(d_logits + r * seen + i, 0xFFFF, _mm512_mul_ps(p, d));
      }
    }
    const std::size_t even = rows + rows % 2;
    pair_rows(d_logits, even, seen, seen, d_pairs);
    product(probability, seen, do_pairs + j0 * wide, wide, dv, wide, rows, wide, seen / 2);
    product(d_logits, seen, q_pairs + j0 * broad, broad, dk, broad, rows, broad, seen / 2);
    product(k_turned + j0, padded, d_pairs, seen, dq_turned + j0, padded, A, seen, even / 2, true);
    for (std::size_t r = 0; r < rows; ++r) {
      Bf16* to = dkv + at(j0 + r) * J;
      for (std::size_t w = 0; w < g.nope; w += kLanes)
        narrow(to + w, first(g.nope - w), _mm512_loadu_ps(dk + r * broad + w));
      for (std::size_t w = 0; w < H; w += kLanes)
        narrow(to + g.nope + w, first(H - w), _mm512_loadu_ps(dv + r * wide + w));
      for (std::size_t w = 0; w < g.rope; w += kLanes) {
        const __mmask16 m = first(g.rope - w);
        const __m512 x = _mm512_maskz_loadu_ps(m, dk + r * broad + g.nope + w);
        _mm512_mask_storeu_ps(dk_pe + at(j0 + r) * g.rope + w, m, turn(x, j0 + r, w, m, true));
      }
    }
  }
  const __m512 scale = _mm512_set1_ps(g.scale);
  float* row = s.take<float>(broad);
  for (std::size_t t = 0; t < length; ++t) {
    for (std::size_t a = 0; a < A; ++a) row[a] = dq_turned[a * padded + t];
    Bf16* to = dq + at(t) * A;
    for (std::size_t w = 0; w < g.nope; w += kLanes)
      narrow(to + w, first(g.nope - w), _mm512_mul_ps(_mm512_loadu_ps(row + w), scale));
    for (std::size_t w = 0; w < g.rope; w += kLanes) {
      const __mmask16 m = first(g.rope - w);
      const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, row + g.nope + w), scale);
      narrow(to + g.nope + w, m, turn(x, t, w, m, true));
    }
  }
}

Job job_of(const DocumentAttention& g, std::size_t document, std::size_t head) {
  const std::size_t start = static_cast<std::size_t>(g.edges[document]);
  const std::size_t length = static_cast<std::size_t>(g.edges[document + 1]) - start;
  return {g, head, start, length, rounded(length)};
}

}  // namespace

std::size_t document_arena(const DocumentAttention& g, std::size_t longest) {
  const std::size_t padded = rounded(longest), broad = rounded(g.nope + g.rope), wide = rounded(g.value);
  // What backward takes, which is more than forward does: bfloat16 and float32 by the token, and
  // what has a fixed size.
  const std::size_t by_token = 2 * (5 * broad + 4 * wide + 3 * kBlock) + 4 * (broad + 2 * kBlock + 2);
  return padded * by_token + 4 * (kBlock + 1) * (broad + wide) + 64 * 32;
}

void attend_document(const DocumentAttention& g, std::size_t document, std::size_t head, void* arena, Bf16* o,
                     float* log_sum, float* largest) {
  job_of(g, document, head).forward({static_cast<unsigned char*>(arena)}, o, log_sum, largest);
}

void attend_document_backward(const DocumentAttention& g, std::size_t document, std::size_t head, void* arena,
                              const Bf16* o, const float* log_sum, const Bf16* d_o, Bf16* dq, Bf16* dkv, float* dk_pe) {
  job_of(g, document, head).backward({static_cast<unsigned char*>(arena)}, o, log_sum, d_o, dq, dkv, dk_pe);
}

bool built_for_bf16() { return true; }

#else

bool built_for_bf16() { return false; }
std::size_t document_arena(const DocumentAttention&, std::size_t) { return 0; }
void attend_document(const DocumentAttention&, std::size_t, std::size_t, void*, Bf16*, float*, float*) {}
void attend_document_backward(const DocumentAttention&, std::size_t, std::size_t, void*, const Bf16*, const float*,
                              const Bf16*, Bf16*, Bf16*, float*) {}

#endif

}  // namespace abruzzi
