"""The Mogrifier LSTM, in NumPy. Melis et al. 2019, https://arxiv.org/abs/1909.01792.

Before each step of an LSTM its input and its state gate each other, in r rounds. One step; h' and
c' are the state of the previous step:

    x0 = x    h0 = h' m
    x_i = 2 sigmoid(h_(i-1) M_i) x_(i-1)      h_i = h_(i-1)        i = 1, 3, 5, ... up to r
    h_i = 2 sigmoid(x_(i-1) M_i^T) h_(i-1)    x_i = x_(i-1)        i = 2, 4, 6, ... up to r
    h, c = the step of an LSTM (rnnfast/reference/lstm.py) from x_r, h_r and c'

M_i is (H, D). In the paper's words, whose vectors are columns, M_i^T is Q^i for odd i and M_i is
R^i for even i. As in the paper, the gates of the rounds have no bias. They can be factorised with
rank k: M_i = Wm_i Wr_i.

Backward of the rounds, from dx and dh of x_r and h_r, i = r, ..., 1; the factor 2 sigmoid is y:

    odd i:     dA_i = dx x_(i-1) y (1 - y / 2)    dx = dx y    dh += dA_i M_i^T
               dM_i += h_(i-1)^T dA_i
    even i:    dA_i = dh h_(i-1) y (1 - y / 2)    dh = dh y    dx += dA_i M_i
               dM_i += dA_i^T x_(i-1)
    dh' = dh m      dWm_i = dM_i Wr_i^T    dWr_i = Wm_i^T dM_i

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). It is applied before the rounds, so that they read only
what the products with Wh read, too. Without it m is 1. Neither hs nor the state is masked.

candidate_mask, h_zoneout and c_zoneout are those of an LSTM (rnnfast/reference/lstm.py). What
h_zoneout keeps is h', neither masked nor gated by the rounds.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

Shapes: N batch, T time, D input, H hidden, r rounds, k rank; the blocks are those of an LSTM.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h, c), each (N, H)
    Wx (D, 4H)           Wh (H, 4H)           b (4H,) or None    h_mask (N, H)
    Wm (r, H, D), or (r, H, k) with Wr (r, k, D)                 lengths (N,)
    candidate_mask, h_zoneout, c_zoneout (N, T, H)
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
):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h, c) and the cache for `backward`.
    """
    Wx, Wh, b, Wm, Wr = weights(params, train, 5, "mogrifier")
    N, T, _ = xs.shape
    H = Wh.shape[0]
    h, c = state if state is not None else np.zeros((2, N, H), Wx.dtype)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev, c_prev = only(on, xs[:, t]), h, c
        seen = times(h_prev, h_mask)
        rounds = []
        for i in range(len(Wm)):
            odd = i % 2 == 0  # rounds are counted from 1
            y = 2 * sigmoid(product(seen, Wm, Wr, i) if odd else turned(x, Wm, Wr, i))
            rounds.append((x, seen, y))
            x, seen = (x * y, seen) if odd else (x, seen * y)
        A = x @ Wx + seen @ Wh
        if b is not None:
            A += b
        A_f, A_g, A_i, A_o = (A[:, k * H : (k + 1) * H] for k in range(4))
        f, g, i, o = sigmoid(A_f), np.tanh(A_g), sigmoid(A_i), sigmoid(A_o)
        c_new = f * c_prev + times(g, at(candidate_mask, t, on)) * i
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, o * np.tanh(c_new)), h_prev)
        c = np.where(on, zoned(at(c_zoneout, t, on), c_prev, c_new), c_prev)
        hs[:, t] = only(on, h)
        if train:
            kept = c if c_zoneout is None else c_new  # without zoneout there is one array for both
            steps.append((t, on, rounds, x, seen, c_prev, f, g, i, o, kept))

    of_steps = candidate_mask, h_zoneout, c_zoneout
    cache = {"steps": steps, "h_mask": h_mask, "of_steps": of_steps} if train else None
    return hs, (h.copy(), c.copy()), cache


def backward(dhs, dstate, params, cache, grads):
    """Write `grads`, one per param, and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh, dc).
    """
    check_cache("mogrifier", cache)
    Wx, Wh, _, Wm, Wr = weights(params, True, 5)
    M = Wm if Wr is None else Wm @ Wr
    N, T, H = dhs.shape
    dh, dc = dstate if dstate is not None else np.zeros((2, N, H), Wx.dtype)
    dh, dc = dh.copy(), dc.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, dM = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(M)
    db, h_mask = np.zeros(4 * H, Wx.dtype), cache["h_mask"]
    candidate_mask, h_zoneout, c_zoneout = cache["of_steps"]
    for t, on, rounds, x, seen, c_prev, f, g, i, o, c in reversed(cache["steps"]):
        dh += only(on, dhs[:, t])
        dh_kept, dh_new = zoned_back(at(h_zoneout, t, on), dh)
        dc_kept, dc_new = zoned_back(at(c_zoneout, t, on), dc)
        m = at(candidate_mask, t, on)
        tanh_c = np.tanh(c)
        # dc has only the later steps; ds has this one, too
        ds = dc_new + dh_new * o * (1 - tanh_c**2)
        df, dg, di = ds * c_prev, times(ds * i, m), ds * times(g, m)
        do = dh_new * tanh_c
        dA = np.hstack((df * f * (1 - f), dg * (1 - g**2), di * i * (1 - i), do * o * (1 - o)))
        dA = only(on, dA)
        dWx += x.T @ dA
        dWh += seen.T @ dA
        db += dA.sum(axis=0)
        dx, dseen = dA @ Wx.T, dA @ Wh.T
        for k in reversed(range(len(M))):
            before, seen_before, y = rounds[k]
            slope = y * (1 - y / 2)
            if k % 2 == 0:
                dA_k = only(on, dx * before * slope)
                dM[k] += seen_before.T @ dA_k
                dx, dseen = only(on, dx * y), dseen + dA_k @ M[k].T
            else:
                dA_k = only(on, dseen * seen_before * slope)
                dM[k] += dA_k.T @ before
                dx, dseen = dx + dA_k @ M[k], only(on, dseen * y)
        dxs[:, t] = dx
        dh = np.where(on, times(dseen, h_mask) + dh_kept, dh)
        dc = np.where(on, ds * f + dc_kept, dc)

    cache.clear()
    dWm, dWr = (dM, None) if Wr is None else (dM @ Wr.swapaxes(1, 2), Wm.swapaxes(1, 2) @ dM)
    for grad, value in zip(grads, (dWx, dWh, db, dWm, dWr), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh, dc)


def product(h, Wm, Wr, i):
    """h M_i"""
    return h @ Wm[i] if Wr is None else h @ Wm[i] @ Wr[i]


def turned(x, Wm, Wr, i):
    """x M_i^T"""
    return x @ Wm[i].T if Wr is None else x @ Wr[i].T @ Wm[i].T
