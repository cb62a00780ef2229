/* AVX2 with FMA: 8 floats a vector, 16 registers: 12 sums, 2 vectors of b, 1 broadcast. */
#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VECTOR_BYTES 32
#define ROWS_1 6
#define ROWS_2 6
#define ROWS_3 4
#define ROWS_4 3
#define PINNED_NV 2
#define PIN(v) __asm__("" : "+x"(v))
#include "all.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
