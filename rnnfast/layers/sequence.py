"""A whole sequence in one call: TimeRNN, TimeLSTM, TimeGRU. Chapters 5, 6, 7 and appendix C.

N batch, T time, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

import numpy as np

from rnnfast import checks
from rnnfast.layers.recurrent import (
    SMALL,
    Recurrent,
    cell_clip_option,
    checked_lengths,
    convention_options,
    nonlinearity_option,
)


class _Time(Recurrent):
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
        taken = []
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
            taken.append(value)
        return taken

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
        super().__init__((Wx, Wh, b), stateful, device, **nonlinearity_option(self, nonlinearity))


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
        options = convention_options(self, reset_after, z_keeps)
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
        super().__init__((Wx, Wh, b, Wp), stateful, device, **cell_clip_option(self, cell_clip))

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
