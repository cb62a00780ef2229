/* NEON, double. */
typedef double real;
#define REAL_IS_FLOAT 0
#define KERNELS kernels_neon_f64
#include "neon.h"
