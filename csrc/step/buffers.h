// What a step's buffers are made of. Each half of a layer owns those that it works in; layers of
// one kind share them, since they run one after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/matrix.h"

namespace abruzzi {

// Rows of floats with zeros between their end and a multiple of 32, which products read.
struct Rows {
  std::vector<float> data;
  std::size_t stride = 0;

  void shape(std::size_t rows, std::size_t width) {
    const std::size_t wanted = padded(width, kColumns);
    if (wanted != stride || rows * wanted > data.size()) {
      stride = wanted;
      data.assign(std::max(rows * stride, data.size()), 0.0f);
    }
  }
  float* at(std::size_t row) { return data.data() + row * stride; }

  // Pointers to the first `count` rows, where a product writes.
  void point(std::size_t count, std::vector<float*>& to) {
    to.resize(count);
    for (std::size_t t = 0; t < count; ++t) to[t] = at(t);
  }
};

// A product's input: rows of floats, and the same in 8 bits where the matrix takes them so (fast
// mode).
struct Operand {
  std::vector<const float*> rows;
  std::vector<const std::int32_t*> bytes;  // empty where no matrix takes them
  std::vector<std::int32_t> memory;        // of the bytes
};

// Rotary embedding: cos and sin of every token's angles, [T, pairs].
struct RopeTable {
  std::size_t pairs = 0;
  std::vector<float> cos, sin;

  // inv_freq: radians per position of each pair; factor: on cos and sin (YaRN's attention factor).
  void fill(const std::vector<std::size_t>& position, const std::vector<double>& inv_freq, double factor) {
    pairs = inv_freq.size();
    cos.resize(position.size() * pairs);
    sin.resize(position.size() * pairs);
    for (std::size_t t = 0; t < position.size(); ++t)
      for (std::size_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(position[t]) * inv_freq[i];
        cos[t * pairs + i] = static_cast<float>(std::cos(angle) * factor);
        sin[t * pairs + i] = static_cast<float>(std::sin(angle) * factor);
      }
  }
};

// A thread's own memory, by its number; it grows and stays.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::size_t threads) : memory_(threads) {}
  T* of(std::size_t thread, std::size_t size) {
    std::vector<T>& mine = memory_[thread];
    mine.resize(std::max(mine.size(), size));
    return mine.data();
  }

 private:
  std::vector<std::vector<T>> memory_;
};

}  // namespace abruzzi
