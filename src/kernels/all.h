/* One copy of all kernels for one real type; table.h includes this once for each. */
#include "vec.h"
#include "gemm.h"
#include "panels.h"
#include "rows.h"
#include "rnn.h"
#include "lstm.h"
#include "peephole.h"
#include "gru.h"
#include "ops.h"
#undef W
#undef vec
#undef matrix
#undef product
#undef rows_of
#undef panels_of
#undef right_side
