/* AVX2, float. */
typedef float real;
#define REAL_IS_FLOAT 1
#define KERNELS kernels_avx2_f32
#include "avx2.h"
