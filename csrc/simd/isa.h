// Which instruction set a kernel runs with. Levels are ordered; a machine that has one has those
// below.
#pragma once

namespace abruzzi {

enum class Isa : int { scalar = 0, avx2 = 1, avx512_vnni = 2 };

// The highest level that this CPU and its operating system support.
Isa best_isa();

}  // namespace abruzzi

// Variants beyond scalar exist on x86-64 only. ABRUZZI_NO_X86: as on any other machine
// (tests/guards).
#if defined(__x86_64__) && !defined(ABRUZZI_NO_X86)
#define ABRUZZI_X86 1
#define ABRUZZI_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ABRUZZI_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#endif
