"""The LSTM, in NumPy. Deep Learning from Scratch 2, chapter 6; Hochreiter and Schmidhuber 1997.

Forward, one step; h' and c' are the state of the previous step:

    A = x Wx + (h' m) Wh + b     four blocks of columns: f, g, i, o, in the book's order
    f = sigmoid(A_f)         forget gate: the share of the old cell that stays
    g = tanh(A_g)            the new information
    i = sigmoid(A_i)         input gate: the share of g that is added
    o = sigmoid(A_o)         output gate: the share of the cell that is shown
    c = f c' + g i
    h = o tanh(c)

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step:

    do = dh tanh(c)          dc += dh o (1 - tanh(c)^2)
    df = dc c'    dg = dc i    di = dc g    dc' = dc f
    dA = [df f (1 - f), dg (1 - g^2), di i (1 - i), do o (1 - o)]
    dx = dA Wx^T    dh' = (dA Wh^T) m
    dWx += x^T dA   dWh += (h' m)^T dA   db += sum of dA over the batch

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). Without it m is 1. Neither hs nor the state is masked.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

Peepholes Wp = (P_f, P_i, P_o) let the gates see the cell; o sees the new cell (Gers and Schmidhuber
2000, "Recurrent nets that time and count"; diagonal as in Graves 2013, 1308.0850):

    A_f += c' P_f    A_i += c' P_i    A_o += c P_o
    dc += dA_o P_o^T before df, dg and di;    dc' += dA_f P_f^T + dA_i P_i^T
    dP_f += c'^T dA_f    dP_i += c'^T dA_i    dP_o += c^T dA_o

Each P is a matrix (H, H) or a diagonal (H,). With a diagonal all products are elementwise, and a
gradient is summed over the batch.

cell_clip bounds the cell (Sak et al. 2014, https://arxiv.org/abs/1402.1128):

    c = min(max(f c' + g i, -cell_clip), cell_clip)

Where c lies at the bound, its gradient is 0 for f, g, i and c'.

candidate_mask m_g multiplies g at every step: recurrent dropout without memory loss (Semeniuta,
Severyn and Barth 2016, https://arxiv.org/abs/1603.05118):

    c = f c' + (m_g g) i        dg = dc i m_g    di = dc m_g g

h_zoneout z_h and c_zoneout z_c are the shares of the old state that are kept (zoneout: Krueger et
al. 2016, https://arxiv.org/abs/1606.01305). With h~ and c~ for the h and the c of all equations
above, clipped and seen by o as they are there, the step gives

    h = z_h h' + (1 - z_h) h~        c = z_c c' + (1 - z_c) c~
    dh~ = (1 - z_h) dh    dh' += z_h dh        dc~ = (1 - z_c) dc    dc' += z_c dc

Masks and shares are given for each step; no gradient flows to them.

Shapes: N batch, T time, D input, H hidden.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h, c), each (N, H)
    Wx (D, 4H)           Wh (H, 4H)           b (4H,) or None    h_mask (N, H)
    Wp (3, H), (3, H, H) or None              lengths (N,)
    candidate_mask, h_zoneout, c_zoneout (N, T, H)
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import as_it_is, bounded, pack_reduced, right_side_for, weights
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
        raise ValueError(f"lstm: cell_clip must be positive and finite, got {cell_clip}")
    Wx, Wh, b, Wp = weights(params, train, 4, "lstm")
    right_side = right_side_for(params) if Wp is None or Wp.ndim == 2 else as_it_is
    Wx, Wh = right_side(Wx), bounded(right_side(Wh), state, h_mask)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    h, c = state if state is not None else np.zeros((2, N, H), Wx.dtype)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev, c_prev = only(on, xs[:, t]), h, c
        seen = times(h_prev, h_mask)
        A = x @ Wx + seen @ Wh
        if b is not None:
            A += b
        A_f, A_g, A_i, A_o = (A[:, k * H : (k + 1) * H] for k in range(4))
        if Wp is not None:
            A_f += see(c_prev, Wp[0])
            A_i += see(c_prev, Wp[1])
        f, g, i = sigmoid(A_f), np.tanh(A_g), sigmoid(A_i)
        c = f * c_prev + times(g, at(candidate_mask, t, on)) * i
        if cell_clip is not None:
            c = np.clip(c, -cell_clip, cell_clip)
        if Wp is not None:
            A_o += see(c, Wp[2])
        o = sigmoid(A_o)
        c_new = c
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, o * np.tanh(c)), h_prev)
        c = np.where(on, zoned(at(c_zoneout, t, on), c_prev, c), c_prev)
        hs[:, t] = only(on, h)
        if train:
            kept = c if c_zoneout is None else c_new  # without zoneout there is one array for both
            steps.append((t, on, x, seen, c_prev, f, g, i, o, kept))

    cache = {"steps": steps, "h_mask": h_mask, "cell_clip": cell_clip} if train else None
    if train:
        cache |= {"of_steps": (candidate_mask, h_zoneout, c_zoneout), "right_side": right_side}
    return hs, (h.copy(), c.copy()), cache


def pack(params, *, precision=None, cell_clip=None):
    """See rnnfast.kernels and, for the precision, rnnfast.reference.packed."""
    return pack_reduced("lstm", params, precision)


def backward(dhs, dstate, params, cache, grads):
    """Write `grads`, one per param, and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh, dc).
    """
    check_cache("lstm", cache)
    Wx, Wh, _, Wp = weights(params, True, 4)
    N, T, H = dhs.shape
    dh, dc = dstate if dstate is not None else np.zeros((2, N, H), Wx.dtype)
    dh, dc = dh.copy(), dc.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(4 * H, Wx.dtype)
    dWp = None if Wp is None else np.zeros_like(Wp)
    h_mask, cell_clip = cache["h_mask"], cache["cell_clip"]
    candidate_mask, h_zoneout, c_zoneout = cache["of_steps"]
    right_side = cache["right_side"]
    WxT, WhT = right_side(Wx).T, right_side(Wh).T
    for t, on, x, seen, c_prev, f, g, i, o, c in reversed(cache["steps"]):
        dh += only(on, dhs[:, t])
        dh_kept, dh_new = zoned_back(at(h_zoneout, t, on), dh)
        dc_kept, dc_new = zoned_back(at(c_zoneout, t, on), dc)
        tanh_c = np.tanh(c)
        dA_o = only(on, dh_new * tanh_c * o * (1 - o))
        # dc has only the later steps; ds has this one, too
        ds = dc_new + dh_new * o * (1 - tanh_c**2)
        if Wp is not None:
            ds += see_back(dA_o, Wp[2])
        if cell_clip is not None:
            ds = np.where(np.abs(c) < cell_clip, ds, 0)
        m = at(candidate_mask, t, on)
        df, dg, di = ds * c_prev, times(ds * i, m), ds * times(g, m)
        dA = np.hstack((df * f * (1 - f), dg * (1 - g**2), di * i * (1 - i), dA_o))
        dA = only(on, dA)
        dWx += x.T @ right_side(dA)
        dWh += seen.T @ right_side(dA)
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ WxT
        dseen = dA @ WhT
        dh = np.where(on, times(dseen, h_mask) + dh_kept, dh)
        dc_prev = ds * f + dc_kept
        if Wp is not None:
            dA_f, dA_i = dA[:, :H], dA[:, 2 * H : 3 * H]
            dc_prev += see_back(dA_f, Wp[0]) + see_back(dA_i, Wp[1])
            for k, (cell, dA_k) in enumerate(((c_prev, dA_f), (c_prev, dA_i), (c, dA_o))):
                dWp[k] += (cell * dA_k).sum(axis=0) if Wp.ndim == 2 else cell.T @ dA_k
        dc = np.where(on, dc_prev, dc)

    cache.clear()
    for grad, value in zip(grads, (dWx, dWh, db, dWp), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh, dc)


def see(c, P):
    """The cell's contribution to a gate: c P, where P may be the diagonal of a matrix."""
    return c * P if P.ndim == 1 else c @ P


def see_back(dA, P):
    """The gradient of `see` with respect to c."""
    return dA * P if P.ndim == 1 else dA @ P.T
