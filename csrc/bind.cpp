// The only file that knows Python. Shapes and dtypes were checked by abruzzi/kernels/ops.py; nanobind
// checks them again by type. The GIL is released while a kernel runs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "kernels.h"

namespace nb = nanobind;
using abruzzi::Isa;

template <typename T, std::size_t N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

NB_MODULE(_ext, m) {
  m.def("best_isa", [] { return static_cast<int>(abruzzi::best_isa()); });
  m.def(
      "int4_matvec",
      [](int isa, In<std::uint32_t, 2> packed, In<std::uint16_t, 2> scale, In<float, 1> x, Out<float, 1> y) {
        const std::size_t rows = packed.shape(0), width = x.shape(0);
        if (packed.shape(1) * 8 != width || scale.shape(0) != rows || scale.shape(1) * 32 != width ||
            y.shape(0) != rows)
          throw nb::value_error("int4_matvec: shapes do not fit");
        nb::gil_scoped_release release;
        abruzzi::int4_matvec(static_cast<Isa>(isa), packed.data(), scale.data(), x.data(), y.data(), rows, width);
      },
      nb::arg("isa"), nb::arg("packed").noconvert(), nb::arg("scale").noconvert(), nb::arg("x").noconvert(),
      nb::arg("y").noconvert());
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
