"""One step of a recurrent layer: RNN, LSTM, GRU. Chapters 5, 6 and 7.

N batch, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

import numpy as np

from rnnfast import checks
from rnnfast.layers.recurrent import (
    Recurrent,
    cell_clip_option,
    convention_options,
    nonlinearity_option,
)


class _Step(Recurrent):
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
        super().__init__((Wx, Wh, b), device, **nonlinearity_option(self, nonlinearity))

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
        super().__init__((Wx, Wh, b, Wp), device, **cell_clip_option(self, cell_clip))

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
        super().__init__((Wx, Wh, b), device, **convention_options(self, reset_after, z_keeps))

    def forward(self, x, h_prev, *, train=True):
        """x (N, D), h_prev (N, H) -> h_next (N, H)."""
        return self._forward(x, h_prev, train=train)[0]

    def backward(self, dh_next):
        """dh_next (N, H) -> dx (N, D), dh_prev (N, H)."""
        return self._backward(dh_next)
