"""The LSTM, in NumPy. Deep Learning from Scratch 2, chapter 6; Hochreiter and Schmidhuber 1997.

Forward, one step; h' and c' are the state of the step before:

    A = x Wx + (h' m) Wh + b     its four blocks are f, g, i, o, in the book's order
    f = sigmoid(A_f)         how much of the old cell stays
    g = tanh(A_g)            what is new
    i = sigmoid(A_i)         how much of it comes in
    o = sigmoid(A_o)         how much of the cell is shown
    c = f c' + g i
    h = o tanh(c)

Backward, one step; dh has already come together from above (dhs) and from the step after:

    do = dh tanh(c)          dc += dh o (1 - tanh(c)^2)
    df = dc c'    dg = dc i    di = dc g    dc' = dc f
    dA = [df f (1 - f), dg (1 - g^2), di i (1 - i), do o (1 - o)]
    dx = dA Wx^T    dh' = (dA Wh^T) m
    dWx += x^T dA   dWh += (h' m)^T dA   db += sum of dA over the batch

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). Without it m is 1. Neither hs nor the state is masked.

Shapes: N batch, T time, D input, H hidden.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h, c), each (N, H)
    Wx (D, 4H)           Wh (H, 4H)           b (4H,) or None    h_mask (N, H)
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import pack as pack
from rnnfast.reference.packed import weights


def forward(xs, state, params, *, train=True, reverse=False, h_mask=None):
    """Runs the whole sequence: hs, (h, c) and the cache for `backward`. See rnnfast.kernels."""
    Wx, Wh, b = weights(params, train)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    h, c = state if state is not None else np.zeros((2, N, H), Wx.dtype)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        x, h_prev, c_prev = xs[:, t], h, c
        seen = h_prev if h_mask is None else h_prev * h_mask
        A = x @ Wx + seen @ Wh
        if b is not None:
            A += b
        f = sigmoid(A[:, :H])
        g = np.tanh(A[:, H : 2 * H])
        i = sigmoid(A[:, 2 * H : 3 * H])
        o = sigmoid(A[:, 3 * H :])
        c = f * c_prev + g * i
        h = o * np.tanh(c)
        hs[:, t] = h
        if train:
            steps.append((t, x, seen, c_prev, f, g, i, o, c))

    cache = {"steps": steps, "h_mask": h_mask} if train else None
    return hs, (h.copy(), c.copy()), cache


def backward(dhs, dstate, params, cache, grads):
    """Writes `grads` (dWx, dWh, db), empties `cache`; dxs and (dh, dc). See rnnfast.kernels."""
    if not cache:
        raise RuntimeError("lstm: backward needs the cache of a forward(train=True), once")
    Wx, Wh, b = params
    N, T, H = dhs.shape
    dh, dc = dstate if dstate is not None else np.zeros((2, N, H), Wx.dtype)
    dh, dc = dh.copy(), dc.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(4 * H, Wx.dtype)
    h_mask = cache["h_mask"]
    for t, x, seen, c_prev, f, g, i, o, c in reversed(cache["steps"]):
        dh += dhs[:, t]
        tanh_c = np.tanh(c)
        do = dh * tanh_c
        dc += dh * o * (1 - tanh_c**2)
        df, dg, di = dc * c_prev, dc * i, dc * g
        dA = np.hstack((df * f * (1 - f), dg * (1 - g**2), di * i * (1 - i), do * o * (1 - o)))
        dWx += x.T @ dA
        dWh += seen.T @ dA
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ Wx.T
        dh = dA @ Wh.T
        if h_mask is not None:
            dh *= h_mask
        dc *= f

    cache.clear()
    grads[0][...] = dWx
    grads[1][...] = dWh
    if b is not None:
        grads[2][...] = db
    return dxs, (dh, dc)
