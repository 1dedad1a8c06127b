// Matrices in the layout of the products, and the limits of the machine that reads them.
#include "kernels/packed.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "bind/bind.h"
#include "kernels/limits.h"

using abruzzi::Isa;
using abruzzi::Matrix;
using abruzzi::Packed;

void bind_packed(nb::module_& m) {
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
        fit(kind >= 0 && kind < abruzzi::kKinds, "packed_view: kind");
        const Matrix m = abruzzi::shape_of(static_cast<abruzzi::Kind>(kind), rows, columns);
        // The K kinds hold eight groups of columns together.
        fit(m.kind < abruzzi::Kind::q4_k || m.groups % abruzzi::kSuper == 0, "packed_view: columns");
        fit(data.shape(0) >= m.bytes() && reinterpret_cast<std::uintptr_t>(data.data()) % 64 == 0, "packed_view");
        auto owner = std::make_shared<In<std::uint8_t, 1>>(data);
        return Packed::view(m.kind, rows, columns, data.data(), owner);
      },
      nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("data").noconvert());
  m.def(
      "pack_random",
      [](int kind, std::size_t rows, std::size_t columns, std::uint64_t seed) {
        fit(kind >= 0 && kind < abruzzi::kKinds, "pack_random: kind");
        fit(kind < static_cast<int>(abruzzi::Kind::q4_k) || columns % 256 == 0, "pack_random: columns");
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
      "pack_ggml",
      [](int kind, std::size_t columns, In<std::uint8_t, 2> rows) {
        const auto k = static_cast<abruzzi::Kind>(kind);
        fit(kind >= static_cast<int>(abruzzi::Kind::q4_0) && kind < abruzzi::kKinds, "pack_ggml: kind");
        const bool super = k == abruzzi::Kind::q4_k || k == abruzzi::Kind::q6_k;
        const std::size_t elements = super ? 256 : 32;
        const std::size_t bytes = k == abruzzi::Kind::q4_0   ? 18
                                  : k == abruzzi::Kind::q4_1 ? 20
                                  : k == abruzzi::Kind::q8_0 ? 34
                                  : k == abruzzi::Kind::q4_k ? 144
                                                             : 210;
        fit(columns > 0 && columns % elements == 0 && rows.shape(1) == columns / elements * bytes, "pack_ggml");
        nb::gil_scoped_release release;
        return Packed::ggml(k, rows.data(), rows.shape(0), rows.shape(1), columns);
      },
      nb::arg("kind"), nb::arg("columns"), nb::arg("rows").noconvert());
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
}
