// Bindings (nanobind): what the files of this folder share. They alone know Python. Shapes and dtypes were checked by
// abruzzi/kernels/ops.py; nanobind checks them again by type. The GIL is released while a kernel
// runs.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/step_kernels.h"

namespace nb = nanobind;

template <typename T, std::size_t N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

inline void fit(bool shapes, const char* op) {
  if (!shapes) throw nb::value_error((std::string(op) + ": shapes do not fit").c_str());
}

// The router's scoring by its number in kernels/ops.py:SCORES.
inline abruzzi::Score score_of(int number) {
  if (number < 0 || number > static_cast<int>(abruzzi::Score::softmax)) throw nb::value_error("route: no such score");
  return static_cast<abruzzi::Score>(number);
}

void bind_packed(nb::module_& m);     // packed.cpp: matrices in the products' layout
void bind_ops(nb::module_& m);        // ops.cpp: kernels one by one
void bind_mla(nb::module_& m);        // mla.cpp: the kernels of MLA
void bind_gqa(nb::module_& m);        // gqa.cpp: those of grouped-query attention
void bind_model(nb::module_& m);      // model.cpp: the step
void bind_documents(nb::module_& m);  // documents.cpp: attention of training
