"""What the cells' calls share: the arguments, checked and on the GPU, the products outside."""

from functools import cache
from operator import attrgetter

import numpy as np

from rnnfast.checks import is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.arguments import Arguments
from rnnfast.kernels import get_float32_matmul_precision


class Packed(tuple):
    """Copies of the params on the GPU, which forward takes where train=False."""

    cell: str  # whose
    host: bool  # whether they came as NumPy arrays
    two_biases: bool


class Cache(dict):
    """What forward keeps for backward. Opaque; empty once backward has consumed it."""


class Call(Arguments):
    """The checked arguments of one call, on the GPU.

    Wx, Wh, b and the states are contiguous CuPy arrays (b of zeros where there is none), `host`
    is true where the caller works with NumPy arrays and wants such back, `masked` where there is
    an h_mask, `ragged` where there are lengths.
    """

    def __init__(self, cell, params, two_biases):
        self.gpu = what_runs()
        self.xp, self.array_type = self.gpu.xp, getattr(self.gpu, "array_type", None)
        self.known = {}
        super().__init__(cell, params, two_biases)
        # Any arrays, for what a kernel does not read
        self.nothing, self.no_ends = nothing(self.gpu, self.dtype), nothing(self.gpu, "int32")

    @classmethod
    def again(cls, checked, params):
        """A call like one that was checked: see `signature`."""
        call = cls.__new__(cls)
        call.__dict__.update(checked)
        call.params = (*params, None, None)[:4]
        return call

    def once(self, key, make):
        """make(), once for all calls with this signature and key."""
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = make()
        return found

    # To the GPU

    def move(self, x):
        if type(x) is not self.array_type:
            x = self.gpu.to_device(x)
        return self.xp.ascontiguousarray(x)

    def inputs(self, xs, ends):
        """xs on the GPU; with zeros where a sample has ended, as 0 * NaN would reach dWx."""
        xs = self.move(xs)
        if not self.ragged:
            return xs
        on = self.xp.arange(self.T) < ends[:, np.newaxis]
        return self.xp.where(on[:, :, np.newaxis], xs, self.dtype.type(0))

    def weights(self):
        """Wx, Wh and b on the GPU, contiguous."""
        Wx, Wh, b, _ = self.params
        if b is None:
            b = self.zeros(*self.bias_shape)
        return self.move(Wx), self.move(Wh), self.move(b)

    def cell_weights(self):
        """Wp on the GPU; without it any array, which the kernels do not read."""
        Wp = self.params[3]
        return self.nothing if Wp is None else self.move(Wp)

    def mask(self, h_mask):
        """h_mask on the GPU; without it any array, which the kernels do not read."""
        return self.nothing if h_mask is None else self.move(h_mask)

    def ends(self, lengths):
        """lengths on the GPU, int32; without them any array, which the kernels do not read."""
        if lengths is None:
            return self.no_ends
        return self.move(lengths.astype("int32"))

    def state(self, state):
        """The states on the GPU; the same zeros for each that is None."""
        if state is None:
            return (self.zeros(self.N, self.H),) * self.states
        zeros = self.zeros(self.N, self.H) if any(x is None for x in state) else None
        return tuple(zeros if x is None else self.move(x) for x in state)

    # What runs outside the recurrence

    def projection(self, xs, Wx):
        """x Wx of all steps, (N, T, G*H)."""
        A = self.empty(self.N, self.T, Wx.shape[1])
        if self.N * self.T:
            self.multiply("A", xs, Wx, A)
        return A

    def multiply(self, name, a, b, out, over_rows=False):
        """a b into out, or a^T b over all rows; all of them contiguous, or fixed parts of such.

        So how they lie follows from the call's signature, and is looked at once for each `name`.
        """
        key = name, get_float32_matmul_precision()
        self.once(key, lambda: self.gpu.bind(a, b, out, over_rows))(a, b, out)

    def keep(self, xs, **of_call):
        """The cache for backward."""
        shape = self.N, self.T, self.D, self.H, self.dtype, self.peepholes
        ways = {"two_biases": self.two_biases, "masked": self.masked, "ragged": self.ragged}
        return Cache(shape=shape, xs=xs, **ways, **of_call)

    def finish(self, kept, dA, Wx, grads, recurrent, *, db=None, dWp=None):
        """Writes the gradients, returns dxs; dA (N, T, G*H).

        kept: the cache. recurrent: (left, right, columns), where dWh[:, columns] is left^T right
        over all N*T rows, dWh itself for columns None; left is what met Wh, still without h_mask.
        db is the sum of dA unless the cell has its own.
        """
        if not self.N * self.T:
            for grad in grads:
                if grad is not None:
                    grad[...] = 0
            return self.give(self.empty(self.N, self.T, self.D))
        dWh = self.target(grads[1])
        for k, (left, right, columns) in enumerate(recurrent):
            if self.masked:
                left = left * kept["arrays"].m[:, np.newaxis]
            part = dWh if columns is None else dWh[:, columns]
            self.multiply(("dWh", k), left, right, part, over_rows=True)
        dWx = self.target(grads[0])
        self.multiply("dWx", kept["xs"], dA, dWx, over_rows=True)
        if self.params[2] is not None and db is None:
            db = self.target(grads[2])
            self.gpu.sum_of_rows(dA, db)
        for grad, value in zip(grads, (dWx, dWh, db, dWp), strict=False):
            if grad is not None and value is not grad:
                self.write(grad, value)
        dxs = self.empty(self.N, self.T, self.D)
        self.multiply("dxs", dA, Wx.T, dxs)
        return self.give(dxs)

    def zeros(self, *shape):
        return self.xp.zeros(shape, self.dtype)

    def empty(self, *shape):
        return self.xp.empty(shape, self.dtype)

    def give(self, x):
        """A result to the caller."""
        return self.gpu.to_host(x) if self.host else x

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


@cache
def nothing(gpu, dtype):
    return gpu.xp.empty(1, dtype)


# Calls that were checked, by what was: {signature: attributes of the Call}
CHECKED = {}
MOST = 1000  # of them are remembered
of_array = attrgetter("shape", "dtype")


def signature(*groups):
    """All that the checks of these arrays look at; None where one is not the GPU's already.

    So calls of one signature are checked once. NumPy arrays, and others that have to be brought to
    the GPU, are checked each time.
    """
    gpu, found = what_runs(), []
    kind = getattr(gpu, "array_type", None)
    for group in groups:
        if group is None:
            found.append(-1)
            continue
        if not isinstance(group, (tuple, list)):
            return None
        for x in group:
            if type(x) is kind:
                found.append(of_array(x))
            elif x is None:
                found.append(None)
            else:
                return None
        found.append(len(group))
    return gpu, *found


def remembered(key, call):
    """The checked call, which is remembered for others of this signature."""
    if key is not None:
        if len(CHECKED) >= MOST:
            CHECKED.clear()
        CHECKED[key] = {name: x for name, x in vars(call).items() if name != "params"}
    return call


def start_forward(cell, xs, state, params, train, h_mask, lengths):
    """A Call with everything that a forward has to check; xs as it came."""
    if isinstance(params, Packed):
        if params.cell != cell.name:
            raise TypeError(f"{cell.name}: params were packed by {params.cell}.pack")
        if train:
            raise TypeError(f"{cell.name}: packed params are for train=False")
        if params.two_biases != cell.two_biases:
            packed = params.two_biases
            raise TypeError(f"{cell.name}: params were packed with reset_after={packed}")
    key = None
    if lengths is None and (arrays := signature((xs,), params, state, (h_mask,))):
        key = cell, *arrays
        if (checked := CHECKED.get(key)) is not None:
            return Call.again(checked, params)
    call = Call(cell, params, cell.two_biases)
    call.sequence("xs", xs, call.D)
    call.check_state("state", cell.states, state)
    if h_mask is not None:
        call.check_state("h_mask", ("h_mask",), (h_mask,))
    call.check_lengths(lengths)
    call.masked, call.ragged = h_mask is not None, lengths is not None
    own = params.host if isinstance(params, Packed) else is_numpy(params[0])
    call.host = own and is_numpy(xs)
    return remembered(key, call)


def start_backward(kind, dhs, dstate, params, cache, grads):
    """A Call with everything that a backward has to check, and the cache, taken.

    kind: the class of cells of which the cache may be.
    """
    name = kind.name
    if cache is None:
        raise RuntimeError(f"{name}: backward needs the cache of a forward with train=True")
    if not isinstance(cache, Cache) or (cache and cache["cell"].name != name):
        raise TypeError(f"{name}: cache must come from {name}.forward, got {type(cache).__name__}")
    if not cache:
        raise RuntimeError(f"{name}: this cache was used by an earlier backward")
    if isinstance(params, Packed):
        raise TypeError(f"{name}: backward needs params as they are, got packed ones")
    key, checked = None, None
    if arrays := signature((dhs,), params, dstate, grads):
        of_cache = (cache[x] for x in ("cell", "shape", "two_biases", "masked", "ragged"))
        key = "back", *of_cache, *arrays
        checked = CHECKED.get(key)
    if checked is not None:
        call = Call.again(checked, params)
    else:
        call = remembered(key, _checked_backward(kind, dhs, dstate, params, cache, grads))
    kept = dict(cache)
    cache.clear()
    return call, kept


def _checked_backward(kind, dhs, dstate, params, cache, grads):
    name = kind.name
    call = Call(kind, params, cache["two_biases"])
    call.masked, call.ragged = cache["masked"], cache["ragged"]
    N, T, D, H, *of_forward = cache["shape"]
    if (call.D, call.H, call.dtype, call.peepholes) != (D, H, *of_forward):
        raise ValueError(f"{name}: params must be those of forward, with D = {D} and H = {H}")
    call.sequence("dhs", dhs, H)
    if (call.N, call.T) != (N, T):
        raise ValueError(f"{name}: dhs must be (N, T, H) = ({N}, {T}, {H}), got {dhs.shape}")
    call.check_state("dstate", [f"d{state}" for state in kind.states], dstate)
    call.check_grads(grads)
    call.host = is_numpy(dhs) and is_numpy(params[0])
    return call


def pack(cell, params):
    """Copies of params on the GPU; see rnnfast.kernels."""
    if isinstance(params, Packed):
        raise TypeError(f"{cell.name}: params must be arrays, got packed ones")
    call = Call(cell, params, cell.two_biases)
    gpu, given = call.gpu, call.params[: len(call.names)]
    packed = Packed(None if p is None else gpu.to_device(p).copy() for p in given)
    packed.cell, packed.host = cell.name, is_numpy(params[0])
    packed.two_biases = cell.two_biases
    return packed
