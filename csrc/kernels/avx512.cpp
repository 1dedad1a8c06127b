// The step's kernels for AVX-512; CMake compiles this file for such machines, dispatch keeps others
// away.
#include "simd/isa.h"

#if defined(ABRUZZI_X86)
#include "kernels/table_impl.h"
#include "simd/avx512.h"

namespace abruzzi {

const StepKernels& step_kernels_avx512() {
  static constexpr StepKernels table = table_of<Avx512>();
  return table;
}

}  // namespace abruzzi
#endif
