// A whole forward step: token ids of many sequences in, logits out, in one call.
//
//   embedding -> layers of { norm, MLA, add; norm, MLP or experts, add } -> norm -> head
//
// The mathematics is engine/step/plain.py's, which is its readable twin. Weights are handed over once, as arrays, and
// repacked (matrix.h); nothing here knows Python. A step of one model at a time; its threads are its own.
//
// Letters: T tokens of a step, D hidden, N heads, R latent rank, K nope, P rope, H value, E experts, F expert inner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/pool.h"
#include "kernels/step_kernels.h"

namespace abruzzi {

struct ModelShape {
  std::size_t vocab = 0, hidden = 0, layers = 0, heads = 0;
  std::size_t rank = 0, nope = 0, rope = 0, value = 0;
  std::size_t experts = 0, top_k = 0, groups = 1, kept_groups = 1;
  bool renormalize = true;
  float routed_scale = 1.0f, eps = 1e-6f, latent_eps = 1e-6f, softmax_scale = 1.0f;
  std::vector<double> inv_freq;  // radians per position of each rotary pair [P / 2]
  double rope_factor = 1.0;      // on cos and sin
  bool fast = false;             // matrices of 4 and 8 bits take their input in 8 bits (W4A8, W8A8)
};

// Consecutive tokens of one sequence. blocks: its table, in `StepInput::tables`. The first `decompress` tokens attend
// with keys and values decompressed, the others in the latent space.
struct StepChunk {
  std::size_t first = 0, tokens = 0;  // in StepInput::ids
  std::size_t start = 0;              // position of the first of them
  std::size_t table = 0, blocks = 0;
  std::size_t decompress = 0;
  std::size_t wanted = 1;  // rows of logits: of the last so many tokens
};

struct StepInput {
  const std::int64_t* ids = nullptr;
  std::size_t tokens = 0;
  std::vector<StepChunk> chunks;
  const std::int32_t* tables = nullptr;
  std::size_t block_tokens = 1;
  float* latents = nullptr;  // [layers, slots, latent_row]
  std::size_t slots = 0;
  float* logits = nullptr;  // [sum of wanted, vocab]
};

// A matrix that owns its memory.
class Packed {
 public:
  Packed() = default;
  static std::shared_ptr<const Packed> f32(const float* w, std::size_t rows, std::size_t columns);
  static std::shared_ptr<const Packed> bf16(const std::uint16_t* w, std::size_t rows, std::size_t columns);
  static std::shared_ptr<const Packed> int4(const std::uint32_t* words, const std::uint16_t* scale, std::size_t rows,
                                            std::size_t columns);
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

struct MlpWeights {
  PackedPtr gate, up, down;
};

struct LayerWeights {
  std::vector<float> input_norm, post_norm, q_norm, kv_norm;
  PackedPtr q_a, q_b, kv_a, o;                          // q_a may be absent: then q_b takes the hidden vector
  std::vector<PackedPtr> absorb_k, expand_k, expand_v;  // per head: [R, K], [K, R], [H, R]
  PackedPtr router;                                     // absent in a dense layer
  std::vector<float> router_bias;
  MlpWeights shared;  // or the dense layer's MLP
  std::vector<MlpWeights> experts;
};

struct Rows;     // model_buffers.h
struct Operand;  // model_buffers.h

class Model {
 public:
  Model(Isa isa, std::size_t threads, ModelShape shape);

  const ModelShape& shape() const { return shape_; }
  const MlaShape& mla() const { return mla_; }
  std::size_t threads() const { return pool_.threads(); }
  std::size_t weight_bytes() const { return weight_bytes_; }

  // Throw std::invalid_argument for sizes that do not fit.
  void set_embedding(std::vector<std::uint16_t> bf16, std::vector<float> f32);  // one of the two, [V, D]
  void set_head(std::vector<float> norm, PackedPtr head);
  void add_layer(LayerWeights layer);

  // Throws std::invalid_argument for ids, blocks or counts out of range.
  void forward(const StepInput& step);

 private:
  struct Buffers;

  void check(const StepInput& step) const;
  void prepare(const StepInput& step);
  void embed(const StepInput& step);
  void norm(const std::vector<float>& weight, float eps, const float* x, float* y, std::size_t stride);
  void attend(const StepInput& step, std::size_t index);
  void project(const LayerWeights& w);
  void place(const StepInput& step, std::size_t index);
  void attend_absorbed(const StepInput& step, std::size_t index);
  void attend_naive(const StepInput& step, std::size_t index);
  void mlp(const LayerWeights& w);
  void route(const LayerWeights& w);
  void logits(const StepInput& step);
  void of_one_head(const Matrix& m, const std::vector<const float*>& x, const std::vector<float*>& y,
                   std::size_t thread);
  void operand(Rows& rows, std::size_t count, bool bytes, Operand& to);
  bool in_bytes(const Matrix& m) const;
  void multiply(const Matrix& m, const Operand& x, const std::vector<float*>& y);
  void product(const Matrix& m, std::size_t first, std::size_t last, const Operand& x, std::size_t at,
               std::size_t count, float* const* y) const;
  void product_add(const Matrix& m, std::size_t first, std::size_t last, const Operand& x, std::size_t at,
                   std::size_t count, const float* weight, float* const* y) const;

  // Splits `blocks` of 16 rows into jobs, work(first, last, thread).
  template <class Work>
  void by_rows(std::size_t blocks, double flops, const Work& work);

  Isa isa_;
  const StepKernels& kernels_;
  Pool pool_;
  ModelShape shape_;
  MlaShape mla_;
  std::vector<std::uint16_t> embed_bf16_;
  std::vector<float> embed_f32_;
  std::vector<float> final_norm_;
  PackedPtr head_;
  std::vector<LayerWeights> layers_;
  std::size_t weight_bytes_ = 0;
  std::shared_ptr<Buffers> b_;
  std::mutex one_at_a_time_;
};

}  // namespace abruzzi
