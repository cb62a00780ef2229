"""The layer-normalised GRU, in NumPy. Ba et al. 2016, https://arxiv.org/abs/1607.06450.

Equations of the paper's supplement. One step; h' is the state of the previous step, LN(u; g) is in
rnnfast/reference/norms.py:

    s = h' m
    z, r = sigmoid(LN(x Wx_zr; gx_zr) + LN(s Wh_zr; gh_zr) + b_zr)
    q = LN(s Wh_h; gh_h) + bh
    h_hat = tanh(LN(x Wx_h; gx_h) + b_h + r q)
    h = (1 - z) h' + z h_hat

As in the paper, z and r are normalised together, over their 2H numbers, and the candidate apart,
over its H numbers; r is applied after the product. z is the share that is new, as in the paper and
in the book. The paper has a bias in each LN; those of z and r are both part of b here, and those of
the candidate are b_h and bh.

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step:

    dA_h = dh z (1 - h_hat^2)    dA_r = dA_h q r (1 - r)    dA_z = dh (h_hat - h') z (1 - z)
    dq = dA_h r    dB = (dA_z, dA_r, dq)    db += dA    dbh += dq
    dgx += dA x_hat    du = back(dA gx)    dx = du Wx^T                          dWx += x^T du
    dgh += dB s_hat    dv = back(dB gh)    dh' = dh (1 - z) + (dv Wh^T) m        dWh += s^T dv

back is the way back through a normalisation, x_hat and s_hat are the normalised x Wx and s Wh; the
gradients of biases and gains are sums over the batch. m is h_mask, the same at every step:
variational dropout on the recurrent path (Gal and Ghahramani 2016,
https://arxiv.org/abs/1512.05287). Without it m is 1. The h' that is mixed with h_hat is not masked.

candidate_mask and h_zoneout are those of a GRU (rnnfast/reference/gru.py).

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

Shapes: N batch, T time, D input, H hidden; the blocks are z, r, candidate.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h,) with h (N, H)
    Wx (D, 3H)           Wh (H, 3H)           b (3H,) or None
    gx, gh (3H,)         bh (H,)              h_mask (N, H)    lengths (N,)
    candidate_mask, h_zoneout (N, T, H)
"""

import numpy as np

from rnnfast.reference.norms import normal, normal_back
from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import pack as pack
from rnnfast.reference.packed import weights
from rnnfast.reference.steps import (
    at,
    at_work,
    check_cache,
    in_order,
    only,
    times,
    zoned,
    zoned_back,
)


def forward(
    xs,
    state,
    params,
    *,
    train=True,
    lengths=None,
    reverse=False,
    h_mask=None,
    candidate_mask=None,
    h_zoneout=None,
):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h,) and the cache for `backward`.
    """
    Wx, Wh, b, gx, gh, bh = weights(params, train, 6, "lngru")
    N, T, _ = xs.shape
    H = Wh.shape[0]
    (h,) = state if state is not None else (np.zeros((N, H), Wx.dtype),)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev = only(on, xs[:, t]), h
        seen = times(h_prev, h_mask)
        of_x, of_h = normal_parts(x @ Wx, H), normal_parts(seen @ Wh, H)
        A, B = (np.hstack([u for u, _ in of]) * g for of, g in ((of_x, gx), (of_h, gh)))
        if b is not None:
            A += b
        zr, q = sigmoid(A[:, : 2 * H] + B[:, : 2 * H]), B[:, 2 * H :] + bh
        z, r = zr[:, :H], zr[:, H:]
        h_hat = np.tanh(A[:, 2 * H :] + r * q)
        h = (1 - z) * h_prev + z * times(h_hat, at(candidate_mask, t, on))
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, h), h_prev)
        hs[:, t] = only(on, h)
        if train:
            steps.append((t, on, x, h_prev, seen, z, r, q, h_hat, of_x, of_h))

    of_steps = candidate_mask, h_zoneout
    cache = {"steps": steps, "h_mask": h_mask, "of_steps": of_steps} if train else None
    return hs, (h.copy(),), cache


def backward(dhs, dstate, params, cache, grads):
    """Write `grads`, one per param, and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh,).
    """
    check_cache("lngru", cache)
    Wx, Wh, _, gx, gh, bh = weights(params, True, 6)
    N, T, H = dhs.shape
    (dh,) = dstate if dstate is not None else (np.zeros((N, H), Wx.dtype),)
    dh = dh.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db, h_mask = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(gx), cache["h_mask"]
    dgx, dgh, dbh = (np.zeros_like(g) for g in (gx, gh, bh))
    candidate_mask, h_zoneout = cache["of_steps"]
    for t, on, x, h_prev, seen, z, r, q, h_hat, of_x, of_h in reversed(cache["steps"]):
        dh += only(on, dhs[:, t])
        kept, dh_new = zoned_back(at(h_zoneout, t, on), dh)
        m = at(candidate_mask, t, on)
        dA_h = only(on, times(dh_new * z, m) * (1 - h_hat**2))
        dA_z = only(on, dh_new * (times(h_hat, m) - h_prev) * z * (1 - z))
        dA_r, dq = only(on, dA_h * q * r * (1 - r)), only(on, dA_h * r)
        dA, dB = np.hstack((dA_z, dA_r, dA_h)), np.hstack((dA_z, dA_r, dq))
        db += dA.sum(axis=0)
        dbh += dq.sum(axis=0)
        dgx += only(on, dA * np.hstack([u for u, _ in of_x])).sum(axis=0)
        dgh += only(on, dB * np.hstack([u for u, _ in of_h])).sum(axis=0)
        du, dv = only(on, parts_back(dA * gx, of_x)), only(on, parts_back(dB * gh, of_h))
        dWx += x.T @ du
        dWh += seen.T @ dv
        dxs[:, t] = du @ Wx.T
        dseen = dv @ Wh.T
        dh = np.where(on, dh_new * (1 - z) + times(dseen, h_mask) + kept, dh)

    cache.clear()
    for grad, value in zip(grads, (dWx, dWh, db, dgx, dgh, dbh), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh,)


def normal_parts(u, H):
    """`normal` of z and r together, and of the candidate."""
    return normal(u[:, : 2 * H]), normal(u[:, 2 * H :])


def parts_back(d, parts):
    """`normal_back` of both."""
    H = d.shape[1] // 3
    return np.hstack((normal_back(d[:, : 2 * H], *parts[0]), normal_back(d[:, 2 * H :], *parts[1])))
