// The seam: a layer is an attention and an MLP, each behind an interface, chosen when the layer is
// added.
//
// A kind (MLA, a dense MLP, experts) is three things: the struct of its weights, `Buffers`, which
// its layers share, and the half layer itself. Both halves add to the residual stream:
//
//   x += attention(norm(x)); x += mlp(norm(x))
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/packed.h"
#include "step/buffers.h"

namespace abruzzi {

// Consecutive tokens of one sequence. blocks: its table, in `StepInput::tables`. prefill: the first
// so many tokens attend in the prefill form, where a kind of attention has two (MLA: keys and
// values decompressed).
struct StepChunk {
  std::size_t first = 0, tokens = 0;  // in StepInput::ids
  std::size_t start = 0;              // position of the first of them
  std::size_t table = 0, blocks = 0;
  std::size_t prefill = 0;
  std::size_t wanted = 1;  // rows of logits: of the last so many tokens
};

struct StepInput {
  const std::int64_t* ids = nullptr;
  std::size_t tokens = 0;
  std::vector<StepChunk> chunks;
  const std::int32_t* tables = nullptr;
  std::size_t block_tokens = 1;
  std::vector<float*> cache;  // of each layer, [slots, the attention's cache_row]
  std::size_t slots = 0;
  float* logits = nullptr;  // [sum of wanted, vocab]
};

// A step on its way through the layers.
struct Step {
  const StepInput* input = nullptr;
  std::size_t tokens = 0;
  std::vector<std::size_t> position, chunk;  // of each token: in its sequence, and in input->chunks
  Rows x, normed;                            // the residual stream, and it normed, [T, D]

  const std::int32_t* table(const StepChunk& c) const { return input->tables + c.table; }

  // The slot in the cache where token t's row lies.
  std::size_t slot(std::size_t t) const {
    const std::size_t size = input->block_tokens;
    const auto block = static_cast<std::size_t>(table(input->chunks[chunk[t]])[position[t] / size]);
    return block * size + position[t] % size;
  }
};

// What the layers of one kind share; made ready once a step.
struct Buffers {
  virtual ~Buffers() = default;
  virtual void prepare(const Step& step) = 0;
};

struct Attention {
  virtual ~Attention() = default;
  virtual std::size_t weight_bytes() const = 0;
  virtual std::size_t cache_row() const = 0;  // floats that it keeps of every token
  // x += attention(normed); the tokens' rows go into `cache`, this layer's.
  virtual void run(Step& step, float* cache) = 0;
};

struct Mlp {
  virtual ~Mlp() = default;
  virtual std::size_t weight_bytes() const = 0;
  // x += mlp(normed)
  virtual void run(Step& step) = 0;
};

// Checks of weights, with the checkpoint's names.

[[noreturn]] inline void refuse(const std::string& why) { throw std::invalid_argument(why); }

inline void expect(const PackedPtr& m, std::size_t rows, std::size_t columns, const char* name) {
  if (m == nullptr) refuse(std::string(name) + " is missing");
  const Matrix& is = m->matrix();
  if (is.rows != rows || is.columns != columns)
    refuse(std::string(name) + " is " + std::to_string(is.rows) + " x " + std::to_string(is.columns) + "; expected " +
           std::to_string(rows) + " x " + std::to_string(columns));
}

inline void expect(const std::vector<float>& v, std::size_t size, const char* name) {
  if (v.size() != size)
    refuse(std::string(name) + " has " + std::to_string(v.size()) + " numbers; expected " + std::to_string(size));
}

}  // namespace abruzzi
