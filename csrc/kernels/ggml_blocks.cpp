// GGUF's blocks into tiles: codes and scales move, and none of them changes.
#include <cstring>

#include "kernels/matrix.h"

namespace abruzzi {
namespace {

// Code of column c as a nibble, in two's complement of code - 8.
void put_nibble(std::uint32_t (&words)[4][kRows], std::size_t row, std::size_t c, unsigned code) {
  words[c / 8][row] |= static_cast<std::uint32_t>(code ^ 8u) << (4 * (c % 8));
}

void put_byte(std::uint32_t (&words)[8][kRows], std::size_t row, std::size_t c, unsigned code) {
  words[c / 8 * 2 + c % 2][row] |= static_cast<std::uint32_t>(code & 255u) << (8 * (c % 8 / 2));
}

// Of a block of 32 columns whose codes begin at `codes`: low halves, then high halves.
void put_nibbles(std::uint32_t (&words)[4][kRows], std::size_t row, const unsigned char* codes) {
  for (std::size_t c = 0; c < 16; ++c) {
    put_nibble(words, row, c, codes[c] & 15u);
    put_nibble(words, row, c + 16, codes[c] >> 4);
  }
}

std::uint16_t half_at(const unsigned char* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

// Rows beyond the matrix stay zero: scale 0.
template <class Tile, class Put>
void tiles(const Matrix& m, unsigned char* out, std::size_t each, const Put& put) {
  for (std::size_t b = 0; b < m.blocks; ++b)
    for (std::size_t g = 0; g < m.groups; g += each) {
      Tile tile;
      std::memset(&tile, 0, sizeof tile);
      for (std::size_t r = 0; r < kRows && b * kRows + r < m.rows; ++r) put(tile, b * kRows + r, r, g);
      std::memcpy(out, &tile, sizeof tile);
      out += sizeof tile;
    }
}

// The six bits of scale and minimum of group j (ggml's get_scale_min_k4).
void small_scales(const unsigned char* p, std::size_t j, std::uint8_t& scale, std::uint8_t& min) {
  if (j < 4) {
    scale = p[j] & 63u;
    min = p[j + 4] & 63u;
  } else {
    scale = static_cast<std::uint8_t>((p[j + 4] & 15u) | (p[j - 4] >> 6) << 4);
    min = static_cast<std::uint8_t>((p[j + 4] >> 4) | (p[j] >> 6) << 4);
  }
}

void put_q4k(Q4kBlock& to, std::size_t r, const unsigned char* from) {
  to.scale[r] = half_at(from);
  to.min[r] = half_at(from + 2);
  for (std::size_t j = 0; j < kSuper; ++j) {
    Q4kTile& tile = to.tile[j];
    small_scales(from + 4, j, tile.scale[r], tile.min[r]);
    const unsigned char* codes = from + 16 + j / 2 * 32;
    for (std::size_t c = 0; c < kColumns; ++c) put_nibble(tile.words, r, c, j % 2 ? codes[c] >> 4 : codes[c] & 15u);
  }
}

void put_q6k(Q6kBlock& to, std::size_t r, const unsigned char* from) {
  to.scale[r] = half_at(from + 208);
  for (std::size_t j = 0; j < kSuper; ++j) {
    Q6kTile& tile = to.tile[j];
    const std::size_t n = j / 4, i = j % 4;
    for (std::size_t h = 0; h < 2; ++h) tile.scale[h][r] = static_cast<std::int8_t>(from[192 + n * 8 + i * 2 + h]);
    for (std::size_t c = 0; c < kColumns; ++c) {
      const unsigned low = from[n * 64 + i % 2 * 32 + c], high = from[128 + n * 32 + c];
      put_byte(tile.words, r, c, (i < 2 ? low & 15u : low >> 4) | ((high >> (2 * i)) & 3u) << 4);
    }
  }
}

}  // namespace

void pack_ggml(const Matrix& m, const unsigned char* rows, std::size_t row_bytes, unsigned char* out) {
  const auto at = [&](std::size_t row, std::size_t block, std::size_t bytes) {
    return rows + row * row_bytes + block * bytes;
  };
  switch (m.kind) {
    case Kind::q4_0:
      return tiles<Int4Tile>(m, out, 1, [&](Int4Tile& to, std::size_t row, std::size_t r, std::size_t g) {
        const unsigned char* from = at(row, g, 18);
        to.scale[r] = half_at(from);
        put_nibbles(to.words, r, from + 2);
      });
    case Kind::q4_1:
      return tiles<Q41Tile>(m, out, 1, [&](Q41Tile& to, std::size_t row, std::size_t r, std::size_t g) {
        const unsigned char* from = at(row, g, 20);
        to.scale[r] = half_at(from);
        to.min[r] = half_at(from + 2);
        put_nibbles(to.words, r, from + 4);
      });
    case Kind::q8_0:
      return tiles<Int8Tile>(m, out, 1, [&](Int8Tile& to, std::size_t row, std::size_t r, std::size_t g) {
        const unsigned char* from = at(row, g, 34);
        to.scale[r] = half_at(from);
        for (std::size_t c = 0; c < kColumns; ++c) put_byte(to.words, r, c, from[2 + c]);
      });
    case Kind::q4_k:
      return tiles<Q4kBlock>(m, out, kSuper, [&](Q4kBlock& to, std::size_t row, std::size_t r, std::size_t g) {
        put_q4k(to, r, at(row, g / kSuper, 144));
      });
    default:
      return tiles<Q6kBlock>(m, out, kSuper, [&](Q6kBlock& to, std::size_t row, std::size_t r, std::size_t g) {
        put_q6k(to, r, at(row, g / kSuper, 210));
      });
  }
}

}  // namespace abruzzi
