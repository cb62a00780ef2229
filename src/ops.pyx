"""The operations that are not recurrent, on the CPU: one module, a file in src/ops for each subject."""
cimport cython
cimport numpy as cnp
import numpy as np

from cpython.exc cimport PyErr_CheckSignals

from rnnfast.cpu._runtime cimport (
    LONG_CALL, SCORES, SQUARES, affine_softmax_job, behaved, checked, dropout_job, finished, gemm_job, give_back, kernels_for, meets, memory,
    mixture_job, plain, product_precision, real_type, same_shape, scatter_job, softmax_job, span, span_of, strided, threads_for, update_job, view, writable,
)

cnp.import_array()

cdef extern from "<stdint.h>":
    const ptrdiff_t PTRDIFF_MAX

include "ops/arrays.pxi"
include "ops/affine.pxi"
include "ops/embedding.pxi"
include "ops/softmax_loss.pxi"
include "ops/affine_softmax_loss.pxi"
include "ops/mixture.pxi"
include "ops/updates.pxi"
include "ops/dropout.pxi"
