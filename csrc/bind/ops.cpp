// Products, elementwise operations and the sampler one by one, for tests and for self-tests.
#include <algorithm>

#include "bind/bind.h"
#include "kernels/packed.h"
#include "kernels/rmsnorm.h"
#include "kernels/sampling.h"
#include "kernels/step_kernels.h"

using abruzzi::Isa;
using abruzzi::Matrix;
using abruzzi::Packed;

namespace {

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

// A whole number of Python, which has no end, and at most `most`.
std::size_t at_most(std::size_t most, nb::handle number) {
  int overflow = 0;
  const nb::int_ whole(number);
  const long long value = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
  fit(overflow >= 0 && (overflow > 0 || value >= 0), "sample");
  return overflow > 0 ? most : static_cast<std::size_t>(std::min<unsigned long long>(value, most));
}

}  // namespace

void bind_ops(nb::module_& m) {
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
        fit(abruzzi::has_codes(m.kind) && x.shape(1) == m.columns && y.shape(0) == x.shape(0) && y.shape(1) == m.rows,
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
      [](int isa, In<float, 1> x, nb::handle params, double uniform) {
        abruzzi::Draw draw;  // the fields of kernels/ref.py:Draw
        draw.temperature = nb::cast<float>(params.attr("temperature"));
        draw.top_k = at_most(x.shape(0), params.attr("top_k"));
        draw.top_p = nb::cast<double>(params.attr("top_p"));
        draw.min_p = nb::cast<double>(params.attr("min_p"));
        draw.uniform = uniform;
        fit(x.shape(0) > 0 && draw.temperature > 0 && uniform >= 0 && uniform < 1, "sample");
        nb::gil_scoped_release release;
        return abruzzi::sample(static_cast<Isa>(isa), x.data(), x.shape(0), draw);
      },
      nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("draw"), nb::arg("uniform"));
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
         float scale, int score, Out<std::int32_t, 2> chosen, Out<float, 2> weight) {
        const std::size_t experts = logits.shape(1), top_k = chosen.shape(1);
        fit(bias.shape(0) == experts && chosen.shape(0) == logits.shape(0) && weight.shape(0) == logits.shape(0) &&
                weight.shape(1) == top_k && groups && experts % groups == 0 && kept <= groups &&
                top_k <= experts / groups * kept,
            "route");
        const abruzzi::Router r{experts, top_k, groups, kept, renormalize, scale, score_of(score)};
        std::vector<float> scratch(abruzzi::route_scratch(r));
        for (std::size_t t = 0; t < logits.shape(0); ++t)
          abruzzi::step_kernels(static_cast<Isa>(isa))
              .route(r, logits.data() + t * experts, bias.data(), scratch.data(), chosen.data() + t * top_k,
                     weight.data() + t * top_k);
      },
      nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("bias").noconvert(), nb::arg("groups"), nb::arg("kept"),
      nb::arg("renormalize"), nb::arg("scale"), nb::arg("score"), nb::arg("chosen").noconvert(),
      nb::arg("weight").noconvert());
}
