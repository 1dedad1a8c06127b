// MLA in both its forms (DeepSeek-V2, section 2.1; twins: kernels/ref.py:mla_absorbed and
// mla_naive). Absorbed: the key half of kv_b_proj goes into the query, attention reads the latents,
// the value half comes after. Naive: keys and values are decompressed first, which is cheaper for
// many tokens.
#include "step/mla.h"

#include <algorithm>
#include <cstring>

#include "kernels/rmsnorm.h"

namespace abruzzi {
namespace {

constexpr std::size_t kSegment = 256;      // positions of one part of an absorbed attention
constexpr std::size_t kPartsAtOnce = 512;  // bounds the memory of the parts

MlaSizes checked(MlaSizes s) {
  if (!s.hidden || !s.heads || !s.rank || !s.nope || !s.rope || !s.value || s.rope % 2)
    refuse("a size of the model is 0, or its rope dim odd");
  if (s.inv_freq.size() * 2 != s.rope) refuse("inv_freq needs one number per rotary pair");
  return s;
}

}  // namespace

MlaBuffers::MlaBuffers(MlaSizes given, std::size_t threads)
    : sizes(checked(std::move(given))),
      shape(mla_shape(sizes.heads, sizes.rank, sizes.nope, sizes.rope, sizes.value)),
      scratch(threads) {}

void MlaBuffers::prepare(const Step& step) {
  const std::size_t tokens = step.tokens;
  absorbed.clear();
  for (const StepChunk& c : step.input->chunks)
    for (std::size_t t = c.prefill; t < c.tokens; ++t) absorbed.push_back(c.first + t);
  rope.fill(step.position, sizes.inv_freq, sizes.rope_factor);
  q_raw.shape(tokens, sizes.heads * (sizes.nope + sizes.rope));
  kv_raw.shape(tokens, sizes.rank + sizes.rope);
  q.shape(tokens, sizes.heads * shape.query_row());
  latent_q.shape(absorbed.size(), sizes.heads * shape.latent_row());
  latent_out.shape(absorbed.size(), sizes.heads * shape.rank_pad);
  attended.shape(tokens, sizes.heads * sizes.value);
  ones.assign(tokens, 1.0f);
}

Mla::Mla(Compute& compute, std::shared_ptr<MlaBuffers> buffers, MlaWeights weights)
    : c_(compute), b_(std::move(buffers)), w_(std::move(weights)) {
  const MlaSizes& s = b_->sizes;
  expect(w_.kv_norm, s.rank, "kv_a_layernorm");
  std::size_t query_in = s.hidden;
  if (w_.q_a != nullptr) {
    query_in = w_.q_a->matrix().rows;
    expect(w_.q_a, query_in, s.hidden, "q_a_proj");
    expect(w_.q_norm, query_in, "q_a_layernorm");
  }
  expect(w_.q, s.heads * (s.nope + s.rope), query_in, w_.q_a != nullptr ? "q_b_proj" : "q_proj");
  expect(w_.kv_a, s.rank + s.rope, s.hidden, "kv_a_proj_with_mqa");
  expect(w_.o, s.hidden, s.heads * s.value, "o_proj");
  if (w_.absorb_k.size() != s.heads || w_.expand_k.size() != s.heads || w_.expand_v.size() != s.heads)
    refuse("kv_b_proj is not there for every head");
  for (std::size_t n = 0; n < s.heads; ++n) {
    expect(w_.absorb_k[n], s.rank, s.nope, "kv_b_proj's key part, transposed");
    expect(w_.expand_k[n], s.nope, s.rank, "kv_b_proj's key part");
    expect(w_.expand_v[n], s.value, s.rank, "kv_b_proj's value part");
  }
}

std::size_t Mla::weight_bytes() const {
  std::size_t sum = w_.q->matrix().bytes() + w_.kv_a->matrix().bytes() + w_.o->matrix().bytes();
  if (w_.q_a != nullptr) sum += w_.q_a->matrix().bytes();
  for (const auto* heads : {&w_.absorb_k, &w_.expand_k, &w_.expand_v})
    for (const PackedPtr& m : *heads) sum += m->matrix().bytes();
  return sum;
}

void Mla::run(Step& step, float* cache) {
  MlaBuffers& b = *b_;
  project(step);
  place(step, cache);
  if (!b.absorbed.empty()) {
    fold_queries();
    for (std::size_t begin = 0; begin < b.absorbed.size();) begin = attend_absorbed(step, cache, begin);
  }
  attend_naive(step, cache);
  const Matrix& o = w_.o->matrix();
  c_.operand(b.attended, step.tokens, c_.in_bytes(o), b.attended_in);
  step.x.point(step.tokens, b.x_out);
  c_.by_rows(o.blocks, flops_of(o, step.tokens), [&](std::size_t first, std::size_t last, std::size_t) {
    c_.product_add(o, first, last, b.attended_in, 0, step.tokens, b.ones.data(), b.x_out.data());
  });
}

// Queries and latents of all tokens, before norm and rotation. The first projection of both is one
// job list.
void Mla::project(Step& step) {
  MlaBuffers& b = *b_;
  const std::size_t tokens = step.tokens;
  const Matrix& kv = w_.kv_a->matrix();
  const Matrix& q = (w_.q_a == nullptr ? w_.q : w_.q_a)->matrix();
  Rows& q_out = w_.q_a == nullptr ? b.q_raw : b.q_a;
  q_out.shape(tokens, q.rows);
  c_.operand(step.normed, tokens, c_.in_bytes(q) || c_.in_bytes(kv), b.normed_in);
  q_out.point(tokens, b.q_out);
  b.kv_raw.point(tokens, b.kv_out);
  c_.by_rows(q.blocks + kv.blocks, flops_of(q, tokens) + flops_of(kv, tokens),
             [&](std::size_t first, std::size_t last, std::size_t) {
               if (first < q.blocks)
                 c_.product(q, first, std::min(last, q.blocks), b.normed_in, 0, tokens, b.q_out.data());
               if (last > q.blocks)
                 c_.product(kv, std::max(first, q.blocks) - q.blocks, last - q.blocks, b.normed_in, 0, tokens,
                            b.kv_out.data());
             });
  if (w_.q_a == nullptr) return;
  c_.norm(w_.q_norm, b.sizes.latent_eps, b.q_a.data.data(), b.q_a.data.data(), b.q_a.stride, tokens);
  c_.operand(b.q_a, tokens, c_.in_bytes(w_.q->matrix()), b.q_a_in);
  b.q_raw.point(tokens, b.q_out);
  c_.multiply(w_.q->matrix(), b.q_a_in, b.q_out);
}

// Rotation; the latents into the cache, the queries into padded rows.
void Mla::place(const Step& step, float* cache) {
  MlaBuffers& b = *b_;
  const MlaSizes& s = b.sizes;
  const std::size_t pairs = b.rope.pairs, each = 16;
  c_.pool.run((step.tokens + each - 1) / each, [&](std::size_t job, std::size_t) {
    for (std::size_t t = job * each; t < std::min(step.tokens, (job + 1) * each); ++t) {
      float* latent = cache + step.slot(t) * b.shape.latent_row();
      rmsnorm(c_.isa, b.kv_raw.at(t), w_.kv_norm.data(), latent, 1, s.rank, s.latent_eps);
      const float *cos = b.rope.cos.data() + t * pairs, *sin = b.rope.sin.data() + t * pairs;
      c_.kernels.rope(b.kv_raw.at(t) + s.rank, cos, sin, latent + b.shape.rank_pad, pairs);
      for (std::size_t n = 0; n < s.heads; ++n) {
        const float* from = b.q_raw.at(t) + n * (s.nope + s.rope);
        float* to = b.q.at(t) + n * b.shape.query_row();
        std::memcpy(to, from, s.nope * sizeof(float));
        c_.kernels.rope(from + s.nope, cos, sin, to + b.shape.nope_pad, pairs);
      }
    }
  });
}

// The key half of kv_b_proj goes into the query.
void Mla::fold_queries() {
  MlaBuffers& b = *b_;
  const MlaShape& shape = b.shape;
  const std::size_t heads = b.sizes.heads, all = b.absorbed.size();
  const double flops = flops_of(w_.absorb_k[0]->matrix(), all) * static_cast<double>(heads);
  c_.by_rows(heads, flops, [&](std::size_t first, std::size_t last, std::size_t thread) {
    std::vector<const float*> x(all);
    std::vector<float*> y(all);
    for (std::size_t n = first; n < last; ++n) {
      for (std::size_t a = 0; a < all; ++a) {
        x[a] = b.q.at(b.absorbed[a]) + n * shape.query_row();
        y[a] = b.latent_q.at(a) + n * shape.latent_row();
        std::memcpy(y[a] + shape.rank_pad, x[a] + shape.nope_pad, shape.rope_pad * sizeof(float));
      }
      c_.multiply_alone(w_.absorb_k[n]->matrix(), x, y, thread);
    }
  });
}

// Queries of the latent space from number `begin` on, as many as make parts for the bounded memory;
// the next number.
std::size_t Mla::attend_absorbed(const Step& step, const float* cache, std::size_t begin) {
  MlaBuffers& b = *b_;
  const std::size_t heads = b.sizes.heads, all = b.absorbed.size(), row = b.shape.latent_row();
  struct Part {
    std::size_t query, first, last;
  };
  std::vector<Part> parts;
  std::vector<std::size_t> first_part;
  std::size_t end = begin;
  double work = 0;
  for (; end < all && (end == begin || parts.size() < kPartsAtOnce); ++end) {
    const std::size_t positions = step.position[b.absorbed[end]] + 1;
    first_part.push_back(parts.size());
    for (std::size_t p = 0; p < positions; p += kSegment) parts.push_back({end, p, std::min(positions, p + kSegment)});
    work += 4.0 * static_cast<double>(positions * heads * row);
  }
  first_part.push_back(parts.size());
  b.part_m.resize(std::max(b.part_m.size(), parts.size() * heads));
  b.part_l.resize(b.part_m.size());
  b.part_u.resize(b.part_m.size() * b.shape.rank_pad);
  // Heads are split only where there are too few parts for the threads: each latent is then read
  // again.
  const std::size_t jobs = work < kSerial ? 1 : 2 * c_.pool.threads();
  const std::size_t splits = std::clamp<std::size_t>(jobs / parts.size(), 1, std::max<std::size_t>(1, heads / 4));
  const std::size_t each = (heads + splits - 1) / splits;
  c_.run(parts.size() * splits, work, [&](std::size_t job, std::size_t) {
    const Part& part = parts[job / splits];
    const std::size_t n = job % splits * each;
    if (n >= heads) return;
    const StepChunk& chunk = step.input->chunks[step.chunk[b.absorbed[part.query]]];
    const Latents latents{cache, row, step.table(chunk), step.input->block_tokens};
    const std::size_t at = job / splits * heads + n;
    c_.kernels.mla_absorbed(b.shape, std::min(each, heads - n), b.latent_q.at(part.query) + n * row, latents,
                            part.first, part.last, b.sizes.softmax_scale, b.part_m.data() + at, b.part_l.data() + at,
                            b.part_u.data() + at * b.shape.rank_pad);
  });
  expand(begin, end, first_part);
  return end;
}

// The parts of queries [begin, end) put together, then the value half of kv_b_proj.
void Mla::expand(std::size_t begin, std::size_t end, const std::vector<std::size_t>& first_part) {
  MlaBuffers& b = *b_;
  const std::size_t heads = b.sizes.heads;
  const double flops = flops_of(w_.expand_v[0]->matrix(), end - begin) * static_cast<double>(heads);
  c_.by_rows(heads, flops, [&](std::size_t first, std::size_t last, std::size_t thread) {
    std::vector<const float*> x(end - begin);
    std::vector<float*> y(end - begin);
    for (std::size_t n = first; n < last; ++n) {
      for (std::size_t a = begin; a < end; ++a) {
        const std::size_t at = first_part[a - begin] * heads + n;
        float* merged = b.latent_out.at(a) + n * b.shape.rank_pad;
        c_.kernels.mla_merge(b.shape, first_part[a - begin + 1] - first_part[a - begin], heads, b.part_m.data() + at,
                             b.part_l.data() + at, b.part_u.data() + at * b.shape.rank_pad, merged);
        x[a - begin] = merged;
        y[a - begin] = b.attended.at(b.absorbed[a]) + n * b.sizes.value;
      }
      c_.multiply_alone(w_.expand_v[n]->matrix(), x, y, thread);
    }
  });
}

void Mla::attend_naive(const Step& step, const float* cache) {
  MlaBuffers& b = *b_;
  const std::vector<StepChunk>& chunks = step.input->chunks;
  const std::size_t heads = b.sizes.heads;
  struct Queries {
    std::size_t chunk, first, tokens;
  };
  std::vector<Queries> runs;
  std::size_t prefills = 0;
  for (const StepChunk& c : chunks) prefills += c.prefill > 0;
  if (prefills == 0) return;
  // Queries are split only where there are too few heads for the threads: keys are then made again.
  const std::size_t splits = std::max<std::size_t>(1, 2 * c_.pool.threads() / (prefills * heads));
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::size_t tokens = chunks[i].prefill;
    const std::size_t each = std::max<std::size_t>((tokens + splits - 1) / splits, std::min<std::size_t>(tokens, 32));
    for (std::size_t t = 0; t < tokens; t += each) runs.push_back({i, t, std::min(each, tokens - t)});
  }
  c_.pool.run(runs.size() * heads, [&](std::size_t job, std::size_t thread) {
    const Queries& run = runs[job / heads];
    const StepChunk& chunk = chunks[run.chunk];
    const std::size_t n = job % heads, token = chunk.first + run.first;
    float* scratch = b.scratch.of(thread, mla_scratch(b.shape, run.tokens));
    const Latents latents{cache, b.shape.latent_row(), step.table(chunk), step.input->block_tokens};
    c_.kernels.mla_naive(b.shape, w_.expand_k[n]->matrix(), w_.expand_v[n]->matrix(),
                         b.q.at(token) + n * b.shape.query_row(), b.q.stride, run.tokens, chunk.start + run.first,
                         latents, b.sizes.softmax_scale, scratch, b.attended.at(token) + n * b.sizes.value,
                         b.attended.stride);
  });
}

}  // namespace abruzzi
