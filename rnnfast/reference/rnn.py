"""The simple recurrent network (Elman), in NumPy. Deep Learning from Scratch 2, chapter 5.

Forward, one step; h' is the state of the previous step:

    A = x Wx + (h' m) Wh + b
    h = tanh(A)              or relu(A) = max(A, 0)

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step:

    dA = dh (1 - h^2)        or dh where h > 0, else 0
    dx = dA Wx^T    dh' = (dA Wh^T) m
    dWx += x^T dA   dWh += (h' m)^T dA   db += sum of dA over the batch

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). Without it m is 1. Neither hs nor the state is masked.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

h_zoneout z_h is the share of the old state that is kept, given for each step (zoneout: Krueger et
al. 2016, https://arxiv.org/abs/1606.01305). With h~ for the h of the equations above, the step
gives

    h = z_h h' + (1 - z_h) h~        dh~ = (1 - z_h) dh    dh' += z_h dh

Shapes: N batch, T time, D input, H hidden.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h,) with h (N, H); h_mask (N, H)
    Wx (D, H)            Wh (H, H)            b (H,) or None    h_zoneout (N, T, H)
"""

import numpy as np

from rnnfast.reference.packed import UNBOUNDED, Int8, bounded, pack_reduced, right_side_for, weights
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
    h_zoneout=None,
    nonlinearity="tanh",
):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h,) and the cache for `backward`.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'rnn: nonlinearity must be "tanh" or "relu", got {nonlinearity!r}')
    Wx, Wh, b = weights(params, train, 3, "rnn")
    if nonlinearity == "relu" and isinstance(Wh, Int8):
        raise ValueError(UNBOUNDED)
    right_side = right_side_for(params)
    Wx, Wh = right_side(Wx), bounded(right_side(Wh), state, h_mask)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    (h,) = state if state is not None else (np.zeros((N, H), Wx.dtype),)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev = only(on, xs[:, t]), h
        seen = times(h_prev, h_mask)
        A = x @ Wx + seen @ Wh
        if b is not None:
            A += b
        new = np.tanh(A) if nonlinearity == "tanh" else np.maximum(A, 0)
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, new), h_prev)
        hs[:, t] = only(on, h)
        if train:
            steps.append((t, on, x, seen, h if h_zoneout is None else new))

    cache = {"steps": steps, "h_mask": h_mask, "nonlinearity": nonlinearity}
    cache |= {"h_zoneout": h_zoneout, "right_side": right_side}
    return hs, (h.copy(),), cache if train else None


def pack(params, *, precision=None, nonlinearity="tanh"):
    """See rnnfast.kernels and, for the precision, rnnfast.reference.packed."""
    return pack_reduced("rnn", params, precision, bounded=nonlinearity == "tanh")


def backward(dhs, dstate, params, cache, grads):
    """Write `grads` (dWx, dWh, db) and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh,).
    """
    check_cache("rnn", cache)
    Wx, Wh, b = params
    N, T, H = dhs.shape
    (dh,) = dstate if dstate is not None else (np.zeros((N, H), Wx.dtype),)
    dh = dh.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(H, Wx.dtype)
    h_mask, right_side = cache["h_mask"], cache["right_side"]
    WxT, WhT = right_side(Wx).T, right_side(Wh).T
    for t, on, x, seen, h in reversed(cache["steps"]):
        dh += only(on, dhs[:, t])
        kept, new = zoned_back(at(cache["h_zoneout"], t, on), dh)
        dA = new * (1 - h**2) if cache["nonlinearity"] == "tanh" else np.where(h > 0, new, 0)
        dA = only(on, dA)
        dWx += x.T @ right_side(dA)
        dWh += seen.T @ right_side(dA)
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ WxT
        dseen = dA @ WhT
        dh = np.where(on, times(dseen, h_mask) + kept, dh)

    cache.clear()
    grads[0][...] = dWx
    grads[1][...] = dWh
    if b is not None:
        grads[2][...] = db
    return dxs, (dh,)
