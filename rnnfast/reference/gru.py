"""The GRU, in NumPy. Deep Learning from Scratch 2, appendix C; Cho et al. 2014.

Forward, one step; h' is the state of the step before, ~h the candidate for the new one:

    s = h' m                                   what the products with Wh see
    z = sigmoid(x Wx_z + s Wh_z + b_z)         how much is renewed
    r = sigmoid(x Wx_r + s Wh_r + b_r)         how much of s the candidate sees
    ~h = tanh(x Wx_c + (r s) Wh_c + b_c)       r comes before the product
    h = (1 - z) h' + z ~h                      all of h' goes on

Backward, one step; dh has already come together from above (dhs) and from the step after:

    dA_c = dh z (1 - ~h^2)                     d(r s) = dA_c Wh_c^T
    dA_z = dh (~h - h') z (1 - z)
    dA_r = d(r s) s r (1 - r)
    dh' = dh (1 - z) + (d(r s) r + [dA_z, dA_r] [Wh_z, Wh_r]^T) m
    dx = dA Wx^T    dWx += x^T dA    db += sum of dA over the batch
    dWh_z, dWh_r += s^T dA_z, s^T dA_r         dWh_c += (r s)^T dA_c

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). Without it m is 1. Neither hs nor the state is masked.

Shapes: N batch, T time, D input, H hidden; the blocks are z, r, candidate.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h,) with h (N, H)
    Wx (D, 3H)           Wh (H, 3H)           b (3H,) or None    h_mask (N, H)
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import pack as pack
from rnnfast.reference.packed import weights


def forward(xs, state, params, *, train=True, reverse=False, h_mask=None):
    """Runs the whole sequence: hs, (h,) and the cache for `backward`. See rnnfast.kernels."""
    Wx, Wh, b = weights(params, train)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    (h,) = state if state is not None else (np.zeros((N, H), Wx.dtype),)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        x, h_prev = xs[:, t], h
        seen = h_prev if h_mask is None else h_prev * h_mask
        A = x @ Wx
        if b is not None:
            A += b
        A[:, : 2 * H] += seen @ Wh[:, : 2 * H]
        z = sigmoid(A[:, :H])
        r = sigmoid(A[:, H : 2 * H])
        h_hat = np.tanh(A[:, 2 * H :] + (r * seen) @ Wh[:, 2 * H :])
        h = (1 - z) * h_prev + z * h_hat
        hs[:, t] = h
        if train:
            steps.append((t, x, h_prev, seen, z, r, h_hat))

    cache = {"steps": steps, "h_mask": h_mask} if train else None
    return hs, (h.copy(),), cache


def backward(dhs, dstate, params, cache, grads):
    """Writes `grads` (dWx, dWh, db), empties `cache`; dxs and (dh,). See rnnfast.kernels."""
    if not cache:
        raise RuntimeError("gru: backward needs the cache of a forward(train=True), once")
    Wx, Wh, b = params
    N, T, H = dhs.shape
    Wh_zr, Wh_c = Wh[:, : 2 * H], Wh[:, 2 * H :]
    (dh,) = dstate if dstate is not None else (np.zeros((N, H), Wx.dtype),)
    dh = dh.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(3 * H, Wx.dtype)
    h_mask = cache["h_mask"]
    for t, x, h_prev, seen, z, r, h_hat in reversed(cache["steps"]):
        dh += dhs[:, t]
        dA_c = dh * z * (1 - h_hat**2)
        drs = dA_c @ Wh_c.T
        dA_z = dh * (h_hat - h_prev) * z * (1 - z)
        dA_r = drs * seen * r * (1 - r)
        dA_zr = np.hstack((dA_z, dA_r))
        dA = np.hstack((dA_zr, dA_c))
        dWx += x.T @ dA
        dWh += np.hstack((seen.T @ dA_zr, (r * seen).T @ dA_c))
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ Wx.T
        ds = drs * r + dA_zr @ Wh_zr.T
        dh = dh * (1 - z) + (ds if h_mask is None else ds * h_mask)

    cache.clear()
    grads[0][...] = dWx
    grads[1][...] = dWh
    if b is not None:
        grads[2][...] = db
    return dxs, (dh,)
