// Grouped-query attention: a layer's weights, and what all such layers share.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/step_kernels.h"
#include "step/compute.h"
#include "step/layer.h"

namespace abruzzi {

class Gqa;

struct GqaSizes {
  using Kind = Gqa;
  std::size_t hidden = 0, heads = 0, kv_heads = 0, width = 0;
  float norm_eps = 1e-6f, softmax_scale = 1.0f;
  std::vector<double> inv_freq;  // radians per position of each rotary pair, at most width / 2
  double rope_factor = 1.0;      // on cos and sin
};

// Rows of q and k (their biases, their norms) come in the order that the rotation takes: neighbours
// are a pair.
struct GqaWeights {
  using Kind = Gqa;
  PackedPtr q, k, v, o;
  std::vector<float> q_bias, k_bias, v_bias, o_bias;  // empty: there is none
  std::vector<float> q_norm, k_norm;                  // of every head, [width]
};

struct GqaBuffers : Buffers {
  // Throws std::invalid_argument for sizes that are 0 or do not fit each other.
  GqaBuffers(GqaSizes sizes, std::size_t threads);
  void prepare(const Step& step) override;

  // Tokens of a chunk that attend together.
  struct Tile {
    std::size_t chunk, first, tokens;
  };

  const GqaSizes sizes;
  const GqaShape shape;
  std::vector<Tile> tiles;
  RopeTable rope;
  Rows q_raw, k_raw, v_raw;  // projections, before norm and rotation
  std::vector<float> q;      // [M][T][N / M][width_pad]
  Rows attended;             // [T, N width]
  std::vector<float> part_m, part_l, part_u;
  Scratch<float> scratch;
  Operand normed_in, attended_in;
  std::vector<float*> q_out, k_out, v_out, x_out;
  std::vector<float> ones;
};

class Gqa : public Attention {
 public:
  static constexpr const char* kName = "gqa";
  using Sizes = GqaSizes;
  using Weights = GqaWeights;
  using Shared = GqaBuffers;

  // Throws std::invalid_argument for weights that do not fit the sizes.
  Gqa(Compute& compute, std::shared_ptr<GqaBuffers> buffers, GqaWeights weights);

  std::size_t weight_bytes() const override;
  std::size_t cache_row() const override { return b_->shape.cache_row(); }
  void run(Step& step, float* cache) override;

 private:
  void project(Step& step);
  void place(const Step& step, float* cache);
  void attend(const Step& step, const float* cache);
  std::size_t attend_some(const Step& step, const float* cache, std::size_t begin);

  Compute& c_;
  std::shared_ptr<GqaBuffers> b_;
  GqaWeights w_;
};

}  // namespace abruzzi
