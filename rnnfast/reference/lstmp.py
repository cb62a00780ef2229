"""The LSTM with a projection (LSTMP), in NumPy. Sak et al. 2014, https://arxiv.org/abs/1402.1128.

What the cell shows, u, is projected to P numbers before the next step and the layer above see it.
Forward, one step; h' (N, P) and c' (N, H) are the state of the previous step:

    A = x Wx + (h' m) Wh + b     four blocks of H columns: f, g, i, o, as in an LSTM
    f = sigmoid(A_f)    g = tanh(A_g)    i = sigmoid(A_i)    o = sigmoid(A_o)
    c = f c' + g i
    u = o tanh(c)
    h = u Wproj

In the paper's words u is m, h is r and Wproj is W_rm transposed. Without peepholes and without
what the paper calls the non-recurrent projection, it is PyTorch's nn.LSTM(proj_size=P), whose
weight_hr is Wproj transposed.

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step:

    du = dh Wproj^T    dWproj += u^T dh
    do = du tanh(c)    dc += du o (1 - tanh(c)^2)
    df = dc c'    dg = dc i    di = dc g    dc' = dc f
    dA = [df f (1 - f), dg (1 - g^2), di i (1 - i), do o (1 - o)]
    dx = dA Wx^T    dh' = (dA Wh^T) m
    dWx += x^T dA   dWh += (h' m)^T dA   db += sum of dA over the batch

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). Without it m is 1. Neither hs nor the state is masked.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

cell_clip bounds the cell, as in an LSTM: c = min(max(f c' + g i, -cell_clip), cell_clip). Where c
lies at the bound, its gradient is 0 for f, g, i and c'.

candidate_mask, h_zoneout and c_zoneout are those of an LSTM (rnnfast/reference/lstm.py). h_zoneout
keeps shares of the P numbers of h', after the projection; u has no part in it.

Shapes: N batch, T time, D input, H cells, P width of h.

    xs, dxs (N, T, D)    hs, dhs (N, T, P)    h, dh (N, P)    c, dc (N, H)
    Wx (D, 4H)           Wh (P, 4H)           b (4H,) or None    Wproj (H, P)
    h_mask (N, P)        lengths (N,)
    h_zoneout (N, T, P)  candidate_mask, c_zoneout (N, T, H)
"""

import numpy as np

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
    c_zoneout=None,
    cell_clip=None,
):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h, c) and the cache for `backward`.
    """
    if cell_clip is not None and not 0 < cell_clip < np.inf:
        raise ValueError(f"lstmp: cell_clip must be positive and finite, got {cell_clip}")
    Wx, Wh, b, Wproj = weights(params, train, 4, "lstmp")
    N, T, _ = xs.shape
    H, P = Wproj.shape
    h, c = np.zeros((N, P), Wx.dtype), np.zeros((N, H), Wx.dtype)
    if state is not None:
        h, c = state

    hs = np.empty((N, T, P), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev, c_prev = only(on, xs[:, t]), h, c
        seen = times(h_prev, h_mask)
        A = x @ Wx + seen @ Wh
        if b is not None:
            A += b
        A_f, A_g, A_i, A_o = (A[:, k * H : (k + 1) * H] for k in range(4))
        f, g, i, o = sigmoid(A_f), np.tanh(A_g), sigmoid(A_i), sigmoid(A_o)
        c_new = f * c_prev + times(g, at(candidate_mask, t, on)) * i
        if cell_clip is not None:
            c_new = np.clip(c_new, -cell_clip, cell_clip)
        u = o * np.tanh(c_new)
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, u @ Wproj), h_prev)
        c = np.where(on, zoned(at(c_zoneout, t, on), c_prev, c_new), c_prev)
        hs[:, t] = only(on, h)
        if train:
            kept = c if c_zoneout is None else c_new  # without zoneout there is one array for both
            steps.append((t, on, x, seen, c_prev, f, g, i, o, kept, only(on, u)))

    cache = {"steps": steps, "h_mask": h_mask, "cell_clip": cell_clip} if train else None
    if train:
        cache["of_steps"] = candidate_mask, h_zoneout, c_zoneout
    return hs, (h.copy(), c.copy()), cache


def backward(dhs, dstate, params, cache, grads):
    """Write `grads`, one per param, and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh, dc).
    """
    check_cache("lstmp", cache)
    Wx, Wh, _, Wproj = weights(params, True, 4)
    N, T, P = dhs.shape
    H = Wproj.shape[0]
    dh, dc = np.zeros((N, P), Wx.dtype), np.zeros((N, H), Wx.dtype)
    if dstate is not None:
        dh, dc = dstate[0].copy(), dstate[1].copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, dWproj = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wproj)
    db, h_mask, cell_clip = np.zeros(4 * H, Wx.dtype), cache["h_mask"], cache["cell_clip"]
    candidate_mask, h_zoneout, c_zoneout = cache["of_steps"]
    for t, on, x, seen, c_prev, f, g, i, o, c, u in reversed(cache["steps"]):
        dh_kept, dh_new = zoned_back(at(h_zoneout, t, on), only(on, dh + only(on, dhs[:, t])))
        dc_kept, dc_new = zoned_back(at(c_zoneout, t, on), dc)
        m = at(candidate_mask, t, on)
        dWproj += u.T @ dh_new
        du = dh_new @ Wproj.T
        tanh_c = np.tanh(c)
        ds = dc_new + du * o * (1 - tanh_c**2)  # dc has only the later steps; ds this one, too
        if cell_clip is not None:
            ds = np.where(np.abs(c) < cell_clip, ds, 0)
        df, dg, di, do = ds * c_prev, times(ds * i, m), ds * times(g, m), du * tanh_c
        dA = np.hstack((df * f * (1 - f), dg * (1 - g**2), di * i * (1 - i), do * o * (1 - o)))
        dA = only(on, dA)
        dWx += x.T @ dA
        dWh += seen.T @ dA
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ Wx.T
        dseen = dA @ Wh.T
        dh = np.where(on, times(dseen, h_mask) + dh_kept, dh)
        dc = np.where(on, ds * f + dc_kept, dc)

    cache.clear()
    for grad, value in zip(grads, (dWx, dWh, db, dWproj), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh, dc)
