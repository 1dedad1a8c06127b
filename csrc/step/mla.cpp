// The attention of a step: projections, rotation, MLA in both its forms, and the way back to the hidden size.
#include <algorithm>
#include <cstring>

#include "kernels/rmsnorm.h"
#include "step/buffers.h"

namespace abruzzi {
namespace {

constexpr std::size_t kSegment = 256;      // positions of one part of an absorbed attention
constexpr std::size_t kPartsAtOnce = 512;  // bounds the memory of the parts

}  // namespace

void Model::attend(const StepInput& step, std::size_t index) {
  Buffers& b = *b_;
  const LayerWeights& w = layers_[index];
  project(w);
  place(step, index);
  if (!b.absorbed.empty()) attend_absorbed(step, index);
  attend_naive(step, index);
  const Matrix& o = w.o->matrix();
  operand(b.attended, b.tokens, in_bytes(o), b.attended_in);
  for (std::size_t t = 0; t < b.tokens; ++t) b.out[t] = b.x.at(t);
  by_rows(o.blocks, flops_of(o, b.tokens), [&](std::size_t first, std::size_t last, std::size_t) {
    product_add(o, first, last, b.attended_in, 0, b.tokens, b.ones.data(), b.out.data());
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
  operand(b.normed, tokens, in_bytes(q) || in_bytes(kv), b.normed_in);
  b.more_out.resize(std::max(b.more_out.size(), tokens));
  for (std::size_t t = 0; t < tokens; ++t) b.out[t] = q_out.at(t), b.more_out[t] = b.kv_raw.at(t);
  by_rows(q.blocks + kv.blocks, flops_of(q, tokens) + flops_of(kv, tokens),
          [&](std::size_t first, std::size_t last, std::size_t) {
            if (first < q.blocks) product(q, first, std::min(last, q.blocks), b.normed_in, 0, tokens, b.out.data());
            if (last > q.blocks)
              product(kv, std::max(first, q.blocks) - q.blocks, last - q.blocks, b.normed_in, 0, tokens,
                      b.more_out.data());
          });
  if (w.q_a == nullptr) return;
  norm(w.q_norm, shape_.latent_eps, b.q_a.data.data(), b.q_a.data.data(), b.q_a.stride);
  operand(b.q_a, tokens, in_bytes(w.q_b->matrix()), b.q_a_in);
  for (std::size_t t = 0; t < tokens; ++t) b.out[t] = b.q_raw.at(t);
  multiply(w.q_b->matrix(), b.q_a_in, b.out);
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

// One head's part of kv_b_proj, by one thread.
void Model::of_one_head(const Matrix& m, const std::vector<const float*>& x, const std::vector<float*>& y,
                        std::size_t thread) {
  if (!in_bytes(m)) return kernels_.matmul(m, 0, m.blocks, x.data(), x.size(), y.data());
  const std::size_t row = quantized_row(m.groups);
  std::vector<std::int32_t>& memory = b_->byte_scratch[thread];
  memory.resize(std::max(memory.size(), x.size() * row));
  std::vector<const std::int32_t*> bytes(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    kernels_.quantize(x[i], m.groups, memory.data() + i * row);
    bytes[i] = memory.data() + i * row;
  }
  kernels_.matmul8(m, 0, m.blocks, bytes.data(), x.size(), y.data());
}

void Model::attend_absorbed(const StepInput& step, std::size_t index) {
  Buffers& b = *b_;
  const LayerWeights& w = layers_[index];
  const std::size_t heads = shape_.heads, all = b.absorbed.size(), row = mla_.latent_row();
  const float* base = step.latents + index * step.slots * row;
  // The key half of kv_b_proj goes into the query.
  const double fold = flops_of(w.absorb_k[0]->matrix(), all) * static_cast<double>(heads);
  by_rows(heads, fold, [&](std::size_t first, std::size_t last, std::size_t thread) {
    std::vector<const float*> x(all);
    std::vector<float*> y(all);
    for (std::size_t n = first; n < last; ++n) {
      for (std::size_t a = 0; a < all; ++a) {
        x[a] = b.q.at(b.absorbed[a]) + n * mla_.query_row();
        y[a] = b.latent_q.at(a) + n * row;
        std::memcpy(y[a] + mla_.rank_pad, x[a] + mla_.nope_pad, mla_.rope_pad * sizeof(float));
      }
      of_one_head(w.absorb_k[n]->matrix(), x, y, thread);
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
    by_rows(heads, expand, [&](std::size_t first, std::size_t last, std::size_t thread) {
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
        of_one_head(w.expand_v[n]->matrix(), x, y, thread);
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

}  // namespace abruzzi
