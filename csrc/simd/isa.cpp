#include "simd/isa.h"

namespace abruzzi {

Isa best_isa() {
#if defined(ABRUZZI_X86)
  // The compiler's test includes the operating system's (XGETBV): registers it does not save are
  // not used.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx2 && avx512) return Isa::avx512_vnni;
  if (avx2) return Isa::avx2;
#endif
  return Isa::scalar;
}

}  // namespace abruzzi
