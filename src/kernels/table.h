/* All kernels for the instruction set that the including file has fixed, for both real types, as one table.
 * Everything is static: no other file can end up with this file's instructions. */

#define REAL float
#define REAL_IS_FLOAT 1
#define NAME(x) x##_f32
#include "all.h"
#undef REAL
#undef REAL_IS_FLOAT
#undef NAME

#define REAL double
#define REAL_IS_FLOAT 0
#define NAME(x) x##_f64
#include "all.h"
#undef REAL
#undef REAL_IS_FLOAT
#undef NAME

#define SET(type) \
    { \
        rnn_forward_##type, rnn_backward_##type, lstm_forward_##type, lstm_backward_##type, gru_forward_##type, \
            gru_backward_##type, rnn_pack_##type, lstm_pack_##type, gru_pack_##type, peephole_forward_##type, peephole_backward_##type, gemm_##type, column_sums_##type, \
            softmax_forward_##type, softmax_backward_##type, scatter_##type, affine_softmax_forward_##type, \
            affine_softmax_backward_##type, sum_of_squares_##type, scale_##type, sgd_##type, adam_##type, \
            dropout_mask_##type, apply_##type, fma_##type \
    }

const kernel_table TABLE = {TABLE_NAME, SET(f32), SET(f64)};
