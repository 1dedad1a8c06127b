// The step, and the sizes and weights of each kind of half layer.
#include "step/model.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bind/bind.h"

using abruzzi::Attentions;
using abruzzi::DenseWeights;
using abruzzi::GqaSizes;
using abruzzi::GqaWeights;
using abruzzi::Isa;
using abruzzi::LayerWeights;
using abruzzi::MlaSizes;
using abruzzi::MlaWeights;
using abruzzi::Model;
using abruzzi::ModelShape;
using abruzzi::MoeWeights;
using abruzzi::PackedPtr;

namespace {

using Vector = In<float, 1>;

std::vector<float> copy(const Vector& v) { return {v.data(), v.data() + v.shape(0)}; }

// Sizes and weights by name, so that Python and C++ cannot disagree on an order.
struct Named {
  const nb::dict& dict;

  bool has(const char* name) const { return !nb::object(dict[name]).is_none(); }
  template <class T>
  T get(const char* name) const {
    return nb::cast<T>(nb::object(dict[name]));
  }
  std::size_t size(const char* name) const { return get<std::size_t>(name); }
  float real(const char* name) const { return get<float>(name); }
  std::vector<float> vector(const char* name) const { return copy(get<Vector>(name)); }
  PackedPtr matrix(const char* name) const { return get<PackedPtr>(name); }
  std::vector<PackedPtr> matrices(const char* name) const { return get<std::vector<PackedPtr>>(name); }
};

// One pair of readers for each kind of attention; engine/attention/ writes what they read. `hidden`
// is set already.

void read(const Named& d, MlaSizes& s) {
  s.heads = d.size("heads"), s.rank = d.size("rank"), s.nope = d.size("nope");
  s.rope = d.size("rope"), s.value = d.size("value");
  s.latent_eps = d.real("latent_eps"), s.softmax_scale = d.real("softmax_scale");
  s.inv_freq = d.get<std::vector<double>>("inv_freq"), s.rope_factor = d.get<double>("rope_factor");
}

void read(const Named& d, MlaWeights& w) {
  if (d.has("q_norm")) w.q_norm = d.vector("q_norm");
  if (d.has("q_a")) w.q_a = d.matrix("q_a");
  w.kv_norm = d.vector("kv_norm");
  w.q = d.matrix("q"), w.kv_a = d.matrix("kv_a"), w.o = d.matrix("o");
  w.absorb_k = d.matrices("absorb_k"), w.expand_k = d.matrices("expand_k"), w.expand_v = d.matrices("expand_v");
}

void read(const Named& d, GqaSizes& s) {
  s.heads = d.size("heads"), s.kv_heads = d.size("kv_heads"), s.width = d.size("width");
  s.norm_eps = d.real("norm_eps"), s.softmax_scale = d.real("softmax_scale");
  s.inv_freq = d.get<std::vector<double>>("inv_freq"), s.rope_factor = d.get<double>("rope_factor");
}

void read(const Named& d, GqaWeights& w) {
  w.q = d.matrix("q"), w.k = d.matrix("k"), w.v = d.matrix("v"), w.o = d.matrix("o");
  const auto some = [&](const char* name, std::vector<float>& to) {
    if (d.has(name)) to = d.vector(name);
  };
  some("q_bias", w.q_bias), some("k_bias", w.k_bias), some("v_bias", w.v_bias), some("o_bias", w.o_bias);
  some("q_norm", w.q_norm), some("k_norm", w.k_norm);
}

// Of the kind that the dict names.
template <std::size_t number = 0>
Attentions::Sizes attention_sizes(const Named& d, std::size_t hidden) {
  if constexpr (number < std::variant_size_v<Attentions::Sizes>) {
    using Sizes = std::variant_alternative_t<number, Attentions::Sizes>;
    if (d.get<std::string>("kind") != Sizes::Kind::kName) return attention_sizes<number + 1>(d, hidden);
    Sizes sizes;
    sizes.hidden = hidden;
    read(d, sizes);
    return sizes;
  }
  throw nb::value_error(("no kind of attention is compiled in as " + d.get<std::string>("kind")).c_str());
}

// Of the kind that the model's sizes are.
Attentions::Weights attention_weights(const ModelShape& shape, const Named& d) {
  return std::visit(
      [&](const auto& sizes) -> Attentions::Weights {
        typename std::decay_t<decltype(sizes)>::Kind::Weights weights;
        read(d, weights);
        return weights;
      },
      shape.attention);
}

ModelShape shape_from(const nb::dict& dict) {
  const Named d{dict};
  ModelShape s;
  s.vocab = d.size("vocab"), s.hidden = d.size("hidden"), s.layers = d.size("layers");
  s.eps = d.real("eps"), s.fast = d.get<bool>("fast");
  s.attention = attention_sizes({d.get<nb::dict>("attention")}, s.hidden);
  s.router.experts = d.size("experts"), s.router.top_k = d.size("top_k");
  s.router.groups = d.size("groups"), s.router.kept_groups = d.size("kept_groups");
  s.router.renormalize = d.get<bool>("renormalize"), s.router.scale = d.real("routed_scale");
  s.router.score = score_of(d.get<int>("score"));
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
          [](Model& model, Vector input_norm, Vector post_norm, const nb::dict& attention,
             std::variant<DenseWeights, MoeWeights> mlp) {
            model.add_layer(
                {copy(input_norm), copy(post_norm), attention_weights(model.shape(), {attention}), std::move(mlp)});
          },
          nb::kw_only(), nb::arg("input_norm"), nb::arg("post_norm"), nb::arg("attention"), nb::arg("mlp"))
      .def("forward", &forward, nb::arg("ids").noconvert(), nb::arg("chunks").noconvert(),
           nb::arg("tables").noconvert(), nb::arg("block_tokens"), nb::arg("cache").noconvert(),
           nb::arg("logits").noconvert());
}
