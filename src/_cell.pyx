"""The call that every cell shares: fill in one `cell_job` from checked arrays, run it without the GIL."""
cimport cython
cimport numpy as cnp
import numpy as np

from libc.string cimport memset

from rnnfast.cpu._arguments cimport Arguments, Packed, Params, sizes_of
from rnnfast.cpu._runtime cimport (
    LONG_CALL, behaved, cell_job, cell_kernel, cell_kernels, cell_of, checked, finished, kernels_for, pack_kernel, pack_weights,
    product_precision, row_step, strided, threads_for, view,
)

cnp.import_array()

cdef enum:
    INT8 = 2  # in src/kernels/reduced.h

include "cell/jobs.pxi"


@cython.auto_pickle(False)
@cython.freelist(4)
@cython.final
cdef class Cache:
    """What forward keeps for backward. Opaque: its layout is written in the cell's header in src/kernels.

    Of the caller's arrays it keeps the place and strides as they were: their shape may be assigned to."""


@cython.auto_pickle(False)
@cython.final
cdef class Cell(Arguments):
    """One row of the grid."""

    cdef Packed pack(self, params, bint reset_after, precision=None, bint relu=False):
        cdef Params p = self.check_params(params, reset_after), own = Params()
        own.precision = self.check_precision(precision, p)
        self.check_bounded(own, relu)
        self.check_size(1, 1, p)
        cdef Packed packed = Packed()
        packed.cell, packed.kernels, packed.params = self, kernels_for(p.type_num), own
        own.D, own.H, own.P, own.K, own.type_num, own.packed = p.D, p.H, p.P, p.K, p.type_num, packed
        own.reset_after, own.full, own.rounds, own.rank = reset_after, p.full, p.rounds, p.rank
        own.b = None if p.b is None else p.b.copy()
        own.Wp = None if p.Wp is None else p.Wp.copy()
        own.norms = None if p.norms is None else [norm.copy() for norm in p.norms]
        cdef cell_job job
        job.D, job.H, job.P, job.K = p.D, p.H, p.P, p.K
        job.Wx, job.Wh, job.Wproj = view(p.Wx), view(p.Wh), optional(p.Wproj)
        job.Wp, job.full = data(p.Wp), p.full
        job.rounds, job.rank, job.Wm, job.Wr, job.dWm, job.dWr = p.rounds, p.rank, data(p.Wm), data(p.Wr), NULL, NULL
        job.precision = own.precision
        cdef cell_kernels own_kernels = cell_of(packed.kernels, self.index)
        cdef pack_kernel kernel = own_kernels.pack_reduced if own.precision else own_kernels.pack
        packed.weights = empty2(1, kernel(&job, NULL) + 32, p.type_num)
        cdef void *room = aligned(packed.weights)
        cdef int failed
        with nogil:
            failed = pack_weights(kernel, &job, room)
        finished(failed, self.name)
        return packed

    cdef int check_bounded(self, Params p, bint relu) except -1:
        """8 bits are for an h with a bound."""
        if p.precision == INT8 and relu:
            raise ValueError(f"{self.name}: precision 'int8' is for nonlinearity=\"tanh\", got \"relu\"")
        return 0

    cdef list new_states(self, cnp.ndarray h, ptrdiff_t N, ptrdiff_t H, int type_num):
        """h, and an array for each of the other states."""
        cdef list states = [h]
        for _ in range(1, self.states):
            states.append(empty2(N, H, type_num))
        return states

    cdef tuple forward(
        self, xs, state, params, bint train, lengths, bint reverse, h_mask, tuple of_steps, Options options
    ):
        """of_steps: candidate_mask, h_zoneout and c_zoneout, of which any may be None."""
        cdef Params p
        if isinstance(params, Packed):
            p = self.check_packed(params, train, options.reset_after)
            self.check_bounded(p, options.relu)
        else:
            p = self.check_params(params, options.reset_after)
        cdef cnp.ndarray x = checked(xs, 3, p.type_num, self.name, "xs")
        cdef ptrdiff_t N = cnp.PyArray_DIM(x, 0), T = cnp.PyArray_DIM(x, 1), D = p.D, H = p.H, P = p.P
        if cnp.PyArray_DIM(x, 2) != D:
            raise ValueError(f"{self.name}: xs must be (N, T, D) = (N, T, {D}), got {np.shape(x)}")
        self.check_size(N, T, p)
        h0, c0, n0, m0 = self.check_states(state, p, N, ("h", "c", "n", "m", "state"))
        cdef cnp.ndarray order = None, first_row = None, steps = None, mask = None if h_mask is None else self.check_state(h_mask, p, N, "h_mask", False)
        cdef cnp.ndarray candidate_mask = self.check_of_steps(of_steps[0], p, N, T, "candidate_mask")
        cdef cnp.ndarray h_zoneout = self.check_of_steps(of_steps[1], p, N, T, "h_zoneout")
        cdef cnp.ndarray c_zoneout = self.check_of_steps(of_steps[2], p, N, T, "c_zoneout")
        if lengths is not None:
            lengths = self.check_lengths(lengths, N, T)
            # the longest first: a step concerns the first ones, see step_rows in src/kernels/isa.h
            order = np.argsort(-lengths, kind="stable")
            h0, c0, n0, m0, mask = [None if a is None else a[order] for a in (h0, c0, n0, m0, mask)]
            lengths = lengths[order]
            first_row = first_rows(lengths, T, reverse)
            steps = np.stack((T - lengths, np.full(N, T)) if reverse else (np.zeros_like(lengths), lengths))
        x = behaved(x, True)
        seen0 = h0
        if h0 is not None and mask is not None:
            with np.errstate(all="ignore"):  # as quiet as the C that does it for the later steps
                seen0 = np.multiply(h0, mask, order="C")

        cdef cnp.ndarray hs = rows_of_samples(N, T, P, p.type_num, order, steps)
        cdef cnp.ndarray hT = empty2(N, P, p.type_num)
        cdef list final = self.new_states(hT, N, H, p.type_num)
        cdef Cache k = Cache()
        k.cell, k.kernels = self, kernels_for(p.type_num) if p.packed is None else p.packed.kernels
        k.xs, k.h0, k.c0, k.n0, k.m0, k.h_mask, k.seen0 = x, h0, c0, n0, m0, mask, seen0
        k.n0_view, k.m0_view = optional(n0), optional(m0)
        k.xs_view, k.h0_view, k.c0_view = view(x), optional(h0), optional(c0)
        k.mask_view, k.seen0_view = optional(mask), optional(seen0)
        k.candidate_mask, k.h_zoneout, k.c_zoneout = candidate_mask, h_zoneout, c_zoneout
        k.candidate_view = optional(candidate_mask)
        k.h_zoneout_view, k.c_zoneout_view = optional(h_zoneout), optional(c_zoneout)
        k.N, k.T, k.D, k.H, k.P, k.K = N, T, D, H, P, p.K
        k.first_row, k.rows = first_row, N * T if first_row is None else first_row[T]
        k.type_num, k.reverse, k.options, k.steps, k.order = p.type_num, reverse, options, steps, order
        k.peepholes, k.full, k.rounds, k.rank = p.Wp is not None, p.full, p.rounds, p.rank
        k.precision = p.precision
        if p.packed is None and not p.full and cell_of(k.kernels, self.index).reduced != NULL:
            k.precision = product_precision(p.type_num)
        cdef int kept = self.kept + options.reset_after + (c_zoneout is not None)
        cdef ptrdiff_t step = row_step(H, hs.itemsize), h_step = row_step(P, hs.itemsize)
        if k.rows == 0:
            for copy, first in zip(final, (h0, c0, n0, m0)):
                copy[...] = 0 if first is None else first
        else:
            if train:
                # 32 more: room to align, and a vector that may be read beyond the end
                k.panels = empty2(1, kept * k.rows * H + 32, p.type_num)
                k.h = empty3(T, N, h_step, p.type_num)
                k.seen = k.h if mask is None or self.has_c else empty3(T, N, h_step, p.type_num)  # an LSTM reads only that
                if self.has_rh and not options.reset_after:
                    k.rh = empty3(T, N, step, p.type_num)
                if p.full:
                    k.c = empty3(T, N, step, p.type_num)
                    k.c_new = None if c_zoneout is None else empty3(T, N, step, p.type_num)
                if self.has_projection:
                    k.u = empty3(T, N, step, p.type_num)
                if self.has_rounds:
                    k.rounds_kept = empty2(1, rounds_room(N * T, p, hs.itemsize), p.type_num)
                if self.has_norms:
                    k.norms_kept = empty2(1, norms_room(N * T, H, self.gates), p.type_num)
            self.run_forward(k, p, train, hs, final)
        if order is not None:
            final = [in_place(a, order) for a in final]
        return hs, tuple(final), (k if train else None)

    cdef int run_forward(self, Cache k, Params p, bint train, cnp.ndarray hs, list final) except -1:
        """From what is in the cache into hs, the final states and, with train, into the arrays that it keeps."""
        cdef cell_job job
        self.describe(&job, k, p)
        job.train = train
        job.hs = view(hs)
        job.hT, job.cT = data(final[0]), data(final[1] if self.states > 1 else None)
        job.nT, job.mT = data(final[2] if self.states > 2 else None), data(final[3] if self.states > 2 else None)
        job.packed = NULL if p.packed is None else aligned(p.packed.weights)
        if k.reverse:
            backwards(&job.hs, k.T, k.type_num)
        cdef cell_kernels own = cell_of(k.kernels, self.index)
        return self.run(own.reduced if job.precision else own.forward, &job)

    cdef void describe(self, cell_job *job, Cache k, Params p) noexcept:
        """What is the same for forward and backward: sizes, options, inputs, weights and what is kept."""
        job.N, job.T, job.D, job.H, job.P, job.K = k.N, k.T, k.D, k.H, k.P, k.K
        take_options(job, k.options, k.steps)
        job.order, job.first_row = <const ptrdiff_t *>data(k.order), <const ptrdiff_t *>data(k.first_row)
        cdef double faster = 4 if k.precision else 1  # what is short work for one thread
        job.precision = k.precision
        # threads have units, or samples: as many as are worth a thread
        job.threads = threads_for(2.0 * k.N * k.P * self.gates * k.H / faster, max((k.H + 15) // 16, k.N // 8))
        job.xs, job.h0, job.c0, job.n0, job.m0 = k.xs_view, k.h0_view, k.c0_view, k.n0_view, k.m0_view
        job.h_mask, job.seen0 = k.mask_view, k.seen0_view
        job.candidate_mask, job.h_zoneout, job.c_zoneout = k.candidate_view, k.h_zoneout_view, k.c_zoneout_view
        job.Wx, job.Wh, job.Wproj, job.packed = optional(p.Wx), optional(p.Wh), optional(p.Wproj), NULL
        job.b, job.Wp, job.full = data(p.b), data(p.Wp), k.full
        job.rounds, job.rank, job.Wm, job.Wr, job.dWm, job.dWr = k.rounds, k.rank, data(p.Wm), data(p.Wr), NULL, NULL
        job.dWproj = NULL
        job.rounds_kept = NULL if k.rounds_kept is None else aligned(k.rounds_kept)
        job.norms_kept = NULL if k.norms_kept is None else aligned(k.norms_kept)
        take_norms(job, p)
        job.panels = NULL if k.panels is None else aligned(k.panels)
        job.h, job.seen, job.rh, job.c, job.u = data(k.h), data(k.seen), data(k.rh), data(k.c), data(k.u)
        job.c_new = data(k.c_new)
        if k.reverse:
            backwards(&job.xs, k.T, k.type_num)
            backwards(&job.candidate_mask, k.T, k.type_num)
            backwards(&job.h_zoneout, k.T, k.type_num)
            backwards(&job.c_zoneout, k.T, k.type_num)

    cdef tuple backward(self, dhs, dstate, params, cache, grads):
        if cache is None:
            raise RuntimeError(f"{self.name}: backward needs the cache of a forward with train=True, got None")
        if not isinstance(cache, Cache) or (<Cache>cache).cell.index != self.index:
            raise TypeError(f"{self.name}: cache must come from {self.name}.forward, got {type(cache).__name__}")
        cdef Cache k = cache
        with cython.critical_section(k):  # of two threads that come with it one finds it used
            if k.used:
                raise RuntimeError(f"{self.name}: this cache was used by an earlier backward; call forward again")
            k.used = True
        try:
            return self.run_backward(k, dhs, dstate, params, grads)
        except BaseException:  # wrong arguments, what the handler of a signal raised, or no memory
            k.used = False
            raise

    cdef tuple run_backward(self, Cache k, dhs, dstate, params, grads):
        """Of a cache that no other thread uses."""
        cdef Params p = self.check_params(params, k.options.reset_after)
        cdef ptrdiff_t N = k.N, T = k.T, D = k.D, H = k.H, P = k.P, projected = P if self.has_projection else 0
        self.check_same(p, k)
        cdef cnp.ndarray g = checked(dhs, 3, p.type_num, self.name, "dhs")
        if cnp.PyArray_DIM(g, 2) != P:
            raise ValueError(f"{self.name}: dhs must be (N, T, {self.wide}) = (N, T, {P}), got {np.shape(g)}")
        if cnp.PyArray_DIM(g, 0) != N or cnp.PyArray_DIM(g, 1) != T:
            raise ValueError(f"{self.name}: dhs must be (N, T, {self.wide}) = ({N}, {T}, {P}), got {np.shape(g)}")
        g = behaved(g, True)
        dhT, dcT, dnT, dmT = self.check_states(dstate, p, N, ("dh", "dc", "dn", "dm", "dstate"))
        cdef list own = self.check_grads(grads, p)
        cdef double more = p.rounds * (<double>p.rank * (D + H) if p.rank else <double>D * H) + <double>projected * H
        cdef bint beside = 6.0 * N * T * (<double>(D + P) * self.gates * H + more) > LONG_CALL
        cdef list inputs = [k.xs, k.h0, k.c0, k.h_mask, k.seen0, p.Wx, p.Wh, p.Wp, p.Wm, p.Wr, p.Wproj, g, dhT, dcT]
        inputs += [k.candidate_mask, k.h_zoneout, k.c_zoneout, k.n0, k.m0, dnT, dmT, *(p.norms or ())]
        cdef list targets = self.places(own, inputs, beside)

        cdef cnp.ndarray dxs = rows_of_samples(N, T, D, p.type_num, k.order, k.steps)
        cdef cnp.ndarray dh0 = empty2(N, P, p.type_num)
        cdef list initial = self.new_states(dh0, N, H, p.type_num)
        if k.rows == 0:
            for grad in own:
                if grad is not None:
                    grad[...] = 0
            for copy, dfinal in zip(initial, (dhT, dcT, dnT, dmT)):
                copy[...] = 0 if dfinal is None else dfinal
            return dxs, tuple(initial)

        if k.spoilt:
            again = self.new_states(empty2(N, P, p.type_num), N, H, p.type_num)
            self.run_forward(k, p, True, empty3(N, T, P, p.type_num), again)
        cdef cell_job job
        self.describe(&job, k, p)
        job.train = True
        if k.order is not None:
            dhT, dcT, dnT, dmT = [None if a is None else a[k.order] for a in (dhT, dcT, dnT, dmT)]
        job.dhs, job.dxs = view(g), view(dxs)
        job.dhT, job.dcT, job.dnT, job.dmT = optional(dhT), optional(dcT), optional(dnT), optional(dmT)
        job.dh0, job.dc0 = data(dh0), data(initial[1] if self.states > 1 else None)
        job.dn0, job.dm0 = data(initial[2] if self.states > 2 else None), data(initial[3] if self.states > 2 else None)
        job.whole = not beside
        job.dWx, job.dWh, job.db, job.dWp = data(targets[0]), data(targets[1]), data(targets[2]), NULL
        if self.has_rounds:
            job.dWm, job.dWr = data(targets[3]), data(targets[4])
        elif self.has_norms:
            for i in range(3, len(targets)):
                job.dnorms[i - 3] = data(targets[i])
        elif self.has_projection:
            job.dWproj = data(targets[3])
        elif len(targets) > 3:
            job.dWp = data(targets[3])
        if k.reverse:
            backwards(&job.dhs, T, p.type_num)
            backwards(&job.dxs, T, p.type_num)
        cdef cell_kernels kernels = cell_of(k.kernels, self.index)
        k.spoilt = True
        self.run(kernels.reduced_backward if job.precision else kernels.backward, &job)
        if k.order is not None:
            initial = [in_place(a, k.order) for a in initial]
        for scratch, grad in zip(targets, own):
            if scratch is not grad:
                grad[...] = scratch
        k.panels = k.h = k.rh = k.seen = k.xs = k.h0 = k.c0 = k.h_mask = k.seen0 = k.c = k.u = k.steps = k.rounds_kept = None
        k.order = k.first_row = None
        k.norms_kept = k.n0 = k.m0 = None
        k.c_new = k.candidate_mask = k.h_zoneout = k.c_zoneout = None
        return dxs, tuple(initial)

    cdef int check_same(self, Params p, Cache k) except -1:
        """Check that params are like those of forward."""
        cdef ptrdiff_t P = k.P if self.has_projection else 0, K = k.K if self.has_heads else 0
        cdef bint sizes = p.D == k.D and p.H == k.H and p.P == k.P and p.K == k.K and p.type_num == k.type_num
        if not sizes or (p.Wp is not None) != k.peepholes or p.full != k.full or p.rounds != k.rounds or p.rank != k.rank:
            expected = sizes_of(k.D, k.H, P, K, k.type_num, k.peepholes, k.full, k.rounds, k.rank)
            raise ValueError(f"{self.name}: params must be those of forward, with {expected}, got {self.sizes_of(p)}")
        return 0

    cdef int run(self, cell_kernel kernel, const cell_job *job) except -1:
        cdef int failed
        with nogil:
            failed = kernel(job)
        return finished(failed, self.name)
