# What a cell's call takes, checked.
cimport numpy as cnp

from rnnfast.cpu._runtime cimport kernel_set


cdef str sizes_of(
    ptrdiff_t D, ptrdiff_t H, ptrdiff_t P, ptrdiff_t K, int type_num, bint peepholes, bint full, ptrdiff_t rounds,
    ptrdiff_t rank
)


cdef class Params:
    cdef cnp.ndarray Wx, Wh, b, Wp, Wm, Wr, Wproj
    cdef list norms  # gains and biases of normalisations, contiguous
    cdef ptrdiff_t D, H, P, K, rounds, rank  # P: the width of h; K: units of a head; rank 0: none
    cdef int type_num
    cdef int precision  # of packed ones: see src/kernels/reduced.h
    cdef bint reset_after, full
    cdef Packed packed


cdef class Packed:
    cdef Arguments cell
    cdef const kernel_set *kernels
    cdef cnp.ndarray weights
    cdef Params params


cdef class Arguments:
    cdef str name
    cdef int index, gates, kept, states
    cdef bint has_c, has_rh, has_heads, has_rounds, has_projection, has_norms
    cdef tuple names, of_grads  # params, and the gradients in messages
    cdef str wide  # the letter of the width of h

    cdef Params check_packed(self, Packed packed, bint train, bint reset_after)
    cdef int check_precision(self, precision, Params p) except -1
    cdef Params check_params(self, params, bint reset_after)
    cdef int check_beside(self, Params p, params) except -1
    cdef list check_norms(self, Params p, params)
    cdef list weights(self, Params p)
    cdef str sizes_of(self, Params p)
    cdef cnp.ndarray check_lengths(self, lengths, ptrdiff_t N, ptrdiff_t T)
    cdef list check_grads(self, grads, Params p)
    cdef list places(self, list grads, list inputs, bint beside)
    cdef cnp.ndarray check_state(self, x, Params p, ptrdiff_t N, str name, bint of_c)
    cdef cnp.ndarray check_of_steps(self, x, Params p, ptrdiff_t N, ptrdiff_t T, str name)
    cdef tuple check_states(self, state, Params p, ptrdiff_t N, tuple names)
    cdef int check_size(self, ptrdiff_t N, ptrdiff_t T, Params p) except -1
