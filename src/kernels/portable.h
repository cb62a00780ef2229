/* Any processor: 4 floats a vector, in whatever the compiler's target has for them (SSE2, NEON). */
#include "isa.h"

#define VECTOR_BYTES 16
#define ROWS_1 4
#define ROWS_2 4
#define ROWS_3 3
#define ROWS_4 2
#define PINNED_NV 0
#define PIN(v) (void)0
#include "all.h"
