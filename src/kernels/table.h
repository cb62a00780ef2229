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

/* In the order of kernel_set: the cells, then what is not recurrent. */
#define CELL_F32(cell) cell##_forward_f32, cell##_backward_f32, cell##_pack_f32,
#define CELL_F64(cell) cell##_forward_f64, cell##_backward_f64, cell##_pack_f64,
#define REST(type) \
    gemm_##type, column_sums_##type, softmax_forward_##type, softmax_backward_##type, scatter_##type, \
        affine_softmax_forward_##type, affine_softmax_backward_##type, sum_of_squares_##type, scale_##type, sgd_##type, \
        adam_##type, dropout_mask_##type, apply_##type, fma_##type

const kernel_table TABLE = {TABLE_NAME, {CELLS(CELL_F32) REST(f32)}, {CELLS(CELL_F64) REST(f64)}};
