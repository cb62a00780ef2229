# What the cells' modules share: the contract of rnnfast.kernels over one native call.
cimport numpy as cnp

from rnnfast.cpu._runtime cimport cell_job, cell_kernel, kernel_set, strided


cdef struct Options:
    bint relu, reset_after, z_keeps
    double clip  # 0: none


cdef class Params:
    cdef cnp.ndarray Wx, Wh, b, Wp, Wm, Wr, Wproj
    cdef list norms  # gains and biases of normalisations, contiguous
    cdef ptrdiff_t D, H, P, K, rounds, rank  # P: the width of h; K: units of a head; rank 0: none
    cdef int type_num
    cdef bint reset_after, full
    cdef Packed packed


cdef class Packed:
    cdef Cell cell
    cdef const kernel_set *kernels
    cdef cnp.ndarray weights
    cdef Params params


cdef class Cache:
    cdef Cell cell
    cdef const kernel_set *kernels  # of the instruction set that laid out the panels
    cdef cnp.ndarray xs, h0, c0, h_mask, seen0, steps, panels, h, rh, seen, c, c_new, u, rounds_kept, norms_kept
    cdef cnp.ndarray candidate_mask, h_zoneout, c_zoneout, n0, m0
    cdef strided n0_view, m0_view
    cdef strided xs_view, h0_view, c0_view, mask_view, seen0_view, candidate_view, h_zoneout_view, c_zoneout_view
    cdef ptrdiff_t N, T, D, H, P, K, rounds, rank
    cdef int type_num
    cdef bint reverse, peepholes, full, used
    cdef bint spoilt  # a backward that was stopped has overwritten what forward kept: it is computed again
    cdef Options options


cdef class Cell:
    cdef str name
    cdef int index, gates, kept, states
    cdef bint has_c, has_rh, has_heads, has_rounds, has_projection, has_norms
    cdef tuple names
    cdef str wide  # the letter of the width of h

    cdef Params check_params(self, params, bint reset_after)
    cdef int check_beside(self, Params p, params) except -1
    cdef list check_norms(self, Params p, params)
    cdef list weights(self, Params p)
    cdef Params check_packed(self, Packed packed, bint train, bint reset_after)
    cdef Packed pack(self, params, bint reset_after)
    cdef cnp.ndarray check_lengths(self, lengths, ptrdiff_t N, ptrdiff_t T)
    cdef list check_grads(self, grads, Params p)
    cdef list places(self, list grads, list inputs, bint beside)
    cdef cnp.ndarray check_state(self, x, Params p, ptrdiff_t N, str name, bint of_c)
    cdef cnp.ndarray check_of_steps(self, x, Params p, ptrdiff_t N, ptrdiff_t T, str name)
    cdef str sizes_of(self, Params p)
    cdef tuple check_states(self, state, Params p, ptrdiff_t N, tuple names)
    cdef list new_states(self, cnp.ndarray h, ptrdiff_t N, ptrdiff_t H, int type_num)
    cdef int check_size(self, ptrdiff_t N, ptrdiff_t T, Params p) except -1
    cdef int run_forward(self, Cache k, Params p, bint train, cnp.ndarray hs, list final) except -1
    cdef void describe(self, cell_job *job, Cache k, Params p) noexcept
    cdef int run(self, cell_kernel kernel, const cell_job *job) except -1
    cdef tuple forward(
        self, xs, state, params, bint train, lengths, bint reverse, h_mask, tuple of_steps, Options options
    )
    cdef tuple backward(self, dhs, dstate, params, cache, grads)
