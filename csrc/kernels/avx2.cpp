// The step's kernels for AVX2 and FMA; CMake compiles this file for such machines, dispatch keeps
// others away.
#include "simd/isa.h"

#if defined(ABRUZZI_X86)
#include "kernels/table_impl.h"
#include "simd/avx2.h"

namespace abruzzi {

const StepKernels& step_kernels_avx2() {
  static constexpr StepKernels table = table_of<Avx2>();
  return table;
}

}  // namespace abruzzi
#endif
