#include "step/model.h"

#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "kernels/rmsnorm.h"

namespace abruzzi {
namespace {

std::size_t some(std::size_t threads) {
  if (threads < 1) refuse("threads=0; expected 1 or more");
  return threads;
}

Attentions::Shared shared_by_layers(const Attentions::Sizes& sizes, std::size_t threads) {
  return std::visit(
      [&](const auto& s) -> Attentions::Shared {
        using Kind = typename std::decay_t<decltype(s)>::Kind;
        return std::make_shared<typename Kind::Shared>(s, threads);
      },
      sizes);
}

}  // namespace

Model::Model(Isa isa, std::size_t threads, ModelShape shape)
    : shape_(std::move(shape)),
      compute_(isa, some(threads), shape_.fast),
      attention_(shared_by_layers(shape_.attention, threads)),
      dense_(std::make_shared<DenseBuffers>()),
      moe_(std::make_shared<MoeBuffers>(shape_.hidden, shape_.router, threads)) {
  if (!shape_.vocab) refuse("a size of the model is 0");
}

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

std::unique_ptr<Attention> Model::attention(Attentions::Weights weights) {
  return std::visit(
      [&](auto& w) -> std::unique_ptr<Attention> {
        using Kind = typename std::decay_t<decltype(w)>::Kind;
        const auto* shared = std::get_if<std::shared_ptr<typename Kind::Shared>>(&attention_);
        if (shared == nullptr) refuse(std::string("the model has no sizes for attention of the kind ") + Kind::kName);
        return std::make_unique<Kind>(compute_, *shared, std::move(w));
      },
      weights);
}

std::unique_ptr<Mlp> Model::mlp(DenseWeights w) {
  return std::make_unique<Dense>(compute_, dense_, shape_.hidden, std::move(w));
}

std::unique_ptr<Mlp> Model::mlp(MoeWeights w) { return std::make_unique<Moe>(compute_, moe_, std::move(w)); }

void Model::add_layer(LayerWeights w) {
  expect(w.input_norm, shape_.hidden, "input_layernorm");
  expect(w.post_norm, shape_.hidden, "post_attention_layernorm");
  Layer layer{std::move(w.input_norm), std::move(w.post_norm), attention(std::move(w.attention)),
              std::visit([&](auto& m) { return mlp(std::move(m)); }, w.mlp)};
  weight_bytes_ += layer.attention->weight_bytes() + layer.mlp->weight_bytes();
  layers_.push_back(std::move(layer));
}

std::vector<std::size_t> Model::cache_rows() const {
  std::vector<std::size_t> rows;
  for (const Layer& layer : layers_) rows.push_back(layer.attention->cache_row());
  return rows;
}

void Model::forward(const StepInput& input) {
  std::lock_guard<std::mutex> hold(one_at_a_time_);
  check(input);
  prepare(input);
  embed();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    norm(layers_[i].input_norm);
    layers_[i].attention->run(step_, input.cache[i]);
    norm(layers_[i].post_norm);
    layers_[i].mlp->run(step_);
  }
  logits();
}

void Model::check(const StepInput& input) const {
  if (layers_.size() != shape_.layers || head_ == nullptr || (embed_bf16_.empty() && embed_f32_.empty()))
    refuse("the model is not complete: embedding, every layer and the head must be handed over first");
  if (input.tokens == 0 || input.chunks.empty()) refuse("no tokens to run; expected at least one id");
  for (std::size_t t = 0; t < input.tokens; ++t)
    if (input.ids[t] < 0 || input.ids[t] >= static_cast<std::int64_t>(shape_.vocab))
      refuse("token id " + std::to_string(input.ids[t]) + " is outside the vocabulary of " +
             std::to_string(shape_.vocab));
  std::size_t next = 0;
  for (const StepChunk& c : input.chunks) {
    if (c.tokens == 0) refuse("no tokens to run; expected at least one id");
    if (c.first != next || c.prefill > c.tokens || c.wanted > c.tokens) refuse("a chunk's counts do not fit");
    next += c.tokens;
    if (c.blocks * input.block_tokens < c.start + c.tokens)
      refuse("a block table of " + std::to_string(c.blocks) + " blocks cannot hold " +
             std::to_string(c.start + c.tokens) + " tokens");
    for (std::size_t i = 0; i < c.blocks; ++i) {
      const std::int64_t block = input.tables[c.table + i];
      if (block < 0 || (static_cast<std::size_t>(block) + 1) * input.block_tokens > input.slots)
        refuse("block " + std::to_string(block) + " is outside the cache of " + std::to_string(input.slots) + " slots");
    }
  }
  if (next != input.tokens) refuse("the chunks do not cover the ids");
}

void Model::prepare(const StepInput& input) {
  step_.input = &input;
  step_.tokens = input.tokens;
  step_.position.resize(input.tokens);
  step_.chunk.resize(input.tokens);
  for (std::size_t i = 0; i < input.chunks.size(); ++i) {
    const StepChunk& c = input.chunks[i];
    for (std::size_t t = 0; t < c.tokens; ++t) {
      step_.position[c.first + t] = c.start + t;
      step_.chunk[c.first + t] = i;
    }
  }
  step_.x.shape(input.tokens, shape_.hidden);
  step_.normed.shape(input.tokens, shape_.hidden);
  std::visit([&](auto& shared) { shared->prepare(step_); }, attention_);
  dense_->prepare(step_);
  moe_->prepare(step_);
}

void Model::embed() {
  const std::size_t width = shape_.hidden;
  for (std::size_t t = 0; t < step_.tokens; ++t) {
    const std::size_t from = static_cast<std::size_t>(step_.input->ids[t]) * width;
    float* to = step_.x.at(t);
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

void Model::norm(const std::vector<float>& weight) {
  compute_.norm(weight, shape_.eps, step_.x.data.data(), step_.normed.data.data(), step_.x.stride, step_.tokens);
}

void Model::logits() {
  // The rows of which logits are asked move together, so that no others are rounded.
  const StepInput& input = *step_.input;
  std::vector<float*> out;
  for (const StepChunk& c : input.chunks)
    for (std::size_t t = c.first + c.tokens - c.wanted; t < c.first + c.tokens; ++t) {
      rmsnorm(compute_.isa, step_.x.at(t), final_norm_.data(), step_.normed.at(out.size()), 1, shape_.hidden,
              shape_.eps);
      out.push_back(input.logits + out.size() * shape_.vocab);
    }
  if (out.empty()) return;
  compute_.operand(step_.normed, out.size(), compute_.in_bytes(head_->matrix()), head_in_);
  compute_.multiply(head_->matrix(), head_in_, out);
}

}  // namespace abruzzi
