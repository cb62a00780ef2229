/* AVX-512, float. */
typedef float real;
#define REAL_IS_FLOAT 1
#define KERNELS kernels_avx512_f32
#include "avx512.h"
