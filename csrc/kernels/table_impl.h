// The table of a forward step's kernels for an instruction set S. Included by scalar.cpp, avx2.cpp
// and avx512.cpp only.
#pragma once

#include "kernels/bytes_impl.h"
#include "kernels/elementwise_impl.h"
#include "kernels/gqa_impl.h"
#include "kernels/mla_impl.h"
#include "kernels/products_impl.h"

namespace abruzzi {
namespace {

template <class S>
constexpr StepKernels table_of() {
  StepKernels table{};
#define ABRUZZI_FILL(name, function) table.name = function;
  ABRUZZI_STEP_KERNELS(ABRUZZI_FILL)
#undef ABRUZZI_FILL
  return table;
}

}  // namespace
}  // namespace abruzzi
