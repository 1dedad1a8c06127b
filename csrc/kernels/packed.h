// A matrix that owns its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/matrix.h"

namespace abruzzi {

class Packed {
 public:
  Packed() = default;
  static std::shared_ptr<const Packed> f32(const float* w, std::size_t rows, std::size_t columns);
  static std::shared_ptr<const Packed> bf16(const std::uint16_t* w, std::size_t rows, std::size_t columns);
  static std::shared_ptr<const Packed> int4(const std::uint32_t* words, const std::uint16_t* scale, std::size_t rows,
                                            std::size_t columns);
  // GGUF blocks of this kind's name.
  static std::shared_ptr<const Packed> ggml(Kind kind, const unsigned char* data, std::size_t rows,
                                            std::size_t row_bytes, std::size_t columns);
  // Rounded to int4 or int8, which loses precision. Weights are finite.
  static std::shared_ptr<const Packed> quantized(Kind kind, const float* w, std::size_t rows, std::size_t columns);
  static std::shared_ptr<const Packed> quantized(Kind kind, const std::uint16_t* w, std::size_t rows,
                                                 std::size_t columns);
  // Random weights of about the size 1 / sqrt(columns), for measuring speed.
  static std::shared_ptr<const Packed> random(Kind kind, std::size_t rows, std::size_t columns, std::uint64_t seed);
  // Somebody else's memory, of at least bytes() packed as matrix.h says; `owner` keeps it.
  static std::shared_ptr<const Packed> view(Kind kind, std::size_t rows, std::size_t columns, const unsigned char* data,
                                            std::shared_ptr<void> owner);
  const Matrix& matrix() const { return matrix_; }

 private:
  unsigned char* allocate(Kind kind, std::size_t rows, std::size_t columns);

  std::shared_ptr<void> owner_;  // of the memory that matrix_ points into
  Matrix matrix_;
};

using PackedPtr = std::shared_ptr<const Packed>;

}  // namespace abruzzi
