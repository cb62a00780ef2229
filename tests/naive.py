"""Layers in plain NumPy, one step at a time: what a reader would write after the book.

They are the tests' second opinion on rnnfast's layers, apart from the columns, under the same
names. A step returns its new state and a `tape` for its backward:

    step(x, state, params) -> state, tape
    step_back(dstate, tape, params) -> dx, dstate, grads
"""

import numpy as np


def sigma(a):
    return 1 / (1 + np.exp(-a))


def weight_grads(x, h, da):
    return x.T @ da, h.T @ da, da.sum(axis=0)


def rnn_step(x, state, params):
    Wx, Wh, b = params
    (h,) = state
    h_next = np.tanh(x @ Wx + h @ Wh + b)
    return (h_next,), (x, h, h_next)


def rnn_step_back(dstate, tape, params):
    Wx, Wh, _ = params
    x, h, h_next = tape
    da = dstate[0] * (1 - h_next**2)
    return da @ Wx.T, (da @ Wh.T,), weight_grads(x, h, da)


def lstm_step(x, state, params):
    Wx, Wh, b = params
    h, c = state
    f, g, i, o = np.split(x @ Wx + h @ Wh + b, 4, axis=1)
    f, g, i, o = sigma(f), np.tanh(g), sigma(i), sigma(o)
    c_next = f * c + g * i
    return (o * np.tanh(c_next), c_next), (x, h, c, f, g, i, o, c_next)


def lstm_step_back(dstate, tape, params):
    Wx, Wh, _ = params
    x, h, c, f, g, i, o, c_next = tape
    dh, dc = dstate
    shown = np.tanh(c_next)
    dc = dc + dh * o * (1 - shown**2)
    da = np.concatenate(
        (
            dc * c * f * (1 - f),
            dc * i * (1 - g**2),
            dc * g * i * (1 - i),
            dh * shown * o * (1 - o),
        ),
        axis=1,
    )
    return da @ Wx.T, (da @ Wh.T, dc * f), weight_grads(x, h, da)


def gru_step(x, state, params):
    Wx, Wh, b = params
    (h,) = state
    H = h.shape[1]
    ax = x @ Wx + b
    z, r = np.split(sigma(ax[:, : 2 * H] + h @ Wh[:, : 2 * H]), 2, axis=1)
    new = np.tanh(ax[:, 2 * H :] + (r * h) @ Wh[:, 2 * H :])
    return ((1 - z) * h + z * new,), (x, h, z, r, new)


def gru_step_back(dstate, tape, params):
    Wx, Wh, _ = params
    x, h, z, r, new = tape
    (dh,) = dstate
    H = h.shape[1]
    da_new = dh * z * (1 - new**2)
    drh = da_new @ Wh[:, 2 * H :].T
    da_gates = np.concatenate((dh * (new - h) * z * (1 - z), drh * h * r * (1 - r)), axis=1)
    dh_prev = dh * (1 - z) + drh * r + da_gates @ Wh[:, : 2 * H].T
    da = np.concatenate((da_gates, da_new), axis=1)
    dWh = np.concatenate((h.T @ da_gates, (r * h).T @ da_new), axis=1)
    return da @ Wx.T, (dh_prev,), (x.T @ da, dWh, da.sum(axis=0))


class Sequence:
    """A cell over time. `state` and `dstate` are tuples, (h,) or (h, c)."""

    gates, n_states = 1, 1

    def __init__(self, Wx, Wh, b, stateful=False):
        self.params = [Wx, Wh, b]
        self.grads = [np.zeros_like(p) for p in self.params]
        self.stateful, self.state = stateful, None

    h = property(lambda self: self.state[0])
    dh = property(lambda self: self.dstate[0])

    def set_state(self, *state):
        missing = [np.zeros_like(state[0])] * (self.n_states - len(state))
        self.state = (*state, *missing)

    def reset_state(self):
        self.state = None

    def zeros(self, N):
        H = self.params[1].shape[0]
        return tuple(np.zeros((N, H), self.params[1].dtype) for _ in range(self.n_states))

    def forward(self, xs):
        if not self.stateful or self.state is None:
            self.state = self.zeros(len(xs))
        self.tapes, hs = [], []
        for x in np.moveaxis(xs, 1, 0):
            self.state, tape = self.step(x, self.state, self.params)
            self.tapes.append(tape)
            hs.append(self.state[0])
        return np.stack(hs, axis=1)

    def backward(self, dhs, dstate=None):
        self.dstate = dstate or self.zeros(len(dhs))
        for g in self.grads:
            g[...] = 0
        dxs = []
        for tape, dh in zip(self.tapes[::-1], np.moveaxis(dhs, 1, 0)[::-1], strict=True):
            dstate = (self.dstate[0] + dh, *self.dstate[1:])
            dx, self.dstate, step_grads = self.step_back(dstate, tape, self.params)
            dxs.append(dx)
            for g, dw in zip(self.grads, step_grads, strict=True):
                g += dw
        return np.stack(dxs[::-1], axis=1)


class TimeRNN(Sequence):
    step, step_back = staticmethod(rnn_step), staticmethod(rnn_step_back)


class TimeLSTM(Sequence):
    step, step_back = staticmethod(lstm_step), staticmethod(lstm_step_back)
    gates, n_states = 4, 2


class TimeGRU(Sequence):
    step, step_back = staticmethod(gru_step), staticmethod(gru_step_back)
    gates = 3


TIME = {"rnn": TimeRNN, "lstm": TimeLSTM, "gru": TimeGRU}


class TimeEmbedding:
    def __init__(self, W):
        self.params, self.grads = [W], [np.zeros_like(W)]

    def forward(self, ids):
        self.ids = ids
        return self.params[0][ids]

    def backward(self, dout):
        self.grads[0][...] = 0
        for place in np.ndindex(self.ids.shape):
            self.grads[0][self.ids[place]] += dout[place]


class TimeAffine:
    def __init__(self, W, b):
        self.params, self.grads = [W, b], [np.zeros_like(W), np.zeros_like(b)]

    def forward(self, xs):
        self.xs = xs
        return xs @ self.params[0] + self.params[1]

    def backward(self, dout):
        self.grads[0][...] = np.einsum("ntd,ntm->dm", self.xs, dout)
        self.grads[1][...] = dout.sum(axis=(0, 1))
        return dout @ self.params[0].T


class TimeDropout:
    def __init__(self, ratio):
        self.params, self.grads, self.ratio, self.train_flg = [], [], ratio, True

    def forward(self, xs):
        self.mask = np.ones_like(xs)
        if self.train_flg:
            self.mask[...] = (np.random.rand(*xs.shape) > self.ratio) / (1 - self.ratio)
        return xs * self.mask

    def backward(self, dout):
        return dout * self.mask


class TimeSoftmaxWithLoss:
    def forward(self, xs, ts):
        self.dtype = xs.dtype
        e = np.exp(xs.astype("f8"))
        self.p = e / e.sum(axis=2, keepdims=True)
        self.ts, self.counts = ts, ts != -1
        n, t = np.nonzero(self.counts)
        return -np.log(self.p[n, t, ts[n, t]]).mean()

    def backward(self):
        dxs = self.p * self.counts[:, :, np.newaxis]
        n, t = np.nonzero(self.counts)
        dxs[n, t, self.ts[n, t]] -= 1
        return (dxs / self.counts.sum()).astype(self.dtype)


class Softmax:
    def forward(self, x):
        e = np.exp(x)
        self.p = e / e.sum(axis=1, keepdims=True)
        return self.p

    def backward(self, dout):
        return self.p * (dout - (self.p * dout).sum(axis=1, keepdims=True))


def numeric_gradient(loss, xs, eps=1e-5):
    """The gradient of loss() with respect to xs, which it reads, by central differences."""
    dxs = np.empty(xs.shape, xs.dtype)
    for place in np.ndindex(xs.shape):
        kept = float(xs[place])
        xs[place] = kept + eps
        above = float(loss())
        xs[place] = kept - eps
        dxs[place] = (above - float(loss())) / (2 * eps)
        xs[place] = kept
    return dxs
