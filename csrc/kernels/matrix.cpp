#include "kernels/matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace abruzzi {
namespace {

template <typename T>
void pack_dense(const Matrix& m, const T* weights, unsigned char* out) {
  T* to = reinterpret_cast<T*>(out);
  for (std::size_t b = 0; b < m.blocks; ++b)
    for (std::size_t g = 0; g < m.groups; ++g)
      for (std::size_t c = 0; c < kColumns; ++c)
        for (std::size_t r = 0; r < kRows; ++r) {
          const std::size_t row = b * kRows + r, column = g * kColumns + c;
          *to++ = row < m.rows && column < m.columns ? weights[row * m.columns + column] : T{0};
        }
}

float value_of(float w) { return w; }

float value_of(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// To the nearest bfloat16, halves to even; for finite numbers.
std::uint16_t bf16_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// One row's group: codes, and the scale's bits. A group too small for a normal bfloat16 is zero
// with scale 1, as in quant/int4.py.
template <typename T>
std::uint16_t quantize_group(const T* w, std::size_t columns, float largest, std::int32_t* codes) {
  float top = 0.0f;
  for (std::size_t c = 0; c < columns; ++c) top = std::max(top, std::fabs(value_of(w[c])));
  std::uint16_t scale = bf16_of(top / largest);
  const bool tiny = value_of(scale) < 1.17549435e-38f;
  if (tiny) scale = 0x3f80;
  const float by = value_of(scale);
  for (std::size_t c = 0; c < columns; ++c) {
    // 1.5 * 2^23 leaves no room for a fraction: rounds to whole numbers, halves to even.
    const float whole = (value_of(w[c]) / by + 12582912.0f) - 12582912.0f;
    codes[c] = tiny ? 0 : static_cast<std::int32_t>(whole);
    if (codes[c] > static_cast<std::int32_t>(largest)) codes[c] = static_cast<std::int32_t>(largest);
    if (codes[c] < -static_cast<std::int32_t>(largest)) codes[c] = -static_cast<std::int32_t>(largest);
  }
  return scale;
}

template <typename T>
void quantize_tiles(const Matrix& m, const T* weights, unsigned char* out) {
  for (std::size_t b = 0; b < m.blocks; ++b)
    for (std::size_t g = 0; g < m.groups; ++g) {
      Int4Tile four;
      Int8Tile eight;
      std::memset(&four, 0, sizeof four);
      std::memset(&eight, 0, sizeof eight);
      const std::size_t columns = std::min(kColumns, m.columns - g * kColumns);
      for (std::size_t r = 0; r < kRows && b * kRows + r < m.rows; ++r) {
        std::int32_t codes[kColumns] = {};
        const T* from = weights + (b * kRows + r) * m.columns + g * kColumns;
        if (m.kind == Kind::int4) {
          four.scale[r] = quantize_group(from, columns, 7.0f, codes);
          for (std::size_t c = 0; c < kColumns; ++c)
            four.words[c / 8][r] |= (static_cast<std::uint32_t>(codes[c]) & 15u) << (4 * (c % 8));
        } else {
          eight.scale[r] = quantize_group(from, columns, 127.0f, codes);
          for (std::size_t c = 0; c < kColumns; ++c)
            eight.words[c / 8 * 2 + c % 2][r] |= (static_cast<std::uint32_t>(codes[c]) & 255u) << (8 * (c % 8 / 2));
        }
      }
      const std::size_t size = tile_bytes(m.kind);
      std::memcpy(out, m.kind == Kind::int4 ? static_cast<void*>(&four) : static_cast<void*>(&eight), size);
      out += size;
    }
}

}  // namespace

Matrix shape_of(Kind kind, std::size_t rows, std::size_t columns) {
  Matrix m;
  m.kind = kind;
  m.rows = rows;
  m.columns = columns;
  m.blocks = padded(rows, kRows) / kRows;
  m.groups = padded(columns, kColumns) / kColumns;
  return m;
}

void pack_f32(const Matrix& m, const float* weights, unsigned char* out) { pack_dense(m, weights, out); }

void pack_bf16(const Matrix& m, const std::uint16_t* weights, unsigned char* out) { pack_dense(m, weights, out); }

void pack_int4(const Matrix& m, const std::uint32_t* weights, const std::uint16_t* scale, unsigned char* out) {
  const std::size_t words = m.columns / 8;
  for (std::size_t b = 0; b < m.blocks; ++b)
    for (std::size_t g = 0; g < m.groups; ++g) {
      Int4Tile tile;
      std::memset(&tile, 0, sizeof tile);
      for (std::size_t r = 0; r < kRows && b * kRows + r < m.rows; ++r) {
        const std::size_t row = b * kRows + r;
        // code + 8 and two's complement differ in the highest bit of each nibble only.
        for (std::size_t w = 0; w < 4; ++w) tile.words[w][r] = weights[row * words + g * 4 + w] ^ 0x88888888u;
        tile.scale[r] = scale[row * m.groups + g];
      }
      std::memcpy(out, &tile, sizeof tile);
      out += sizeof tile;
    }
}

void quantize_into(const Matrix& m, const float* weights, unsigned char* out) { quantize_tiles(m, weights, out); }

void quantize_into(const Matrix& m, const std::uint16_t* weights, unsigned char* out) {
  quantize_tiles(m, weights, out);
}

}  // namespace abruzzi
