/* Any processor, double. */
typedef double real;
#define REAL_IS_FLOAT 0
#define KERNELS kernels_portable_f64
#include "portable.h"
