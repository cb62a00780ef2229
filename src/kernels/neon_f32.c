/* NEON, float. */
typedef float real;
#define REAL_IS_FLOAT 1
#define KERNELS kernels_neon_f32
#include "neon.h"
