// Matrices that own their memory: allocated once, filled by the packers of matrix.cpp.
#include <cstdlib>
#include <new>

#include "model.h"

namespace abruzzi {

void Packed::Free::operator()(unsigned char* p) const { std::free(p); }

unsigned char* Packed::allocate(Kind kind, std::size_t rows, std::size_t columns) {
  matrix_ = shape_of(kind, rows, columns);
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(64, padded(matrix_.bytes() + 1, 64)));
  if (memory == nullptr) throw std::bad_alloc();
  memory_.reset(memory);
  matrix_.data = memory;
  return memory;
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

}  // namespace abruzzi
