"""The baseline: recurrent layers in NumPy, one step at a time, as in the book.

The book is "Deep Learning from Scratch 2" (K. Saitoh).

A time layer here makes one step object per time step. A step multiplies x and h by their weights
in separate products, keeps the arrays for its backward pass, and fills its own gradient arrays,
which the time layer adds up. Nothing is batched over time and no buffer is reused. This costs the
same as the code of the book (chapters 5 and 6, and its GRU, which has no bias and multiplies gate
by gate). It is the NumPy baseline of all ratios that this project quotes. README.md has the
measured comparison with the book's own code: the same bits, and within 10% of its time.

xs is (N, T, D), hs and dhs are (N, T, H); weights Wx (D, G*H), Wh (H, G*H), b (G*H,), with G = 1
(RNN), 4 (LSTM: f, g, i, o) or 3 (GRU: z, r, candidate; no b). All arrays are float32, or all are
float64. Arguments are not checked.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class RNNStep:
    """h = tanh(h_prev Wh + x Wx + b); x (N, D), h (N, H)."""

    def __init__(self, Wx, Wh, b):
        self.params = Wx, Wh, b
        self.grads = [np.zeros_like(p) for p in self.params]

    def forward(self, x, h_prev):
        Wx, Wh, b = self.params
        h = np.tanh(np.dot(h_prev, Wh) + np.dot(x, Wx) + b)
        self.cache = x, h_prev, h
        return (h,)

    def backward(self, dh):
        Wx, Wh, _ = self.params
        x, h_prev, h = self.cache
        dA = dh * (1 - h**2)
        self.grads[0][...] = np.dot(x.T, dA)
        self.grads[1][...] = np.dot(h_prev.T, dA)
        self.grads[2][...] = dA.sum(axis=0)
        return np.dot(dA, Wx.T), np.dot(dA, Wh.T)


class LSTMStep:
    """c = f c_prev + g i, h = o tanh(c); x (N, D), h and c (N, H)."""

    def __init__(self, Wx, Wh, b):
        self.params = Wx, Wh, b
        self.grads = [np.zeros_like(p) for p in self.params]

    def forward(self, x, h_prev, c_prev):
        Wx, Wh, b = self.params
        H = Wh.shape[0]
        A = np.dot(x, Wx) + np.dot(h_prev, Wh) + b
        f = sigmoid(A[:, :H])
        g = np.tanh(A[:, H : 2 * H])
        i = sigmoid(A[:, 2 * H : 3 * H])
        o = sigmoid(A[:, 3 * H :])
        c = f * c_prev + g * i
        h = o * np.tanh(c)
        self.cache = x, h_prev, c_prev, f, g, i, o, c
        return h, c

    def backward(self, dh, dc):
        Wx, Wh, _ = self.params
        x, h_prev, c_prev, f, g, i, o, c = self.cache
        tanh_c = np.tanh(c)
        dc = dc + dh * o * (1 - tanh_c**2)
        # The gradient of each gate, then of its activation: s' = s (1 - s), tanh' = 1 - tanh^2.
        df = dc * c_prev
        dg = dc * i
        di = dc * g
        do = dh * tanh_c
        df *= f * (1 - f)
        dg *= 1 - g**2
        di *= i * (1 - i)
        do *= o * (1 - o)
        dA = np.hstack((df, dg, di, do))
        self.grads[0][...] = np.dot(x.T, dA)
        self.grads[1][...] = np.dot(h_prev.T, dA)
        self.grads[2][...] = dA.sum(axis=0)
        return np.dot(dA, Wx.T), np.dot(dA, Wh.T), dc * f


class GRUStep:
    """h = (1 - z) h_prev + z tanh(x Wx_c + (r h_prev) Wh_c); x (N, D), h (N, H).

    Three products with x and three with h, on column blocks of the weights, as in the book.
    """

    def __init__(self, Wx, Wh):
        self.params = Wx, Wh
        self.grads = None

    def forward(self, x, h_prev):
        (Wxz, Wxr, Wxc), (Whz, Whr, Whc) = map(column_blocks, self.params)
        z = sigmoid(np.dot(x, Wxz) + np.dot(h_prev, Whz))
        r = sigmoid(np.dot(x, Wxr) + np.dot(h_prev, Whr))
        candidate = np.tanh(np.dot(x, Wxc) + np.dot(r * h_prev, Whc))
        h = (1 - z) * h_prev + z * candidate
        self.cache = x, h_prev, z, r, candidate
        return (h,)

    def backward(self, dh):
        (Wxz, Wxr, Wxc), (Whz, Whr, Whc) = map(column_blocks, self.params)
        x, h_prev, z, r, candidate = self.cache

        dAc = dh * z * (1 - candidate**2)
        drh = np.dot(dAc, Whc.T)  # gradient of r * h_prev
        dAz = (dh * candidate - dh * h_prev) * z * (1 - z)
        dAr = drh * h_prev * r * (1 - r)

        dx = np.dot(dAc, Wxc.T)
        dx += np.dot(dAz, Wxz.T)
        dx += np.dot(dAr, Wxr.T)
        dh_prev = dh * (1 - z)
        dh_prev += r * drh
        dh_prev += np.dot(dAz, Whz.T)
        dh_prev += np.dot(dAr, Whr.T)
        self.grads = [
            np.hstack((np.dot(x.T, dAz), np.dot(x.T, dAr), np.dot(x.T, dAc))),
            np.hstack((np.dot(h_prev.T, dAz), np.dot(h_prev.T, dAr), np.dot((r * h_prev).T, dAc))),
        ]
        return dx, dh_prev


def column_blocks(W):
    """The three (K, H) views of a (K, 3H) weight matrix."""
    H = W.shape[1] // 3
    return W[:, :H], W[:, H : 2 * H], W[:, 2 * H :]


class TimeLayer:
    """The loop over time. `state` is (h,) or (h, c), each (N, H); None starts from zeros.

    With stateful=True, the next forward continues from the final state of the last one.
    """

    step = None
    state_size = 1

    def __init__(self, *params, stateful=False):
        self.params = list(params)
        self.grads = [np.zeros_like(p) for p in params]
        self.stateful = stateful
        self.state = None

    def forward(self, xs):
        N, T, _ = xs.shape
        H = self.params[1].shape[0]
        # Freed before new arrays are made, as in the book: page faults depend on the order.
        self.steps = []
        if self.state is None or not self.stateful:
            self.state = tuple(np.zeros((N, H), dtype=xs.dtype) for _ in range(self.state_size))
        hs = np.empty((N, T, H), dtype=xs.dtype)
        for t in range(T):
            step = self.step(*self.params)
            self.state = step.forward(xs[:, t], *self.state)
            hs[:, t] = self.state[0]
            self.steps.append(step)
        return hs

    def backward(self, dhs):
        N, T, _ = dhs.shape
        dxs = np.empty((N, T, self.params[0].shape[0]), dtype=dhs.dtype)
        totals = [0] * len(self.params)
        dh, *dc = [0] * self.state_size
        for t in reversed(range(T)):
            step = self.steps[t]
            dxs[:, t], dh, *dc = step.backward(dhs[:, t] + dh, *dc)
            for i, grad in enumerate(step.grads):
                totals[i] += grad
        for grad, total in zip(self.grads, totals, strict=True):
            grad[...] = total
        self.dh = dh
        return dxs


class TimeRNN(TimeLayer):
    step = RNNStep


class TimeLSTM(TimeLayer):
    step = LSTMStep
    state_size = 2


class TimeGRU(TimeLayer):
    step = GRUStep
