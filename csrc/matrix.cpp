#include "matrix.h"

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

}  // namespace abruzzi
