// Grouped-query attention (arXiv 2305.13245; twin: kernels/ref.py:gqa). Heads of queries that share
// a head of keys and values go over it together. Positions are worked on in parts of a fixed length,
// which are put together in order, so that no bit depends on who shares the work.
#include "step/gqa.h"

#include <algorithm>
#include <cstring>

#include "kernels/rmsnorm.h"

namespace abruzzi {
namespace {

constexpr std::size_t kSegment = 512;        // positions of one part
constexpr std::size_t kTileRows = 64;        // queries that go over the positions together
constexpr std::size_t kPartsAtOnce = 16384;  // of a query: bounds the memory of the parts

GqaSizes checked(GqaSizes s) {
  if (!s.hidden || !s.heads || !s.kv_heads || !s.width || s.heads % s.kv_heads)
    refuse("a size of the model is 0, or its heads do not share keys evenly");
  if (s.inv_freq.size() * 2 > s.width) refuse("there are more rotary pairs than a head has");
  return s;
}

void expect_or_none(const std::vector<float>& v, std::size_t size, const char* name) {
  if (!v.empty()) expect(v, size, name);
}

void add_bias(const std::vector<float>& bias, float* row) {
  for (std::size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
}

}  // namespace

GqaBuffers::GqaBuffers(GqaSizes given, std::size_t threads)
    : sizes(checked(std::move(given))), shape(gqa_shape(sizes.heads, sizes.kv_heads, sizes.width)), scratch(threads) {}

void GqaBuffers::prepare(const Step& step) {
  const std::size_t tokens = step.tokens;
  rope.fill(step.position, sizes.inv_freq, sizes.rope_factor);
  q_raw.shape(tokens, sizes.heads * sizes.width);
  k_raw.shape(tokens, sizes.kv_heads * sizes.width);
  v_raw.shape(tokens, sizes.kv_heads * sizes.width);
  // Zeros between a head's end and a whole vector: nothing is ever written there.
  q.resize(std::max(q.size(), tokens * sizes.heads * shape.width_pad));
  attended.shape(tokens, sizes.heads * sizes.width);
  ones.assign(tokens, 1.0f);
  tiles.clear();
  const std::size_t each = std::max<std::size_t>(1, kTileRows / (sizes.heads / sizes.kv_heads));
  for (std::size_t i = 0; i < step.input->chunks.size(); ++i) {
    const std::size_t all = step.input->chunks[i].tokens;
    for (std::size_t t = 0; t < all; t += each) tiles.push_back({i, t, std::min(each, all - t)});
  }
}

Gqa::Gqa(Compute& compute, std::shared_ptr<GqaBuffers> buffers, GqaWeights weights)
    : c_(compute), b_(std::move(buffers)), w_(std::move(weights)) {
  const GqaSizes& s = b_->sizes;
  const std::size_t queries = s.heads * s.width, keys = s.kv_heads * s.width;
  expect(w_.q, queries, s.hidden, "q_proj");
  expect(w_.k, keys, s.hidden, "k_proj");
  expect(w_.v, keys, s.hidden, "v_proj");
  expect(w_.o, s.hidden, queries, "o_proj");
  expect_or_none(w_.q_bias, queries, "q_proj.bias");
  expect_or_none(w_.k_bias, keys, "k_proj.bias");
  expect_or_none(w_.v_bias, keys, "v_proj.bias");
  expect_or_none(w_.o_bias, s.hidden, "o_proj.bias");
  expect_or_none(w_.q_norm, s.width, "q_norm");
  expect_or_none(w_.k_norm, s.width, "k_norm");
}

std::size_t Gqa::weight_bytes() const {
  std::size_t sum = 0;
  for (const PackedPtr* m : {&w_.q, &w_.k, &w_.v, &w_.o}) sum += (*m)->matrix().bytes();
  return sum;
}

void Gqa::run(Step& step, float* cache) {
  GqaBuffers& b = *b_;
  project(step);
  place(step, cache);
  attend(step, cache);
  const Matrix& o = w_.o->matrix();
  c_.operand(b.attended, step.tokens, c_.in_bytes(o), b.attended_in);
  step.x.point(step.tokens, b.x_out);
  c_.by_rows(o.blocks, flops_of(o, step.tokens), [&](std::size_t first, std::size_t last, std::size_t) {
    c_.product_add(o, first, last, b.attended_in, 0, step.tokens, b.ones.data(), b.x_out.data());
    if (w_.o_bias.empty()) return;
    for (std::size_t t = 0; t < step.tokens; ++t)
      for (std::size_t r = first * kRows; r < std::min(o.rows, last * kRows); ++r) b.x_out[t][r] += w_.o_bias[r];
  });
}

// Queries, keys and values of all tokens, before norm and rotation: one job list.
void Gqa::project(Step& step) {
  GqaBuffers& b = *b_;
  const std::size_t tokens = step.tokens;
  struct Part {
    const Matrix& m;
    std::vector<float*>& out;
  };
  const Part parts[] = {{w_.q->matrix(), b.q_out}, {w_.k->matrix(), b.k_out}, {w_.v->matrix(), b.v_out}};
  b.q_raw.point(tokens, b.q_out);
  b.k_raw.point(tokens, b.k_out);
  b.v_raw.point(tokens, b.v_out);
  std::size_t blocks = 0;
  double flops = 0;
  bool bytes = false;
  for (const Part& part : parts) {
    blocks += part.m.blocks;
    flops += flops_of(part.m, tokens);
    bytes = bytes || c_.in_bytes(part.m);
  }
  c_.operand(step.normed, tokens, bytes, b.normed_in);
  c_.by_rows(blocks, flops, [&](std::size_t first, std::size_t last, std::size_t) {
    std::size_t begin = 0;
    for (const Part& part : parts) {
      const std::size_t from = std::max(first, begin), to = std::min(last, begin + part.m.blocks);
      if (from < to) c_.product(part.m, from - begin, to - begin, b.normed_in, 0, tokens, part.out.data());
      begin += part.m.blocks;
    }
  });
}

// Biases, norms and rotation; keys and values into the cache, queries to those of their group.
void Gqa::place(const Step& step, float* cache) {
  GqaBuffers& b = *b_;
  const GqaSizes& s = b.sizes;
  const std::size_t pairs = b.rope.pairs, wide = b.shape.width_pad, each = s.heads / s.kv_heads, some = 16;
  const auto turn = [&](const std::vector<float>& norm, float* from, std::size_t t, float* to) {
    if (!norm.empty()) rmsnorm(c_.isa, from, norm.data(), from, 1, s.width, s.norm_eps);
    c_.kernels.rope(from, b.rope.cos.data() + t * pairs, b.rope.sin.data() + t * pairs, to, pairs);
    std::memcpy(to + 2 * pairs, from + 2 * pairs, (s.width - 2 * pairs) * sizeof(float));
  };
  c_.pool.run((step.tokens + some - 1) / some, [&](std::size_t job, std::size_t) {
    for (std::size_t t = job * some; t < std::min(step.tokens, (job + 1) * some); ++t) {
      float *q = b.q_raw.at(t), *k = b.k_raw.at(t), *v = b.v_raw.at(t);
      add_bias(w_.q_bias, q);
      add_bias(w_.k_bias, k);
      add_bias(w_.v_bias, v);
      float* row = cache + step.slot(t) * b.shape.cache_row();
      for (std::size_t m = 0; m < s.kv_heads; ++m) {
        turn(w_.k_norm, k + m * s.width, t, row + m * wide);
        std::memcpy(row + (s.kv_heads + m) * wide, v + m * s.width, s.width * sizeof(float));
        for (std::size_t n = 0; n < each; ++n)
          turn(w_.q_norm, q + (m * each + n) * s.width, t, b.q.data() + ((m * step.tokens + t) * each + n) * wide);
      }
    }
  });
}

void Gqa::attend(const Step& step, const float* cache) {
  for (std::size_t begin = 0; begin < b_->tiles.size();) begin = attend_some(step, cache, begin);
}

// Tiles from number `begin` on, as many as make parts for the bounded memory; the next number.
std::size_t Gqa::attend_some(const Step& step, const float* cache, std::size_t begin) {
  GqaBuffers& b = *b_;
  const GqaSizes& s = b.sizes;
  const std::size_t wide = b.shape.width_pad, each = s.heads / s.kv_heads;
  struct Part {
    std::size_t tile, first, last, at;  // at: where its results begin
  };
  std::vector<Part> parts;
  std::vector<std::size_t> first_part;  // of each tile
  std::size_t size = 0, end = begin;
  double work = 0;
  for (; end < b.tiles.size() && (end == begin || size < kPartsAtOnce); ++end) {
    const GqaBuffers::Tile& tile = b.tiles[end];
    const std::size_t positions = step.input->chunks[tile.chunk].start + tile.first + tile.tokens;
    first_part.push_back(parts.size());
    for (std::size_t p = 0; p < positions; p += kSegment, size += tile.tokens * s.heads)
      parts.push_back({end, p, std::min(positions, p + kSegment), size});
    work += 4.0 * static_cast<double>(positions * tile.tokens * s.heads * wide);
  }
  first_part.push_back(parts.size());
  b.part_m.resize(std::max(b.part_m.size(), size));
  b.part_l.resize(b.part_m.size());
  b.part_u.resize(b.part_m.size() * wide);
  // Heads are split only where there are too few parts for the threads.
  const std::size_t wanted = work < kSerial ? 1 : 2 * c_.pool.threads();
  const std::size_t splits = std::clamp<std::size_t>((wanted + parts.size() - 1) / parts.size(), 1, s.kv_heads);
  c_.run(parts.size() * splits, work, [&](std::size_t job, std::size_t thread) {
    const Part& part = parts[job / splits];
    const std::size_t first = job % splits * s.kv_heads / splits, last = (job % splits + 1) * s.kv_heads / splits;
    const GqaBuffers::Tile& tile = b.tiles[part.tile];
    const StepChunk& chunk = step.input->chunks[tile.chunk];
    const Latents rows{cache, b.shape.cache_row(), step.table(chunk), step.input->block_tokens};
    float* scratch = b.scratch.of(thread, tile.tokens * each * kPositions);
    c_.kernels.gqa(b.shape, first, last, b.q.data() + (chunk.first + tile.first) * each * wide,
                   step.tokens * each * wide, tile.tokens, chunk.start + tile.first, rows, part.first, part.last,
                   s.softmax_scale, scratch, b.part_m.data() + part.at, b.part_l.data() + part.at,
                   b.part_u.data() + part.at * wide);
  });
  c_.run(end - begin, work, [&](std::size_t i, std::size_t thread) {
    const GqaBuffers::Tile& tile = b.tiles[begin + i];
    const std::size_t queries = tile.tokens * each, token = step.input->chunks[tile.chunk].first + tile.first;
    const std::size_t count = first_part[i + 1] - first_part[i], first = parts[first_part[i]].at;
    float* merged = b.scratch.of(thread, wide);
    for (std::size_t m = 0; m < s.kv_heads; ++m)
      for (std::size_t row = 0; row < queries; ++row) {
        const std::size_t at = first + m * queries + row;
        c_.kernels.gqa_merge(wide, count, tile.tokens * s.heads, b.part_m.data() + at, b.part_l.data() + at,
                             b.part_u.data() + at * wide, merged);
        std::memcpy(b.attended.at(token + row / each) + (m * each + row % each) * s.width, merged,
                    s.width * sizeof(float));
      }
  });
  return end;
}

}  // namespace abruzzi
