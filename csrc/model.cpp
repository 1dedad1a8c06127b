#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace abruzzi {
namespace {

constexpr double kSerial = 2e5;            // floating-point operations below which sharing costs more than it gives
constexpr std::size_t kSegment = 256;      // positions of one part of an absorbed attention
constexpr std::size_t kPartsAtOnce = 512;  // bounds the memory of the parts

// Rows of floats with zeros between their end and a multiple of 32, which products read.
struct Rows {
  std::vector<float> data;
  std::size_t stride = 0;

  void shape(std::size_t rows, std::size_t width) {
    const std::size_t wanted = padded(width, kColumns);
    if (wanted != stride || rows * wanted > data.size()) {
      stride = wanted;
      data.assign(std::max(rows * stride, data.size()), 0.0f);
    }
  }
  float* at(std::size_t row) { return data.data() + row * stride; }
};

struct Pair {
  std::size_t token;
  float weight;
};

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

}  // namespace

struct Model::Buffers {
  std::size_t tokens = 0;
  std::vector<std::size_t> position;             // [T]
  std::vector<std::size_t> chunk;                // [T]
  std::vector<std::size_t> absorbed;             // tokens that attend in the latent space
  std::vector<float> cos, sin;                   // [T, P / 2]
  Rows x, normed, q_a, q_raw, kv_raw, attended;  // [T, ...]
  Rows q;                                        // [T, N (nope_pad + rope_pad)]
  Rows latent_q, latent_out;                     // [absorbed, N ...]
  Rows router, moe, dense_inner, shared_inner;   // [T, ...]
  Rows inner;                                    // [T * K, F], sorted by expert
  std::vector<float> part_m, part_l, part_u;
  std::vector<std::vector<float>> scratch;  // of each thread
  std::vector<std::int32_t> chosen;         // [T, K]
  std::vector<float> chosen_weight;
  std::vector<std::size_t> expert_first;  // [E + 1], in the sorted pairs
  std::vector<Pair> pairs;
  std::vector<const float*> in, in_inner;
  std::vector<float*> out, out_inner;
  std::vector<float> weights, ones;
  std::vector<std::int32_t> bytes, inner_bytes;  // fast mode: rows in 8 bits
  std::vector<const std::int32_t*> in_bytes, in_inner_bytes, pair_bytes;
};

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
          padded(s.rope, 8),
          padded(s.value, kRows)};
  b_->scratch.resize(pool_.threads());
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
  b.in.resize(tokens);
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

template <class Work>
void Model::by_rows(std::size_t blocks, double flops, const Work& work) {
  if (flops < kSerial) return work(0, blocks, 0);
  const std::size_t each = std::max<std::size_t>(1, blocks / (pool_.threads() * 4));
  pool_.run((blocks + each - 1) / each,
            [&](std::size_t job, std::size_t thread) { work(job * each, std::min(blocks, (job + 1) * each), thread); });
}

namespace {

double flops_of(const Matrix& m, std::size_t tokens) {
  return 2.0 * static_cast<double>(m.rows) * static_cast<double>(m.columns) * static_cast<double>(tokens);
}

}  // namespace

void Model::multiply(const Matrix& m, const std::vector<const float*>& x, const std::vector<float*>& y) {
  by_rows(m.blocks, flops_of(m, x.size()), [&](std::size_t first, std::size_t last, std::size_t) {
    kernels_.matmul(m, first, last, x.data(), x.size(), y.data());
  });
}

void Model::attend(const StepInput& step, std::size_t index) {
  Buffers& b = *b_;
  const LayerWeights& w = layers_[index];
  project(w);
  place(step, index);
  if (!b.absorbed.empty()) attend_absorbed(step, index);
  attend_naive(step, index);
  for (std::size_t t = 0; t < b.tokens; ++t) b.in[t] = b.attended.at(t), b.out[t] = b.x.at(t);
  const Matrix& o = w.o->matrix();
  by_rows(o.blocks, flops_of(o, b.tokens), [&](std::size_t first, std::size_t last, std::size_t) {
    kernels_.matmul_add(o, first, last, b.in.data(), b.tokens, b.ones.data(), b.out.data());
  });
}

// Queries and latents of all tokens, before norm and rotation.
void Model::project(const LayerWeights& w) {
  Buffers& b = *b_;
  const std::size_t tokens = b.tokens;
  const Matrix& kv = w.kv_a->matrix();
  const Matrix& q = (w.q_a == nullptr ? w.q_b : w.q_a)->matrix();
  Rows& q_out = w.q_a == nullptr ? b.q_raw : b.q_a;
  q_out.shape(tokens, q.rows);
  std::vector<float*>& kv_to = b.out_inner;
  kv_to.resize(std::max(kv_to.size(), tokens));
  for (std::size_t t = 0; t < tokens; ++t) b.in[t] = b.normed.at(t), b.out[t] = q_out.at(t), kv_to[t] = b.kv_raw.at(t);
  by_rows(q.blocks + kv.blocks, flops_of(q, tokens) + flops_of(kv, tokens),
          [&](std::size_t first, std::size_t last, std::size_t) {
            if (first < q.blocks)
              kernels_.matmul(q, first, std::min(last, q.blocks), b.in.data(), tokens, b.out.data());
            if (last > q.blocks)
              kernels_.matmul(kv, std::max(first, q.blocks) - q.blocks, last - q.blocks, b.in.data(), tokens,
                              kv_to.data());
          });
  if (w.q_a == nullptr) return;
  norm(w.q_norm, shape_.latent_eps, b.q_a.data.data(), b.q_a.data.data(), b.q_a.stride);
  for (std::size_t t = 0; t < tokens; ++t) b.in[t] = b.q_a.at(t), b.out[t] = b.q_raw.at(t);
  multiply(w.q_b->matrix(), b.in, b.out);
}

// Rotation; the latents into the cache, the queries into padded rows.
void Model::place(const StepInput& step, std::size_t index) {
  Buffers& b = *b_;
  const ModelShape& s = shape_;
  const std::size_t pairs = s.rope / 2, each = 16;
  pool_.run((b.tokens + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t t = job * each; t < std::min(b.tokens, (job + 1) * each); ++t) {
      const StepChunk& c = step.chunks[b.chunk[t]];
      const std::size_t at = b.position[t];
      const auto block = static_cast<std::size_t>(step.tables[c.table + at / step.block_tokens]);
      float* latent =
          step.latents + (index * step.slots + block * step.block_tokens + at % step.block_tokens) * mla_.latent_row();
      rmsnorm(isa_, b.kv_raw.at(t), layers_[index].kv_norm.data(), latent, 1, s.rank, s.latent_eps);
      const float *cos = b.cos.data() + t * pairs, *sin = b.sin.data() + t * pairs;
      kernels_.rope(b.kv_raw.at(t) + s.rank, cos, sin, latent + mla_.rank_pad, pairs);
      for (std::size_t n = 0; n < s.heads; ++n) {
        const float* from = b.q_raw.at(t) + n * (s.nope + s.rope);
        float* to = b.q.at(t) + n * mla_.query_row();
        std::memcpy(to, from, s.nope * sizeof(float));
        kernels_.rope(from + s.nope, cos, sin, to + mla_.nope_pad, pairs);
      }
    }
  });
}

void Model::attend_absorbed(const StepInput& step, std::size_t index) {
  Buffers& b = *b_;
  const LayerWeights& w = layers_[index];
  const std::size_t heads = shape_.heads, all = b.absorbed.size(), row = mla_.latent_row();
  const float* base = step.latents + index * step.slots * row;
  // The key half of kv_b_proj goes into the query.
  const double fold = flops_of(w.absorb_k[0]->matrix(), all) * static_cast<double>(heads);
  by_rows(heads, fold, [&](std::size_t first, std::size_t last, std::size_t) {
    std::vector<const float*> x(all);
    std::vector<float*> y(all);
    for (std::size_t n = first; n < last; ++n) {
      for (std::size_t a = 0; a < all; ++a) {
        x[a] = b.q.at(b.absorbed[a]) + n * mla_.query_row();
        y[a] = b.latent_q.at(a) + n * row;
        std::memcpy(y[a] + mla_.rank_pad, x[a] + mla_.nope_pad, mla_.rope_pad * sizeof(float));
      }
      const Matrix& m = w.absorb_k[n]->matrix();
      kernels_.matmul(m, 0, m.blocks, x.data(), all, y.data());
    }
  });
  struct Part {
    std::size_t query, first, last;
  };
  std::vector<Part> parts;
  std::vector<std::size_t> first_part;
  for (std::size_t begin = 0; begin < all;) {
    parts.clear();
    first_part.clear();
    std::size_t end = begin;
    double work = 0;
    for (; end < all && (end == begin || parts.size() < kPartsAtOnce); ++end) {
      const std::size_t positions = b.position[b.absorbed[end]] + 1;
      first_part.push_back(parts.size());
      for (std::size_t p = 0; p < positions; p += kSegment)
        parts.push_back({end, p, std::min(positions, p + kSegment)});
      work += 4.0 * static_cast<double>(positions * heads * row);
    }
    first_part.push_back(parts.size());
    b.part_m.resize(std::max(b.part_m.size(), parts.size() * heads));
    b.part_l.resize(b.part_m.size());
    b.part_u.resize(b.part_m.size() * mla_.rank_pad);
    // Heads are split only where there are too few parts for the threads: each latent is then read again.
    const std::size_t wanted = work < kSerial ? 1 : 2 * pool_.threads();
    const std::size_t splits = std::clamp<std::size_t>(wanted / parts.size(), 1, std::max<std::size_t>(1, heads / 4));
    const std::size_t each = (heads + splits - 1) / splits;
    const auto attend = [&](std::size_t job, std::size_t) {
      const Part& part = parts[job / splits];
      const std::size_t n = job % splits * each;
      if (n >= heads) return;
      const StepChunk& c = step.chunks[b.chunk[b.absorbed[part.query]]];
      const Latents latents{base, row, step.tables + c.table, step.block_tokens};
      const std::size_t at = job / splits * heads + n;
      kernels_.mla_absorbed(mla_, std::min(each, heads - n), b.latent_q.at(part.query) + n * row, latents, part.first,
                            part.last, shape_.softmax_scale, b.part_m.data() + at, b.part_l.data() + at,
                            b.part_u.data() + at * mla_.rank_pad);
    };
    if (work < kSerial)
      for (std::size_t job = 0; job < parts.size(); ++job) attend(job, 0);
    else
      pool_.run(parts.size() * splits, attend);
    // The parts put together, then the value half of kv_b_proj.
    const double expand = flops_of(w.expand_v[0]->matrix(), end - begin) * static_cast<double>(heads);
    by_rows(heads, expand, [&](std::size_t first, std::size_t last, std::size_t) {
      std::vector<const float*> x(end - begin);
      std::vector<float*> y(end - begin);
      for (std::size_t n = first; n < last; ++n) {
        for (std::size_t a = begin; a < end; ++a) {
          const std::size_t at = first_part[a - begin] * heads + n;
          float* merged = b.latent_out.at(a) + n * mla_.rank_pad;
          kernels_.mla_merge(mla_, first_part[a - begin + 1] - first_part[a - begin], heads, b.part_m.data() + at,
                             b.part_l.data() + at, b.part_u.data() + at * mla_.rank_pad, merged);
          x[a - begin] = merged;
          y[a - begin] = b.attended.at(b.absorbed[a]) + n * shape_.value;
        }
        const Matrix& m = w.expand_v[n]->matrix();
        kernels_.matmul(m, 0, m.blocks, x.data(), x.size(), y.data());
      }
    });
    begin = end;
  }
}

void Model::attend_naive(const StepInput& step, std::size_t index) {
  Buffers& b = *b_;
  const LayerWeights& w = layers_[index];
  const std::size_t heads = shape_.heads, row = mla_.latent_row();
  const float* base = step.latents + index * step.slots * row;
  struct Queries {
    std::size_t chunk, first, tokens;
  };
  std::vector<Queries> runs;
  std::size_t chunks = 0;
  for (const StepChunk& c : step.chunks) chunks += c.decompress > 0;
  if (chunks == 0) return;
  // Queries are split only where there are too few heads for the threads: keys are then made again.
  const std::size_t splits = std::max<std::size_t>(1, 2 * pool_.threads() / (chunks * heads));
  for (std::size_t i = 0; i < step.chunks.size(); ++i) {
    const std::size_t tokens = step.chunks[i].decompress;
    const std::size_t each = std::max<std::size_t>((tokens + splits - 1) / splits, std::min<std::size_t>(tokens, 32));
    for (std::size_t t = 0; t < tokens; t += each) runs.push_back({i, t, std::min(each, tokens - t)});
  }
  pool_.run(runs.size() * heads, [&](std::size_t job, std::size_t thread) {
    const Queries& run = runs[job / heads];
    const StepChunk& c = step.chunks[run.chunk];
    const std::size_t n = job % heads;
    std::vector<float>& scratch = b.scratch[thread];
    scratch.resize(std::max(scratch.size(), mla_scratch(mla_, run.tokens)));
    const Latents latents{base, row, step.tables + c.table, step.block_tokens};
    kernels_.mla_naive(mla_, w.expand_k[n]->matrix(), w.expand_v[n]->matrix(),
                       b.q.at(c.first + run.first) + n * mla_.query_row(), b.q.stride, run.tokens, c.start + run.first,
                       latents, shape_.softmax_scale, scratch.data(),
                       b.attended.at(c.first + run.first) + n * shape_.value, b.attended.stride);
  });
}

void Model::route(const LayerWeights& w) {
  Buffers& b = *b_;
  const ModelShape& s = shape_;
  const Router r{s.experts, s.top_k, s.groups, s.kept_groups, s.renormalize, s.routed_scale};
  b.router.shape(b.tokens, s.experts);
  for (std::size_t t = 0; t < b.tokens; ++t) b.in[t] = b.normed.at(t), b.out[t] = b.router.at(t);
  multiply(w.router->matrix(), b.in, b.out);
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

// Rows in 8 bits, and pointers to them.
void Model::quantize(const float* rows, std::size_t stride, std::size_t count, std::size_t groups,
                     std::vector<std::int32_t>& to, std::vector<const std::int32_t*>& at) {
  const std::size_t row = quantized_row(groups), each = 16;
  to.resize(std::max(to.size(), count * row));
  at.resize(count);
  for (std::size_t i = 0; i < count; ++i) at[i] = to.data() + i * row;
  pool_.run((count + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t i = job * each; i < std::min(count, (job + 1) * each); ++i)
      kernels_.quantize(rows + i * stride, groups, to.data() + i * row);
  });
}

void Model::mlp(const LayerWeights& w) {
  Buffers& b = *b_;
  const std::size_t tokens = b.tokens, width = shape_.hidden;
  const bool sparse = w.router != nullptr;
  const bool fast = sparse && shape_.fast_experts && w.experts[0].gate->matrix().kind == Kind::int4;
  if (sparse)
    route(w);
  else
    b.pairs.clear();
  const std::size_t pairs = b.pairs.size();
  Rows& first_inner = sparse ? b.shared_inner : b.dense_inner;
  first_inner.shape(tokens, w.shared.gate->matrix().rows);
  if (sparse) b.inner.shape(pairs, w.experts[0].gate->matrix().rows);

  // Everything that is multiplied by all tokens, then each expert by its own: gate, up and SiLU.
  b.in.resize(tokens);
  b.out.resize(tokens);
  for (std::size_t t = 0; t < tokens; ++t) b.in[t] = b.normed.at(t), b.out[t] = first_inner.at(t);
  b.in_inner.resize(pairs);
  b.out_inner.resize(std::max(pairs, b.out_inner.size()));
  for (std::size_t i = 0; i < pairs; ++i) {
    b.in_inner[i] = b.normed.at(b.pairs[i].token);
    b.out_inner[i] = b.inner.at(i);
  }
  if (fast) {
    quantize(b.normed.data.data(), b.normed.stride, tokens, w.experts[0].gate->matrix().groups, b.bytes, b.in_bytes);
    b.pair_bytes.resize(pairs);
    for (std::size_t i = 0; i < pairs; ++i) b.pair_bytes[i] = b.in_bytes[b.pairs[i].token];
  }
  struct Rows16 {
    std::size_t expert, first, last;  // expert E: the shared ones, or the dense MLP
  };
  std::vector<Rows16> jobs;
  const std::size_t none = shape_.experts;
  std::size_t blocks = w.shared.gate->matrix().blocks;
  double flops = 2 * flops_of(w.shared.gate->matrix(), tokens);
  for (std::size_t e = 0; sparse && e < none; ++e)
    if (b.expert_first[e + 1] > b.expert_first[e]) blocks += w.experts[e].gate->matrix().blocks;
  if (sparse) flops += 2 * flops_of(w.experts[0].gate->matrix(), pairs);
  const std::size_t each = std::max<std::size_t>(1, blocks / (pool_.threads() * 8));
  const auto add = [&](std::size_t expert, std::size_t count) {
    for (std::size_t i = 0; i < count; i += each) jobs.push_back({expert, i, std::min(count, i + each)});
  };
  add(none, w.shared.gate->matrix().blocks);
  for (std::size_t e = 0; sparse && e < none; ++e)
    if (b.expert_first[e + 1] > b.expert_first[e]) add(e, w.experts[e].gate->matrix().blocks);
  const auto widen = [&](std::size_t job, std::size_t) {
    const Rows16& j = jobs[job];
    const MlpWeights& m = j.expert == none ? w.shared : w.experts[j.expert];
    const std::size_t at = j.expert == none ? 0 : b.expert_first[j.expert];
    const std::size_t count = j.expert == none ? tokens : b.expert_first[j.expert + 1] - at;
    const float* const* x = j.expert == none ? b.in.data() : b.in_inner.data() + at;
    float* const* y = j.expert == none ? b.out.data() : b.out_inner.data() + at;
    if (fast && j.expert != none)
      kernels_.gate_up8(m.gate->matrix(), m.up->matrix(), j.first, j.last, b.pair_bytes.data() + at, count, y);
    else
      kernels_.gate_up(m.gate->matrix(), m.up->matrix(), j.first, j.last, x, count, y);
  };
  if (flops < kSerial)
    for (std::size_t i = 0; i < jobs.size(); ++i) widen(i, 0);
  else
    pool_.run(jobs.size(), widen);

  // Back to the hidden size. Each job has some rows of the result for itself and adds the experts in their
  // order, so that no sum depends on who came first.
  if (fast)
    quantize(b.inner.data.data(), b.inner.stride, pairs, w.experts[0].down->matrix().groups, b.inner_bytes,
             b.in_inner_bytes);
  b.weights.resize(pairs);
  b.in_inner.resize(pairs);
  for (std::size_t t = 0; t < tokens; ++t) b.in[t] = first_inner.at(t), b.out[t] = b.moe.at(t);
  for (std::size_t i = 0; i < pairs; ++i) {
    b.in_inner[i] = b.inner.at(i);
    b.out_inner[i] = b.moe.at(b.pairs[i].token);
    b.weights[i] = b.pairs[i].weight;
  }
  by_rows(w.shared.down->matrix().blocks, flops / 2, [&](std::size_t first, std::size_t last, std::size_t) {
    kernels_.matmul(w.shared.down->matrix(), first, last, b.in.data(), tokens, b.out.data());
    for (std::size_t e = 0; sparse && e < none; ++e) {
      const std::size_t at = b.expert_first[e], count = b.expert_first[e + 1] - at;
      if (!count) continue;
      const Matrix& down = w.experts[e].down->matrix();
      if (fast)
        kernels_.matmul_add8(down, first, last, b.in_inner_bytes.data() + at, count, b.weights.data() + at,
                             b.out_inner.data() + at);
      else
        kernels_.matmul_add(down, first, last, b.in_inner.data() + at, count, b.weights.data() + at,
                            b.out_inner.data() + at);
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      float* x = b.x.at(t);
      const float* y = b.moe.at(t);
      for (std::size_t i = first * kRows; i < std::min(width, last * kRows); ++i) x[i] += y[i];
    }
  });
}

void Model::logits(const StepInput& step) {
  Buffers& b = *b_;
  std::vector<const float*> in;
  std::vector<float*> out;
  for (const StepChunk& c : step.chunks)
    for (std::size_t t = c.first + c.tokens - c.wanted; t < c.first + c.tokens; ++t) {
      rmsnorm(isa_, b.x.at(t), final_norm_.data(), b.normed.at(t), 1, shape_.hidden, shape_.eps);
      in.push_back(b.normed.at(t));
      out.push_back(step.logits + out.size() * shape_.vocab);
    }
  if (!in.empty()) multiply(head_->matrix(), in, out);
}

}  // namespace abruzzi
