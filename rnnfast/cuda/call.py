"""What the cells' calls share: the arguments, checked and on the GPU, the products outside."""

from dataclasses import dataclass

import numpy as np

from rnnfast.checks import is_numpy, shares
from rnnfast.cuda import planner, what_runs
from rnnfast.cuda._bound import multiply, overlap, present
from rnnfast.cuda._bound import signature as shapes
from rnnfast.cuda.aligned import sharing
from rnnfast.cuda.arguments import Arguments, names_of, sizes_of
from rnnfast.kernels import get_float32_matmul_precision


@dataclass(frozen=True)
class Packed:
    """Copies of the params on the GPU, which forward takes where train=False. Opaque."""

    params: tuple
    cell: str  # whose
    host: bool  # whether they came as NumPy arrays
    two_biases: bool
    signature: str  # of all that, as nobody changes the arrays

    def check(self, cell, train):
        if self.cell != cell.name:
            raise TypeError(f"{cell.name}: params were packed by {self.cell}.pack")
        if train:
            raise TypeError(f"{cell.name}: packed params are for train=False")
        if self.two_biases != cell.two_biases:
            raise TypeError(f"{cell.name}: params were packed with reset_after={self.two_biases}")


@dataclass(slots=True)
class Arrays:
    """What the kernels of one call work on; shapes in frame.py and steps.py."""

    A: object
    b: object
    Wp: object  # or Wm or Wproj; without one any array, which no kernel reads; so m and ends
    m: object
    ends: object
    kept: tuple
    xs: object
    hs: object
    reverse: bool
    train: bool = True
    of_xs: dict | None = None  # copies of xs, see aligned.py
    Wx: object = None  # of cells with their own_input, as the next ones
    Wh: object = None
    Wr: object = None
    rounds: tuple = ()
    norms: tuple = ()  # gains and biases of normalisations, with what norms.py keeps of them
    of_norms: tuple = ()
    of_steps: tuple = (None, None, None)  # candidate_mask, h_zoneout, c_zoneout
    c_new: object = None  # with c_zoneout and peepholes: c without it
    left: object = None  # what met Wh, where it is not kept[0], still without h_mask
    u: object = None  # with a projection: see lstmp.py, as the next one
    dh: object = None
    dxs: object = None
    dhs: object = None
    B: object = None
    final: tuple | None = None  # the states, for cells that need them in backward
    beside: bool = False  # whether gradients lie over what is read after the first one is written


@dataclass(slots=True)
class Cache:
    """What forward keeps for backward. Opaque; without arrays once backward has consumed it."""

    cell: object
    of_forward: tuple
    arrays: Arrays | None


class Call(Arguments):
    """What all calls of one signature share: sizes, checked, and once they are known plan, kernel
    and products. It holds none of a call's arrays.

    `host` is true where the caller works with NumPy arrays and wants such back, `masked` where
    there is an h_mask, `ragged` where there are lengths.
    """

    way = None  # see recurrence.planned
    host = False

    def __init__(self, cell, params, two_biases, masked, ragged):
        self.gpu = what_runs()
        self.xp, self.masked, self.ragged = self.gpu.xp, masked, ragged
        super().__init__(cell, params, two_biases)
        # For what no kernel reads
        self.nothing, self.no_ends = self.gpu.nothing(self.dtype), self.gpu.nothing("int32")
        self.bound = {}  # products, by name

    def complete(self, state, host):
        """The arguments have passed: what is taken in the place of those that are not there.

        host: see above.
        """
        self.host = host
        zeros, absent = self.gpu.kept_zeros, state is None or any(x is None for x in state)
        no_bias = None if self.biased else zeros(self.bias_shape, self.dtype)
        widths = self.P, *(self.H,) * (self.states - 1)
        of_width = {K: zeros((self.N, K), self.dtype) if absent else None for K in widths}
        # xs or dhs, Wx, Wh, b, at least two beside (Wp, Wm or Wproj, Wr), h_mask, states
        self.beside = max(len(self.names) - 3, 2)
        missing = None, None, None, no_bias, *(self.nothing,) * (self.beside + 1)
        self.missing = *missing, *(of_width[K] for K in widths)
        self.starts = 0, 1, 4 + self.beside, 5 + self.beside
        sizes = self.N, self.T, self.D, self.H, self.dtype
        variant = self.peepholes, self.rounds, self.projection, self.K
        self.of_forward = *sizes, *variant, self.two_biases, self.masked, self.ragged

    def here(self, cell):
        """Of more than one call, whose arrays are the runtime's own. The cell is one by its id."""
        self.host, self.of = False, cell
        self.move = self.target = self.xp.ascontiguousarray

    # To the GPU

    def move(self, x):
        """x on the GPU, contiguous."""
        return self.xp.ascontiguousarray(self.gpu.to_device(x))

    def arrays(self, x, params, h_mask, state):
        """x, Wx, Wh, b, what is beside, h_mask and the states on the GPU, contiguous.

        All that there can be: beside is a tuple of two at least: Wp, Wm or Wproj, and Wr.
        """
        groups, end = ((x,), params, (h_mask,), state), 4 + self.beside
        found = present(groups, self.starts, self.missing, self.move)
        return *found[:4], tuple(found[4:end]), *found[end:]

    def until(self, xs, lengths):
        """lengths on the GPU, int32, and xs with zeros where a sample has ended.

        Since 0 * NaN would reach dWx.
        """
        ends = self.gpu.to_device(lengths.astype("int32"))
        on = self.xp.arange(self.T) < ends[:, np.newaxis]
        return ends, self.xp.where(on[:, :, np.newaxis], xs, self.dtype.type(0))

    # What runs outside the recurrence

    def bind(self, name, a, b, out, over_rows=False, turned=False, columns=None):
        """A product of contiguous arrays, see runtime.bind, kept in `bound`.

        How they lie follows from the call's signature.
        """
        product = self.bound[name] = self.gpu.bind(a, b, out, over_rows, turned, columns)
        return product

    def sum_of_rows(self, x, out):
        """A product that is the sum of all rows of x, as `multiply` takes it; both contiguous."""
        if "sum" not in self.bound:
            self.bound["sum"] = self.gpu.bind_sum(x, out)
        return *self.bound["sum"], x, out

    def finish(self, arrays, Wx, grads, columns, *, dWh=None, db=None, beside=(), dxs=None):
        """Writes the gradients, returns dxs; of arrays A is dA by now.

        dWh[:, part] is left^T B[:, :, part] over all N*T rows, for the parts of `columns`; left,
        one of arrays.kept, is what met Wh, still without h_mask, or arrays.left, with it. db is
        the sum of dA, and dxs is dA Wx^T. A cell may have its own dWh, db and dxs.
        """
        given = dxs is not None
        if not given:
            dxs = self.gpu.empty((self.N, self.T, self.D), self.dtype)
        if not self.N * self.T:
            for grad in grads:
                if grad is not None:
                    grad[...] = 0
            return dxs
        xs, dA, B, bound, work = arrays.xs, arrays.A, arrays.B, self.bound, []
        dWx = self.target(grads[0])
        if dWh is None:
            dWh = self.target(grads[1])
        else:
            columns = ()
        for name, left in enumerate(arrays.kept[: len(columns)]):
            if arrays.left is not None:
                left = arrays.left
            elif self.masked:
                left = left * arrays.m[:, np.newaxis]
            product = bound.get(name) or self.bind(name, left, B, dWh, True, False, columns[name])
            work.append((product, left, B, dWh))
        product = bound.get("dWx") or self.bind("dWx", xs, dA, dWx, over_rows=True)
        work.append((sharing(product, arrays.of_xs), xs, dA, dWx))
        if self.biased and db is None:
            db = self.target(grads[2])
            work.append(self.sum_of_rows(dA, db))
        if not given:
            product = bound.get("dxs") or self.bind("dxs", dA, Wx, dxs, turned=True)
            work.append((product, dA, Wx, dxs))
        multiply(work)
        for grad, value in zip(grads, (dWx, dWh, db, *beside), strict=False):
            if value is not grad:
                self.write(grad, value)
        return dxs

    def zeros(self, *shape):
        return self.gpu.zeros(shape, self.dtype)

    def empty(self, *shape):
        return self.gpu.empty(shape, self.dtype)

    def give(self, x, states, *cache):
        """Results to a caller who works with NumPy arrays."""
        to_host = self.gpu.to_host
        return to_host(x), tuple(map(to_host, states)), *cache

    def target(self, grad):
        """Where to compute a gradient: in the caller's array, if a product can write it."""
        own = self.gpu.is_array(grad) and grad.flags.c_contiguous
        return grad if own else self.empty(*grad.shape)

    def write(self, grad, value):
        """A gradient into the caller's array."""
        grad[...] = self.gpu.to_host(value) if is_numpy(grad) else value


def rows(x):
    """(N, T, K) as (N*T, K)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])


# Calls that were checked, by what was
CHECKED = {}
MOST = 1000  # of them are remembered


def signature(cell, way, *groups):
    """All that the checks of these arrays look at, and that a Call follows from.

    None where an array is not the GPU's already: NumPy arrays, and others that have to be brought
    there, are checked each time.
    """
    gpu = what_runs()
    kind = getattr(gpu, "array_type", None)
    what = id(cell), way, gpu, get_float32_matmul_precision(), planner.make_plan
    return kind and shapes(what, kind, groups)


def remember(key, call, cell):
    """A call that was checked, for others of this signature too; without one for itself alone."""
    if key is not None:
        if len(CHECKED) >= MOST:
            CHECKED.clear()
        call.here(cell)
        CHECKED[key] = call


def start_forward(cell, xs, state, params, train, h_mask, lengths, of_steps=()):
    """The Call of a forward, which has passed every check by then, and the params as arrays."""
    way, arrays, packed = lengths is not None, params, None
    if isinstance(params, Packed):
        packed, params, arrays = params, None, params.params
        way = way, train, packed.signature
    key = signature(cell, way, (xs,), params, state, (h_mask, *of_steps))
    call = CHECKED.get(key)
    if call is None:
        if packed:
            packed.check(cell, train)
        call = _checked_forward(cell, xs, state, arrays, packed, h_mask, lengths, of_steps)
        remember(key, call, cell)
    elif call.ragged:
        call.check_lengths(lengths)
    return call, arrays


def _checked_forward(cell, xs, state, params, packed, h_mask, lengths, of_steps):
    call = Call(cell, params, cell.two_biases, h_mask is not None, lengths is not None)
    call.sequence("xs", xs, call.D)
    call.check_state("state", cell.states, state)
    if h_mask is not None:
        call.check_state("h_mask", ("h_mask",), (h_mask,))
    call.check_of_steps(of_steps)
    call.check_lengths(lengths)
    call.complete(state, is_numpy(xs) and (packed.host if packed else is_numpy(params[0])))
    return call


def start_backward(kind, dhs, dstate, params, cache, grads):
    """The Call of a backward, which so has passed every check, and the cache's arrays, taken.

    kind: the class of cells of which the cache may be.
    """
    name = kind.name
    if cache is None:
        raise RuntimeError(
            f"{name}: backward needs the cache of a forward with train=True, got None"
        )
    if not isinstance(cache, Cache) or cache.cell.name != name:
        raise TypeError(f"{name}: cache must come from {name}.forward, got {type(cache).__name__}")
    arrays = cache.arrays
    if arrays is None:
        used = "this cache was used by an earlier backward; call forward again"
        raise RuntimeError(f"{name}: {used}")
    if isinstance(params, Packed):
        raise TypeError(f"{name}: params must be ({', '.join(names_of(kind))}), got Packed")
    key = signature(cache.cell, cache.of_forward, (dhs,), params, dstate, grads)
    call = CHECKED.get(key)
    if call is None:
        call = _checked_backward(kind, dhs, dstate, params, cache, grads)
        remember(key, call, cache.cell)
    # Where arrays lie is of each call. NumPy's have no place on the GPU.
    reads = arrays.xs, params[0], arrays.m if call.masked else None
    arrays.beside = (key is None or overlap(grads, reads)) and _over_reads(name, grads, reads)
    cache.arrays = None
    return call, arrays


def _over_reads(name, grads, reads):
    """Whether a gradient lies over one of reads; ValueError where one lies over another."""
    for i, grad in enumerate(grads):
        for j, other in enumerate(grads[:i]):
            if grad is not None and other is not None and shares(grad, other):
                raise ValueError(
                    f"{name}: grads[{i}] must have memory of its own, got that of grads[{j}]"
                )
    pairs = [(grad, x) for grad in grads for x in reads]
    return any(grad is not None and x is not None and shares(grad, x) for grad, x in pairs)


def _checked_backward(kind, dhs, dstate, params, cache, grads):
    name = kind.name
    N, T, D, H, dtype, *variant = cache.of_forward[:9]
    ways = cache.of_forward[9:]
    call = Call(kind, params, *ways)
    own = call.D, call.H, call.dtype, call.peepholes, call.rounds, call.projection, call.K
    if own != (D, H, dtype, *variant):
        given = sizes_of(*own)
        expected = f"those of forward, with {sizes_of(D, H, dtype, *variant)}"
        raise ValueError(f"{name}: params must be {expected}, got {given}")
    call.sequence("dhs", dhs, call.P)
    if (call.N, call.T) != (N, T):
        expected = f"(N, T, {call.wide}) = ({N}, {T}, {call.P})"
        raise ValueError(f"{name}: dhs must be {expected}, got {dhs.shape}")
    call.check_state("dstate", [f"d{state}" for state in kind.states], dstate)
    call.check_grads(grads, params)
    call.complete(dstate, is_numpy(dhs) and is_numpy(params[0]))
    return call


def pack(cell, params):
    """Copies of params on the GPU; see rnnfast.kernels."""
    gpu, _ = what_runs(), Arguments(cell, params, cell.two_biases)
    copies = tuple([None if p is None else gpu.to_device(p).copy() for p in params])
    shapes = [None if p is None else (p.shape, p.dtype.name) for p in copies]
    of = cell.name, is_numpy(params[0]), cell.two_biases
    return Packed(copies, *of, str((of, shapes)))
