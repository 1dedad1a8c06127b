// One weight matrix in the layout that every product uses, whatever the number of tokens.
//
// A tile is 16 rows x 32 columns; tiles of the same 16 rows lie one behind the other, so a thread
// that works on a run of rows reads one stream. Rows and columns beyond the matrix are zero. Kinds:
//   f32   [32 columns][16 rows] float
//   bf16  [32 columns][16 rows] bfloat16 bits, widened when used: lossless for a bf16 checkpoint
//   int4  the checkpoint's words (8 columns each, lowest bits first) of 16 rows side by side,
//         [4 words][16 rows], codes turned to two's complement, then 16 bfloat16 scales: 288 bytes
//         for 512 weights
//   int8  codes from -127 to 127, four columns a word, [8 words][16 rows]: word 2 w + h has columns
//         8 w + 2 i + h, the order of int4's nibbles; then 16 bfloat16 scales: 544 bytes for 512
//         weights
// The other kinds hold the codes of GGUF's blocks as they are, so that nothing is rounded a second
// time:
//   q4_0  as int4, q8_0 as int8, with float16 scales
//   q4_1  as int4, then 16 float16 scales and 16 float16 minima: d q + m; 320 bytes
//   q4_k  eight groups of columns together: 16 scales of scales, 16 of minima (float16), then for each
//         group words as int4, 16 scales, 16 minima, a byte each: d s q - e t; 2368 bytes
//   q6_k  eight groups together: 16 float16 scales of scales, then for each group words as int8 (codes
//         from 0 to 63), and a signed byte as the scale of each 16 columns of each row: d s (q - 32);
//         4384 bytes
#pragma once

#include <cstddef>
#include <cstdint>

namespace abruzzi {

constexpr std::size_t kRows = 16;
constexpr std::size_t kColumns = 32;

enum class Kind : int { f32 = 0, bf16 = 1, int4 = 2, int8 = 3, q4_0 = 4, q4_1 = 5, q8_0 = 6, q4_k = 7, q6_k = 8 };
constexpr int kKinds = 9;
constexpr std::size_t kSuper = 8;  // groups of columns in a block of the K kinds

// Whether a matrix of this kind takes its input in 8 bits in the fast mode.
constexpr bool has_codes(Kind kind) { return kind != Kind::f32 && kind != Kind::bf16; }

struct Int4Tile {
  std::uint32_t words[4][kRows];
  std::uint16_t scale[kRows];
};
static_assert(sizeof(Int4Tile) == 288, "the layout is part of the memory formula");

struct Int8Tile {
  std::uint32_t words[8][kRows];
  std::uint16_t scale[kRows];
};
static_assert(sizeof(Int8Tile) == 544, "the layout is part of the memory formula");

struct Q41Tile {
  std::uint32_t words[4][kRows];
  std::uint16_t scale[kRows], min[kRows];
};
static_assert(sizeof(Q41Tile) == 320, "the layout is part of the memory formula");

struct Q4kTile {
  std::uint32_t words[4][kRows];
  std::uint8_t scale[kRows], min[kRows];
};
struct Q4kBlock {
  std::uint16_t scale[kRows], min[kRows];
  Q4kTile tile[kSuper];
};
static_assert(sizeof(Q4kBlock) == 2368, "the layout is part of the memory formula");

struct Q6kTile {
  std::uint32_t words[8][kRows];
  std::int8_t scale[2][kRows];
};
struct Q6kBlock {
  std::uint16_t scale[kRows];
  Q6kTile tile[kSuper];
};
static_assert(sizeof(Q6kBlock) == 4384, "the layout is part of the memory formula");

constexpr std::size_t padded(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

constexpr std::size_t tile_bytes(Kind kind) {
  switch (kind) {
    case Kind::f32:
      return kRows * kColumns * 4;
    case Kind::bf16:
      return kRows * kColumns * 2;
    case Kind::int8:
    case Kind::q8_0:
      return sizeof(Int8Tile);
    case Kind::q4_1:
      return sizeof(Q41Tile);
    case Kind::q4_k:
      return sizeof(Q4kBlock) / kSuper;
    case Kind::q6_k:
      return sizeof(Q6kBlock) / kSuper;
    default:
      return sizeof(Int4Tile);
  }
}

// Does not own its memory; a plain struct, so that the instruction-set files need nothing of the
// standard library.
struct Matrix {
  Kind kind = Kind::f32;
  std::size_t rows = 0, columns = 0;
  std::size_t blocks = 0;  // of 16 rows
  std::size_t groups = 0;  // of 32 columns
  const unsigned char* data = nullptr;

  std::size_t bytes() const { return blocks * groups * tile_bytes(kind); }
};

// An x that is multiplied must be readable, and zero, up to this many columns.
inline std::size_t padded_columns(const Matrix& m) { return m.groups * kColumns; }

// Fill `out`, m.bytes() long, from row-major weights. For int4 `weights` are words [rows, columns /
// 8] and `scale` bfloat16 bits [rows, columns / 32]; columns is a multiple of 32.
Matrix shape_of(Kind kind, std::size_t rows, std::size_t columns);
void pack_f32(const Matrix& m, const float* weights, unsigned char* out);
void pack_bf16(const Matrix& m, const std::uint16_t* weights, unsigned char* out);
void pack_int4(const Matrix& m, const std::uint32_t* weights, const std::uint16_t* scale, unsigned char* out);
// Rows of GGUF blocks of the same name, `row_bytes` from one to the next. columns: whole blocks.
void pack_ggml(const Matrix& m, const unsigned char* rows, std::size_t row_bytes, unsigned char* out);
// Symmetric, in groups of 32 columns: scale = bfloat16(absmax / 7), or / 127; code = round half to
// even(w / scale). For the kinds int4 and int8; weights are finite, float32 or bfloat16 bits.
void quantize_into(const Matrix& m, const float* weights, unsigned char* out);
void quantize_into(const Matrix& m, const std::uint16_t* weights, unsigned char* out);

}  // namespace abruzzi
