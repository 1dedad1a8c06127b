// Both forms of MLA over a cache of latents, for tests and for self-tests. The queries are the last
// of the positions.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <vector>

#include "bind/bind.h"
#include "kernels/packed.h"
#include "kernels/step_kernels.h"

using abruzzi::Isa;
using abruzzi::Latents;
using abruzzi::Matrix;
using abruzzi::MlaShape;
using abruzzi::PackedPtr;

namespace {

struct Queries {
  MlaShape shape;
  std::size_t tokens;
  std::vector<float> rows;  // [T, N query_row], padded
  Latents latents;

  float* at(std::size_t token, std::size_t head) {
    return rows.data() + (token * shape.heads + head) * shape.query_row();
  }
};

Queries queries(In<float, 3> q, In<float, 3> q_pe, In<float, 2> latents, In<std::int32_t, 1> table, std::size_t block,
                std::size_t positions, const std::vector<PackedPtr>& key, bool transposed,
                const std::vector<PackedPtr>& value, Out<float, 3> out) {
  const std::size_t tokens = q.shape(0), heads = q.shape(1), nope = q.shape(2), rope = q_pe.shape(2);
  const auto is = [](const PackedPtr& p, std::size_t rows, std::size_t columns) {
    return p && p->matrix().rows == rows && p->matrix().columns == columns;
  };
  bool good = tokens && heads && block && positions >= tokens && q_pe.shape(0) == tokens && q_pe.shape(1) == heads &&
              out.shape(0) == tokens && out.shape(1) == heads && key.size() == heads && value.size() == heads &&
              value[0] && table.shape(0) * block >= positions;
  const std::size_t rank = good ? value[0]->matrix().columns : 0;
  for (std::size_t n = 0; good && n < heads; ++n)
    good = is(key[n], transposed ? rank : nope, transposed ? nope : rank) && is(value[n], out.shape(2), rank);
  const MlaShape s = abruzzi::mla_shape(heads, rank, nope, rope, out.shape(2));
  good = good && latents.shape(1) == s.latent_row();
  for (std::size_t i = 0; good && i < table.shape(0); ++i)
    good = table.data()[i] >= 0 && (static_cast<std::size_t>(table.data()[i]) + 1) * block <= latents.shape(0);
  fit(good, "mla");
  Queries made{s,
               tokens,
               std::vector<float>(tokens * heads * s.query_row()),
               {latents.data(), s.latent_row(), table.data(), block}};
  for (std::size_t i = 0; i < tokens * heads; ++i) {
    std::copy_n(q.data() + i * nope, nope, made.at(0, i));
    std::copy_n(q_pe.data() + i * rope, rope, made.at(0, i) + s.nope_pad);
  }
  return made;
}

void naive(int isa, In<float, 3> q, In<float, 3> q_pe, In<float, 2> latents, In<std::int32_t, 1> table,
           std::size_t block, std::size_t positions, const std::vector<PackedPtr>& expand_k,
           const std::vector<PackedPtr>& expand_v, float scale, Out<float, 3> out) {
  Queries x = queries(q, q_pe, latents, table, block, positions, expand_k, false, expand_v, out);
  const std::size_t heads = x.shape.heads, value = x.shape.value;
  nb::gil_scoped_release release;
  std::vector<float> scratch(mla_scratch(x.shape, x.tokens));
  for (std::size_t n = 0; n < heads; ++n)
    abruzzi::step_kernels(static_cast<Isa>(isa))
        .mla_naive(x.shape, expand_k[n]->matrix(), expand_v[n]->matrix(), x.at(0, n), heads * x.shape.query_row(),
                   x.tokens, positions - x.tokens, x.latents, scale, scratch.data(), out.data() + n * value,
                   heads * value);
}

// In parts of `segment` positions, put together as the step does it.
void absorbed(int isa, In<float, 3> q, In<float, 3> q_pe, In<float, 2> latents, In<std::int32_t, 1> table,
              std::size_t block, std::size_t positions, const std::vector<PackedPtr>& absorb_k,
              const std::vector<PackedPtr>& expand_v, float scale, std::size_t segment, Out<float, 3> out) {
  Queries x = queries(q, q_pe, latents, table, block, positions, absorb_k, true, expand_v, out);
  fit(segment > 0, "mla");
  const MlaShape& s = x.shape;
  const std::size_t heads = s.heads;
  nb::gil_scoped_release release;
  const auto& k = abruzzi::step_kernels(static_cast<Isa>(isa));
  const auto multiply = [&](const PackedPtr& p, const float* from, float* to) {
    k.matmul(p->matrix(), 0, p->matrix().blocks, &from, 1, &to);
  };
  std::vector<float> folded(heads * s.latent_row()), merged(s.rank_pad);
  for (std::size_t t = 0; t < x.tokens; ++t) {
    for (std::size_t n = 0; n < heads; ++n) {
      float* to = folded.data() + n * s.latent_row();
      multiply(absorb_k[n], x.at(t, n), to);
      std::copy_n(x.at(t, n) + s.nope_pad, s.rope_pad, to + s.rank_pad);
    }
    const std::size_t end = positions - x.tokens + t + 1, parts = (end + segment - 1) / segment;
    std::vector<float> top(parts * heads), sum(parts * heads), u(parts * heads * s.rank_pad);
    for (std::size_t i = 0; i < parts; ++i)
      k.mla_absorbed(s, heads, folded.data(), x.latents, i * segment, std::min(end, (i + 1) * segment), scale,
                     top.data() + i * heads, sum.data() + i * heads, u.data() + i * heads * s.rank_pad);
    for (std::size_t n = 0; n < heads; ++n) {
      k.mla_merge(s, parts, heads, top.data() + n, sum.data() + n, u.data() + n * s.rank_pad, merged.data());
      multiply(expand_v[n], merged.data(), out.data() + (t * heads + n) * s.value);
    }
  }
}

}  // namespace

void bind_mla(nb::module_& m) {
  m.def("mla_naive", &naive, nb::arg("isa"), nb::arg("q").noconvert(), nb::arg("q_pe").noconvert(),
        nb::arg("latents").noconvert(), nb::arg("table").noconvert(), nb::arg("block_tokens"), nb::arg("positions"),
        nb::arg("expand_k"), nb::arg("expand_v"), nb::arg("scale"), nb::arg("out").noconvert());
  m.def("mla_absorbed", &absorbed, nb::arg("isa"), nb::arg("q").noconvert(), nb::arg("q_pe").noconvert(),
        nb::arg("latents").noconvert(), nb::arg("table").noconvert(), nb::arg("block_tokens"), nb::arg("positions"),
        nb::arg("absorb_k"), nb::arg("expand_v"), nb::arg("scale"), nb::arg("segment"), nb::arg("out").noconvert());
}
