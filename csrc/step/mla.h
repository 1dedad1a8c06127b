// Multi-head latent attention: a layer's weights, and what all such layers share.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/step_kernels.h"
#include "step/compute.h"
#include "step/layer.h"

namespace abruzzi {

class Mla;

struct MlaSizes {
  using Kind = Mla;
  std::size_t hidden = 0, heads = 0, rank = 0, nope = 0, rope = 0, value = 0;
  float latent_eps = 1e-6f, softmax_scale = 1.0f;
  std::vector<double> inv_freq;  // radians per position of each rotary pair [P / 2]
  double rope_factor = 1.0;      // on cos and sin
};

// absorb_k [R, K], expand_k [K, R], expand_v [H, R].
struct MlaWeights {
  using Kind = Mla;
  std::vector<float> q_norm, kv_norm;
  PackedPtr q_a;                                        // absent without q_lora
  PackedPtr q;                                          // q_b_proj over the normed q_a, or q_proj
  PackedPtr kv_a, o;                                    // kv_a_proj_with_mqa, o_proj
  std::vector<PackedPtr> absorb_k, expand_k, expand_v;  // kv_b_proj of each head
};

struct MlaBuffers : Buffers {
  // Throws std::invalid_argument for sizes that are 0 or do not fit each other.
  MlaBuffers(MlaSizes sizes, std::size_t threads);
  void prepare(const Step& step) override;

  const MlaSizes sizes;
  const MlaShape shape;
  std::vector<std::size_t> absorbed;  // tokens that attend in the latent space
  RopeTable rope;
  Rows q_a, q_raw, kv_raw;                    // projections, before norm and rotation
  Rows q;                                     // [T, N (nope_pad + rope_pad)]
  Rows latent_q, latent_out;                  // [absorbed, N ...]
  Rows attended;                              // [T, N H]
  std::vector<float> part_m, part_l, part_u;  // of the parts of absorbed attention
  Scratch<float> scratch;                     // of naive attention
  Operand normed_in, q_a_in, attended_in;
  std::vector<float*> q_out, kv_out, x_out;
  std::vector<float> ones;
};

class Mla : public Attention {
 public:
  // What step/model.h asks of a kind: its name, and the types above.
  static constexpr const char* kName = "mla";
  using Sizes = MlaSizes;
  using Weights = MlaWeights;
  using Shared = MlaBuffers;

  // Throws std::invalid_argument for weights that do not fit the sizes.
  Mla(Compute& compute, std::shared_ptr<MlaBuffers> buffers, MlaWeights weights);

  std::size_t weight_bytes() const override;
  std::size_t cache_row() const override { return b_->shape.latent_row(); }
  void run(Step& step, float* cache) override;

 private:
  void project(Step& step);
  void place(const Step& step, float* cache);
  void fold_queries();
  std::size_t attend_absorbed(const Step& step, const float* cache, std::size_t begin);
  void expand(std::size_t begin, std::size_t end, const std::vector<std::size_t>& first_part);
  void attend_naive(const Step& step, const float* cache);

  Compute& c_;
  std::shared_ptr<MlaBuffers> b_;
  MlaWeights w_;
};

}  // namespace abruzzi
