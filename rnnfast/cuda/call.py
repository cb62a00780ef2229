"""What the cells' calls share: check the arguments, bring them to the GPU, the products outside.

The checks are those of the other columns: a TypeError or a ValueError before anything is written.
"""

import sys

import numpy as np

from rnnfast.checks import FLOATS, is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.planner import Plan, make_plan
from rnnfast.kernels import get_float32_matmul_precision


class Packed(tuple):
    """Copies of the params on the GPU, which forward takes where train=False."""

    cell: str  # whose
    host: bool  # whether they came as NumPy arrays
    two_biases: bool


NOTHING = Plan("nothing", 0, 0)  # N = 0 or T = 0


class Cache(dict):
    """What forward keeps for backward. Opaque; empty once backward has consumed it."""


def array(owner, x, dtype, ndim):
    """x, an array of `dtype` (None: float32 or float64) with `ndim` axes; still where it is."""
    found = getattr(x, "dtype", None)
    if found is None or not hasattr(x, "shape"):
        raise TypeError(f"{owner} must be an array, got {type(x).__name__}")
    if (found not in FLOATS) if dtype is None else (found != dtype):
        expected = "float32 or float64" if dtype is None else dtype
        raise TypeError(f"{owner} must be {expected}, got {found}")
    if len(x.shape) != ndim:
        raise ValueError(f"{owner} must have {ndim} axes, got {x.shape}")
    return x


class Call:
    """The checked arguments of one call, on the GPU.

    Wx, Wh, b and the states are contiguous CuPy arrays (b of zeros where there is none), `host`
    is true where the caller works with NumPy arrays and wants such back, `masked` where there is
    an h_mask, `ragged` where there are lengths.

    two_biases: b is (2, G*H). peepholes: the cell may have a Wp.
    """

    def __init__(self, cell, gates, states, params, *, two_biases=False, peepholes=False):
        self.cell, self.gates, self.states = cell, gates, states
        self.two_biases = two_biases
        self.names = ("Wx", "Wh", "b", "Wp") if peepholes else ("Wx", "Wh", "b")
        self.gpu = what_runs()
        self.xp = self.gpu.xp
        self._take(params)

    def _take(self, params):
        cell, gates = self.cell, self.gates
        if not isinstance(params, (tuple, list)) or not 2 <= len(params) <= len(self.names):
            kind = type(params).__name__
            raise TypeError(f"{cell}: params must be ({', '.join(self.names)}), got {kind}")
        Wx, Wh, b, Wp = (*params, None, None)[:4]
        array(f"{cell}: Wx", Wx, None, 2)
        self.dtype = np.dtype(Wx.dtype)
        array(f"{cell}: Wh", Wh, self.dtype, 2)
        self.D, self.H = Wx.shape[0], Wh.shape[0]
        columns = gates * self.H
        if self.H < 1 or Wh.shape[1] != columns:
            raise ValueError(f"{cell}: Wh must be (H, {gates}H), got {Wh.shape}")
        if self.D < 1 or Wx.shape[1] != columns:
            expected = f"(D, {gates}H) = (D, {columns})"
            raise ValueError(f"{cell}: Wx must be {expected}, got {Wx.shape}")
        self.bias_shape = (2, columns) if self.two_biases else (columns,)
        if b is not None:
            array(f"{cell}: b", b, self.dtype, len(self.bias_shape))
            if b.shape != self.bias_shape:
                expected = f"(2, {gates}H)" if self.two_biases else f"({gates}H,)"
                raise ValueError(f"{cell}: b must be {expected} = {self.bias_shape}, got {b.shape}")
        if Wp is not None:
            axes = 3 if len(getattr(Wp, "shape", ())) == 3 else 2
            array(f"{cell}: Wp", Wp, self.dtype, axes)
            if Wp.shape != (3, *[self.H] * (axes - 1)):
                raise ValueError(
                    f"{cell}: Wp must be (3, H) or (3, H, H) with H = {self.H}, got {Wp.shape}"
                )
        self.peepholes = None if Wp is None else "diagonal" if axes == 2 else "full"
        self.params = Wx, Wh, b, Wp

    def sequence(self, name, x, width):
        """x (N, T, width) as it has to be; N and T, on the way."""
        array(f"{self.cell}: {name}", x, self.dtype, 3)
        N, T, last = x.shape
        if last != width:
            raise ValueError(f"{self.cell}: {name} must be (N, T, {width}), got {x.shape}")
        if sys.maxsize // 2 < N * (T + 1) * (self.D + 8 * self.H) * 8:
            raise ValueError(
                f"{self.cell}: (N, T, D, H) = ({N}, {T}, {self.D}, {self.H}) needs more memory "
                "than can be addressed"
            )
        self.N, self.T = N, T
        return x

    def check_state(self, name, names, state):
        if state is None:
            return
        if not isinstance(state, (tuple, list)) or len(state) != len(names):
            kind = type(state).__name__
            raise TypeError(
                f"{self.cell}: {name} must be None or a tuple of {len(names)} arrays, got {kind}"
            )
        for part, x in zip(names, state, strict=False):
            if x is not None:
                array(f"{self.cell}: {part}", x, self.dtype, 2)
                if x.shape != (self.N, self.H):
                    expected = f"(N, H) = ({self.N}, {self.H})"
                    raise ValueError(f"{self.cell}: {part} must be {expected}, got {x.shape}")

    def check_lengths(self, lengths):
        if lengths is None:
            return
        if not is_numpy(lengths) or lengths.dtype != np.intp:
            kind = type(lengths).__name__
            raise TypeError(f"{self.cell}: lengths must be an intp array, got {kind}")
        if lengths.shape != (self.N,):
            expected = f"(N,) = ({self.N},)"
            raise ValueError(f"{self.cell}: lengths must be {expected}, got {lengths.shape}")
        if self.N and (lengths.min() < 0 or lengths.max() > self.T):
            raise ValueError(f"{self.cell}: lengths must be in [0, T] = [0, {self.T}]")

    def check_grads(self, grads):
        cell = self.cell
        if not isinstance(grads, (tuple, list)):
            names = ", ".join(f"d{name}" for name in self.names)
            raise TypeError(f"{cell}: grads must be ({names}), got {type(grads).__name__}")
        wanted = [i for i, p in enumerate(self.params) if p is not None]
        if not wanted[-1] < len(grads) <= len(self.names):
            raise ValueError(f"{cell}: grads must be one for each parameter, got {len(grads)}")
        for i, (g, p) in enumerate(zip(grads, self.params, strict=False)):
            if p is None:
                if g is not None:
                    raise ValueError(f"{cell}: grads[{i}] must be None, as {self.names[i]} is")
                continue
            array(f"{cell}: grads[{i}]", g, self.dtype, len(p.shape))
            if g.shape != p.shape:
                raise ValueError(f"{cell}: grads[{i}] must be {p.shape}, got {g.shape}")
            if is_numpy(g) and not g.flags.writeable:
                raise ValueError(f"{cell}: grads[{i}] must be writeable, got read-only")

    # To the GPU

    def move(self, x):
        return self.xp.ascontiguousarray(self.gpu.to_device(x))

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
        return self.empty(1) if Wp is None else self.move(Wp)

    def mask(self, h_mask):
        """h_mask on the GPU; without it any array, which the kernels do not read."""
        return self.empty(1) if h_mask is None else self.move(h_mask)

    def ends(self, lengths):
        """lengths on the GPU, int32; without them any array, which the kernels do not read."""
        if lengths is None:
            return self.xp.empty(1, "int32")
        return self.move(lengths.astype("int32"))

    def state(self, state):
        """The states on the GPU; the same zeros for each that is None."""
        state = state or (None,) * self.states
        zeros = self.zeros(self.N, self.H) if any(x is None for x in state) else None
        return tuple(zeros if x is None else self.move(x) for x in state)

    def final(self, plan, *states):
        """Arrays for the states at the other end, where a step after the other starts from these.

        Kernels that run all steps write them without a look.
        """
        copied = plan.kind in ("steps", "nothing")
        return tuple(x.copy() if copied else self.empty(*x.shape) for x in states)

    # What runs outside the recurrence

    def projection(self, xs, Wx):
        """x Wx of all steps, (N, T, G*H)."""
        A = self.empty(self.N, self.T, Wx.shape[1])
        if A.size:
            self.gpu.matmul(rows(xs), Wx, out=rows(A))
        return A

    def plan(self, products):
        """products as `make_plan` takes them."""
        if self.N * self.T == 0:
            return NOTHING
        precision = "tf32" if get_float32_matmul_precision() == "high" else "float32"
        return make_plan(self.gpu, products, self.N, self.H, self.dtype.name, precision)

    def through(self, dA, Wh, m, dh):
        """The gradient of h before a step, which dA (N, G*H) is of, into dh (N, H).

        With lengths it is added to what the step's kernel left there: what went past the step.
        """
        if self.ragged:
            dh_prev = self.gpu.matmul(dA, Wh.T)
            dh += dh_prev * m if self.masked else dh_prev
        else:
            self.gpu.matmul(dA, Wh.T, out=dh)
            if self.masked:
                dh *= m

    def keep(self, xs, reverse, m, ends, **arrays):
        """The cache for backward."""
        shape = self.N, self.T, self.D, self.H, self.dtype, self.peepholes
        ways = {"two_biases": self.two_biases, "masked": self.masked, "ragged": self.ragged}
        of_call = {"xs": xs, "reverse": reverse, "m": m, "ends": ends}
        return Cache(cell=self.cell, shape=shape, **ways, **of_call, **arrays)

    def finish(self, kept, dA, Wx, grads, recurrent, *, db=None, dWp=None):
        """Writes the gradients, returns dxs; dA (N, T, G*H).

        kept: the cache. recurrent: (left, right, columns), where dWh[:, columns] is left^T right
        over all N*T rows; left is what met Wh, still without h_mask. db is the sum of dA unless
        the cell has its own.
        """
        xs = kept["xs"]
        dA2 = rows(dA)
        if not dA2.size:
            for grad in grads:
                if grad is not None:
                    grad[...] = 0
            return self.give(self.empty(self.N, self.T, self.D))
        matmul = self.gpu.matmul
        dWh = self.target(grads[1])
        for left, right, columns in recurrent:
            if self.masked:
                left = left * kept["m"][:, np.newaxis]
            if columns == slice(None):
                matmul(rows(left).T, rows(right), out=dWh)
            else:
                dWh[:, columns] = matmul(rows(left).T, rows(right))
        dWx = self.target(grads[0])
        matmul(rows(xs).T, dA2, out=dWx)
        if self.params[2] is not None and db is None:
            db = self.target(grads[2])
            dA2.sum(axis=0, out=db)
        for grad, value in zip(grads, (dWx, dWh, db, dWp), strict=False):
            if grad is not None and value is not grad:
                self.write(grad, value)
        dxs = self.empty(self.N, self.T, self.D)
        matmul(dA2, Wx.T, out=rows(dxs))
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


def start_forward(
    cell,
    gates,
    names,
    xs,
    state,
    params,
    train,
    h_mask,
    lengths,
    *,
    two_biases=False,
    peepholes=False,
):
    """A Call with everything that a forward has to check; xs as it came."""
    if isinstance(params, Packed):
        if params.cell != cell:
            raise TypeError(f"{cell}: params were packed by {params.cell}.pack")
        if train:
            raise TypeError(f"{cell}: packed params are for train=False")
        if params.two_biases != two_biases:
            raise TypeError(f"{cell}: params were packed with reset_after={params.two_biases}")
    call = Call(cell, gates, len(names), params, two_biases=two_biases, peepholes=peepholes)
    call.sequence("xs", xs, call.D)
    call.check_state("state", names, state)
    if h_mask is not None:
        call.check_state("h_mask", ("h_mask",), (h_mask,))
    call.check_lengths(lengths)
    call.masked, call.ragged = h_mask is not None, lengths is not None
    own = params.host if isinstance(params, Packed) else is_numpy(params[0])
    call.host = own and is_numpy(xs)
    return call


def start_backward(cell, gates, names, dhs, dstate, params, cache, grads, *, peepholes=False):
    """A Call with everything that a backward has to check, and the cache, taken."""
    if cache is None:
        raise RuntimeError(f"{cell}: backward needs the cache of a forward with train=True")
    if not isinstance(cache, Cache) or cache.get("cell", cell) != cell:
        raise TypeError(f"{cell}: cache must come from {cell}.forward, got {type(cache).__name__}")
    if not cache:
        raise RuntimeError(f"{cell}: this cache was used by an earlier backward")
    if isinstance(params, Packed):
        raise TypeError(f"{cell}: backward needs params as they are, got packed ones")
    two_biases = cache["two_biases"]
    call = Call(cell, gates, len(names), params, two_biases=two_biases, peepholes=peepholes)
    call.masked, call.ragged = cache["masked"], cache["ragged"]
    N, T, D, H, *of_forward = cache["shape"]
    if (call.D, call.H, call.dtype, call.peepholes) != (D, H, *of_forward):
        raise ValueError(f"{cell}: params must be those of forward, with D = {D} and H = {H}")
    call.sequence("dhs", dhs, H)
    if (call.N, call.T) != (N, T):
        raise ValueError(f"{cell}: dhs must be (N, T, H) = ({N}, {T}, {H}), got {dhs.shape}")
    call.check_state("dstate", [f"d{name}" for name in names], dstate)
    call.check_grads(grads)
    call.host = is_numpy(dhs) and is_numpy(params[0])
    kept = dict(cache)
    cache.clear()
    return call, kept


def pack(cell, gates, params, **of_params):
    """Copies of params on the GPU; see rnnfast.kernels."""
    if isinstance(params, Packed):
        raise TypeError(f"{cell}: params must be arrays, got packed ones")
    call = Call(cell, gates, 1, params, **of_params)
    gpu, given = call.gpu, call.params[: len(call.names)]
    packed = Packed(None if p is None else gpu.to_device(p).copy() for p in given)
    packed.cell, packed.host = cell, is_numpy(params[0])
    packed.two_biases = call.two_biases
    return packed
