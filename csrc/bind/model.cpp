// The step, and the weights of each kind of half layer.
#include "step/model.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "bind/bind.h"

using abruzzi::DenseWeights;
using abruzzi::Isa;
using abruzzi::LayerWeights;
using abruzzi::MlaWeights;
using abruzzi::Model;
using abruzzi::ModelShape;
using abruzzi::MoeWeights;
using abruzzi::PackedPtr;

namespace {

using Vector = In<float, 1>;

std::vector<float> copy(const Vector& v) { return {v.data(), v.data() + v.shape(0)}; }

// Sizes by name, so that Python and C++ cannot disagree on an order.
ModelShape shape_from(const nb::dict& d) {
  const auto size = [&](const char* name) { return nb::cast<std::size_t>(d[name]); };
  const auto real = [&](const char* name) { return nb::cast<float>(d[name]); };
  ModelShape s;
  s.vocab = size("vocab"), s.hidden = size("hidden"), s.layers = size("layers");
  s.eps = real("eps"), s.fast = nb::cast<bool>(d["fast"]);
  s.mla.heads = size("heads"), s.mla.rank = size("rank"), s.mla.nope = size("nope");
  s.mla.rope = size("rope"), s.mla.value = size("value");
  s.mla.latent_eps = real("latent_eps"), s.mla.softmax_scale = real("softmax_scale");
  s.mla.inv_freq = nb::cast<std::vector<double>>(d["inv_freq"]);
  s.mla.rope_factor = nb::cast<double>(d["rope_factor"]);
  s.router.experts = size("experts"), s.router.top_k = size("top_k");
  s.router.groups = size("groups"), s.router.kept_groups = size("kept_groups");
  s.router.renormalize = nb::cast<bool>(d["renormalize"]), s.router.scale = real("routed_scale");
  s.router.score = score_of(nb::cast<int>(d["score"]));
  return s;
}

// Columns of `chunks`: first, tokens, start, table, blocks, prefill, wanted
// (step/layer.h:StepChunk).
void forward(Model& model, In<std::int64_t, 1> ids, In<std::int64_t, 2> chunks, In<std::int32_t, 1> tables,
             std::size_t block_tokens, Out<float, 3> cache, Out<float, 2> logits) {
  fit(chunks.shape(1) == 7 && block_tokens > 0, "forward");
  fit(cache.shape(0) == model.shape().layers, "forward: cache");
  abruzzi::StepInput step;
  for (const std::size_t row : model.cache_rows()) {
    fit(cache.shape(2) == row, "forward: cache");
    step.cache.push_back(cache.data() + step.cache.size() * cache.shape(1) * row);
  }
  std::size_t wanted = 0;
  for (std::size_t i = 0; i < chunks.shape(0); ++i) {
    const std::int64_t* c = chunks.data() + i * 7;
    for (int k = 0; k < 7; ++k) fit(c[k] >= 0, "forward: chunks");
    abruzzi::StepChunk chunk;
    chunk.first = static_cast<std::size_t>(c[0]), chunk.tokens = static_cast<std::size_t>(c[1]);
    chunk.start = static_cast<std::size_t>(c[2]), chunk.table = static_cast<std::size_t>(c[3]);
    chunk.blocks = static_cast<std::size_t>(c[4]), chunk.prefill = static_cast<std::size_t>(c[5]);
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
  step.slots = cache.shape(1);
  step.logits = logits.data();
  nb::gil_scoped_release release;
  model.forward(step);
}

void bind_weights(nb::module_& m) {
  nb::class_<MlaWeights>(m, "MlaWeights")
      .def(
          "__init__",
          [](MlaWeights* self, std::optional<Vector> q_norm, Vector kv_norm, std::optional<PackedPtr> q_a, PackedPtr q,
             PackedPtr kv_a, PackedPtr o, std::vector<PackedPtr> absorb_k, std::vector<PackedPtr> expand_k,
             std::vector<PackedPtr> expand_v) {
            MlaWeights* w = new (self) MlaWeights;
            if (q_norm) w->q_norm = copy(*q_norm);
            w->kv_norm = copy(kv_norm);
            if (q_a) w->q_a = *q_a;
            w->q = q, w->kv_a = kv_a, w->o = o;
            w->absorb_k = std::move(absorb_k), w->expand_k = std::move(expand_k), w->expand_v = std::move(expand_v);
          },
          nb::kw_only(), nb::arg("q_norm").none(), nb::arg("kv_norm"), nb::arg("q_a").none(), nb::arg("q"),
          nb::arg("kv_a"), nb::arg("o"), nb::arg("absorb_k"), nb::arg("expand_k"), nb::arg("expand_v"));
  nb::class_<DenseWeights>(m, "DenseWeights")
      .def(
          "__init__",
          [](DenseWeights* self, PackedPtr gate, PackedPtr up, PackedPtr down) {
            new (self) DenseWeights{gate, up, down};
          },
          nb::arg("gate"), nb::arg("up"), nb::arg("down"));
  nb::class_<MoeWeights>(m, "MoeWeights")
      .def(
          "__init__",
          [](MoeWeights* self, PackedPtr router, Vector bias, std::optional<DenseWeights> shared,
             std::vector<DenseWeights> experts) {
            new (self) MoeWeights{router, copy(bias), shared.value_or(DenseWeights{}), std::move(experts)};
          },
          nb::kw_only(), nb::arg("router"), nb::arg("bias"), nb::arg("shared").none(), nb::arg("experts"));
}

}  // namespace

void bind_model(nb::module_& m) {
  bind_weights(m);
  nb::class_<Model>(m, "Model")
      .def(
          "__init__",
          [](Model* self, int isa, std::size_t threads, nb::dict shape) {
            new (self) Model(static_cast<Isa>(isa), threads, shape_from(shape));
          },
          nb::arg("isa"), nb::arg("threads"), nb::arg("shape"))
      .def_prop_ro("threads", &Model::threads)
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
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
          "set_head", [](Model& model, Vector norm, PackedPtr head) { model.set_head(copy(norm), head); },
          nb::arg("norm").noconvert(), nb::arg("head"))
      .def(
          "add_layer",
          [](Model& model, Vector input_norm, Vector post_norm, std::variant<MlaWeights> attention,
             std::variant<DenseWeights, MoeWeights> mlp) {
            model.add_layer({copy(input_norm), copy(post_norm), std::move(attention), std::move(mlp)});
          },
          nb::kw_only(), nb::arg("input_norm"), nb::arg("post_norm"), nb::arg("attention"), nb::arg("mlp"))
      .def("forward", &forward, nb::arg("ids").noconvert(), nb::arg("chunks").noconvert(),
           nb::arg("tables").noconvert(), nb::arg("block_tokens"), nb::arg("cache").noconvert(),
           nb::arg("logits").noconvert());
}
