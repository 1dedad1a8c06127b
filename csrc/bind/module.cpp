// The only file that knows Python. Shapes and dtypes were checked by abruzzi/kernels/ops.py; nanobind
// checks them again by type. The GIL is released while a kernel runs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/limits.h"
#include "kernels/rmsnorm.h"
#include "kernels/sampling.h"
#include "step/model.h"
#include "train/document_attention.h"

namespace nb = nanobind;
using abruzzi::Isa;

template <typename T, std::size_t N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

using abruzzi::Latents;
using abruzzi::LayerWeights;
using abruzzi::Matrix;
using abruzzi::MlaShape;
using abruzzi::MlpWeights;
using abruzzi::Model;
using abruzzi::ModelShape;
using abruzzi::Packed;
using abruzzi::PackedPtr;
using abruzzi::padded;

namespace {

std::vector<float> copy(In<float, 1> v) { return {v.data(), v.data() + v.shape(0)}; }

// Pointers to the rows of a matrix that are padded with zeros, as the products want them.
struct PaddedRows {
  std::vector<float> data;
  std::vector<const float*> rows;

  PaddedRows(In<float, 2> x, std::size_t width) : data(x.shape(0) * width), rows(x.shape(0)) {
    for (std::size_t t = 0; t < rows.size(); ++t) {
      std::copy_n(x.data() + t * x.shape(1), x.shape(1), data.data() + t * width);
      rows[t] = data.data() + t * width;
    }
  }
};

std::vector<float*> rows_of(Out<float, 2> y) {
  std::vector<float*> rows(y.shape(0));
  for (std::size_t t = 0; t < rows.size(); ++t) rows[t] = y.data() + t * y.shape(1);
  return rows;
}

void fit(bool shapes, const char* op) {
  if (!shapes) throw nb::value_error((std::string(op) + ": shapes do not fit").c_str());
}

MlpWeights mlp(const std::vector<PackedPtr>& parts) {
  if (parts.size() != 3) throw nb::value_error("an MLP is gate, up and down");
  return {parts[0], parts[1], parts[2]};
}

// Both forms of attention as the step runs them: segment 0 decompresses, else positions go in parts of that length. The
// latents are laid out backwards in blocks of 4, so that a block table that is ignored cannot go unnoticed.
void mla(int isa, In<float, 3> q, In<float, 3> q_pe, In<float, 2> c_kv, In<float, 2> k_pe,
         const std::vector<PackedPtr>& absorb_k, const std::vector<PackedPtr>& expand_k,
         const std::vector<PackedPtr>& expand_v, float scale, std::size_t segment, Out<float, 3> out) {
  constexpr std::size_t block = 4;
  const std::size_t tokens = q.shape(0), heads = q.shape(1), positions = c_kv.shape(0);
  const std::size_t rank = c_kv.shape(1), nope = q.shape(2), rope = q_pe.shape(2), value = out.shape(2);
  const MlaShape s{
      heads, rank, nope, rope, value, padded(rank, 32), padded(nope, 32), padded(rope, 16), padded(value, 16)};
  bool good = positions >= tokens && tokens && q_pe.shape(0) == tokens && q_pe.shape(1) == heads &&
              k_pe.shape(0) == positions && k_pe.shape(1) == rope && out.shape(0) == tokens && out.shape(1) == heads &&
              absorb_k.size() == heads && expand_k.size() == heads && expand_v.size() == heads;
  const auto is = [](const PackedPtr& p, std::size_t rows, std::size_t columns) {
    return p && p->matrix().rows == rows && p->matrix().columns == columns;
  };
  for (std::size_t n = 0; good && n < heads; ++n)
    good = is(absorb_k[n], rank, nope) && is(expand_k[n], nope, rank) && is(expand_v[n], value, rank);
  fit(good, "mla");
  nb::gil_scoped_release release;
  const auto& k = abruzzi::step_kernels(static_cast<Isa>(isa));
  const std::size_t blocks = (positions + block - 1) / block, row = s.latent_row();
  std::vector<float> latents(blocks * block * row), queries(tokens * heads * s.query_row());
  std::vector<std::int32_t> table(blocks);
  for (std::size_t i = 0; i < blocks; ++i) table[i] = static_cast<std::int32_t>(blocks - 1 - i);
  const Latents view{latents.data(), row, table.data(), block};
  for (std::size_t p = 0; p < positions; ++p) {
    float* to = const_cast<float*>(view.at(p));
    std::copy_n(c_kv.data() + p * rank, rank, to);
    std::copy_n(k_pe.data() + p * rope, rope, to + s.rank_pad);
  }
  for (std::size_t i = 0; i < tokens * heads; ++i) {
    std::copy_n(q.data() + i * nope, nope, queries.data() + i * s.query_row());
    std::copy_n(q_pe.data() + i * rope, rope, queries.data() + i * s.query_row() + s.nope_pad);
  }
  const std::size_t start = positions - tokens;
  if (segment == 0) {
    std::vector<float> scratch(mla_scratch(s, tokens));
    for (std::size_t n = 0; n < heads; ++n)
      k.mla_naive(s, expand_k[n]->matrix(), expand_v[n]->matrix(), queries.data() + n * s.query_row(),
                  heads * s.query_row(), tokens, start, view, scale, scratch.data(), out.data() + n * value,
                  heads * value);
    return;
  }
  std::vector<float> folded(heads * row), merged(s.rank_pad);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t n = 0; n < heads; ++n) {
      const float* from = queries.data() + (t * heads + n) * s.query_row();
      float* to = folded.data() + n * row;
      const Matrix& m = absorb_k[n]->matrix();
      k.matmul(m, 0, m.blocks, &from, 1, &to);
      std::copy_n(from + s.nope_pad, s.rope_pad, to + s.rank_pad);
    }
    const std::size_t end = start + t + 1, parts = (end + segment - 1) / segment;
    std::vector<float> top(parts * heads), sum(parts * heads), u(parts * heads * s.rank_pad);
    for (std::size_t i = 0; i < parts; ++i)
      k.mla_absorbed(s, heads, folded.data(), view, i * segment, std::min(end, (i + 1) * segment), scale,
                     top.data() + i * heads, sum.data() + i * heads, u.data() + i * heads * s.rank_pad);
    for (std::size_t n = 0; n < heads; ++n) {
      k.mla_merge(s, parts, heads, top.data() + n, sum.data() + n, u.data() + n * s.rank_pad, merged.data());
      const float* from = merged.data();
      float* to = out.data() + (t * heads + n) * value;
      const Matrix& m = expand_v[n]->matrix();
      k.matmul(m, 0, m.blocks, &from, 1, &to);
    }
  }
}

// Products and elementwise operations one by one, for tests and for self-tests.
void bind_ops(nb::module_& m) {
  nb::class_<Packed>(m, "Packed")
      .def_prop_ro("shape", [](const Packed& p) { return std::make_pair(p.matrix().rows, p.matrix().columns); })
      .def_prop_ro("nbytes", [](const Packed& p) { return p.matrix().bytes(); })
      .def_prop_ro("kind", [](const Packed& p) { return static_cast<int>(p.matrix().kind); })
      .def_prop_ro(
          "data",
          [](nb::handle self) {
            const Matrix& m = nb::cast<const Packed&>(self).matrix();
            return nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(m.data, {m.bytes()}, self);
          },
          "The packed bytes, uint8; they live as long as this object.");
  m.def(
      "packed_view",
      [](int kind, std::size_t rows, std::size_t columns, In<std::uint8_t, 1> data) {
        fit(kind >= 0 && kind <= 3, "packed_view: kind");
        const Matrix m = abruzzi::shape_of(static_cast<abruzzi::Kind>(kind), rows, columns);
        fit(data.shape(0) >= m.bytes() && reinterpret_cast<std::uintptr_t>(data.data()) % 64 == 0, "packed_view");
        auto owner = std::make_shared<In<std::uint8_t, 1>>(data);
        return Packed::view(m.kind, rows, columns, data.data(), owner);
      },
      nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("data").noconvert());
  m.def(
      "pack_random",
      [](int kind, std::size_t rows, std::size_t columns, std::uint64_t seed) {
        fit(kind >= 0 && kind <= 3, "pack_random: kind");
        nb::gil_scoped_release release;
        return Packed::random(static_cast<abruzzi::Kind>(kind), rows, columns, seed);
      },
      nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("seed"));
  m.def(
      "quantize_f32",
      [](int kind, In<float, 2> w) {
        fit(kind == 2 || kind == 3, "quantize_f32: kind");
        nb::gil_scoped_release release;
        return Packed::quantized(static_cast<abruzzi::Kind>(kind), w.data(), w.shape(0), w.shape(1));
      },
      nb::arg("kind"), nb::arg("w").noconvert());
  m.def(
      "quantize_bf16",
      [](int kind, In<std::uint16_t, 2> w) {
        fit(kind == 2 || kind == 3, "quantize_bf16: kind");
        nb::gil_scoped_release release;
        return Packed::quantized(static_cast<abruzzi::Kind>(kind), w.data(), w.shape(0), w.shape(1));
      },
      nb::arg("kind"), nb::arg("w").noconvert());
  m.def(
      "measure_bandwidth",
      [](std::size_t threads, std::size_t bytes, double seconds) {
        fit(threads >= 1 && bytes >= threads * 4096, "measure_bandwidth");
        nb::gil_scoped_release release;
        return abruzzi::measure_bandwidth(threads, bytes, seconds);
      },
      nb::arg("threads"), nb::arg("bytes"), nb::arg("seconds"));
  m.def(
      "measure_int8_peak",
      [](int isa, std::size_t threads, double seconds) {
        fit(threads >= 1, "measure_int8_peak");
        nb::gil_scoped_release release;
        return abruzzi::measure_int8_peak(static_cast<Isa>(isa), threads, seconds);
      },
      nb::arg("isa"), nb::arg("threads"), nb::arg("seconds"));
  m.def(
      "pack_f32",
      [](In<float, 2> w) {
        nb::gil_scoped_release release;
        return Packed::f32(w.data(), w.shape(0), w.shape(1));
      },
      nb::arg("w").noconvert());
  m.def(
      "pack_bf16",
      [](In<std::uint16_t, 2> w) {
        nb::gil_scoped_release release;
        return Packed::bf16(w.data(), w.shape(0), w.shape(1));
      },
      nb::arg("w").noconvert());
  m.def(
      "pack_int4",
      [](In<std::uint32_t, 2> words, In<std::uint16_t, 2> scale) {
        fit(scale.shape(0) == words.shape(0) && scale.shape(1) * 4 == words.shape(1), "pack_int4");
        nb::gil_scoped_release release;
        return Packed::int4(words.data(), scale.data(), words.shape(0), words.shape(1) * 8);
      },
      nb::arg("words").noconvert(), nb::arg("scale").noconvert());
  m.def(
      "matmul",
      [](int isa, const Packed& w, In<float, 2> x, Out<float, 2> y) {
        const Matrix& m = w.matrix();
        fit(x.shape(1) == m.columns && y.shape(0) == x.shape(0) && y.shape(1) == m.rows, "matmul");
        nb::gil_scoped_release release;
        const PaddedRows in(x, padded_columns(m));
        const auto out = rows_of(y);
        abruzzi::step_kernels(static_cast<Isa>(isa)).matmul(m, 0, m.blocks, in.rows.data(), out.size(), out.data());
      },
      nb::arg("isa"), nb::arg("w"), nb::arg("x").noconvert(), nb::arg("y").noconvert());
  m.def(
      "matmul8",
      [](int isa, const Packed& w, In<float, 2> x, Out<float, 2> y) {
        const Matrix& m = w.matrix();
        fit((m.kind == abruzzi::Kind::int4 || m.kind == abruzzi::Kind::int8) && x.shape(1) == m.columns &&
                y.shape(0) == x.shape(0) && y.shape(1) == m.rows,
            "matmul8");
        nb::gil_scoped_release release;
        const auto& k = abruzzi::step_kernels(static_cast<Isa>(isa));
        const PaddedRows in(x, padded_columns(m));
        const auto out = rows_of(y);
        std::vector<std::int32_t> bytes(out.size() * abruzzi::quantized_row(m.groups));
        std::vector<const std::int32_t*> rows(out.size());
        for (std::size_t t = 0; t < out.size(); ++t) {
          k.quantize(in.rows[t], m.groups, bytes.data() + t * abruzzi::quantized_row(m.groups));
          rows[t] = bytes.data() + t * abruzzi::quantized_row(m.groups);
        }
        k.matmul8(m, 0, m.blocks, rows.data(), out.size(), out.data());
      },
      nb::arg("isa"), nb::arg("w"), nb::arg("x").noconvert(), nb::arg("y").noconvert());
  m.def(
      "gate_up",
      [](int isa, const Packed& gate, const Packed& up, In<float, 2> x, Out<float, 2> y) {
        const Matrix& m = gate.matrix();
        fit(x.shape(1) == m.columns && y.shape(0) == x.shape(0) && y.shape(1) == m.rows && up.matrix().rows == m.rows &&
                up.matrix().columns == m.columns,
            "gate_up");
        nb::gil_scoped_release release;
        const PaddedRows in(x, padded_columns(m));
        const auto out = rows_of(y);
        abruzzi::step_kernels(static_cast<Isa>(isa))
            .gate_up(m, up.matrix(), 0, m.blocks, in.rows.data(), out.size(), out.data());
      },
      nb::arg("isa"), nb::arg("gate"), nb::arg("up"), nb::arg("x").noconvert(), nb::arg("y").noconvert());
  m.def(
      "silu_mul",
      [](int isa, In<float, 1> gate, In<float, 1> up, Out<float, 1> y) {
        fit(gate.shape(0) == up.shape(0) && gate.shape(0) == y.shape(0), "silu_mul");
        abruzzi::step_kernels(static_cast<Isa>(isa)).silu_mul(gate.data(), up.data(), y.data(), y.shape(0));
      },
      nb::arg("isa"), nb::arg("gate").noconvert(), nb::arg("up").noconvert(), nb::arg("y").noconvert());
  m.def(
      "log_partition",
      [](int isa, In<float, 1> x, float temperature) {
        fit(x.shape(0) > 0 && temperature > 0, "log_partition");
        return abruzzi::log_partition(static_cast<Isa>(isa), x.data(), x.shape(0), temperature);
      },
      nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("temperature"));
  m.def(
      "sample",
      [](int isa, In<float, 1> x, float temperature, std::size_t top_k, double top_p, double min_p, double uniform) {
        fit(x.shape(0) > 0 && temperature > 0 && uniform >= 0 && uniform < 1, "sample");
        nb::gil_scoped_release release;
        return abruzzi::sample(static_cast<Isa>(isa), x.data(), x.shape(0),
                               {temperature, top_k, top_p, min_p, uniform});
      },
      nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"),
      nb::arg("min_p"), nb::arg("uniform"));
  m.def(
      "rope",
      [](int isa, In<float, 2> x, In<float, 2> cos, In<float, 2> sin, Out<float, 2> y) {
        const std::size_t pairs = cos.shape(1);
        fit(x.shape(1) == 2 * pairs && y.shape(1) == 2 * pairs && sin.shape(1) == pairs && cos.shape(0) == x.shape(0) &&
                sin.shape(0) == x.shape(0) && y.shape(0) == x.shape(0),
            "rope");
        for (std::size_t t = 0; t < x.shape(0); ++t)
          abruzzi::step_kernels(static_cast<Isa>(isa))
              .rope(x.data() + t * 2 * pairs, cos.data() + t * pairs, sin.data() + t * pairs, y.data() + t * 2 * pairs,
                    pairs);
      },
      nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("cos").noconvert(), nb::arg("sin").noconvert(),
      nb::arg("y").noconvert());
  m.def(
      "route",
      [](int isa, In<float, 2> logits, In<float, 1> bias, std::size_t groups, std::size_t kept, bool renormalize,
         float scale, Out<std::int32_t, 2> chosen, Out<float, 2> weight) {
        const std::size_t experts = logits.shape(1), top_k = chosen.shape(1);
        fit(bias.shape(0) == experts && chosen.shape(0) == logits.shape(0) && weight.shape(0) == logits.shape(0) &&
                weight.shape(1) == top_k && groups && experts % groups == 0 && kept <= groups &&
                top_k <= experts / groups * kept,
            "route");
        const abruzzi::Router r{experts, top_k, groups, kept, renormalize, scale};
        std::vector<float> scratch(2 * padded(experts, 8) + groups);
        for (std::size_t t = 0; t < logits.shape(0); ++t)
          abruzzi::step_kernels(static_cast<Isa>(isa))
              .route(r, logits.data() + t * experts, bias.data(), scratch.data(), chosen.data() + t * top_k,
                     weight.data() + t * top_k);
      },
      nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("bias").noconvert(), nb::arg("groups"), nb::arg("kept"),
      nb::arg("renormalize"), nb::arg("scale"), nb::arg("chosen").noconvert(), nb::arg("weight").noconvert());
  m.def("mla", &mla, nb::arg("isa"), nb::arg("q").noconvert(), nb::arg("q_pe").noconvert(), nb::arg("c_kv").noconvert(),
        nb::arg("k_pe").noconvert(), nb::arg("absorb_k"), nb::arg("expand_k"), nb::arg("expand_v"), nb::arg("scale"),
        nb::arg("segment"), nb::arg("out").noconvert());
}

// Sizes by name, so that Python and C++ cannot disagree on an order.
ModelShape shape_from(const nb::dict& d) {
  const auto size = [&](const char* name) { return nb::cast<std::size_t>(d[name]); };
  const auto real = [&](const char* name) { return nb::cast<float>(d[name]); };
  ModelShape s;
  s.vocab = size("vocab"), s.hidden = size("hidden"), s.layers = size("layers"), s.heads = size("heads");
  s.rank = size("rank"), s.nope = size("nope"), s.rope = size("rope"), s.value = size("value");
  s.experts = size("experts"), s.top_k = size("top_k"), s.groups = size("groups"), s.kept_groups = size("kept_groups");
  s.renormalize = nb::cast<bool>(d["renormalize"]);
  s.routed_scale = real("routed_scale"), s.eps = real("eps"), s.latent_eps = real("latent_eps");
  s.softmax_scale = real("softmax_scale");
  s.inv_freq = nb::cast<std::vector<double>>(d["inv_freq"]);
  s.rope_factor = nb::cast<double>(d["rope_factor"]);
  s.fast = nb::cast<bool>(d["fast"]);
  return s;
}

void forward(Model& model, In<std::int64_t, 1> ids, In<std::int64_t, 2> chunks, In<std::int32_t, 1> tables,
             std::size_t block_tokens, Out<float, 3> latents, Out<float, 2> logits) {
  fit(chunks.shape(1) == 7 && block_tokens > 0, "forward");
  fit(latents.shape(0) == model.shape().layers && latents.shape(2) == model.mla().latent_row(), "forward: latents");
  abruzzi::StepInput step;
  std::size_t wanted = 0;
  for (std::size_t i = 0; i < chunks.shape(0); ++i) {
    const std::int64_t* c = chunks.data() + i * 7;
    for (int k = 0; k < 7; ++k) fit(c[k] >= 0, "forward: chunks");
    abruzzi::StepChunk chunk;
    chunk.first = static_cast<std::size_t>(c[0]), chunk.tokens = static_cast<std::size_t>(c[1]);
    chunk.start = static_cast<std::size_t>(c[2]), chunk.table = static_cast<std::size_t>(c[3]);
    chunk.blocks = static_cast<std::size_t>(c[4]), chunk.decompress = static_cast<std::size_t>(c[5]);
    chunk.wanted = static_cast<std::size_t>(c[6]);
    fit(chunk.table + chunk.blocks <= tables.shape(0), "forward: tables");
    wanted += chunk.wanted;
    step.chunks.push_back(chunk);
  }
  fit(logits.shape(0) == wanted && logits.shape(1) == model.shape().vocab, "forward: logits");
  step.ids = ids.data();
  step.tokens = ids.shape(0);
  step.tables = tables.data();
  step.block_tokens = block_tokens;
  step.latents = latents.data();
  step.slots = latents.shape(1);
  step.logits = logits.data();
  nb::gil_scoped_release release;
  model.forward(step);
}

void bind_model(nb::module_& m) {
  nb::class_<Model>(m, "Model")
      .def(
          "__init__",
          [](Model* self, int isa, std::size_t threads, nb::dict shape) {
            new (self) Model(static_cast<Isa>(isa), threads, shape_from(shape));
          },
          nb::arg("isa"), nb::arg("threads"), nb::arg("shape"))
      .def_prop_ro("threads", &Model::threads)
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
      .def_prop_ro("latent_row", [](const Model& model) { return model.mla().latent_row(); })
      .def(
          "set_embedding_f32",
          [](Model& model, In<float, 2> w) {
            model.set_embedding({}, std::vector<float>(w.data(), w.data() + w.size()));
          },
          nb::arg("w").noconvert())
      .def(
          "set_embedding_bf16",
          [](Model& model, In<std::uint16_t, 2> w) {
            model.set_embedding(std::vector<std::uint16_t>(w.data(), w.data() + w.size()), {});
          },
          nb::arg("w").noconvert())
      .def(
          "set_head", [](Model& model, In<float, 1> norm, PackedPtr head) { model.set_head(copy(norm), head); },
          nb::arg("norm").noconvert(), nb::arg("head"))
      .def(
          "add_layer",
          [](Model& model, In<float, 1> input_norm, In<float, 1> post_norm, std::optional<In<float, 1>> q_norm,
             In<float, 1> kv_norm, std::optional<PackedPtr> q_a, PackedPtr q_b, PackedPtr kv_a, PackedPtr o,
             std::vector<PackedPtr> absorb_k, std::vector<PackedPtr> expand_k, std::vector<PackedPtr> expand_v,
             std::vector<PackedPtr> shared, std::optional<PackedPtr> router, std::optional<In<float, 1>> bias,
             const std::vector<std::vector<PackedPtr>>& experts) {
            LayerWeights w;
            w.input_norm = copy(input_norm), w.post_norm = copy(post_norm), w.kv_norm = copy(kv_norm);
            if (q_norm) w.q_norm = copy(*q_norm);
            if (q_a) w.q_a = *q_a;
            w.q_b = q_b, w.kv_a = kv_a, w.o = o;
            w.absorb_k = std::move(absorb_k), w.expand_k = std::move(expand_k), w.expand_v = std::move(expand_v);
            w.shared = mlp(shared);
            if (router) w.router = *router;
            if (bias) w.router_bias = copy(*bias);
            for (const auto& e : experts) w.experts.push_back(mlp(e));
            model.add_layer(std::move(w));
          },
          nb::kw_only(), nb::arg("input_norm"), nb::arg("post_norm"), nb::arg("q_norm").none(), nb::arg("kv_norm"),
          nb::arg("q_a").none(), nb::arg("q_b"), nb::arg("kv_a"), nb::arg("o"), nb::arg("absorb_k"),
          nb::arg("expand_k"), nb::arg("expand_v"), nb::arg("shared"), nb::arg("router").none(), nb::arg("bias").none(),
          nb::arg("experts"))
      .def("forward", &forward, nb::arg("ids").noconvert(), nb::arg("chunks").noconvert(),
           nb::arg("tables").noconvert(), nb::arg("block_tokens"), nb::arg("latents").noconvert(),
           nb::arg("logits").noconvert());
}

// What both passes over documents are given; shapes as document_attention.h has them.
abruzzi::DocumentAttention documents(In<std::int64_t, 1> edges, In<std::uint16_t, 3> q, In<std::uint16_t, 3> kv,
                                     In<std::uint16_t, 2> k_pe, In<float, 2> cos, In<float, 2> sin, float scale) {
  const std::size_t tokens = q.shape(0), heads = q.shape(1), rope = k_pe.shape(1);
  fit(edges.shape(0) >= 1 && kv.shape(0) == tokens && kv.shape(1) == heads && k_pe.shape(0) == tokens &&
          q.shape(2) >= rope && kv.shape(2) > q.shape(2) - rope && q.shape(2) % 2 == 0 && rope % 2 == 0 &&
          kv.shape(2) % 2 == 0 && cos.shape(0) == tokens && cos.shape(1) == rope / 2 && sin.shape(0) == tokens &&
          sin.shape(1) == rope / 2 && edges.data()[0] == 0 &&
          edges.data()[edges.shape(0) - 1] == static_cast<std::int64_t>(tokens),
      "documents");
  for (std::size_t d = 1; d < edges.shape(0); ++d) fit(edges.data()[d] > edges.data()[d - 1], "documents");
  const std::size_t nope = q.shape(2) - rope;
  return {edges.data(), edges.shape(0) - 1, heads,     nope,        rope,       kv.shape(2) - nope,
          scale,        q.data(),           kv.data(), k_pe.data(), cos.data(), sin.data()};
}

void bind_documents(nb::module_& m) {
  m.def("can_attend_documents", &abruzzi::can_attend_documents);
  m.def(
      "attend_documents",
      [](std::size_t threads, In<std::int64_t, 1> edges, In<std::uint16_t, 3> q, In<std::uint16_t, 3> kv,
         In<std::uint16_t, 2> k_pe, In<float, 2> cos, In<float, 2> sin, float scale, Out<std::uint16_t, 3> o,
         Out<float, 2> log_sum, Out<float, 2> largest) {
        const auto given = documents(edges, q, kv, k_pe, cos, sin, scale);
        fit(o.shape(0) == q.shape(0) && o.shape(1) == given.heads && o.shape(2) == given.value &&
                log_sum.shape(0) == q.shape(0) && log_sum.shape(1) == given.heads && largest.shape(0) == q.shape(0) &&
                largest.shape(1) == given.heads,
            "attend_documents");
        nb::gil_scoped_release release;
        abruzzi::attend_documents(given, threads, o.data(), log_sum.data(), largest.data());
      },
      nb::arg("threads"), nb::arg("edges").noconvert(), nb::arg("q").noconvert(), nb::arg("kv").noconvert(),
      nb::arg("k_pe").noconvert(), nb::arg("cos").noconvert(), nb::arg("sin").noconvert(), nb::arg("scale"),
      nb::arg("o").noconvert(), nb::arg("log_sum").noconvert(), nb::arg("largest").noconvert());
  m.def(
      "attend_documents_backward",
      [](std::size_t threads, In<std::int64_t, 1> edges, In<std::uint16_t, 3> q, In<std::uint16_t, 3> kv,
         In<std::uint16_t, 2> k_pe, In<float, 2> cos, In<float, 2> sin, float scale, In<std::uint16_t, 3> o,
         In<float, 2> log_sum, In<std::uint16_t, 3> d_o, Out<std::uint16_t, 3> dq, Out<std::uint16_t, 3> dkv,
         Out<float, 3> dk_pe) {
        const auto given = documents(edges, q, kv, k_pe, cos, sin, scale);
        for (std::size_t axis = 0; axis < 3; ++axis)
          fit(dq.shape(axis) == q.shape(axis) && dkv.shape(axis) == kv.shape(axis) && d_o.shape(axis) == o.shape(axis),
              "attend_documents_backward");
        fit(o.shape(0) == q.shape(0) && o.shape(1) == given.heads && o.shape(2) == given.value &&
                log_sum.shape(0) == q.shape(0) && log_sum.shape(1) == given.heads && dk_pe.shape(0) == q.shape(0) &&
                dk_pe.shape(1) == given.heads && dk_pe.shape(2) == given.rope,
            "attend_documents_backward");
        nb::gil_scoped_release release;
        abruzzi::attend_documents_backward(given, threads, o.data(), log_sum.data(), d_o.data(), dq.data(), dkv.data(),
                                           dk_pe.data());
      },
      nb::arg("threads"), nb::arg("edges").noconvert(), nb::arg("q").noconvert(), nb::arg("kv").noconvert(),
      nb::arg("k_pe").noconvert(), nb::arg("cos").noconvert(), nb::arg("sin").noconvert(), nb::arg("scale"),
      nb::arg("o").noconvert(), nb::arg("log_sum").noconvert(), nb::arg("d_o").noconvert(), nb::arg("dq").noconvert(),
      nb::arg("dkv").noconvert(), nb::arg("dk_pe").noconvert());
}

}  // namespace

NB_MODULE(_ext, m) {
  // A server's thread may still hold a model when the interpreter ends; its memory goes with the process.
  nb::set_leak_warnings(false);
  bind_ops(m);
  bind_model(m);
  bind_documents(m);
  m.def("best_isa", [] { return static_cast<int>(abruzzi::best_isa()); });
  m.def(
      "rmsnorm",
      [](int isa, In<float, 2> x, In<float, 1> weight, float eps, Out<float, 2> y) {
        const std::size_t rows = x.shape(0), width = x.shape(1);
        if (weight.shape(0) != width || y.shape(0) != rows || y.shape(1) != width)
          throw nb::value_error("rmsnorm: shapes do not fit");
        nb::gil_scoped_release release;
        abruzzi::rmsnorm(static_cast<Isa>(isa), x.data(), weight.data(), y.data(), rows, width, eps);
      },
      nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("weight").noconvert(), nb::arg("eps"),
      nb::arg("y").noconvert());
}
