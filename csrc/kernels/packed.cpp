// Matrices that own their memory: allocated once, filled by the packers of matrix.cpp.
#include "kernels/packed.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

namespace abruzzi {

namespace {

void release(void* p) { std::free(p); }

std::shared_ptr<unsigned char> aligned(std::size_t alignment, std::size_t size) {
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(alignment, padded(size, alignment)));
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, release};
}

#if defined(ABRUZZI_SANITIZE)
// Each matrix on its own, so that a read behind one is seen.
std::shared_ptr<unsigned char> room_for(std::size_t size) { return aligned(64, size + 1); }
#else
constexpr std::size_t kHugePage = 2u << 20, kSmall = 64u << 10, kChunk = 256u << 20;

// Matrices lie one behind the other in chunks of huge pages, where the system has them: a stream of
// weights then needs one translation of addresses for 2 MB instead of for 4 KB. What is never
// written to takes no memory. A chunk goes when its last matrix has gone.
std::shared_ptr<unsigned char> room_for(std::size_t size) {
  if (size < kSmall) return aligned(64, size + 1);
  static std::mutex mutex;
  static std::weak_ptr<unsigned char> open;
  static std::size_t used = 0, whole = 0;
  const std::size_t wanted = padded(size + 1, 64);
  std::lock_guard<std::mutex> hold(mutex);
  std::shared_ptr<unsigned char> chunk = open.lock();
  if (chunk == nullptr || used + wanted > whole) {
    whole = std::max(padded(wanted, kHugePage), kChunk);
    chunk = aligned(kHugePage, whole);
#if defined(MADV_HUGEPAGE)
    madvise(chunk.get(), whole, MADV_HUGEPAGE);  // advice: nothing is lost where it is not taken
#endif
    open = chunk;
    used = 0;
  }
  unsigned char* at = chunk.get() + used;
  used += wanted;
  return {chunk, at};  // keeps the whole chunk
}
#endif

}  // namespace

unsigned char* Packed::allocate(Kind kind, std::size_t rows, std::size_t columns) {
  matrix_ = shape_of(kind, rows, columns);
  const std::shared_ptr<unsigned char> memory = room_for(matrix_.bytes());
  owner_ = memory;
  matrix_.data = memory.get();
  return memory.get();
}

PackedPtr Packed::f32(const float* w, std::size_t rows, std::size_t columns) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(Kind::f32, rows, columns);
  pack_f32(made->matrix_, w, memory);
  return made;
}

PackedPtr Packed::bf16(const std::uint16_t* w, std::size_t rows, std::size_t columns) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(Kind::bf16, rows, columns);
  pack_bf16(made->matrix_, w, memory);
  return made;
}

PackedPtr Packed::int4(const std::uint32_t* words, const std::uint16_t* scale, std::size_t rows, std::size_t columns) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(Kind::int4, rows, columns);
  pack_int4(made->matrix_, words, scale, memory);
  return made;
}

PackedPtr Packed::ggml(Kind kind, const unsigned char* data, std::size_t rows, std::size_t row_bytes,
                       std::size_t columns) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(kind, rows, columns);
  pack_ggml(made->matrix_, data, row_bytes, memory);
  return made;
}

PackedPtr Packed::quantized(Kind kind, const float* w, std::size_t rows, std::size_t columns) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(kind, rows, columns);
  quantize_into(made->matrix_, w, memory);
  return made;
}

PackedPtr Packed::quantized(Kind kind, const std::uint16_t* w, std::size_t rows, std::size_t columns) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(kind, rows, columns);
  quantize_into(made->matrix_, w, memory);
  return made;
}

namespace {

// The float16 of a number of ordinary size above 0.
std::uint16_t half_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>(((bits >> 23) - 112) << 10 | ((bits >> 13) & 1023u));
}

// Codes are random bits already; scales so that weights are about `size` and have no mean.
void set_scales(Int4Tile& tile, float size) { std::fill_n(tile.scale, kRows, half_of(size / 4.6f)); }
void set_scales(Int8Tile& tile, float size) { std::fill_n(tile.scale, kRows, half_of(size / 74.0f)); }
void set_scales(Q41Tile& tile, float size) {
  std::fill_n(tile.scale, kRows, half_of(size / 4.6f));
  std::fill_n(tile.min, kRows, static_cast<std::uint16_t>(0x8000u | half_of(7.5f * size / 4.6f)));
}
void set_scales(Q4kBlock& block, float size) {
  std::fill_n(block.scale, kRows, half_of(size / 4.6f / 8.0f));
  std::fill_n(block.min, kRows, half_of(7.5f * size / 4.6f / 8.0f));
  for (Q4kTile& tile : block.tile) {
    std::fill_n(tile.scale, kRows, std::uint8_t{8});
    std::fill_n(tile.min, kRows, std::uint8_t{8});
  }
}
void set_scales(Q6kBlock& block, float size) {
  std::fill_n(block.scale, kRows, half_of(size / 18.5f / 8.0f));
  for (Q6kTile& tile : block.tile) {
    for (auto& words : tile.words)
      for (std::uint32_t& word : words) word &= 0x3f3f3f3fu;
    for (auto& scale : tile.scale) std::fill_n(scale, kRows, std::int8_t{8});
  }
}

template <class Tile>
void set_all(unsigned char* memory, std::size_t bytes, float size) {
  for (std::size_t at = 0; at < bytes; at += sizeof(Tile)) {
    Tile tile;
    std::memcpy(&tile, memory + at, sizeof tile);
    set_scales(tile, size);
    std::memcpy(memory + at, &tile, sizeof tile);
  }
}

void set_scales(Kind kind, unsigned char* memory, std::size_t bytes, float size) {
  if (kind == Kind::q4_0) return set_all<Int4Tile>(memory, bytes, size);
  if (kind == Kind::q8_0) return set_all<Int8Tile>(memory, bytes, size);
  if (kind == Kind::q4_1) return set_all<Q41Tile>(memory, bytes, size);
  if (kind == Kind::q4_k) return set_all<Q4kBlock>(memory, bytes, size);
  set_all<Q6kBlock>(memory, bytes, size);
}

}  // namespace

PackedPtr Packed::random(Kind kind, std::size_t rows, std::size_t columns, std::uint64_t seed) {
  auto made = std::make_shared<Packed>();
  unsigned char* memory = made->allocate(kind, rows, columns);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
  const auto next = [&state] {  // xorshift64 (Marsaglia)
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  };
  const Matrix& m = made->matrix_;
  const float size = 1.0f / std::sqrt(static_cast<float>(columns));
  if (kind >= Kind::q4_0) {
    for (std::size_t i = 0; i < m.bytes(); i += 8) {
      const std::uint64_t bits = next();
      std::memcpy(memory + i, &bits, 8);
    }
    set_scales(kind, memory, m.bytes(), size);
    return made;
  }
  std::uint16_t scale;
  const float step = size / (kind == Kind::int8 ? 74.0f : 4.6f);  // root mean square of codes
  std::memcpy(&scale, reinterpret_cast<const unsigned char*>(&step) + 2, 2);
  if (kind == Kind::int4 || kind == Kind::int8) {
    const std::size_t tile = tile_bytes(kind), codes = tile - sizeof(std::uint16_t) * kRows;
    for (unsigned char* p = memory; p < memory + m.bytes(); p += tile) {
      for (std::size_t i = 0; i < codes; i += 8) {
        std::uint64_t bits = next();
        if (kind == Kind::int4) {
          // -8 becomes 0: codes without a mean, or every product would push the same direction and
          // all tokens would take the same experts.
          const std::uint64_t y = bits ^ 0x8888888888888888u, low = 0x7777777777777777u;
          bits ^= ~(((y & low) + low) | y) & 0x8888888888888888u;
        }
        std::memcpy(p + i, &bits, 8);
      }
      // -128 is no code of 8 bits: one of its bits is turned.
      for (std::size_t i = 0; kind == Kind::int8 && i < codes; ++i)
        if (p[i] == 128) p[i] = 129;
      for (std::size_t i = 0; i < kRows; ++i) std::memcpy(p + codes + 2 * i, &scale, 2);
    }
    return made;
  }
  for (std::size_t i = 0; i < m.bytes() / (kind == Kind::f32 ? 4 : 2); ++i) {
    const float value = (static_cast<float>(next() >> 40) / 8388608.0f - 1.0f) * 1.7f * size;
    if (kind == Kind::f32)
      std::memcpy(memory + 4 * i, &value, 4);
    else
      std::memcpy(memory + 2 * i, reinterpret_cast<const unsigned char*>(&value) + 2, 2);  // its upper half
  }
  return made;
}

PackedPtr Packed::view(Kind kind, std::size_t rows, std::size_t columns, const unsigned char* data,
                       std::shared_ptr<void> owner) {
  auto made = std::make_shared<Packed>();
  made->matrix_ = shape_of(kind, rows, columns);
  made->matrix_.data = data;
  made->owner_ = std::move(owner);
  return made;
}

}  // namespace abruzzi
