/* Vector types and the instruction sets that templates are compiled for. */
#ifndef RECON_PROCESSOR_H
#define RECON_PROCESSOR_H

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define WITH_AVX2
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define EXPORT __attribute__((visibility("default")))
#else
#define EXPORT
#endif

#define PASTE(a, b) a##_##b
#define JOIN(a, b) PASTE(a, b)
#define NAME(x) JOIN(x, SUFFIX)

typedef float float8 __attribute__((vector_size(32), aligned(32)));
typedef double double4 __attribute__((vector_size(32), aligned(32)));

static inline int has_avx2(void) {
#ifdef WITH_AVX2
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

#endif
