/* Any processor, float. */
typedef float real;
#define REAL_IS_FLOAT 1
#define KERNELS kernels_portable_f32
#include "portable.h"
