/* AVX-512: 16 floats a vector, 32 registers: 24 sums, 4 vectors of b, 1 broadcast. */
#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define VECTOR_BYTES 64
#define ROWS_1 12
#define ROWS_2 12
#define ROWS_3 8
#define ROWS_4 6
#define PINNED_NV 4
#define PIN(v) __asm__("" : "+v"(v))
#include "all.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
