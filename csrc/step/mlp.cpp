#include "step/mlp.h"

#include <algorithm>

namespace abruzzi {
namespace {

std::size_t bytes_of(const DenseWeights& m) {
  return m.gate->matrix().bytes() + m.up->matrix().bytes() + m.down->matrix().bytes();
}

void expect(const DenseWeights& m, std::size_t hidden, const char* name) {
  if (m.gate == nullptr) refuse(std::string(name) + " is missing");
  const std::size_t inner = m.gate->matrix().rows;
  expect(m.gate, inner, hidden, name);
  expect(m.up, inner, hidden, name);
  if (m.gate->matrix().kind != m.up->matrix().kind) refuse(std::string(name) + ": gate and up differ in their storage");
  expect(m.down, hidden, inner, name);
}

// x += sum, for rows of blocks [first, last) of the hidden size.
void add(Step& step, Rows& sum, std::size_t first, std::size_t last, std::size_t width) {
  for (std::size_t t = 0; t < step.tokens; ++t) {
    float* x = step.x.at(t);
    const float* y = sum.at(t);
    for (std::size_t i = first * kRows; i < std::min(width, last * kRows); ++i) x[i] += y[i];
  }
}

}  // namespace

Dense::Dense(Compute& compute, std::shared_ptr<DenseBuffers> buffers, std::size_t hidden, DenseWeights weights)
    : c_(compute), b_(std::move(buffers)), w_(std::move(weights)) {
  expect(w_, hidden, "the dense MLP");
}

std::size_t Dense::weight_bytes() const { return bytes_of(w_); }

void Dense::run(Step& step) {
  DenseBuffers& b = *b_;
  const Matrix &gate = w_.gate->matrix(), &up = w_.up->matrix(), &down = w_.down->matrix();
  const std::size_t tokens = step.tokens;
  const double flops = 2 * flops_of(gate, tokens);
  c_.operand(step.normed, tokens, c_.in_bytes(gate), b.normed_in);
  b.inner.shape(tokens, gate.rows);
  b.inner.point(tokens, b.inner_out);
  const std::size_t each = std::max<std::size_t>(1, gate.blocks / (c_.pool.threads() * 8));
  c_.run((gate.blocks + each - 1) / each, flops, [&](std::size_t job, std::size_t) {
    c_.gate_up(gate, up, job * each, std::min(gate.blocks, (job + 1) * each), b.normed_in, 0, tokens,
               b.inner_out.data());
  });
  c_.operand(b.inner, tokens, c_.in_bytes(down), b.inner_in);
  b.sum.shape(tokens, down.rows);
  b.sum.point(tokens, b.sum_out);
  c_.by_rows(down.blocks, flops / 2, [&](std::size_t first, std::size_t last, std::size_t) {
    c_.product(down, first, last, b.inner_in, 0, tokens, b.sum_out.data());
    add(step, b.sum, first, last, down.rows);
  });
}

MoeBuffers::MoeBuffers(std::size_t hidden_size, Router r, std::size_t threads)
    : hidden(hidden_size), router(r), scratch(threads) {
  if (r.experts &&
      (!r.groups || r.experts % r.groups || r.kept_groups > r.groups || r.top_k > r.experts / r.groups * r.kept_groups))
    refuse("groups and experts do not fit each other");
}

void MoeBuffers::prepare(const Step& step) {
  logits.shape(step.tokens, router.experts);
  sum.shape(step.tokens, hidden);
}

Moe::Moe(Compute& compute, std::shared_ptr<MoeBuffers> buffers, MoeWeights weights)
    : c_(compute), b_(std::move(buffers)), w_(std::move(weights)) {
  const std::size_t hidden = b_->hidden, experts = b_->router.experts;
  if (w_.shared.gate != nullptr) expect(w_.shared, hidden, "the shared experts");
  expect(w_.router, experts, hidden, "gate");
  expect(w_.bias, experts, "e_score_correction_bias");
  if (w_.experts.size() != experts || experts == 0) refuse("an expert is missing");
  const DenseWeights& any = w_.experts[0];
  for (const DenseWeights& e : w_.experts) {
    expect(e, hidden, "an expert");
    if (e.gate->matrix().rows != any.gate->matrix().rows) refuse("experts differ in width");
    // A GGUF file may hold down in another kind than gate and up.
    if (e.gate->matrix().kind != any.gate->matrix().kind || e.down->matrix().kind != any.down->matrix().kind)
      refuse("experts differ in their storage");
  }
}

std::size_t Moe::weight_bytes() const {
  std::size_t sum = w_.router->matrix().bytes() + (w_.shared.gate == nullptr ? 0 : bytes_of(w_.shared));
  for (const DenseWeights& e : w_.experts) sum += bytes_of(e);
  return sum;
}

void Moe::run(Step& step) {
  const bool bytes =
      c_.in_bytes(w_.experts[0].gate->matrix()) || (w_.shared.gate != nullptr && c_.in_bytes(w_.shared.gate->matrix()));
  c_.operand(step.normed, step.tokens, bytes, b_->normed_in);
  route(step);
  gather(step);
  widen(step);
  narrow(step);
}

// Each token's experts; then tokens sorted by expert, in their order within each.
void Moe::route(Step& step) {
  MoeBuffers& b = *b_;
  const Router& r = b.router;
  b.logits.point(step.tokens, b.logits_out);
  c_.multiply(w_.router->matrix(), b.normed_in, b.logits_out);
  b.chosen.resize(step.tokens * r.top_k);
  b.chosen_weight.resize(step.tokens * r.top_k);
  const std::size_t each = 16;
  c_.pool.run((step.tokens + each - 1) / each, [&](std::size_t job, std::size_t thread) {
    float* scratch = b.scratch.of(thread, route_scratch(r));
    for (std::size_t t = job * each; t < std::min(step.tokens, (job + 1) * each); ++t)
      c_.kernels.route(r, b.logits.at(t), w_.bias.data(), scratch, b.chosen.data() + t * r.top_k,
                       b.chosen_weight.data() + t * r.top_k);
  });
  b.expert_first.assign(r.experts + 1, 0);
  for (const std::int32_t e : b.chosen) ++b.expert_first[static_cast<std::size_t>(e) + 1];
  for (std::size_t e = 0; e < r.experts; ++e) b.expert_first[e + 1] += b.expert_first[e];
  b.pairs.resize(b.chosen.size());
  std::vector<std::size_t> next(b.expert_first.begin(), b.expert_first.end() - 1);
  for (std::size_t i = 0; i < b.chosen.size(); ++i)
    b.pairs[next[static_cast<std::size_t>(b.chosen[i])]++] = {i / r.top_k, b.chosen_weight[i]};
}

// Where each pair's input lies, and where its inner and its result go.
void Moe::gather(Step& step) {
  MoeBuffers& b = *b_;
  const std::size_t pairs = b.pairs.size();
  b.inner.shape(pairs, w_.experts[0].gate->matrix().rows);
  b.inner.point(pairs, b.inner_out);
  b.sum.point(step.tokens, b.sum_out);
  b.pairs_in.rows.resize(pairs);
  b.pairs_in.bytes.resize(b.normed_in.bytes.empty() ? 0 : pairs);
  b.pairs_out.resize(pairs);
  b.weights.resize(pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    const Pair& pair = b.pairs[i];
    b.pairs_in.rows[i] = b.normed_in.rows[pair.token];
    if (!b.pairs_in.bytes.empty()) b.pairs_in.bytes[i] = b.normed_in.bytes[pair.token];
    b.pairs_out[i] = b.sum.at(pair.token);
    b.weights[i] = pair.weight;
  }
}

// Gate, up and SiLU: the shared experts for all tokens, then each expert for its own.
void Moe::widen(const Step& step) {
  MoeBuffers& b = *b_;
  struct Job {
    std::size_t expert, first, last;  // expert E: the shared ones
  };
  const std::size_t experts = b.router.experts, tokens = step.tokens;
  std::size_t blocks = 0;
  double flops = 2 * flops_of(w_.experts[0].gate->matrix(), b.pairs.size());
  if (w_.shared.gate != nullptr) {
    const Matrix& gate = w_.shared.gate->matrix();
    b.shared_inner.shape(tokens, gate.rows);
    b.shared_inner.point(tokens, b.shared_out);
    blocks += gate.blocks;
    flops += 2 * flops_of(gate, tokens);
  }
  for (std::size_t e = 0; e < experts; ++e)
    if (b.expert_first[e + 1] > b.expert_first[e]) blocks += w_.experts[e].gate->matrix().blocks;
  const std::size_t each = std::max<std::size_t>(1, blocks / (c_.pool.threads() * 8));
  std::vector<Job> jobs;
  const auto share = [&](std::size_t expert, std::size_t count) {
    for (std::size_t i = 0; i < count; i += each) jobs.push_back({expert, i, std::min(count, i + each)});
  };
  if (w_.shared.gate != nullptr) share(experts, w_.shared.gate->matrix().blocks);
  for (std::size_t e = 0; e < experts; ++e)
    if (b.expert_first[e + 1] > b.expert_first[e]) share(e, w_.experts[e].gate->matrix().blocks);
  c_.run(jobs.size(), flops, [&](std::size_t number, std::size_t) {
    const Job& job = jobs[number];
    const bool all = job.expert == experts;
    const DenseWeights& m = all ? w_.shared : w_.experts[job.expert];
    const std::size_t at = all ? 0 : b.expert_first[job.expert];
    const std::size_t count = all ? tokens : b.expert_first[job.expert + 1] - at;
    c_.gate_up(m.gate->matrix(), m.up->matrix(), job.first, job.last, all ? b.normed_in : b.pairs_in, at, count,
               all ? b.shared_out.data() : b.inner_out.data() + at);
  });
}

// Back to the hidden size. Each job has some rows of the result for itself and adds the experts in
// their order, so that no sum depends on who came first.
void Moe::narrow(Step& step) {
  MoeBuffers& b = *b_;
  const std::size_t tokens = step.tokens, pairs = b.pairs.size();
  const bool shared = w_.shared.gate != nullptr;
  const Matrix& any = w_.experts[0].down->matrix();
  double flops = flops_of(any, pairs);
  if (shared) {
    const Matrix& down = w_.shared.down->matrix();
    c_.operand(b.shared_inner, tokens, c_.in_bytes(down), b.shared_in);
    flops += flops_of(down, tokens);
  }
  c_.operand(b.inner, pairs, c_.in_bytes(any), b.inner_in);
  c_.by_rows(any.blocks, flops, [&](std::size_t first, std::size_t last, std::size_t) {
    if (shared)
      c_.product(w_.shared.down->matrix(), first, last, b.shared_in, 0, tokens, b.sum_out.data());
    else
      for (float* y : b.sum_out) std::fill(y + first * kRows, y + std::min(any.rows, last * kRows), 0.0f);
    for (std::size_t e = 0; e < b.router.experts; ++e) {
      const std::size_t at = b.expert_first[e], count = b.expert_first[e + 1] - at;
      if (count)
        c_.product_add(w_.experts[e].down->matrix(), first, last, b.inner_in, at, count, b.weights.data() + at,
                       b.pairs_out.data() + at);
    }
    add(step, b.sum, first, last, any.rows);
  });
}

}  // namespace abruzzi
