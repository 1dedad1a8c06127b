// The step's kernels without any vector instructions of our own: runs everywhere.
#include "simd/scalar.h"

#include "kernels/table_impl.h"

namespace abruzzi {

const StepKernels& step_kernels_scalar() {
  static constexpr StepKernels table = table_of<Scalar>();
  return table;
}

const StepKernels& step_kernels(Isa isa) {
#if defined(ABRUZZI_X86)
  if (isa == Isa::avx512_vnni) return step_kernels_avx512();
  if (isa == Isa::avx2) return step_kernels_avx2();
#endif
  (void)isa;
  return step_kernels_scalar();
}

}  // namespace abruzzi
