// The sets of instructions that inner loops are compiled for (build.rs), and the one of this machine.
#pragma once

enum class Isa { base, avx2, avx512 };

inline Isa mm_machine() {
#ifdef MM_X86
  static const Isa found = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return Isa::avx512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")
               ? Isa::avx2
               : Isa::base;
  }();
  return found;
#else
  return Isa::base;
#endif
}
