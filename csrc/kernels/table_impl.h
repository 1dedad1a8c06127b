// The table of a forward step's kernels for an instruction set S. Included by kernels_*.cpp only.
#pragma once

#include "kernels/bytes_impl.h"
#include "kernels/elementwise_impl.h"
#include "kernels/mla_impl.h"
#include "kernels/products_impl.h"

namespace abruzzi {
namespace {

template <class S>
constexpr StepKernels table_of() {
  return {Products<S>::matmul,      Products<S>::matmul_add, Products<S>::gate_up,  Bytes<S>::quantize,
          Bytes<S>::matmul,         Bytes<S>::matmul_add,    Bytes<S>::gate_up,     Elementwise<S>::sum_exp,
          Elementwise<S>::silu_mul, Elementwise<S>::rope,    Elementwise<S>::route, Attention<S>::mla_absorbed,
          Attention<S>::mla_merge,  Attention<S>::mla_naive};
}

}  // namespace
}  // namespace abruzzi
