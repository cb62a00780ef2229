"""What a cell's call takes: checks of every array, before any is used.

Checks here are cheap and complete: whatever is passed in, a call either raises or stays inside its arrays.
"""
cimport cython
cimport numpy as cnp
import numpy as np

from rnnfast.cpu._runtime cimport (
    behaved, cell_index, cell_of, checked, kernels_for, kind_of, meets, real_type, span, span_of, writable,
)

cnp.import_array()

cdef enum:
    MOST_OF_INT8 = 65536  # numbers whose products are summed up in 32 bits

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


@cython.auto_pickle(False)
@cython.freelist(4)
@cython.final
cdef class Params:
    """(Wx, Wh, b) and Wp, Wm and Wr, Wproj or norms, after their checks; of packed ones b, Wp and norms alone are there."""


@cython.auto_pickle(False)
@cython.final
cdef class Packed:
    """What pack gives: copies of the weights, laid out for the instruction set that was in use then."""


@cython.auto_pickle(False)
cdef class Arguments:
    """What a cell takes, from which `Cell` makes its calls. `gates` blocks of H columns in the weights, `kept` values a unit
    kept in the panels (one more with reset_after or c_zoneout). has_c: a second state; has_rh: without reset_after r h is
    kept; has_heads: Wh is (H, gates K), and there are two more states; beside: the names of the params after Wx, Wh and b:
    Wp, Wm and Wr, Wproj, or the gains and biases of normalisations, gx and gh first."""

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
        self.of_grads = tuple([f"grads[{i}]" for i in range(len(self.names))])

    cdef Params check_packed(self, Packed packed, bint train, bint reset_after):
        if packed.cell.index != self.index:
            raise TypeError(f"{self.name}: params were packed by {packed.cell.name}.pack")
        if train:
            raise TypeError(f"{self.name}: packed params are for train=False")
        if packed.params.reset_after != reset_after:
            raise TypeError(f"{self.name}: params were packed with reset_after={packed.params.reset_after}")
        return packed.params

    cdef int check_precision(self, precision, Params p) except -1:
        """As src/kernels/reduced.h counts them."""
        if precision is None:
            return 0
        if cell_of(kernels_for(cnp.NPY_FLOAT), self.index).reduced == NULL:
            raise ValueError(f"{self.name}: precision must be None, got {precision!r}")
        if precision not in ("bf16", "int8"):
            raise ValueError(f"{self.name}: precision must be None, 'bf16' or 'int8', got {precision!r}")
        if p.type_num != cnp.NPY_FLOAT:
            raise TypeError(f"{self.name}: precision {precision!r} is for float32 params, got float64")
        if p.full:
            raise ValueError(f"{self.name}: precision must be None with Wp (3, H, H), got {precision!r}")
        if precision == "int8" and max(p.D, p.P) > MOST_OF_INT8:
            raise ValueError(f"{self.name}: D and H must be up to {MOST_OF_INT8} with precision 'int8', got {max(p.D, p.P)}")
        return 1 if precision == "bf16" else 2

    cdef Params check_params(self, params, bint reset_after):
        if not isinstance(params, (tuple, list)) or not (
            (len(self.names) if self.has_norms else 4 if self.has_rounds or self.has_projection else 2)
            <= len(params) <= len(self.names)
        ):
            raise TypeError(f"{self.name}: params must be ({', '.join(self.names)}), got {type(params).__name__}")
        cdef Params p = Params()
        Wx, Wh = params[0], params[1]
        b = params[2] if len(params) > 2 else None
        p.type_num = real_type(Wx, self.name, "Wx")
        p.Wx = checked(Wx, 2, p.type_num, self.name, "Wx")
        p.Wh = checked(Wh, 2, p.type_num, self.name, "Wh")
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
            p.b = checked(b, 2, p.type_num, self.name, "b")
            if cnp.PyArray_DIM(p.b, 0) != 2 or cnp.PyArray_DIM(p.b, 1) != columns:
                raise ValueError(f"{self.name}: b must be (2, {self.gates}H) = (2, {columns}), got {np.shape(p.b)}")
            p.b = np.ascontiguousarray(behaved(p.b, True))
        elif b is not None:
            p.b = checked(b, 1, p.type_num, self.name, "b")
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
            p.Wproj = checked(params[3], 2, p.type_num, self.name, "Wproj")
            if cnp.PyArray_DIM(p.Wproj, 0) != p.H or cnp.PyArray_DIM(p.Wproj, 1) != p.P:
                raise ValueError(f"{self.name}: Wproj must be (H, P) = ({p.H}, {p.P}), got {np.shape(p.Wproj)}")
            p.Wproj = behaved(p.Wproj, False)
        elif self.has_rounds:
            p.Wm = checked(params[3], 3, p.type_num, self.name, "Wm")
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
            p.Wr = checked(Wr, 3, p.type_num, self.name, "Wr")
            expected = p.rounds, p.rank, p.D
            if np.shape(p.Wr) != expected:
                raise ValueError(f"{self.name}: Wr must be (r, k, D) = {expected}, got {np.shape(p.Wr)}")
            p.Wr = np.ascontiguousarray(behaved(p.Wr, False))
        if Wp is not None:
            p.full = isinstance(Wp, np.ndarray) and cnp.PyArray_NDIM(Wp) == 3
            p.Wp = checked(Wp, 3 if p.full else 2, p.type_num, self.name, "Wp")
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
            norm = checked(given, 1, p.type_num, self.name, name)
            gates, label = (self.gates, f"{self.gates}H") if name in ("gx", "gh") else (1, "H")
            if cnp.PyArray_DIM(norm, 0) != gates * p.H:
                raise ValueError(f"{self.name}: {name} must be ({label},) = ({gates * p.H},), got {np.shape(norm)}")
            norms.append(np.ascontiguousarray(behaved(norm, True)))
        return norms

    cdef list weights(self, Params p):
        """One for each of names, None where it is not there."""
        if self.has_norms:
            return [p.Wx, p.Wh, p.b, *p.norms]
        if self.has_rounds:
            return [p.Wx, p.Wh, p.b, p.Wm, p.Wr]
        if len(self.names) == 3:
            return [p.Wx, p.Wh, p.b]
        return [p.Wx, p.Wh, p.b, p.Wproj if self.has_projection else p.Wp]

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
        cdef list weights = self.weights(p), given = list(grads)
        cdef int i, count = len(weights), last = count - 1
        while weights[last] is None:
            last -= 1
        if not last < len(given) <= count:
            raise ValueError(f"{self.name}: grads must be one for each parameter, got {len(given)}")
        while len(given) < count:
            given.append(None)
        for i in range(count):
            if weights[i] is None and given[i] is not None:
                raise ValueError(f"{self.name}: grads[{i}] must be None, as {self.names[i]} is")
            if weights[i] is not None:
                given[i] = writable(given[i], weights[i], self.name, self.of_grads[i])
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
        cdef cnp.ndarray a = checked(x, 2, p.type_num, self.name, name)
        cdef ptrdiff_t width = p.H if of_c else p.P
        if cnp.PyArray_DIM(a, 0) != N or cnp.PyArray_DIM(a, 1) != width:
            letter = "H" if of_c else self.wide
            raise ValueError(f"{self.name}: {name} must be (N, {letter}) = ({N}, {width}), got {np.shape(a)}")
        return behaved(a, True)

    cdef cnp.ndarray check_of_steps(self, x, Params p, ptrdiff_t N, ptrdiff_t T, str name):
        """A mask or shares of each step, None where there is none: as wide as h if they are of h, else as c."""
        if x is None:
            return None
        cdef cnp.ndarray a = checked(x, 3, p.type_num, self.name, name)
        cdef bint of_h = name == "h_zoneout"
        cdef ptrdiff_t width = p.P if of_h else p.H
        if cnp.PyArray_DIM(a, 0) != N or cnp.PyArray_DIM(a, 1) != T or cnp.PyArray_DIM(a, 2) != width:
            expected = f"(N, T, {self.wide if of_h else 'H'}) = ({N}, {T}, {width})"
            raise ValueError(f"{self.name}: {name} must be {expected}, got {np.shape(a)}")
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
