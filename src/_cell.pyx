"""The call that every cell shares: check the arrays, fill in one `cell_job`, run it without the GIL.

Checks here are cheap and complete: whatever is passed in, a call either raises or stays inside its arrays.
"""
cimport cython
cimport numpy as cnp
import numpy as np

from rnnfast.cpu._runtime cimport (
    LONG_CALL, behaved, cell_index, cell_job, cell_kernel, cell_of, checked, finished, kernels_for, kind_of, meets, pack_weights,
    pack_kernel, real_type, row_step, span, span_of, strided, threads_for, view, writable,
)

cnp.import_array()


cdef void backwards(strided *v, ptrdiff_t T, int type_num) noexcept:
    """Let axis 1 of v run from its end."""
    cdef ptrdiff_t size = 4 if type_num == cnp.NPY_FLOAT else 8
    v.p = <const char *>v.p + (T - 1) * v.s1 * size
    v.s1 = -v.s1


cdef void *aligned(cnp.ndarray x) noexcept:
    return <void *>((<size_t>cnp.PyArray_DATA(x) + 63) & ~<size_t>63)


cdef cnp.ndarray empty2(ptrdiff_t a, ptrdiff_t b, int type_num):
    cdef cnp.npy_intp[2] dims = [a, b]
    return cnp.PyArray_EMPTY(2, dims, type_num, 0)


cdef cnp.ndarray empty3(ptrdiff_t a, ptrdiff_t b, ptrdiff_t c, int type_num):
    cdef cnp.npy_intp[3] dims = [a, b, c]
    return cnp.PyArray_EMPTY(3, dims, type_num, 0)


cdef strided optional(x) noexcept:
    cdef strided v
    if x is not None:
        return view(x)
    v.p = NULL
    v.s0 = v.s1 = v.s2 = 0
    return v


cdef void *data(cnp.ndarray x) noexcept:
    return NULL if x is None else cnp.PyArray_DATA(x)


cdef str sizes_of(
    ptrdiff_t D, ptrdiff_t H, ptrdiff_t P, ptrdiff_t K, int type_num, bint peepholes, bint full, ptrdiff_t rounds,
    ptrdiff_t rank
):
    """What params have to have in common with those of forward, in words. P, K: 0 without a projection, without heads."""
    cdef str sizes = f"D = {D}, H = {H}, {cnp.PyArray_DescrFromType(type_num)}"
    if P:
        return f"{sizes} and P = {P}"
    if K:
        return f"{sizes} and K = {K}"
    if rounds:
        return f"{sizes}, rounds = {rounds} and rank = {rank or None}"
    kind = ("full" if full else "diagonal") if peepholes else "no"
    return f"{sizes} and {kind} peepholes"


cdef ptrdiff_t rounds_room(ptrdiff_t rows, Params p, ptrdiff_t size) noexcept:
    """Reals of cell_job.rounds_kept: of each product y and what it makes, with room to align both."""
    cdef ptrdiff_t i, M, room = 32
    for i in range(p.rounds):
        M = p.D if i % 2 == 0 else p.H
        room += rows * (M + row_step(M, size)) + 64
        if p.rank:
            room += rows * (p.rank + row_step(p.rank, size)) + 64
    return room


cdef ptrdiff_t norms_room(ptrdiff_t rows, ptrdiff_t H, int gates) noexcept:
    """Reals of cell_job.norms_kept: x Wx and h Wh, and at most four norms for each row, with room to align them."""
    return rows * (2 * gates * H + 8) + 256


cdef void take_norms(cell_job *job, Params p) noexcept:
    cdef cnp.ndarray own
    cdef int i
    for i in range(4):
        own = p.norms[i] if p.norms is not None and i < len(p.norms) else None
        job.norms[i], job.dnorms[i] = data(own), NULL


cdef void take_options(cell_job *job, Options options, cnp.ndarray steps) noexcept:
    job.relu, job.reset_after, job.z_keeps, job.clip = options.relu, options.reset_after, options.z_keeps, options.clip
    job.first_step = job.end_step = NULL
    if steps is not None:
        job.first_step = <const ptrdiff_t *>cnp.PyArray_DATA(steps)
        job.end_step = job.first_step + cnp.PyArray_DIM(steps, 1)


@cython.auto_pickle(False)
@cython.final
cdef class Cache:
    """What forward keeps for backward. Opaque: its layout is written in the cell's header in src/kernels.

    Of the caller's arrays it keeps the place and strides as they were: their shape may be assigned to."""


@cython.auto_pickle(False)
@cython.final
cdef class Params:
    """(Wx, Wh, b) and Wp, Wm and Wr, Wproj or norms, after their checks; of packed ones b, Wp and norms alone are there."""


@cython.auto_pickle(False)
@cython.final
cdef class Packed:
    """What pack gives: copies of the weights, laid out for the instruction set that was in use then."""


@cython.auto_pickle(False)
@cython.final
cdef class Cell:
    """One row of the grid: `gates` blocks of H columns in the weights, `kept` values a unit kept in the panels (one more
    with reset_after or c_zoneout). has_c: a second state; has_rh: without reset_after r h is kept; has_heads: Wh is
    (H, gates K), and there are two more states; beside: the names of the params after Wx, Wh and b: Wp, Wm and Wr, Wproj, or
    the gains and biases of normalisations, gx and gh first."""

    def __cinit__(
        self, str name, int gates, int kept, bint has_c=False, bint has_rh=False, bint has_heads=False, tuple beside=()
    ):
        self.name, self.index = name, cell_index(name.encode())
        if self.index < 0:
            raise ValueError(f"Cell: name must be one of CELLS in src/kernels/kernels.h, got {name!r}")
        self.gates, self.kept, self.has_c, self.has_rh, self.has_heads = gates, kept, has_c, has_rh, has_heads
        self.states = 4 if has_heads else 2 if has_c else 1
        self.names, self.has_rounds, self.has_norms = ("Wx", "Wh", "b", *beside), "Wm" in beside, "gx" in beside
        self.has_projection = "Wproj" in beside
        self.wide = "P" if self.has_projection else "H"

    cdef Params check_packed(self, Packed packed, bint train, bint reset_after):
        if packed.cell.index != self.index:
            raise TypeError(f"{self.name}: params were packed by {packed.cell.name}.pack")
        if train:
            raise TypeError(f"{self.name}: packed params are for train=False")
        if packed.params.reset_after != reset_after:
            raise TypeError(f"{self.name}: params were packed with reset_after={packed.params.reset_after}")
        return packed.params

    cdef Packed pack(self, params, bint reset_after):
        cdef Params p = self.check_params(params, reset_after), own = Params()
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
        cdef pack_kernel kernel = cell_of(packed.kernels, self.index).pack
        packed.weights = empty2(1, kernel(&job, NULL) + 32, p.type_num)
        cdef void *room = aligned(packed.weights)
        cdef int failed
        with nogil:
            failed = pack_weights(kernel, &job, room)
        finished(failed, self.name)
        return packed

    cdef Params check_params(self, params, bint reset_after):
        if not isinstance(params, (tuple, list)) or not (
            (len(self.names) if self.has_norms else 4 if self.has_rounds or self.has_projection else 2)
            <= len(params) <= len(self.names)
        ):
            raise TypeError(f"{self.name}: params must be ({', '.join(self.names)}), got {type(params).__name__}")
        cdef Params p = Params()
        Wx, Wh = params[0], params[1]
        b = params[2] if len(params) > 2 else None
        p.type_num = real_type(Wx, f"{self.name}: Wx")
        p.Wx = checked(Wx, 2, p.type_num, f"{self.name}: Wx")
        p.Wh = checked(Wh, 2, p.type_num, f"{self.name}: Wh")
        p.D, p.P = cnp.PyArray_DIM(p.Wx, 0), cnp.PyArray_DIM(p.Wh, 0)
        p.H = cnp.PyArray_DIM(p.Wh, 1) // self.gates if self.has_projection else p.P
        cdef ptrdiff_t columns = self.gates * p.H
        p.K = cnp.PyArray_DIM(p.Wh, 1) // self.gates if self.has_heads else p.H
        if self.has_heads:
            if p.H < 1 or p.K < 1 or cnp.PyArray_DIM(p.Wh, 1) != self.gates * p.K or p.H % p.K:
                heads = f"(H, {self.gates}K) with a K that divides H"
                raise ValueError(f"{self.name}: Wh must be {heads}, got {np.shape(p.Wh)}")
        elif p.P < 1 or p.H < 1 or cnp.PyArray_DIM(p.Wh, 1) != columns:
            raise ValueError(f"{self.name}: Wh must be ({self.wide}, {self.gates}H), got {np.shape(p.Wh)}")
        if p.D < 1 or cnp.PyArray_DIM(p.Wx, 1) != columns:
            raise ValueError(f"{self.name}: Wx must be (D, {self.gates}H) = (D, {columns}), got {np.shape(p.Wx)}")
        p.reset_after = reset_after
        if b is not None and reset_after:
            p.b = checked(b, 2, p.type_num, f"{self.name}: b")
            if cnp.PyArray_DIM(p.b, 0) != 2 or cnp.PyArray_DIM(p.b, 1) != columns:
                raise ValueError(f"{self.name}: b must be (2, {self.gates}H) = (2, {columns}), got {np.shape(p.b)}")
            p.b = np.ascontiguousarray(behaved(p.b, True))
        elif b is not None:
            p.b = checked(b, 1, p.type_num, f"{self.name}: b")
            if cnp.PyArray_DIM(p.b, 0) != columns:
                raise ValueError(f"{self.name}: b must be ({self.gates}H,) = ({columns},), got {np.shape(p.b)}")
            p.b = behaved(p.b, True)
        self.check_beside(p, params)
        p.Wx, p.Wh = behaved(p.Wx, False), behaved(p.Wh, False)
        return p

    cdef int check_beside(self, Params p, params) except -1:
        """Wp, Wm and Wr, Wproj, or norms, into p."""
        Wp = Wr = None
        if self.has_norms:
            p.norms = self.check_norms(p, params)
        elif self.has_projection:
            p.Wproj = checked(params[3], 2, p.type_num, f"{self.name}: Wproj")
            if cnp.PyArray_DIM(p.Wproj, 0) != p.H or cnp.PyArray_DIM(p.Wproj, 1) != p.P:
                raise ValueError(f"{self.name}: Wproj must be (H, P) = ({p.H}, {p.P}), got {np.shape(p.Wproj)}")
            p.Wproj = behaved(p.Wproj, False)
        elif self.has_rounds:
            p.Wm = checked(params[3], 3, p.type_num, f"{self.name}: Wm")
            Wr = params[4] if len(params) > 4 else None
            p.rounds, columns, wide = cnp.PyArray_DIM(p.Wm, 0), cnp.PyArray_DIM(p.Wm, 2), "D" if Wr is None else "k"
            if not 1 <= p.rounds < 2**20 or cnp.PyArray_DIM(p.Wm, 1) != p.H or columns < 1 or Wr is None and columns != p.D:
                sizes = f"H = {p.H} and D = {p.D}" if Wr is None else f"H = {p.H}"
                raise ValueError(f"{self.name}: Wm must be (r, H, {wide}) with {sizes}, got {np.shape(p.Wm)}")
            p.Wm = np.ascontiguousarray(behaved(p.Wm, False))
        elif len(params) > 3:
            Wp = params[3]
        if Wr is not None:
            p.rank = columns
            p.Wr = checked(Wr, 3, p.type_num, f"{self.name}: Wr")
            expected = p.rounds, p.rank, p.D
            if np.shape(p.Wr) != expected:
                raise ValueError(f"{self.name}: Wr must be (r, k, D) = {expected}, got {np.shape(p.Wr)}")
            p.Wr = np.ascontiguousarray(behaved(p.Wr, False))
        if Wp is not None:
            p.full = isinstance(Wp, np.ndarray) and cnp.PyArray_NDIM(Wp) == 3
            p.Wp = checked(Wp, 3 if p.full else 2, p.type_num, f"{self.name}: Wp")
            if cnp.PyArray_DIM(p.Wp, 0) != 3 or cnp.PyArray_DIM(p.Wp, 1) != p.H or (
                p.full and cnp.PyArray_DIM(p.Wp, 2) != p.H
            ):
                raise ValueError(f"{self.name}: Wp must be (3, H) or (3, H, H) with H = {p.H}, got {np.shape(p.Wp)}")
            p.Wp = np.ascontiguousarray(behaved(p.Wp, False))
        return 0

    cdef list check_norms(self, Params p, params):
        """The gains of x Wx and of h Wh, of all gates, and what is of one gate alone."""
        cdef cnp.ndarray norm
        cdef list norms = []
        self.check_size(1, 1, p)  # before they are copied
        for name, given in zip(self.names[3:], params[3:]):
            norm = checked(given, 1, p.type_num, f"{self.name}: {name}")
            gates, label = (self.gates, f"{self.gates}H") if name in ("gx", "gh") else (1, "H")
            if cnp.PyArray_DIM(norm, 0) != gates * p.H:
                raise ValueError(f"{self.name}: {name} must be ({label},) = ({gates * p.H},), got {np.shape(norm)}")
            norms.append(np.ascontiguousarray(behaved(norm, True)))
        return norms

    cdef list weights(self, Params p):
        """One for each of names, None where it is not there."""
        if self.has_norms:
            return [p.Wx, p.Wh, p.b, *p.norms]
        beside = (p.Wm, p.Wr) if self.has_rounds else (p.Wproj if self.has_projection else p.Wp,)
        return [p.Wx, p.Wh, p.b, *beside][: len(self.names)]

    cdef str sizes_of(self, Params p):
        cdef ptrdiff_t P = p.P if self.has_projection else 0, K = p.K if self.has_heads else 0
        return sizes_of(p.D, p.H, P, K, p.type_num, p.Wp is not None, p.full, p.rounds, p.rank)

    cdef cnp.ndarray check_lengths(self, lengths, ptrdiff_t N, ptrdiff_t T):
        if not isinstance(lengths, np.ndarray) or np.asarray(lengths).dtype != np.intp:
            raise TypeError(f"{self.name}: lengths must be an intp array, got {kind_of(lengths)}")
        lengths = np.asarray(lengths)
        if lengths.shape != (N,):
            raise ValueError(f"{self.name}: lengths must be (N,) = ({N},), got {lengths.shape}")
        lengths = lengths.copy()  # what is checked is what is used
        if N and (lengths.min() < 0 or lengths.max() > T):
            wrong = lengths[(lengths < 0) | (lengths > T)][0]
            raise ValueError(f"{self.name}: lengths must be in [0, T] = [0, {T}], got {wrong}")
        return lengths

    cdef list check_grads(self, grads, Params p):
        """One for each of names, None as the params."""
        if not isinstance(grads, (tuple, list)):
            names = ", ".join(f"d{name}" for name in self.names)
            raise TypeError(f"{self.name}: grads must be ({names}), got {type(grads).__name__}")
        cdef list weights = self.weights(p)
        cdef int count = len(weights), last = max([i for i in range(count) if weights[i] is not None])
        if not last < len(grads) <= count:
            raise ValueError(f"{self.name}: grads must be one for each parameter, got {len(grads)}")
        cdef list given = [*grads, *(None,) * (count - len(grads))]
        for i in range(count):
            if weights[i] is None and given[i] is not None:
                raise ValueError(f"{self.name}: grads[{i}] must be None, as {self.names[i]} is")
            if weights[i] is not None:
                given[i] = writable(given[i], weights[i], f"{self.name}: grads[{i}]")
        return given

    cdef list places(self, list grads, list inputs, bint beside):
        """Where to compute them: in them, where the kernels can write them and nothing that is read lies there; else beside
        them, or if `beside` in any case. After everything that can be wrong."""
        cdef span read[32]
        cdef span own[8]
        cdef int i, j, count = len(inputs)
        cdef bint direct
        cdef list places = []
        for i in range(count):
            read[i] = span_of(inputs[i])
        for i in range(len(grads)):
            own[i] = span_of(grads[i])
            for j in range(i):
                if meets(own[i], own[j]) and np.may_share_memory(grads[i], grads[j], 10**6):
                    raise ValueError(f"{self.name}: grads[{i}] must have memory of its own, got that of grads[{j}]")
            if grads[i] is None:
                places.append(None)
                continue
            direct = cnp.PyArray_ISCARRAY(grads[i]) and not beside
            for j in range(count):
                direct = direct and not meets(own[i], read[j])
            if direct:
                places.append(grads[i])
            else:
                places.append(np.empty(np.shape(grads[i]), dtype=cnp.PyArray_DescrFromType(cnp.PyArray_TYPE(grads[i]))))
        return places

    cdef cnp.ndarray check_state(self, x, Params p, ptrdiff_t N, str name, bint of_c):
        """x, as wide as c or as h."""
        cdef cnp.ndarray a = checked(x, 2, p.type_num, f"{self.name}: {name}")
        cdef ptrdiff_t width = p.H if of_c else p.P
        if cnp.PyArray_DIM(a, 0) != N or cnp.PyArray_DIM(a, 1) != width:
            letter = "H" if of_c else self.wide
            raise ValueError(f"{self.name}: {name} must be (N, {letter}) = ({N}, {width}), got {np.shape(a)}")
        return behaved(a, True)

    cdef cnp.ndarray check_of_steps(self, x, Params p, ptrdiff_t N, ptrdiff_t T, str name):
        """A mask or shares of each step, None where there is none."""
        if x is None:
            return None
        cdef cnp.ndarray a = checked(x, 3, p.type_num, f"{self.name}: {name}")
        if cnp.PyArray_DIM(a, 0) != N or cnp.PyArray_DIM(a, 1) != T or cnp.PyArray_DIM(a, 2) != p.H:
            raise ValueError(f"{self.name}: {name} must be (N, T, H) = ({N}, {T}, {p.H}), got {np.shape(a)}")
        return behaved(a, True)

    cdef tuple check_states(self, state, Params p, ptrdiff_t N, tuple names):
        """(h, c, n, m), each None where the state is None or the cell has none. names: theirs, and that of the tuple."""
        cdef int i, count = self.states
        if state is None:
            return None, None, None, None
        if not isinstance(state, (tuple, list)) or len(state) != count:
            raise TypeError(f"{self.name}: {names[4]} must be None or a tuple of {count} arrays, got {type(state).__name__}")
        cdef list checked_states = [None] * 4
        for i in range(count):
            if state[i] is not None:
                checked_states[i] = self.check_state(state[i], p, N, names[i], i > 0)
        return tuple(checked_states)

    cdef list new_states(self, cnp.ndarray h, ptrdiff_t N, ptrdiff_t H, int type_num):
        """h, and an array for each of the other states."""
        cdef list states = [h]
        for _ in range(1, self.states):
            states.append(empty2(N, H, type_num))
        return states

    cdef int check_size(self, ptrdiff_t N, ptrdiff_t T, Params p) except -1:
        """Raise where all arrays and rooms of a call, or any one of them, would overflow a size."""
        cdef double D = p.D, H = p.H, P = p.P, sequence = (<double>N) * (T + 1) * (D + 10 * H + 5 * P)
        cdef double weights = 4 * (self.gates + 2) * (D + H + P + 64) * (H + 64), rooms = 1024 * (512 * (D + H + P) + 64.0 * N)
        cdef double products = (2 if p.rank else 1) * p.rounds, widest = D + H + p.rank
        sequence += <double>N * (T + 1) * products * (2 * widest + 128)
        weights += 4 * products * (widest + 64) * (widest + 64)
        if self.has_norms:
            sequence += <double>N * (T + 1) * (3 * self.gates * H + 16)
        if (sequence + weights + rooms) * 8 > 4e18:
            raise ValueError(
                f"{self.name}: (N, T, D, H) = ({N}, {T}, {p.D}, {p.H}) needs more memory than can be addressed"
            )
        return 0

    cdef tuple forward(
        self, xs, state, params, bint train, lengths, bint reverse, h_mask, tuple of_steps, Options options
    ):
        """of_steps: candidate_mask, h_zoneout and c_zoneout, of which any may be None."""
        cdef Params p
        if isinstance(params, Packed):
            p = self.check_packed(params, train, options.reset_after)
        else:
            p = self.check_params(params, options.reset_after)
        cdef cnp.ndarray x = checked(xs, 3, p.type_num, f"{self.name}: xs")
        cdef ptrdiff_t N = cnp.PyArray_DIM(x, 0), T = cnp.PyArray_DIM(x, 1), D = p.D, H = p.H, P = p.P
        if cnp.PyArray_DIM(x, 2) != D:
            raise ValueError(f"{self.name}: xs must be (N, T, D) = (N, T, {D}), got {np.shape(x)}")
        self.check_size(N, T, p)
        h0, c0, n0, m0 = self.check_states(state, p, N, ("h", "c", "n", "m", "state"))
        cdef cnp.ndarray steps = None, mask = None if h_mask is None else self.check_state(h_mask, p, N, "h_mask", False)
        cdef cnp.ndarray candidate_mask = self.check_of_steps(of_steps[0], p, N, T, "candidate_mask")
        cdef cnp.ndarray h_zoneout = self.check_of_steps(of_steps[1], p, N, T, "h_zoneout")
        cdef cnp.ndarray c_zoneout = self.check_of_steps(of_steps[2], p, N, T, "c_zoneout")
        if lengths is not None:
            lengths = self.check_lengths(lengths, N, T)
            steps = np.stack((T - lengths, np.full(N, T)) if reverse else (np.zeros_like(lengths), lengths))
            x = np.where((np.arange(T) < lengths[:, np.newaxis])[:, :, np.newaxis], x, np.zeros(1, x.dtype))
        x = behaved(x, True)
        seen0 = h0
        if h0 is not None and mask is not None:
            with np.errstate(all="ignore"):  # as quiet as the C that does it for the later steps
                seen0 = np.multiply(h0, mask, order="C")

        cdef cnp.ndarray hs = empty3(N, T, P, p.type_num)
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
        k.type_num, k.reverse, k.options, k.steps = p.type_num, reverse, options, steps
        k.peepholes, k.full, k.rounds, k.rank = p.Wp is not None, p.full, p.rounds, p.rank
        cdef int kept = self.kept + options.reset_after + (c_zoneout is not None)
        cdef ptrdiff_t step = row_step(H, hs.itemsize), h_step = row_step(P, hs.itemsize)
        if N == 0 or T == 0:
            for copy, first in zip(final, (h0, c0, n0, m0)):
                copy[...] = 0 if first is None else first
        else:
            if train:
                # 32 more: room to align, and a vector that may be read beyond the end
                k.panels = empty2(1, kept * N * T * H + 32, p.type_num)
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
        return self.run(cell_of(k.kernels, self.index).forward, &job)

    cdef void describe(self, cell_job *job, Cache k, Params p) noexcept:
        """What is the same for forward and backward: sizes, options, inputs, weights and what is kept."""
        job.N, job.T, job.D, job.H, job.P, job.K = k.N, k.T, k.D, k.H, k.P, k.K
        take_options(job, k.options, k.steps)
        job.threads = threads_for(2.0 * k.N * k.P * self.gates * k.H, (k.H + 15) // 16)
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
        if k.used:
            raise RuntimeError(f"{self.name}: this cache was used by an earlier backward; call forward again")
        cdef Params p = self.check_params(params, k.options.reset_after)
        cdef ptrdiff_t N = k.N, T = k.T, D = k.D, H = k.H, P = k.P, projected = P if self.has_projection else 0
        cdef ptrdiff_t of_heads = k.K if self.has_heads else 0
        cdef str expected = sizes_of(D, H, projected, of_heads, k.type_num, k.peepholes, k.full, k.rounds, k.rank)
        cdef str given = self.sizes_of(p)
        if given != expected:
            raise ValueError(f"{self.name}: params must be those of forward, with {expected}, got {given}")
        cdef cnp.ndarray g = checked(dhs, 3, p.type_num, f"{self.name}: dhs")
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

        cdef cnp.ndarray dxs = empty3(N, T, D, p.type_num)
        cdef cnp.ndarray dh0 = empty2(N, P, p.type_num)
        cdef list initial = self.new_states(dh0, N, H, p.type_num)
        if N == 0 or T == 0:
            k.used = True
            for grad in own:
                if grad is not None:
                    grad[...] = 0
            for copy, dfinal in zip(initial, (dhT, dcT, dnT, dmT)):
                copy[...] = 0 if dfinal is None else dfinal
            return dxs, tuple(initial)

        # From here on the cache is taken: another thread that comes with it finds it used.
        if k.used:
            raise RuntimeError(f"{self.name}: this cache was used by an earlier backward; call forward again")
        k.used = True
        cdef cell_job job
        try:
            if k.spoilt:
                again = self.new_states(empty2(N, P, p.type_num), N, H, p.type_num)
                self.run_forward(k, p, True, empty3(N, T, P, p.type_num), again)
                k.spoilt = False
        except BaseException:
            k.used = False
            raise
        self.describe(&job, k, p)
        job.train = True
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
        try:
            self.run(cell_of(k.kernels, self.index).backward, &job)
        except BaseException:  # what the handler of a signal raised, or no memory
            k.used, k.spoilt = False, True
            raise
        k.panels = k.h = k.rh = k.seen = k.xs = k.h0 = k.c0 = k.h_mask = k.seen0 = k.c = k.u = k.steps = k.rounds_kept = None
        k.norms_kept = k.n0 = k.m0 = None
        k.c_new = k.candidate_mask = k.h_zoneout = k.c_zoneout = None
        for scratch, grad in zip(targets, own):
            if scratch is not grad:
                grad[...] = scratch
        return dxs, tuple(initial)

    cdef int run(self, cell_kernel kernel, const cell_job *job) except -1:
        cdef int failed
        with nogil:
            failed = kernel(job)
        return finished(failed, self.name)
