"""The recurrent layers: one step, a sequence, both directions; for RNN, LSTM and GRU.

They check their arguments, keep the state from call to call and leave the mathematics to the
column they are bound to (rnnfast.kernels). N batch, T time, D input, H hidden.

Deep Learning from Scratch 2, chapter 5 (RNN), 6 (LSTM), 7 and appendix C (GRU), 8 (TimeBiLSTM).

Inputs may be views with any strides, and read-only. Real or integer inputs are cast to the dtype
of the weights, float32 or float64, which is also that of everything returned. Wrong input is a
TypeError (kind, dtype) or a ValueError (shape, value) before anything is changed; a backward
without the forward it belongs to is a RuntimeError.
"""

from operator import is_

import numpy as np

from rnnfast import checks
from rnnfast.base import Layer, grad, param

SMALL = 1 << 40  # elements; an array below that can be addressed in any case


def _specs(owner, gates, Wx, Wh, b, suffix=""):
    """name, shape and label of the weights that are there, with H as Wh says and D as Wx says."""
    GH = "H" if gates == 1 else f"{gates}H"
    H, _ = checks.matrix(owner, f"Wh{suffix}", Wh, f"(H, {GH})")
    D, _ = checks.matrix(owner, f"Wx{suffix}", Wx, f"(D, {GH})")
    specs = (
        (f"Wx{suffix}", (D, gates * H), f"(D, {GH})"),
        (f"Wh{suffix}", (H, gates * H), f"(H, {GH})"),
        (f"b{suffix}", (gates * H,), f"({GH},)"),
    )
    return specs if b is not None else specs[:2]


class _Recurrent(Layer):
    """Weights Wx (D, G*H), Wh (H, G*H), b (G*H,) or None, and the calls of a cell's column."""

    gates = 1
    states: tuple[str, ...] = ("h",)

    def __init__(self, Wx, Wh, b, device, **options):
        Wx, Wh, b = map(checks.adopt, (Wx, Wh, b))
        specs = _specs(type(self).__name__, self.gates, Wx, Wh, b)
        super().__init__(device, (Wx, Wh) if b is None else (Wx, Wh, b), specs)
        self._D, self._H = Wx.shape[0], Wh.shape[0]
        self._options = options
        self._packed = self._weights_of = None

    Wx, Wh = param(0), param(1)
    dWx, dWh = grad(0), grad(1)

    def freeze(self):
        """Lay the weights out once, for any number of forward(..., train=False) calls.

        Until `unfreeze` the NumPy arrays in params are read-only, and a training forward is a
        RuntimeError. The results are the same bits. What writes into a weight through another
        array, of which it is a view, is not seen before the next `freeze`. A copy of a frozen
        layer is not frozen.
        """
        if self._packed is None:
            weights = self._checked_weights(True)
            self._packed = self._kernel.pack(weights, **self._options)
            numpy = filter(checks.is_numpy, self.params)  # CuPy has no read-only arrays
            self._thaw = [p for p in numpy if p.flags.writeable]
            for p in self._thaw:
                p.flags.writeable = False

    @property
    def frozen(self):
        """True between freeze and unfreeze."""
        return self._packed is not None

    def unfreeze(self):
        """Make params writable again, those that were so before `freeze`."""
        if self._packed is not None:
            self._packed = None
            for p in self._thaw:
                p.flags.writeable = True

    def _checked_weights(self, train):
        """What the column takes as params: (Wx, Wh, b), or the packed ones of a frozen layer."""
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
            self._weights = tuple(params) if len(params) == 3 else (*params, None)
            self._weights_of = self._checked
        return self._weights

    def _checked_states(self, names, values, N):
        """values as a tuple of (N, H) arrays for the column, or None if all of them are zero.

        A zero one is None, or the number 0 with which the book's loops start a gradient.
        """
        states, zeros, shape, dtype = [], 0, (N, self._H), self.dtype
        for name, value in zip(names, values, strict=True):
            if value.__class__ is np.ndarray and value.dtype is dtype and value.shape == shape:
                states.append(value)
                continue
            if value is None or (isinstance(value, (int, float)) and value == 0):
                states.append(None)
                zeros += 1
                continue
            value = checks.real(self._name, name, value)
            if value.shape != shape:
                raise checks.shape_error(self._name, name, f"(N, H) = {shape}", value)
            states.append(checks.cast(value, dtype))
        if zeros == len(states):
            return None
        if zeros:
            xp = checks.namespace(next(s for s in states if s is not None))
            states = [xp.zeros(shape, self.dtype) if s is None else s for s in states]
        return tuple(states)

    def _run(self, xs, state, weights, *, train, reverse=False, h_mask=None):
        """Checked arguments through the column; the cache of the forward before is dropped."""
        self.cache = None
        hs, state, cache = self._kernel.forward(
            xs, state, weights, train=train, reverse=reverse, h_mask=h_mask, **self._options
        )
        if cache is not None:
            self.cache = cache, weights, hs.shape
        return hs, state

    def _run_back(self, dhs, dstate, grads):
        (cache, weights, _), self.cache = self.cache, None
        return self._kernel.backward(dhs, dstate, weights, cache, grads)


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
        return self._run(x[:, np.newaxis], state, weights, train=train)[1]

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
        _check_nonlinearity(type(self).__name__, nonlinearity)
        super().__init__(Wx, Wh, b, device, nonlinearity=nonlinearity)

    def forward(self, x, h_prev, *, train=True):
        """x (N, D), h_prev (N, H) -> h_next (N, H)."""
        return self._forward(x, h_prev, train=train)[0]

    def backward(self, dh_next):
        """dh_next (N, H) -> dx (N, D), dh_prev (N, H)."""
        return self._backward(dh_next)


class LSTM(_Step):
    """One step of an LSTM. Wx (D, 4H), Wh (H, 4H), b (4H,); blocks f, g, i, o."""

    column = "lstm"
    gates = 4
    states = ("h", "c")

    def __init__(self, Wx, Wh, b, *, device=None):
        super().__init__(Wx, Wh, b, device)

    def forward(self, x, h_prev, c_prev, *, train=True):
        """x (N, D), h_prev and c_prev (N, H) -> h_next, c_next."""
        return self._forward(x, h_prev, c_prev, train=train)

    def backward(self, dh_next, dc_next):
        """dh_next and dc_next (N, H) -> dx (N, D), dh_prev, dc_prev."""
        return self._backward(dh_next, dc_next)


class GRU(_Step):
    """One step of a GRU. Wx (D, 3H), Wh (H, 3H), b (3H,) or None; blocks z, r, candidate."""

    column = "gru"
    gates = 3

    def __init__(self, Wx, Wh, b=None, *, device=None):
        super().__init__(Wx, Wh, b, device)

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

    def __init__(self, Wx, Wh, b, stateful, device, **options):
        super().__init__(Wx, Wh, b, device, **options)
        self.stateful = stateful
        self.reset_state()
        for name in self.states:
            setattr(self, f"d{name}", None)

    def forward(self, xs, *, train=True, h_mask=None):
        """xs (N, T, D) -> hs (N, T, H). train=False keeps nothing for a backward.

        h_mask (N, H) multiplies h wherever it meets Wh, at every step the same: variational
        dropout on the recurrent path (TimeDropout.draw gives one). hs and the state are not
        masked. (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287)
        """
        checked = self._checked_forward(xs, train)
        if h_mask is not None:
            h_mask = self._checked_mask(h_mask, len(xs))
        return self._forward(checked, train, h_mask=h_mask)

    def _checked_mask(self, h_mask, N):
        h_mask = checks.real(self._name, "h_mask", h_mask)
        if h_mask.shape != (N, self._H):
            raise checks.shape_error(self._name, "h_mask", f"(N, H) = {N, self._H}", h_mask)
        return checks.cast(h_mask, self.dtype)

    def _checked_forward(self, xs, train):
        weights = self._checked_weights(train)
        # One look at the usual array; whatever else comes is looked at closely.
        if not (xs.__class__ is np.ndarray and xs.dtype is self.dtype and xs.ndim == 3):
            xs = checks.real(self._name, "xs", xs)
        shape = xs.shape
        if len(shape) != 3 or shape[2] != self._D:
            raise checks.shape_error(self._name, "xs", f"(N, T, D) = (N, T, {self._D})", xs)
        N, T, D = shape
        if not 0 < N * T * (D + self._H) < SMALL:
            checks.fits(self._name, "(N, T, max(D, 8H))", N, T, max(D, 8 * self._H))
        state = None
        if self.stateful:
            state = self._checked_states(self.states, self._state(), N)
        if xs.dtype is not self.dtype:
            xs = checks.cast(xs, self.dtype)
        return xs, state, weights

    def _forward(self, checked, train, reverse=False, h_mask=None):
        hs, state = self._run(*checked, train=train, reverse=reverse, h_mask=h_mask)
        self._keep(*state)
        return hs

    def _checked_backward(self, dhs, *dstate):
        shape = self._pending()[2]
        dhs = checks.real(self._name, "dhs", dhs)
        if dhs.shape != shape:
            raise checks.shape_error(self._name, "dhs", f"(N, T, H) = {shape}", dhs)
        names = [f"d{s}" for s in self.states]
        dstate = self._checked_states(names, dstate, shape[0]) if dstate else None
        return checks.cast(dhs, self.dtype), dstate, self._checked_grads()

    def _backward(self, checked):
        dxs, dstate = self._run_back(*checked)
        for name, value in zip(self.states, dstate, strict=True):
            setattr(self, f"d{name}", value)
        return dxs

    def _set_state(self, *values):
        adopted = []
        for name, value in zip(self.states, values, strict=True):
            if value is not None:
                value = checks.real(self._name, name, value)
                if value.ndim != 2 or value.shape[1] != self._H:
                    label = f"(N, H) = (N, {self._H})"
                    raise checks.shape_error(self._name, name, label, value)
            adopted.append(value)
        for name, value in zip(self.states, adopted, strict=True):
            setattr(self, name, value)

    def reset_state(self):
        """The next forward starts from zeros."""
        for name in self.states:
            setattr(self, name, None)


class _TimeOneState(_Time):
    def _state(self):
        return (self.h,)

    def _keep(self, h):
        self.h = h

    def backward(self, dhs, dh=None):
        """dhs (N, T, H) -> dxs (N, T, D); dh (N, H) is the gradient of the final state."""
        return self._backward(self._checked_backward(dhs, dh))

    def set_state(self, h):
        """Start from h (N, H), or from zeros if it is None; for stateful=True."""
        self._set_state(h)


class TimeRNN(_TimeOneState):
    """h_t = tanh(x_t Wx + h_(t-1) Wh + b), or relu. Wx (D, H), Wh (H, H), b (H,)."""

    column = "rnn"

    def __init__(self, Wx, Wh, b, stateful=False, *, nonlinearity="tanh", device=None):
        _check_nonlinearity(type(self).__name__, nonlinearity)
        super().__init__(Wx, Wh, b, stateful, device, nonlinearity=nonlinearity)


class TimeGRU(_TimeOneState):
    """A GRU over a sequence. Wx (D, 3H), Wh (H, 3H), b (3H,) or None; blocks z, r, candidate.

    A bool as third argument is `stateful`: TimeGRU(Wx, Wh, True) of the Korean edition, without a
    bias. params has two entries then. (Cho et al. 2014, https://arxiv.org/abs/1406.1078)
    """

    column = "gru"
    gates = 3

    def __init__(self, Wx, Wh, b=None, stateful=False, *, device=None):
        if isinstance(b, (bool, np.bool_)):
            if stateful:
                raise TypeError("TimeGRU: b must be an array or None, got bool beside stateful")
            b, stateful = None, bool(b)
        super().__init__(Wx, Wh, b, stateful, device)


class TimeLSTM(_Time):
    """An LSTM over a sequence. Wx (D, 4H), Wh (H, 4H), b (4H,); blocks f, g, i, o."""

    column = "lstm"
    gates = 4
    states = ("h", "c")

    def __init__(self, Wx, Wh, b, stateful=False, *, device=None):
        super().__init__(Wx, Wh, b, stateful, device)

    def _state(self):
        return self.h, self.c

    def _keep(self, h, c):
        self.h, self.c = h, c

    def backward(self, dhs, dh=None, dc=None):
        """dhs (N, T, H) -> dxs (N, T, D); dh and dc (N, H) are the final state's gradients."""
        return self._backward(self._checked_backward(dhs, dh, dc))

    def set_state(self, h, c=None):
        """Start from h and c (N, H), zeros for one that is None; for stateful=True."""
        self._set_state(h, c)


class _TimeBi:
    """One layer reads the sequence forwards, another backwards; their outputs side by side."""

    def __init__(self, kind, weights1, weights2, stateful, device, **options):
        name = type(self).__name__
        specs = _specs(name, kind.gates, *weights1, "1")
        if len(specs) == 2 and weights2[2] is not None:
            raise TypeError(f"{name}: b2 must be None as b1 is, got {type(weights2[2]).__name__}")
        for suffix, weights in (("1", weights1), ("2", weights2)):
            for W, (argument, shape, label) in zip(weights, specs, strict=False):
                argument = argument[:-1] + suffix
                checks.exactly(name, argument, W, weights1[0].dtype, shape, label)
        layers = [kind(*w, stateful, device=device, **options) for w in (weights1, weights2)]
        for layer, direction in zip(layers, ("forward", "backward"), strict=True):
            layer._name = name
            setattr(self, f"{direction}_{kind.column}", layer)
        self._column = kind.column
        self.params = layers[0].params + layers[1].params
        self.grads = layers[0].grads + layers[1].grads

    def _layers(self):
        return (getattr(self, f"{way}_{self._column}") for way in ("forward", "backward"))

    def forward(self, xs, *, train=True):
        """xs (N, T, D) -> (N, T, 2H). train=False keeps nothing for a backward."""
        ahead, back = self._layers()
        checked = ahead._checked_forward(xs, train), back._checked_forward(xs, train)
        hs1 = ahead._forward(checked[0], train)
        hs2 = back._forward(checked[1], train, reverse=True)
        return checks.namespace(hs1).concatenate((hs1, hs2), axis=2)

    def backward(self, dhs):
        """dhs (N, T, 2H) -> dxs (N, T, D)."""
        ahead, back = self._layers()
        (N, T, H), _ = ahead._pending()[2], back._pending()
        dhs = checks.real(ahead._name, "dhs", dhs)
        if dhs.shape != (N, T, 2 * H):
            raise checks.shape_error(ahead._name, "dhs", f"(N, T, 2H) = {N, T, 2 * H}", dhs)
        checked = ahead._checked_backward(dhs[:, :, :H]), back._checked_backward(dhs[:, :, H:])
        dxs = ahead._backward(checked[0])
        dxs += back._backward(checked[1])
        return dxs

    def freeze(self):
        """As TimeLSTM.freeze, both directions."""
        for layer in self._layers():
            layer.freeze()

    def unfreeze(self):
        for layer in self._layers():
            layer.unfreeze()

    @property
    def frozen(self):
        """True between freeze and unfreeze."""
        return all(layer.frozen for layer in self._layers())

    def reset_state(self):
        """The next forward starts from zeros in both directions."""
        for layer in self._layers():
            layer.reset_state()


class TimeBiRNN(_TimeBi):
    """`forward_rnn` and `backward_rnn`, two TimeRNN with weights of the same shapes."""

    def __init__(
        self, Wx1, Wh1, b1, Wx2, Wh2, b2, stateful=False, *, nonlinearity="tanh", device=None
    ):
        _check_nonlinearity(type(self).__name__, nonlinearity)
        weights = (Wx1, Wh1, b1), (Wx2, Wh2, b2)
        super().__init__(TimeRNN, *weights, stateful, device, nonlinearity=nonlinearity)


class TimeBiLSTM(_TimeBi):
    """`forward_lstm` and `backward_lstm`, two TimeLSTM with weights of the same shapes."""

    def __init__(self, Wx1, Wh1, b1, Wx2, Wh2, b2, stateful=False, *, device=None):
        super().__init__(TimeLSTM, (Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device)


class TimeBiGRU(_TimeBi):
    """`forward_gru` and `backward_gru`, two TimeGRU with weights of the same shapes."""

    def __init__(self, Wx1, Wh1, b1, Wx2, Wh2, b2, stateful=False, *, device=None):
        super().__init__(TimeGRU, (Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device)


def _check_nonlinearity(owner, nonlinearity):
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{owner}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
