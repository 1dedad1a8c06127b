#include "step/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/rmsnorm.h"
#include "step/buffers.h"

namespace abruzzi {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

}  // namespace

Model::Model(Isa isa, std::size_t threads, ModelShape shape)
    : isa_(isa),
      kernels_(step_kernels(isa)),
      pool_(threads),
      shape_(std::move(shape)),
      b_(std::make_shared<Buffers>()) {
  const ModelShape& s = shape_;
  if (threads < 1) refuse("threads=0; expected 1 or more");
  if (!s.vocab || !s.hidden || !s.heads || !s.rank || !s.nope || !s.rope || !s.value || s.rope % 2)
    refuse("a size of the model is 0, or its rope dim odd");
  if (s.inv_freq.size() * 2 != s.rope) refuse("inv_freq needs one number per rotary pair");
  if (s.experts &&
      (!s.groups || s.experts % s.groups || s.kept_groups > s.groups || s.top_k > s.experts / s.groups * s.kept_groups))
    refuse("groups and experts do not fit each other");
  mla_ = {s.heads,
          s.rank,
          s.nope,
          s.rope,
          s.value,
          padded(s.rank, kColumns),
          padded(s.nope, kColumns),
          padded(s.rope, kRows),
          padded(s.value, kRows)};
  b_->scratch.resize(pool_.threads());
  b_->byte_scratch.resize(pool_.threads());
}

namespace {

void expect(const PackedPtr& m, std::size_t rows, std::size_t columns, const char* name) {
  if (m == nullptr) refuse(std::string(name) + " is missing");
  const Matrix& is = m->matrix();
  if (is.rows != rows || is.columns != columns)
    refuse(std::string(name) + " is " + std::to_string(is.rows) + " x " + std::to_string(is.columns) + "; expected " +
           std::to_string(rows) + " x " + std::to_string(columns));
}

void expect(const std::vector<float>& v, std::size_t size, const char* name) {
  if (v.size() != size)
    refuse(std::string(name) + " has " + std::to_string(v.size()) + " numbers; expected " + std::to_string(size));
}

std::size_t bytes_of(const MlpWeights& m) {
  return m.gate->matrix().bytes() + m.up->matrix().bytes() + m.down->matrix().bytes();
}

void expect(const MlpWeights& m, std::size_t hidden, const char* name) {
  if (m.gate == nullptr) refuse(std::string(name) + " is missing");
  const std::size_t inner = m.gate->matrix().rows;
  expect(m.gate, inner, hidden, name);
  expect(m.up, inner, hidden, name);
  if (m.gate->matrix().kind != m.up->matrix().kind) refuse(std::string(name) + ": gate and up differ in their storage");
  expect(m.down, hidden, inner, name);
}

}  // namespace

void Model::set_embedding(std::vector<std::uint16_t> bf16, std::vector<float> f32) {
  const std::size_t size = shape_.vocab * shape_.hidden;
  if ((bf16.size() != size || !f32.empty()) && (f32.size() != size || !bf16.empty()))
    refuse("the embedding is not [vocab, hidden]");
  embed_bf16_ = std::move(bf16);
  embed_f32_ = std::move(f32);
  weight_bytes_ += embed_bf16_.size() * 2 + embed_f32_.size() * 4;
}

void Model::set_head(std::vector<float> norm, PackedPtr head) {
  expect(norm, shape_.hidden, "the final norm");
  expect(head, shape_.vocab, shape_.hidden, "the head");
  final_norm_ = std::move(norm);
  head_ = std::move(head);
  weight_bytes_ += head_->matrix().bytes();
}

void Model::add_layer(LayerWeights w) {
  const ModelShape& s = shape_;
  expect(w.input_norm, s.hidden, "input_layernorm");
  expect(w.post_norm, s.hidden, "post_attention_layernorm");
  expect(w.kv_norm, s.rank, "kv_a_layernorm");
  std::size_t query_in = s.hidden;
  if (w.q_a != nullptr) {
    query_in = w.q_a->matrix().rows;
    expect(w.q_a, query_in, s.hidden, "q_a_proj");
    expect(w.q_norm, query_in, "q_a_layernorm");
    weight_bytes_ += w.q_a->matrix().bytes();
  }
  expect(w.q_b, s.heads * (s.nope + s.rope), query_in, "q_b_proj");
  expect(w.kv_a, s.rank + s.rope, s.hidden, "kv_a_proj_with_mqa");
  expect(w.o, s.hidden, s.heads * s.value, "o_proj");
  weight_bytes_ += w.q_b->matrix().bytes() + w.kv_a->matrix().bytes() + w.o->matrix().bytes();
  if (w.absorb_k.size() != s.heads || w.expand_k.size() != s.heads || w.expand_v.size() != s.heads)
    refuse("kv_b_proj is not there for every head");
  for (std::size_t n = 0; n < s.heads; ++n) {
    expect(w.absorb_k[n], s.rank, s.nope, "kv_b_proj's key part, transposed");
    expect(w.expand_k[n], s.nope, s.rank, "kv_b_proj's key part");
    expect(w.expand_v[n], s.value, s.rank, "kv_b_proj's value part");
    for (const auto* m : {&w.absorb_k[n], &w.expand_k[n], &w.expand_v[n]}) weight_bytes_ += (*m)->matrix().bytes();
  }
  expect(w.shared, s.hidden, w.router == nullptr ? "the dense MLP" : "the shared experts");
  weight_bytes_ += bytes_of(w.shared);
  if (w.router != nullptr) {
    expect(w.router, s.experts, s.hidden, "gate");
    expect(w.router_bias, s.experts, "e_score_correction_bias");
    if (w.experts.size() != s.experts) refuse("an expert is missing");
    weight_bytes_ += w.router->matrix().bytes();
    for (const auto& e : w.experts) {
      expect(e, s.hidden, "an expert");
      if (e.gate->matrix().rows != w.experts[0].gate->matrix().rows) refuse("experts differ in width");
      for (const auto* m : {&e.gate, &e.up, &e.down})
        if ((*m)->matrix().kind != w.experts[0].gate->matrix().kind) refuse("experts differ in their storage");
      weight_bytes_ += bytes_of(e);
    }
  }
  layers_.push_back(std::move(w));
}

void Model::forward(const StepInput& step) {
  std::lock_guard<std::mutex> hold(one_at_a_time_);
  check(step);
  prepare(step);
  embed(step);
  Buffers& b = *b_;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerWeights& w = layers_[i];
    norm(w.input_norm, shape_.eps, b.x.data.data(), b.normed.data.data(), b.x.stride);
    attend(step, i);
    norm(w.post_norm, shape_.eps, b.x.data.data(), b.normed.data.data(), b.x.stride);
    mlp(w);
  }
  logits(step);
}

void Model::check(const StepInput& step) const {
  if (layers_.size() != shape_.layers || head_ == nullptr || (embed_bf16_.empty() && embed_f32_.empty()))
    refuse("the model is not complete: embedding, every layer and the head must be handed over first");
  if (step.tokens == 0 || step.chunks.empty()) refuse("no tokens to run; expected at least one id");
  for (std::size_t t = 0; t < step.tokens; ++t)
    if (step.ids[t] < 0 || step.ids[t] >= static_cast<std::int64_t>(shape_.vocab))
      refuse("token id " + std::to_string(step.ids[t]) + " is outside the vocabulary of " +
             std::to_string(shape_.vocab));
  std::size_t next = 0;
  for (const StepChunk& c : step.chunks) {
    if (c.tokens == 0) refuse("no tokens to run; expected at least one id");
    if (c.first != next || c.decompress > c.tokens || c.wanted > c.tokens) refuse("a chunk's counts do not fit");
    next += c.tokens;
    if (c.blocks * step.block_tokens < c.start + c.tokens)
      refuse("a block table of " + std::to_string(c.blocks) + " blocks cannot hold " +
             std::to_string(c.start + c.tokens) + " tokens");
    for (std::size_t i = 0; i < c.blocks; ++i) {
      const std::int64_t block = step.tables[c.table + i];
      if (block < 0 || (static_cast<std::size_t>(block) + 1) * step.block_tokens > step.slots)
        refuse("block " + std::to_string(block) + " is outside the cache of " + std::to_string(step.slots) + " slots");
    }
  }
  if (next != step.tokens) refuse("the chunks do not cover the ids");
}

void Model::prepare(const StepInput& step) {
  Buffers& b = *b_;
  const ModelShape& s = shape_;
  const std::size_t tokens = step.tokens, pairs = s.rope / 2;
  b.tokens = tokens;
  b.position.resize(tokens);
  b.chunk.resize(tokens);
  b.absorbed.clear();
  for (std::size_t i = 0; i < step.chunks.size(); ++i) {
    const StepChunk& c = step.chunks[i];
    for (std::size_t t = 0; t < c.tokens; ++t) {
      b.position[c.first + t] = c.start + t;
      b.chunk[c.first + t] = i;
      if (t >= c.decompress) b.absorbed.push_back(c.first + t);
    }
  }
  b.cos.resize(tokens * pairs);
  b.sin.resize(tokens * pairs);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(b.position[t]) * s.inv_freq[i];
      b.cos[t * pairs + i] = static_cast<float>(std::cos(angle) * s.rope_factor);
      b.sin[t * pairs + i] = static_cast<float>(std::sin(angle) * s.rope_factor);
    }
  b.x.shape(tokens, s.hidden);
  b.normed.shape(tokens, s.hidden);
  b.moe.shape(tokens, s.hidden);
  b.q_raw.shape(tokens, s.heads * (s.nope + s.rope));
  b.kv_raw.shape(tokens, s.rank + s.rope);
  b.q.shape(tokens, s.heads * mla_.query_row());
  b.latent_q.shape(b.absorbed.size(), s.heads * mla_.latent_row());
  b.latent_out.shape(b.absorbed.size(), s.heads * mla_.rank_pad);
  b.attended.shape(tokens, s.heads * s.value);
  b.out.resize(tokens);
  b.ones.assign(tokens, 1.0f);
}

void Model::embed(const StepInput& step) {
  Buffers& b = *b_;
  const std::size_t width = shape_.hidden;
  for (std::size_t t = 0; t < step.tokens; ++t) {
    const std::size_t from = static_cast<std::size_t>(step.ids[t]) * width;
    float* to = b.x.at(t);
    if (!embed_f32_.empty()) {
      std::memcpy(to, embed_f32_.data() + from, width * sizeof(float));
      continue;
    }
    for (std::size_t i = 0; i < width; ++i) {
      const std::uint32_t bits = static_cast<std::uint32_t>(embed_bf16_[from + i]) << 16;
      std::memcpy(to + i, &bits, sizeof bits);
    }
  }
}

// Of every token's row; x and y may be the same.
void Model::norm(const std::vector<float>& weight, float eps, const float* x, float* y, std::size_t stride) {
  const std::size_t tokens = b_->tokens, each = 32;
  pool_.run((tokens + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t t = job * each; t < std::min(tokens, (job + 1) * each); ++t)
      rmsnorm(isa_, x + t * stride, weight.data(), y + t * stride, 1, weight.size(), eps);
  });
}

// Rows [0, count) as the products take them; in 8 bits, too, where `bytes` says so.
void Model::operand(Rows& rows, std::size_t count, bool bytes, Operand& to) {
  to.rows.resize(count);
  for (std::size_t i = 0; i < count; ++i) to.rows[i] = rows.at(i);
  to.bytes.clear();
  if (!bytes) return;
  const std::size_t groups = rows.stride / kColumns, row = quantized_row(groups), each = 16;
  to.memory.resize(std::max(to.memory.size(), count * row));
  to.bytes.resize(count);
  for (std::size_t i = 0; i < count; ++i) to.bytes[i] = to.memory.data() + i * row;
  pool_.run((count + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t i = job * each; i < std::min(count, (job + 1) * each); ++i)
      kernels_.quantize(rows.at(i), groups, to.memory.data() + i * row);
  });
}

void Model::multiply(const Matrix& m, const Operand& x, const std::vector<float*>& y) {
  const std::size_t count = x.rows.size();
  by_rows(m.blocks, flops_of(m, count),
          [&](std::size_t first, std::size_t last, std::size_t) { product(m, first, last, x, 0, count, y.data()); });
}

void Model::logits(const StepInput& step) {
  Buffers& b = *b_;
  // The wanted rows move together, so that no others are rounded.
  std::vector<float*> out;
  for (const StepChunk& c : step.chunks)
    for (std::size_t t = c.first + c.tokens - c.wanted; t < c.first + c.tokens; ++t) {
      rmsnorm(isa_, b.x.at(t), final_norm_.data(), b.normed.at(out.size()), 1, shape_.hidden, shape_.eps);
      out.push_back(step.logits + out.size() * shape_.vocab);
    }
  if (out.empty()) return;
  operand(b.normed, out.size(), in_bytes(head_->matrix()), b.normed_in);
  multiply(head_->matrix(), b.normed_in, out);
}

}  // namespace abruzzi
