// The second half of a layer: the router, and the MLP or the experts.
#include <algorithm>

#include "step/buffers.h"

namespace abruzzi {

void Model::route(const LayerWeights& w) {
  Buffers& b = *b_;
  const ModelShape& s = shape_;
  const Router r{s.experts, s.top_k, s.groups, s.kept_groups, s.renormalize, s.routed_scale};
  b.router.shape(b.tokens, s.experts);
  for (std::size_t t = 0; t < b.tokens; ++t) b.out[t] = b.router.at(t);
  multiply(w.router->matrix(), b.normed_in, b.out);
  b.chosen.resize(b.tokens * s.top_k);
  b.chosen_weight.resize(b.tokens * s.top_k);
  const std::size_t each = 16;
  pool_.run((b.tokens + each - 1) / each, [&](std::size_t job, std::size_t thread) {
    std::vector<float>& scratch = b.scratch[thread];
    scratch.resize(std::max(scratch.size(), 2 * padded(s.experts, 8) + s.groups));
    for (std::size_t t = job * each; t < std::min(b.tokens, (job + 1) * each); ++t)
      kernels_.route(r, b.router.at(t), w.router_bias.data(), scratch.data(), b.chosen.data() + t * s.top_k,
                     b.chosen_weight.data() + t * s.top_k);
  });
  // Tokens sorted by expert, in their order within each.
  b.expert_first.assign(s.experts + 1, 0);
  for (const std::int32_t e : b.chosen) ++b.expert_first[static_cast<std::size_t>(e) + 1];
  for (std::size_t e = 0; e < s.experts; ++e) b.expert_first[e + 1] += b.expert_first[e];
  b.pairs.resize(b.chosen.size());
  std::vector<std::size_t> next(b.expert_first.begin(), b.expert_first.end() - 1);
  for (std::size_t i = 0; i < b.chosen.size(); ++i)
    b.pairs[next[static_cast<std::size_t>(b.chosen[i])]++] = {i / s.top_k, b.chosen_weight[i]};
}

void Model::mlp(const LayerWeights& w) {
  Buffers& b = *b_;
  const std::size_t tokens = b.tokens, width = shape_.hidden, none = shape_.experts;
  const bool sparse = w.router != nullptr;
  const MlpWeights& shared = w.shared;
  const MlpWeights& any = sparse ? w.experts[0] : shared;
  operand(b.normed, tokens, in_bytes(shared.gate->matrix()) || in_bytes(any.gate->matrix()), b.normed_in);
  if (sparse)
    route(w);
  else
    b.pairs.clear();
  const std::size_t pairs = b.pairs.size();
  b.shared_inner.shape(tokens, shared.gate->matrix().rows);
  if (sparse) b.inner.shape(pairs, any.gate->matrix().rows);

  // Gate, up and SiLU: the shared experts, or the dense MLP, for all tokens; then each expert for its own.
  b.out.resize(tokens);
  for (std::size_t t = 0; t < tokens; ++t) b.out[t] = b.shared_inner.at(t);
  b.pairs_in.rows.resize(pairs);
  b.pairs_in.bytes.resize(b.normed_in.bytes.empty() ? 0 : pairs);
  b.more_out.resize(std::max(pairs, b.more_out.size()));
  for (std::size_t i = 0; i < pairs; ++i) {
    b.pairs_in.rows[i] = b.normed_in.rows[b.pairs[i].token];
    if (!b.pairs_in.bytes.empty()) b.pairs_in.bytes[i] = b.normed_in.bytes[b.pairs[i].token];
    b.more_out[i] = b.inner.at(i);
  }
  struct Rows16 {
    std::size_t expert, first, last;  // expert E: the shared ones, or the dense MLP
  };
  std::vector<Rows16> jobs;
  std::size_t blocks = shared.gate->matrix().blocks;
  double flops = 2 * flops_of(shared.gate->matrix(), tokens);
  for (std::size_t e = 0; sparse && e < none; ++e)
    if (b.expert_first[e + 1] > b.expert_first[e]) blocks += w.experts[e].gate->matrix().blocks;
  if (sparse) flops += 2 * flops_of(any.gate->matrix(), pairs);
  const std::size_t each = std::max<std::size_t>(1, blocks / (pool_.threads() * 8));
  const auto add = [&](std::size_t expert, std::size_t count) {
    for (std::size_t i = 0; i < count; i += each) jobs.push_back({expert, i, std::min(count, i + each)});
  };
  add(none, shared.gate->matrix().blocks);
  for (std::size_t e = 0; sparse && e < none; ++e)
    if (b.expert_first[e + 1] > b.expert_first[e]) add(e, w.experts[e].gate->matrix().blocks);
  const auto widen = [&](std::size_t job, std::size_t) {
    const Rows16& j = jobs[job];
    const bool all = j.expert == none;
    const MlpWeights& m = all ? shared : w.experts[j.expert];
    const Operand& x = all ? b.normed_in : b.pairs_in;
    const std::size_t at = all ? 0 : b.expert_first[j.expert];
    const std::size_t count = all ? tokens : b.expert_first[j.expert + 1] - at;
    float* const* y = all ? b.out.data() : b.more_out.data() + at;
    if (in_bytes(m.gate->matrix()))
      kernels_.gate_up8(m.gate->matrix(), m.up->matrix(), j.first, j.last, x.bytes.data() + at, count, y);
    else
      kernels_.gate_up(m.gate->matrix(), m.up->matrix(), j.first, j.last, x.rows.data() + at, count, y);
  };
  if (flops < kSerial)
    for (std::size_t i = 0; i < jobs.size(); ++i) widen(i, 0);
  else
    pool_.run(jobs.size(), widen);

  // Back to the hidden size. Each job has some rows of the result for itself and adds the experts in their
  // order, so that no sum depends on who came first.
  operand(b.shared_inner, tokens, in_bytes(shared.down->matrix()), b.shared_in);
  if (sparse) operand(b.inner, pairs, in_bytes(any.down->matrix()), b.inner_in);
  b.weights.resize(pairs);
  for (std::size_t t = 0; t < tokens; ++t) b.out[t] = b.moe.at(t);
  for (std::size_t i = 0; i < pairs; ++i) {
    b.more_out[i] = b.moe.at(b.pairs[i].token);
    b.weights[i] = b.pairs[i].weight;
  }
  by_rows(shared.down->matrix().blocks, flops / 2, [&](std::size_t first, std::size_t last, std::size_t) {
    product(shared.down->matrix(), first, last, b.shared_in, 0, tokens, b.out.data());
    for (std::size_t e = 0; sparse && e < none; ++e) {
      const std::size_t at = b.expert_first[e], count = b.expert_first[e + 1] - at;
      if (count)
        product_add(w.experts[e].down->matrix(), first, last, b.inner_in, at, count, b.weights.data() + at,
                    b.more_out.data() + at);
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      float* x = b.x.at(t);
      const float* y = b.moe.at(t);
      for (std::size_t i = first * kRows; i < std::min(width, last * kRows); ++i) x[i] += y[i];
    }
  });
}

}  // namespace abruzzi
