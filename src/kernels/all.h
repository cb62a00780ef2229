/* All kernels for one instruction set and one real type, as one table. Every file <set>_<type>.c compiles one copy: it says
 * what `real` is, and includes the header of its instruction set, which includes this one.
 *
 * Everything but the table is static. So the copies may share their names, and no other file can end up with the
 * instructions of one. */
#include "vec.h"
#include "gemm.h"
#include "panels.h"
#include "panel_grads.h"
#include "panel_inputs.h"
#include "rows.h"
#include "rnn.h"
#include "lstm.h"
#include "lstm_back.h"
#include "peephole.h"
#include "peephole_back.h"
#include "lstmp.h"
#include "gru.h"
#include "gru_steps.h"
#include "gru_back.h"
#include "mogrifier.h"
#include "mogrifier_back.h"
#include "norms.h"
#include "lnlstm.h"
#include "lnlstm_back.h"
#include "lngru.h"
#if REAL_IS_FLOAT
#include "reduced.h"
#include "reduced_micro.h"
#include "reduced_tiles.h"
#include "reduced_products.h"
#include "reduced_blocks.h"
#include "reduced_call.h"
#include "reduced_cells.h"
#include "reduced_gemm.h"
#include "reduced_back.h"
#include "reduced_back_cells.h"
#endif
#include "affine.h"
#include "slstm.h"
#include "slstm_back.h"
#include "softmax.h"
#include "affine_softmax.h"
#if REAL_IS_FLOAT
#include "reduced_softmax.h"
#endif
#include "updates.h"
#include "ops.h"
#include "philox.h"

#define CELL_ENTRIES(cell) .cell##_forward = cell##_forward, .cell##_backward = cell##_backward, .cell##_pack = cell##_pack,

#define REDUCED_CELLS(X) X(rnn) X(lstm) X(gru)
#define REDUCED_ENTRIES(cell) \
    .cell##_reduced = cell##_reduced, .cell##_reduced_backward = cell##_reduced_backward, \
    .cell##_pack_reduced = cell##_pack_reduced,

const kernel_set KERNELS = {.gemm = gemm,
                            .column_sums = column_sums,
                            .softmax_forward = softmax_forward,
                            .softmax_backward = softmax_backward,
                            .scatter = scatter,
                            .affine_softmax_forward = affine_softmax_forward,
                            .affine_softmax_backward = affine_softmax_backward,
                            .mixture_softmax = mixture_softmax,
                            .sum_of_squares = sum_of_squares,
                            .scale = scale,
                            .sgd = sgd,
                            .adam = adam,
                            .dropout_mask = dropout_mask,
                            .apply = apply,
                            .fma = run_fma,
#if REAL_IS_FLOAT
                            REDUCED_CELLS(REDUCED_ENTRIES)
#endif
                                CELLS(CELL_ENTRIES)};
