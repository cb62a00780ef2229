"""The GRU, in NumPy. Deep Learning from Scratch 2, appendix C; Cho et al. 2014.

Forward, one step; h' is the state of the step before, ~h the candidate for the new one:

    z = sigmoid(x Wx_z + h' Wh_z + b_z)        how much is renewed
    r = sigmoid(x Wx_r + h' Wh_r + b_r)        how much of h' the candidate sees
    ~h = tanh(x Wx_c + (r h') Wh_c + b_c)      r comes before the product
    h = (1 - z) h' + z ~h

Backward, one step; dh has already come together from above (dhs) and from the step after:

    dA_c = dh z (1 - ~h^2)                     d(r h') = dA_c Wh_c^T
    dA_z = dh (~h - h') z (1 - z)
    dA_r = d(r h') h' r (1 - r)
    dh' = dh (1 - z) + d(r h') r + [dA_z, dA_r] [Wh_z, Wh_r]^T
    dx = dA Wx^T    dWx += x^T dA    db += sum of dA over the batch
    dWh_z, dWh_r += h'^T dA_z, h'^T dA_r       dWh_c += (r h')^T dA_c

Shapes: N batch, T time, D input, H hidden; the blocks are z, r, candidate.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h,) with h (N, H)
    Wx (D, 3H)           Wh (H, 3H)           b (3H,) or None
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import pack as pack
from rnnfast.reference.packed import weights


def forward(xs, state, params, *, train=True, reverse=False):
    """Runs the whole sequence: hs, (h,) and the cache for `backward`. See rnnfast.kernels."""
    Wx, Wh, b = weights(params, train)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    (h,) = state if state is not None else (np.zeros((N, H), Wx.dtype),)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        x, h_prev = xs[:, t], h
        A = x @ Wx
        if b is not None:
            A += b
        A[:, : 2 * H] += h_prev @ Wh[:, : 2 * H]
        z = sigmoid(A[:, :H])
        r = sigmoid(A[:, H : 2 * H])
        h_hat = np.tanh(A[:, 2 * H :] + (r * h_prev) @ Wh[:, 2 * H :])
        h = (1 - z) * h_prev + z * h_hat
        hs[:, t] = h
        if train:
            steps.append((t, x, h_prev, z, r, h_hat))

    cache = {"steps": steps} if train else None
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
    for t, x, h_prev, z, r, h_hat in reversed(cache["steps"]):
        dh += dhs[:, t]
        dA_c = dh * z * (1 - h_hat**2)
        drh = dA_c @ Wh_c.T
        dA_z = dh * (h_hat - h_prev) * z * (1 - z)
        dA_r = drh * h_prev * r * (1 - r)
        dA_zr = np.hstack((dA_z, dA_r))
        dA = np.hstack((dA_zr, dA_c))
        dWx += x.T @ dA
        dWh += np.hstack((h_prev.T @ dA_zr, (r * h_prev).T @ dA_c))
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ Wx.T
        dh = dh * (1 - z) + drh * r + dA_zr @ Wh_zr.T

    cache.clear()
    grads[0][...] = dWx
    grads[1][...] = dWh
    if b is not None:
        grads[2][...] = db
    return dxs, (dh,)
