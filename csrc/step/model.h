// A whole forward step: token ids of many sequences in, logits out, in one call.
//
//   embedding -> layers of { norm, attention, add; norm, MLP or experts, add } -> norm -> head
//
// The mathematics is engine/step/plain.py's, which is its readable twin. Weights are handed over
// once, as arrays, and repacked (kernels/matrix.h); nothing here knows Python. A step of one model
// at a time; its threads are its own.
//
// Letters: T tokens of a step, D hidden, N heads, R latent rank, K nope, P rope, H value, E
// experts, F expert inner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

#include "step/gqa.h"
#include "step/layer.h"
#include "step/mla.h"
#include "step/mlp.h"

namespace abruzzi {

// The kinds of a half layer that a model may be made of, each a class as step/mla.h:Mla.
template <class... Kinds>
struct OneOf {
  using Sizes = std::variant<typename Kinds::Sizes...>;
  using Weights = std::variant<typename Kinds::Weights...>;
  using Shared = std::variant<std::shared_ptr<typename Kinds::Shared>...>;
};

// A new kind of attention is a name here.
using Attentions = OneOf<Mla, Gqa>;

struct ModelShape {
  std::size_t vocab = 0, hidden = 0, layers = 0;
  float eps = 1e-6f;
  bool fast = false;  // matrices of 4 and 8 bits take their input in 8 bits (W4A8, W8A8)
  Attentions::Sizes attention;
  Router router{};
};

// A layer's MLP is of the kind of its weights, its attention of the kind of the model's sizes.
struct LayerWeights {
  std::vector<float> input_norm, post_norm;
  Attentions::Weights attention;
  std::variant<DenseWeights, MoeWeights> mlp;
};

class Model {
 public:
  Model(Isa isa, std::size_t threads, ModelShape shape);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelShape& shape() const { return shape_; }
  std::size_t threads() const { return compute_.pool.threads(); }
  std::size_t weight_bytes() const { return weight_bytes_; }
  // Floats per slot in the cache of each layer that is there.
  std::vector<std::size_t> cache_rows() const;

  // Throw std::invalid_argument for sizes that do not fit.
  // One of the two, [V, D].
  void set_embedding(std::vector<std::uint16_t> bf16, std::vector<float> f32);
  void set_head(std::vector<float> norm, PackedPtr head);
  void add_layer(LayerWeights layer);

  // Throws std::invalid_argument for ids, blocks or counts out of range.
  void forward(const StepInput& input);

 private:
  struct Layer {
    std::vector<float> input_norm, post_norm;
    std::unique_ptr<Attention> attention;
    std::unique_ptr<Mlp> mlp;
  };

  std::unique_ptr<Attention> attention(Attentions::Weights weights);
  std::unique_ptr<Mlp> mlp(DenseWeights w);
  std::unique_ptr<Mlp> mlp(MoeWeights w);
  void check(const StepInput& input) const;
  void prepare(const StepInput& input);
  void embed();
  void norm(const std::vector<float>& weight);
  void logits();

  ModelShape shape_;
  Compute compute_;
  Attentions::Shared attention_;
  std::shared_ptr<DenseBuffers> dense_;
  std::shared_ptr<MoeBuffers> moe_;
  std::vector<std::uint16_t> embed_bf16_;
  std::vector<float> embed_f32_;
  std::vector<float> final_norm_;
  PackedPtr head_;
  std::vector<Layer> layers_;
  std::size_t weight_bytes_ = 0;
  Step step_;
  Operand head_in_;
  std::mutex one_at_a_time_;
};

}  // namespace abruzzi
