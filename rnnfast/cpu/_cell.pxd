# What the cells' modules share: the contract of rnnfast.kernels over one native call.
cimport numpy as cnp

from rnnfast.cpu._arguments cimport Arguments, Packed, Params
from rnnfast.cpu._runtime cimport cell_job, cell_kernel, kernel_set, strided


cdef struct Options:
    bint relu, reset_after, z_keeps
    double clip  # 0: none


cdef class Cache:
    cdef Cell cell
    cdef const kernel_set *kernels  # of the instruction set that laid out the panels
    cdef cnp.ndarray xs, h0, c0, h_mask, seen0, steps, order, first_row, panels, h, rh, seen, c, c_new, u, rounds_kept, norms_kept
    cdef cnp.ndarray candidate_mask, h_zoneout, c_zoneout, n0, m0
    cdef strided n0_view, m0_view
    cdef strided xs_view, h0_view, c0_view, mask_view, seen0_view, candidate_view, h_zoneout_view, c_zoneout_view
    cdef ptrdiff_t N, T, D, H, P, K, rounds, rank
    cdef ptrdiff_t rows  # N T, or where lengths differ and samples are sorted, their sum
    cdef int type_num, precision  # of products
    cdef bint reverse, peepholes, full, used
    cdef bint spoilt  # a backward that was stopped has overwritten what forward kept: it is computed again
    cdef Options options


cdef class Cell(Arguments):
    cdef Packed pack(self, params, bint reset_after, precision=*, bint relu=*)
    cdef int check_bounded(self, Params p, bint relu) except -1
    cdef tuple forward(
        self, xs, state, params, bint train, lengths, bint reverse, h_mask, tuple of_steps, Options options
    )
    cdef list new_states(self, cnp.ndarray h, ptrdiff_t N, ptrdiff_t H, int type_num)
    cdef int run_forward(self, Cache k, Params p, bint train, cnp.ndarray hs, list final) except -1
    cdef void describe(self, cell_job *job, Cache k, Params p) noexcept
    cdef tuple backward(self, dhs, dstate, params, cache, grads)
    cdef tuple run_backward(self, Cache k, dhs, dstate, params, grads)
    cdef int check_same(self, Params p, Cache k) except -1
    cdef int run(self, cell_kernel kernel, const cell_job *job) except -1
