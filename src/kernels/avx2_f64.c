/* AVX2, double. */
typedef double real;
#define REAL_IS_FLOAT 0
#define KERNELS kernels_avx2_f64
#include "avx2.h"
