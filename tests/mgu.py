"""The minimal gated unit, in NumPy: the reference square of a cell that the library does not have.

It shows what a new cell costs; CONTRIBUTING.md lists the places. Zhou et al. 2016,
https://arxiv.org/abs/1603.09420. One gate is both of the GRU's; h' is the state before, s = h' m:

    f = sigmoid(x Wx_f + s Wh_f + b_f)
    ~h = tanh(x Wx_c + (f s) Wh_c + b_c)
    h = (1 - f) h' + f ~h

    dA_c = dh f (1 - ~h^2)    d(f s) = dA_c Wh_c^T
    dA_f = (dh (~h - h') + d(f s) s) f (1 - f)
    dh' = dh (1 - f) + (d(f s) f + dA_f Wh_f^T) m

Shapes: N batch, T time, D input, H hidden; the blocks are f, candidate.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h,) with h (N, H)    lengths (N,)
    Wx (D, 2H)           Wh (H, 2H)           b (2H,) or None                     h_mask (N, H)
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import pack as pack
from rnnfast.reference.packed import weights
from rnnfast.reference.steps import at_work, in_order, only


def forward(xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None):
    """See rnnfast.kernels."""
    Wx, Wh, b = weights(params, train, 3)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    (h,) = state if state is not None else (np.zeros((N, H), Wx.dtype),)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev = only(on, xs[:, t]), h
        seen = h_prev if h_mask is None else h_prev * h_mask
        A = x @ Wx + (0 if b is None else b)
        f = sigmoid(A[:, :H] + seen @ Wh[:, :H])
        h_hat = np.tanh(A[:, H:] + (f * seen) @ Wh[:, H:])
        h = np.where(on, (1 - f) * h_prev + f * h_hat, h_prev)
        hs[:, t] = only(on, h)
        steps.append((t, on, x, h_prev, seen, f, h_hat))
    return hs, (h.copy(),), {"steps": steps, "h_mask": h_mask} if train else None


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    if not cache:
        raise RuntimeError("mgu: backward needs the cache of a forward(train=True), once")
    Wx, Wh, _ = weights(params, True, 3)
    N, T, H = dhs.shape
    (dh,) = dstate if dstate is not None else (np.zeros((N, H), Wx.dtype),)
    dh = dh.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(2 * H, Wx.dtype)
    for t, on, x, h_prev, seen, f, h_hat in reversed(cache["steps"]):
        dh += only(on, dhs[:, t])
        dA_c = only(on, dh * f * (1 - h_hat**2))
        dfs = dA_c @ Wh[:, H:].T
        dA_f = only(on, (dh * (h_hat - h_prev) + dfs * seen) * f * (1 - f))
        dA = np.hstack((dA_f, dA_c))
        dWx += x.T @ dA
        dWh += np.hstack((seen.T @ dA_f, (f * seen).T @ dA_c))
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ Wx.T
        dseen = dfs * f + dA_f @ Wh[:, :H].T
        if cache["h_mask"] is not None:
            dseen *= cache["h_mask"]
        dh = np.where(on, dh * (1 - f) + dseen, dh)

    cache.clear()
    for grad, value in zip(grads, (dWx, dWh, db), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh,)
