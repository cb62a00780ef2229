"""The recurrent layers: one step and a sequence; for RNN, LSTM and GRU.

They check their arguments, keep the state from call to call and leave the mathematics to the
column they are bound to (rnnfast.kernels). N batch, T time, D input, H hidden.

Deep Learning from Scratch 2, chapter 5 (RNN), 6 (LSTM), 7 and appendix C (GRU). The equations of
every variant are in rnnfast/reference.

Inputs may be views with any strides, and read-only. Real or integer inputs are cast to the dtype
of the weights, float32 or float64, which is also that of everything returned. Wrong input is a
TypeError (kind, dtype) or a ValueError (shape, value) before anything is changed; a backward
without the forward it belongs to is a RuntimeError.
"""

from numbers import Real
from operator import is_

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer, grad, param

SMALL = 1 << 40  # elements; an array below that can be addressed in any case


def adopted(owner, weights, suffix=""):
    """(Wx, Wh, b) or (Wx, Wh, b, Wp), each as checks.adopt gives it."""
    names = (f"{name}{suffix}" for name in ("Wx", "Wh", "b", "Wp"))
    return tuple(checks.adopt(owner, name, W) for name, W in zip(names, weights, strict=False))


def specs(owner, gates, weights, suffix="", two_biases=False):
    """name, shape and label of the weights that are there, with H as _width and D as Wx says.

    weights: (Wx, Wh, b) or (Wx, Wh, b, Wp). two_biases: b is (2, G*H).
    """
    GH = "H" if gates == 1 else f"{gates}H"
    Wx, Wh, *_ = weights
    checks.matrix(owner, f"Wh{suffix}", Wh, f"(H, {GH})")
    D, columns = checks.matrix(owner, f"Wx{suffix}", Wx, f"(D, {GH})")
    H = _width(gates, columns, Wh, weights[2], two_biases)
    bias = ((2, gates * H), f"(2, {GH})") if two_biases else ((gates * H,), f"({GH},)")
    full = getattr(weights[-1], "ndim", 2) == 3  # a Wp of matrices
    known = (
        (f"Wx{suffix}", (D, gates * H), f"(D, {GH})"),
        (f"Wh{suffix}", (H, gates * H), f"(H, {GH})"),
        (f"b{suffix}", *bias),
        (f"Wp{suffix}", (3, H, H), "(3, H, H)") if full else (f"Wp{suffix}", (3, H), "(3, H)"),
    )
    return tuple(spec for spec, W in zip(known, weights, strict=False) if W is not None)


def _width(gates, columns, Wh, b, two_biases):
    """H, as two of Wx, Wh and b say, so that the third is to blame; else as Wh says.

    columns: of Wx, whose number has to be gates * H. Wh alone tells whether it is right by itself.
    """
    H, wide = Wh.shape
    of_b = getattr(b, "shape", (None,))[-1] if b is not None else None
    if columns == gates * H or columns % gates:
        return H
    return columns // gates if wide != gates * H or of_b == columns else H


class Recurrent(Layer):
    """The weights (Wx, Wh, b) and more, None for one that is not there; the calls of a column."""

    gates = 1
    states: tuple[str, ...] = ("h",)

    def __init__(self, weights, device, **options):
        owner = type(self).__name__
        weights = adopted(owner, weights)
        two_biases = options.get("reset_after", False)
        found = specs(owner, self.gates, weights, two_biases=two_biases)
        there = tuple(W is not None for W in weights)
        self._there = there if there[-1] else there[:3]  # which of the column's params
        super().__init__(device, [W for W in weights if W is not None], found)
        self._D, self._H = weights[0].shape[0], weights[1].shape[0]
        self._options = options
        self._packed = self._weights_of = None

    Wx, Wh = param(0), param(1)
    dWx, dWh = grad(0), grad(1)

    def freeze(self):
        """Lay the weights out once, for any number of forward(..., train=False) calls.

        Until `unfreeze` the arrays in params are read-only (CuPy's, which have no flag for that,
        to load_params, checkpoints and optimisers alone), and a training forward is a RuntimeError.
        The results are the same bits. What writes into a weight through another array, of which it
        is a view, is not seen before the next `freeze`. A copy of a frozen layer is not frozen.
        """
        if self._packed is None:
            weights = self._checked_weights(True)
            self._packed = self._kernel.pack(weights, **self._options)
            self._thaw = self.params[:]
            for p in self._thaw:
                checks.freeze(p, self)

    @property
    def frozen(self):
        """True between freeze and unfreeze."""
        return self._packed is not None

    def unfreeze(self):
        """Make params writable again, those that were so before `freeze`.

        One that another frozen layer has too stays read-only until that is unfrozen.
        """
        if self._packed is not None:
            self._packed = None
            for p in self._thaw:
                checks.thaw(p, self)
            self._thaw = []

    def _checked_weights(self, train):
        """What the column takes as params, or the packed ones of a frozen layer."""
        if self._packed is not None:
            if train:
                raise RuntimeError(
                    f"{self._name}: the layer is frozen; unfreeze() it or use train=False"
                )
            if not all(map(is_, self.params, self._checked)):
                raise RuntimeError(f"{self._name}: params were replaced; unfreeze() before that")
            return self._packed
        params = self._checked_params()
        if self._weights_of is not self._checked:
            given = iter(params)
            self._weights = tuple(next(given) if there else None for there in self._there)
            self._weights_of = self._checked
        return self._weights

    def _checked_states(self, names, values, N):
        """values as a tuple of (N, H) arrays for the column, or None if all of them are zero.

        A zero one is None, or the number 0 with which the book's loops start a gradient.
        """
        states, zeros, shape, dtype = [], 0, (N, self._H), self.dtype
        usual = self.params[0].__class__
        for name, value in zip(names, values, strict=True):
            if value.__class__ is usual and value.dtype is dtype and value.shape == shape:
                states.append(value)
                continue
            if value is None or (isinstance(value, (int, float)) and value == 0):
                states.append(None)
                zeros += 1
                continue
            value = checks.real(self._name, name, value)
            if value.shape != shape:
                error = checks.shape_error(self._name, name, f"(N, H) = {shape}", value)
                if names is self.states and value.shape[1:] == shape[1:]:
                    kept = f"a state of batch {len(value)} is kept; call reset_state()"
                    error = ValueError(f"{error}: {kept}")
                raise error
            states.append(checks.cast(value, dtype))
        if zeros == len(states):
            return None
        if zeros:
            xp = checks.namespace(next(s for s in states if s is not None))
            states = [xp.zeros(shape, self.dtype) if s is None else s for s in states]
        return tuple(states)

    def _run(self, xs, state, weights, train, lengths=None, reverse=False, h_mask=None):
        """Checked arguments through the column; the cache of the forward before is dropped."""
        hs, state, cache = self._kernel.forward(
            xs,
            state,
            weights,
            train=train,
            lengths=lengths,
            reverse=reverse,
            h_mask=h_mask,
            **self._options,
        )
        self.cache = None if cache is None else (cache, weights, hs.shape)
        return hs, state

    def _run_back(self, dhs, dstate, grads):
        cache, weights, _ = self.cache
        if len(grads) < len(weights):  # a None for each of the weights that is not there
            given = iter(grads)
            grads = [next(given) if there else None for there in self._there]
        given = self._kernel.backward(dhs, dstate, weights, cache, grads)
        self.cache = None
        return given


def checked_lengths(owner, lengths, N, T):
    """lengths as the columns take them, NumPy's intp; None where all of them are T.

    A tuple or a list will do. One on a GPU is waited for.
    """
    if isinstance(lengths, (tuple, list)):
        lengths = np.asarray(lengths, None if lengths else np.intp)
    lengths = checks.integers(owner, "lengths", lengths)
    if lengths.shape != (N,):
        raise checks.shape_error(owner, "lengths", f"(N,) = ({N},)", lengths)
    lengths = lengths.get() if checks.is_cupy(lengths) else lengths
    checks.in_range(owner, "lengths", lengths, T + 1)
    return None if (lengths == T).all() else np.ascontiguousarray(lengths, np.intp)


def nonlinearity_option(layer, nonlinearity):
    if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
        raise ValueError(
            f"{type(layer).__name__}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
        )
    return {"nonlinearity": nonlinearity}


def cell_clip_option(layer, cell_clip):
    if cell_clip is None:
        return {}
    owner = type(layer).__name__
    if isinstance(cell_clip, bool) or not isinstance(cell_clip, Real):
        kind = type(cell_clip).__name__
        raise TypeError(f"{owner}: cell_clip must be a number or None, got {kind}")
    if not 0 < cell_clip < float("inf"):
        raise ValueError(f"{owner}: cell_clip must be positive and finite, got {cell_clip}")
    return {"cell_clip": float(cell_clip)}


def convention_options(layer, reset_after, z_keeps):
    owner = type(layer).__name__
    reset_after = checks.flag(owner, "reset_after", reset_after)
    return {"reset_after": reset_after, "z_keeps": checks.flag(owner, "z_keeps", z_keeps)}
