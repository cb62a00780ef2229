/* AVX-512, double. */
typedef double real;
#define REAL_IS_FLOAT 0
#define KERNELS kernels_avx512_f64
#include "avx512.h"
