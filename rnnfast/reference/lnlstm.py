"""The layer-normalised LSTM, in NumPy. Ba et al. 2016, https://arxiv.org/abs/1607.06450.

Equations 20 to 22 of the paper. One step; h' and c' are the state of the previous step, LN(u; g) is
in rnnfast/reference/norms.py:

    A = LN(x Wx; gx) + LN((h' m) Wh; gh) + b      four blocks of columns: f, g, i, o
    f, g, i, o = sigmoid(A_f), tanh(A_g), sigmoid(A_i), sigmoid(A_o)
    c = f c' + g i
    h = o tanh(LN(c; gc) + bc)

As in the paper, mean and variance of x Wx and of (h' m) Wh are those of all 4H numbers of a sample,
not of each gate. c itself goes on to the next step as it is. The paper has a bias in each of the
first two LN; here both are part of b.

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step, c_hat,
x_hat and h_hat are the normalised c, x Wx and (h' m) Wh, q = tanh(LN(c; gc) + bc):

    do = dh q    dy = dh o (1 - q^2)    dgc += dy c_hat    dbc += dy    dc += back(dy gc)
    dA of f, g, i, o from dc and do, and dc', as in an LSTM (rnnfast/reference/lstm.py)
    dgx += dA x_hat    du = back(dA gx)    dx = du Wx^T           dWx += x^T du
    dgh += dA h_hat    dv = back(dA gh)    dh' = (dv Wh^T) m      dWh += (h' m)^T dv
    db += dA

back is the way back through a normalisation; the gradients of b, the gains and bc are sums over the
batch. m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and
Ghahramani 2016, https://arxiv.org/abs/1512.05287). Without it m is 1.

candidate_mask, h_zoneout and c_zoneout are those of an LSTM (rnnfast/reference/lstm.py). LN(c; gc)
sees c without what c_zoneout keeps.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

Shapes: N batch, T time, D input, H hidden.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h, c), each (N, H)
    Wx (D, 4H)           Wh (H, 4H)           b (4H,) or None    h_mask (N, H)
    gx, gh (4H,)         gc, bc (H,)          lengths (N,)
    candidate_mask, h_zoneout, c_zoneout (N, T, H)
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
    c_zoneout=None,
):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h, c) and the cache for `backward`.
    """
    Wx, Wh, b, gx, gh, gc, bc = weights(params, train, 7, "lnlstm")
    N, T, _ = xs.shape
    H = Wh.shape[0]
    h, c = state if state is not None else np.zeros((2, N, H), Wx.dtype)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev, c_prev = only(on, xs[:, t]), h, c
        seen = times(h_prev, h_mask)
        of_x, of_h = normal(x @ Wx), normal(seen @ Wh)
        A = of_x[0] * gx + of_h[0] * gh
        if b is not None:
            A += b
        A_f, A_g, A_i, A_o = (A[:, k * H : (k + 1) * H] for k in range(4))
        f, g, i, o = sigmoid(A_f), np.tanh(A_g), sigmoid(A_i), sigmoid(A_o)
        c_new = f * c_prev + times(g, at(candidate_mask, t, on)) * i
        of_c = normal(c_new)
        h_new = o * np.tanh(of_c[0] * gc + bc)
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, h_new), h_prev)
        c = np.where(on, zoned(at(c_zoneout, t, on), c_prev, c_new), c_prev)
        hs[:, t] = only(on, h)
        if train:
            steps.append((t, on, x, seen, c_prev, (f, g, i, o), of_x, of_h, of_c))

    of_steps = candidate_mask, h_zoneout, c_zoneout
    cache = {"steps": steps, "h_mask": h_mask, "of_steps": of_steps} if train else None
    return hs, (h.copy(), c.copy()), cache


def backward(dhs, dstate, params, cache, grads):
    """Write `grads`, one per param, and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh, dc).
    """
    check_cache("lnlstm", cache)
    Wx, Wh, _, gx, gh, gc, bc = weights(params, True, 7)
    N, T, H = dhs.shape
    dh, dc = dstate if dstate is not None else np.zeros((2, N, H), Wx.dtype)
    dh, dc = dh.copy(), dc.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db, h_mask = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(gx), cache["h_mask"]
    dgx, dgh, dgc, dbc = (np.zeros_like(g) for g in (gx, gh, gc, bc))
    candidate_mask, h_zoneout, c_zoneout = cache["of_steps"]
    for t, on, x, seen, c_prev, gates, of_x, of_h, of_c in reversed(cache["steps"]):
        f, g, i, o = gates
        dh += only(on, dhs[:, t])
        dh_kept, dh_new = zoned_back(at(h_zoneout, t, on), dh)
        dc_kept, dc_new = zoned_back(at(c_zoneout, t, on), dc)
        m = at(candidate_mask, t, on)
        q = np.tanh(of_c[0] * gc + bc)
        dy = only(on, dh_new * o * (1 - q**2))
        dgc += only(on, dy * of_c[0]).sum(axis=0)
        dbc += dy.sum(axis=0)
        ds = dc_new + normal_back(dy * gc, *of_c)  # dc has only the later steps; ds this one, too
        df, dg, di, do = ds * c_prev, times(ds * i, m), ds * times(g, m), dh_new * q
        dA = np.hstack((df * f * (1 - f), dg * (1 - g**2), di * i * (1 - i), do * o * (1 - o)))
        dA = only(on, dA)
        db += dA.sum(axis=0)
        dgx += only(on, dA * of_x[0]).sum(axis=0)
        dgh += only(on, dA * of_h[0]).sum(axis=0)
        du, dv = only(on, normal_back(dA * gx, *of_x)), only(on, normal_back(dA * gh, *of_h))
        dWx += x.T @ du
        dWh += seen.T @ dv
        dxs[:, t] = du @ Wx.T
        dseen = dv @ Wh.T
        dh = np.where(on, times(dseen, h_mask) + dh_kept, dh)
        dc = np.where(on, ds * f + dc_kept, dc)

    cache.clear()
    for grad, value in zip(grads, (dWx, dWh, db, dgx, dgh, dgc, dbc), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh, dc)
