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
from rnnfast.base import Layer, grad, param

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


class _Recurrent(Layer):
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


class _Step(_Recurrent):
    """One step: a sequence of length 1."""

    def _forward(self, x, *states, train):
        weights = self._checked_weights(train)
        x = checks.real(self._name, "x", x)
        if x.ndim != 2 or x.shape[1] != self._D:
            raise checks.shape_error(self._name, "x", f"(N, D) = (N, {self._D})", x)
        N = x.shape[0]
        checks.fits(self._name, "(N, 8H)", N, 8 * self._H)
        state = self._checked_states([f"{s}_prev" for s in self.states], states, N)
        x = checks.cast(x, self.dtype)
        return self._run(x[:, np.newaxis], state, weights, train)[1]

    def _backward(self, dh_next, *rest):
        N, T, H = self._pending()[2]
        names = [f"d{s}_next" for s in self.states]
        dstate = self._checked_states(names, (dh_next, *rest), N)
        # h_next is hs[:, 0] and the final state at once; its gradient comes as the state's
        xp = np if dstate is None else checks.namespace(dstate[0])
        dhs = xp.zeros((N, T, H), self.dtype)
        dxs, dstate = self._run_back(dhs, dstate, self._checked_grads())
        return dxs[:, 0], *dstate


class RNN(_Step):
    """h_next = tanh(x Wx + h_prev Wh + b), or relu. Wx (D, H), Wh (H, H), b (H,)."""

    column = "rnn"

    def __init__(self, Wx, Wh, b, *, nonlinearity="tanh", device=None):
        super().__init__((Wx, Wh, b), device, **_nonlinearity(self, nonlinearity))

    def forward(self, x, h_prev, *, train=True):
        """x (N, D), h_prev (N, H) -> h_next (N, H)."""
        return self._forward(x, h_prev, train=train)[0]

    def backward(self, dh_next):
        """dh_next (N, H) -> dx (N, D), dh_prev (N, H)."""
        return self._backward(dh_next)


class LSTM(_Step):
    """One step of an LSTM. Wx (D, 4H), Wh (H, 4H), b (4H,); blocks f, g, i, o.

    Wp and cell_clip as in TimeLSTM.
    """

    column = "lstm"
    gates = 4
    states = ("h", "c")

    def __init__(self, Wx, Wh, b, *, Wp=None, cell_clip=None, device=None):
        super().__init__((Wx, Wh, b, Wp), device, **_cell_clip(self, cell_clip))

    def forward(self, x, h_prev, c_prev, *, train=True):
        """x (N, D), h_prev and c_prev (N, H) -> h_next, c_next."""
        return self._forward(x, h_prev, c_prev, train=train)

    def backward(self, dh_next, dc_next):
        """dh_next and dc_next (N, H) -> dx (N, D), dh_prev, dc_prev."""
        return self._backward(dh_next, dc_next)


class GRU(_Step):
    """One step of a GRU. Wx (D, 3H), Wh (H, 3H), b (3H,) or None; blocks z, r, candidate.

    reset_after and z_keeps as in TimeGRU.
    """

    column = "gru"
    gates = 3

    def __init__(self, Wx, Wh, b=None, *, reset_after=False, z_keeps=False, device=None):
        super().__init__((Wx, Wh, b), device, **_conventions(self, reset_after, z_keeps))

    def forward(self, x, h_prev, *, train=True):
        """x (N, D), h_prev (N, H) -> h_next (N, H)."""
        return self._forward(x, h_prev, train=train)[0]

    def backward(self, dh_next):
        """dh_next (N, H) -> dx (N, D), dh_prev (N, H)."""
        return self._backward(dh_next)


class _Time(_Recurrent):
    """A sequence.

    stateful=True starts each forward where the last one ended (`h`, and `c` of an LSTM; zeros at
    first and after reset_state), else it starts from zeros. Either way h and c are the final
    state afterwards, and dh and dc, after backward, the gradient of the state it started from.
    """

    def __init__(self, weights, stateful, device, **options):
        super().__init__(weights, device, **options)
        self.stateful = stateful
        self._Wh_mask = None
        self.reset_state()
        for name in self.states:
            setattr(self, f"d{name}", None)

    def forward(self, xs, *, train=True, lengths=None, h_mask=None, Wh_mask=None):
        """xs (N, T, D) -> hs (N, T, H). train=False keeps nothing for a backward.

        lengths (N,), integers in [0, T]: sample n has so many steps. From there on its state
        stays, hs and all gradients are 0, and what stands in xs does not matter.

        h_mask (N, H) multiplies h wherever it meets Wh, at every step the same: variational
        dropout on the recurrent path (TimeDropout.draw gives one). hs and the state are not
        masked. (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287)

        Wh_mask, of Wh's shape, multiplies Wh in this call: DropConnect, the weight drop of
        AWD-LSTM (Merity et al. 2017, https://arxiv.org/abs/1708.02182). Not for a frozen layer.
        """
        checked = self._checked_forward(xs, train)
        if lengths is h_mask is Wh_mask is None:
            return self._forward(checked, train)
        xs, state, weights = checked
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        if h_mask is not None:
            h_mask = self._checked_mask("h_mask", h_mask, "(N, H)", (len(xs), self._H))
        if Wh_mask is not None:
            if self.frozen:
                raise RuntimeError(f"{self._name}: Wh_mask is not for a frozen layer")
            Wh_mask = self._checked_mask("Wh_mask", Wh_mask, "like Wh", self.Wh.shape)
            weights = (weights[0], weights[1] * Wh_mask, *weights[2:])
        hs = self._forward((xs, state, weights), train, lengths, h_mask=h_mask)
        self._Wh_mask = Wh_mask if train else None
        return hs

    def _before(self):
        """All that a forward changes."""
        return self.cache, self._Wh_mask, self.state

    def _restore(self, before):
        self.cache, self._Wh_mask, state = before
        self._keep(*state)

    def _checked_mask(self, name, mask, label, shape):
        mask = checks.real(self._name, name, mask)
        if mask.shape != shape:
            raise checks.shape_error(self._name, name, f"{label} = {shape}", mask)
        return checks.cast(mask, self.dtype)

    def _checked_forward(self, xs, train):
        weights = self._checked_weights(train)
        # One look at the usual array, one like Wx; whatever else comes is looked at closely.
        usual = self.params[0].__class__
        if not (xs.__class__ is usual and xs.dtype is self.dtype and xs.ndim == 3):
            xs = checks.real(self._name, "xs", xs)
        shape = xs.shape
        if len(shape) != 3 or shape[2] != self._D:
            raise checks.shape_error(self._name, "xs", f"(N, T, D) = (N, T, {self._D})", xs)
        N, T, D = shape
        if not 0 < N * T * (D + self._H) < SMALL:
            checks.fits(self._name, "(N, T, max(D, 8H))", N, T, max(D, 8 * self._H))
        state = None
        if self.stateful:
            state = self._checked_states(self.states, self.state, N)
        if xs.dtype is not self.dtype:
            xs = checks.cast(xs, self.dtype)
        return xs, state, weights

    def _forward(self, checked, train, lengths=None, reverse=False, h_mask=None):
        hs, state = self._run(*checked, train, lengths, reverse, h_mask)
        self._Wh_mask = None
        self._keep(*state)
        return hs

    def _checked_backward(self, dhs, *dstate):
        shape = self._pending()[2]
        if dhs is None:
            dhs = checks.namespace(self.params[0]).zeros(shape, self.dtype)
        dhs = checks.real(self._name, "dhs", dhs)
        if dhs.shape != shape:
            raise checks.shape_error(self._name, "dhs", f"(N, T, H) = {shape}", dhs)
        names = [f"d{s}" for s in self.states]
        dstate = self._checked_states(names, dstate, shape[0]) if dstate else None
        return checks.cast(dhs, self.dtype), dstate, self._checked_grads()

    def _backward(self, checked):
        dxs, dstate = self._run_back(*checked)
        if self._Wh_mask is not None:
            self.grads[1] *= self._Wh_mask
        for name, value in zip(self.states, dstate, strict=True):
            setattr(self, f"d{name}", value)
        return dxs

    def _set_state(self, *values):
        for name, value in zip(self.states, self._adopted_states(*values), strict=True):
            setattr(self, name, value)

    def _adopted_states(self, *values):
        adopted = []
        if not self.stateful and any(value is not None for value in values):
            raise ValueError(
                f"{self._name}: stateful must be True for set_state, got False, with which every "
                "forward starts from zeros"
            )
        for name, value in zip(self.states, values, strict=True):
            if value is not None:
                value = checks.real(self._name, name, value)
                if value.ndim != 2 or value.shape[1] != self._H:
                    label = f"(N, H) = (N, {self._H})"
                    raise checks.shape_error(self._name, name, label, value)
            adopted.append(value)
        return adopted

    def reset_state(self):
        """The next forward starts from zeros."""
        for name in self.states:
            setattr(self, name, None)


class _TimeOneState(_Time):
    @property
    def state(self):
        """(h,), as set_state takes it."""
        return (self.h,)

    @property
    def dstate(self):
        """(dh,), as backward takes it behind dhs."""
        return (self.dh,)

    def _keep(self, h):
        self.h = h

    def backward(self, dhs, dh=None):
        """dhs (N, T, H) -> dxs (N, T, D); dh (N, H) is the gradient of the final state.

        None is zeros: a loss that sees the final state alone needs no dhs.
        """
        return self._backward(self._checked_backward(dhs, dh))

    def set_state(self, h):
        """Start from h (N, H), or from zeros if it is None. ValueError unless stateful=True."""
        self._set_state(h)


class TimeRNN(_TimeOneState):
    """h_t = tanh(x_t Wx + h_(t-1) Wh + b), or relu. Wx (D, H), Wh (H, H), b (H,)."""

    column = "rnn"

    def __init__(self, Wx, Wh, b, stateful=False, *, nonlinearity="tanh", device=None):
        super().__init__((Wx, Wh, b), stateful, device, **_nonlinearity(self, nonlinearity))


class TimeGRU(_TimeOneState):
    """A GRU over a sequence. Wx (D, 3H), Wh (H, 3H), b (3H,) or None; blocks z, r, candidate.

    A bool as third argument is `stateful`: TimeGRU(Wx, Wh, True) of the Korean edition, without a
    bias. params has two entries then. (Cho et al. 2014, https://arxiv.org/abs/1406.1078)

    The book's GRU:       ~h = tanh(x Wx_c + (r h') Wh_c + b_c)             h = (1 - z) h' + z ~h
    reset_after=True:     ~h = tanh(x Wx_c + b0_c + r (h' Wh_c + b1_c))     b is (2, 3H)
    z_keeps=True:                                                           h = z h' + (1 - z) ~h

    cuDNN, PyTorch and Keras have both, Cho et al. and ONNX (linear_before_reset=0) the second.
    """

    column = "gru"
    gates = 3

    def __init__(
        self, Wx, Wh, b=None, stateful=False, *, reset_after=False, z_keeps=False, device=None
    ):
        if isinstance(b, (bool, np.bool_)):
            if stateful:
                raise TypeError("TimeGRU: b must be an array or None, got bool beside stateful")
            b, stateful = None, bool(b)
        options = _conventions(self, reset_after, z_keeps)
        super().__init__((Wx, Wh, b), stateful, device, **options)


class TimeLSTM(_Time):
    """An LSTM over a sequence. Wx (D, 4H), Wh (H, 4H), b (4H,); blocks f, g, i, o.

    Wp: peepholes, through which f and i see the cell before and o the new one; the diagonals of
    three matrices, (3, H), or the matrices, (3, H, H). It comes last in params. (Gers and
    Schmidhuber 2000; Graves 2013, https://arxiv.org/abs/1308.0850)

    cell_clip: the cell stays in [-cell_clip, cell_clip], and where it lies at a bound no gradient
    passes. (Sak et al. 2014, https://arxiv.org/abs/1402.1128)
    """

    column = "lstm"
    gates = 4
    states = ("h", "c")

    def __init__(self, Wx, Wh, b, stateful=False, *, Wp=None, cell_clip=None, device=None):
        super().__init__((Wx, Wh, b, Wp), stateful, device, **_cell_clip(self, cell_clip))

    @property
    def state(self):
        """(h, c), as set_state takes them."""
        return self.h, self.c

    @property
    def dstate(self):
        """(dh, dc), as backward takes them behind dhs."""
        return self.dh, self.dc

    def _keep(self, h, c):
        self.h, self.c = h, c

    def backward(self, dhs, dh=None, dc=None):
        """dhs (N, T, H) -> dxs (N, T, D); dh and dc (N, H) are the final state's gradients.

        None is zeros: a loss that sees the final state alone needs no dhs.
        """
        return self._backward(self._checked_backward(dhs, dh, dc))

    def set_state(self, h, c=None):
        """Start from h and c (N, H), zeros for one that is None. ValueError unless stateful."""
        self._set_state(h, c)


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


# The options of each cell, checked


def _nonlinearity(layer, nonlinearity):
    if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
        raise ValueError(
            f"{type(layer).__name__}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
        )
    return {"nonlinearity": nonlinearity}


def _cell_clip(layer, cell_clip):
    if cell_clip is None:
        return {}
    owner = type(layer).__name__
    if isinstance(cell_clip, bool) or not isinstance(cell_clip, Real):
        kind = type(cell_clip).__name__
        raise TypeError(f"{owner}: cell_clip must be a number or None, got {kind}")
    if not 0 < cell_clip < float("inf"):
        raise ValueError(f"{owner}: cell_clip must be positive and finite, got {cell_clip}")
    return {"cell_clip": float(cell_clip)}


def _conventions(layer, reset_after, z_keeps):
    owner = type(layer).__name__
    reset_after = checks.flag(owner, "reset_after", reset_after)
    return {"reset_after": reset_after, "z_keeps": checks.flag(owner, "z_keeps", z_keeps)}
