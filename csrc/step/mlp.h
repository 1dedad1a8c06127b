// The second half of a layer: a dense SwiGLU, or a router with shared and routed experts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/step_kernels.h"
#include "step/compute.h"
#include "step/layer.h"

namespace abruzzi {

// One SwiGLU: down (silu(gate x) * (up x)).
struct DenseWeights {
  PackedPtr gate, up, down;
};

struct MoeWeights {
  PackedPtr router;
  std::vector<float> bias;  // e_score_correction_bias: for the choice only
  DenseWeights shared;      // of all tokens; gate null: no shared experts
  std::vector<DenseWeights> experts;
};

struct DenseBuffers : Buffers {
  void prepare(const Step&) override {}

  Rows inner, sum;  // [T, F], [T, D]
  Operand normed_in, inner_in;
  std::vector<float*> inner_out, sum_out;
};

class Dense : public Mlp {
 public:
  // Throws std::invalid_argument for weights that do not fit the hidden size.
  Dense(Compute& compute, std::shared_ptr<DenseBuffers> buffers, std::size_t hidden, DenseWeights weights);
  std::size_t weight_bytes() const override;
  void run(Step& step) override;

 private:
  Compute& c_;
  std::shared_ptr<DenseBuffers> b_;
  DenseWeights w_;
};

// A token that an expert takes, and the weight of its result.
struct Pair {
  std::size_t token;
  float weight;
};

struct MoeBuffers : Buffers {
  // Throws std::invalid_argument for a router whose groups do not fit its experts.
  MoeBuffers(std::size_t hidden, Router router, std::size_t threads);
  void prepare(const Step& step) override;

  const std::size_t hidden;
  const Router router;
  Rows logits;  // of the router [T, E]
  Scratch<float> scratch;
  std::vector<std::int32_t> chosen;  // [T, K]
  std::vector<float> chosen_weight;
  std::vector<std::size_t> expert_first;  // [E + 1], in the pairs
  std::vector<Pair> pairs;                // [T K], sorted by expert
  Rows shared_inner, inner, sum;          // [T, F], [T K, F], [T, D]
  Operand normed_in, pairs_in, shared_in, inner_in;
  std::vector<float*> logits_out, shared_out, inner_out, sum_out, pairs_out;
  std::vector<float> weights;  // of the pairs
};

class Moe : public Mlp {
 public:
  // Throws std::invalid_argument for weights that do not fit the sizes.
  Moe(Compute& compute, std::shared_ptr<MoeBuffers> buffers, MoeWeights weights);
  std::size_t weight_bytes() const override;
  void run(Step& step) override;

 private:
  void route(Step& step);
  void gather(Step& step);
  void widen(const Step& step);
  void narrow(Step& step);

  Compute& c_;
  std::shared_ptr<MoeBuffers> b_;
  MoeWeights w_;
};

}  // namespace abruzzi
