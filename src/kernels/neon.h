/* NEON: 4 floats a vector, 32 registers: 16 sums, 8 vectors of a, 2 of b; with four of b 16 sums and 4 of a. */
#include "isa.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define NEON 1
#define VECTOR_BYTES 16
#define ROWS_1 8
#define ROWS_2 8
#define ROWS_3 6
#define ROWS_4 4
#define PIN(v) __asm__("" : "+w"(v))
#include "all.h"
#endif
