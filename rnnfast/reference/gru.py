"""The GRU, in NumPy. Deep Learning from Scratch 2, appendix C; Cho et al. 2014.

Forward, one step; h' is the state of the previous step, h_hat the candidate for the new state:

    s = h' m                                   the left side of the products with Wh
    z = sigmoid(x Wx_z + s Wh_z + b_z)         update gate: the share that is new
    r = sigmoid(x Wx_r + s Wh_r + b_r)         reset gate: the share of s that h_hat sees
    h_hat = tanh(x Wx_h + (r s) Wh_h + b_h)    r is applied before the product
    h = (1 - z) h' + z h_hat                   h', not s: the mask is not applied here

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step:

    dA_h = dh z (1 - h_hat^2)                  d(r s) = dA_h Wh_h^T
    dA_z = dh (h_hat - h') z (1 - z)
    dA_r = d(r s) s r (1 - r)
    dh' = dh (1 - z) + (d(r s) r + [dA_z, dA_r] [Wh_z, Wh_r]^T) m
    dx = dA Wx^T    dWx += x^T dA    db += sum of dA over the batch
    dWh_z, dWh_r += s^T dA_z, s^T dA_r         dWh_h += (r s)^T dA_h

m is h_mask, the same at every step: variational dropout on the recurrent path (Gal and Ghahramani
2016, https://arxiv.org/abs/1512.05287). Without it m is 1. Neither hs nor the state is masked.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

reset_after=True is the GRU of cuDNN, PyTorch and Keras: r is applied after the product, and the two
products have separate biases, b = (bias of x, bias of s):

    z = sigmoid(x Wx_z + b0_z + s Wh_z + b1_z)      r alike
    q = s Wh_h + b1_h
    h_hat = tanh(x Wx_h + b0_h + r q)

    dA_r = dA_h q r (1 - r)    dq = dA_h r
    dh' = dh (1 - z) + ([dA_z, dA_r, dq] Wh^T) m
    dWh += s^T [dA_z, dA_r, dq]    db0, db1 += sums of dA and of [dA_z, dA_r, dq] over the batch

z_keeps=True inverts the update gate, as in Cho et al. 2014 (https://arxiv.org/abs/1406.1078),
PyTorch, Keras and ONNX: z is the share of the old state that is kept.

    h = z h' + (1 - z) h_hat      in the equations above, z becomes 1 - z, and dA_z changes its sign

candidate_mask m_h multiplies the candidate h_hat at every step: recurrent dropout without memory
loss (Semeniuta, Severyn and Barth 2016, https://arxiv.org/abs/1603.05118):

    h = (1 - z) h' + z (m_h h_hat)      in the gradients, h_hat - h' becomes m_h h_hat - h'
    dA_h = dh z m_h (1 - h_hat^2)

h_zoneout z_h is the share of the old state that is kept (zoneout: Krueger et al. 2016,
https://arxiv.org/abs/1606.01305). With h~ for the h of all equations above, the step gives

    h = z_h h' + (1 - z_h) h~           dh~ = (1 - z_h) dh    dh' += z_h dh

Masks and shares are given for each step; no gradient flows to them.

Shapes: N batch, T time, D input, H hidden; the blocks are z, r, candidate.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h,) with h (N, H)
    Wx (D, 3H)           Wh (H, 3H)           b (3H,), with reset_after (2, 3H), or None
    h_mask (N, H)        lengths (N,)            candidate_mask, h_zoneout (N, T, H)
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import bounded, pack_reduced, right_side_for, weights
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
    reset_after=False,
    z_keeps=False,
):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h,) and the cache for `backward`.
    """
    Wx, Wh, b = weights(params, train, 3, "gru")
    right_side = right_side_for(params)
    Wx, Wh = right_side(Wx), bounded(right_side(Wh), state, h_mask, candidate_mask)
    N, T, _ = xs.shape
    H = Wh.shape[0]
    (h,) = state if state is not None else (np.zeros((N, H), Wx.dtype),)
    zero = np.zeros((), Wx.dtype)
    b0, b1 = (zero, zero) if b is None else b if reset_after else (b, zero)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, h_prev = only(on, xs[:, t]), h
        seen = times(h_prev, h_mask)
        A = x @ Wx + b0
        if reset_after:
            B = seen @ Wh + b1
            A[:, : 2 * H] += B[:, : 2 * H]
        else:
            A[:, : 2 * H] += seen @ Wh[:, : 2 * H]
        z = sigmoid(-A[:, :H] if z_keeps else A[:, :H])  # from here on z is the share that is new
        r = sigmoid(A[:, H : 2 * H])
        q = B[:, 2 * H :] if reset_after else None
        A_h = A[:, 2 * H :] + (r * q if reset_after else (r * seen) @ Wh[:, 2 * H :])
        h_hat = np.tanh(A_h)
        h = (1 - z) * h_prev + z * times(h_hat, at(candidate_mask, t, on))
        h = np.where(on, zoned(at(h_zoneout, t, on), h_prev, h), h_prev)
        hs[:, t] = only(on, h)
        if train:
            steps.append((t, on, x, h_prev, seen, z, r, q, h_hat))

    options = {"reset_after": reset_after, "z_keeps": z_keeps}
    cache = {"steps": steps, "h_mask": h_mask, **options} if train else None
    if train:
        cache |= {"of_steps": (candidate_mask, h_zoneout), "right_side": right_side}
    return hs, (h.copy(),), cache


def pack(params, *, precision=None, reset_after=False, z_keeps=False):
    """See rnnfast.kernels and, for the precision, rnnfast.reference.packed."""
    return pack_reduced("gru", params, precision)


def backward(dhs, dstate, params, cache, grads):
    """Write `grads` (dWx, dWh, db) and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh,).
    """
    check_cache("gru", cache)
    Wx, Wh, b = weights(params, True, 3)
    N, T, H = dhs.shape
    (dh,) = dstate if dstate is not None else (np.zeros((N, H), Wx.dtype),)
    dh = dh.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros((2, 3 * H), Wx.dtype)
    h_mask, reset_after = cache["h_mask"], cache["reset_after"]
    candidate_mask, h_zoneout = cache["of_steps"]
    right_side = cache["right_side"]
    WxT, WhT = right_side(Wx).T, right_side(Wh).T
    WhT_zr, WhT_h = right_side(Wh[:, : 2 * H]).T, right_side(Wh[:, 2 * H :]).T
    sign = -1 if cache["z_keeps"] else 1
    for t, on, x, h_prev, seen, z, r, q, h_hat in reversed(cache["steps"]):
        dh += only(on, dhs[:, t])
        kept, dh_new = zoned_back(at(h_zoneout, t, on), dh)
        m = at(candidate_mask, t, on)
        dA_h = only(on, times(dh_new * z, m) * (1 - h_hat**2))
        dA_z = only(on, sign * dh_new * (times(h_hat, m) - h_prev) * z * (1 - z))
        drs = None if reset_after else dA_h @ WhT_h
        dA_r = only(on, (dA_h * q if reset_after else drs * seen) * r * (1 - r))
        dA_zr = np.hstack((dA_z, dA_r))
        dA = np.hstack((dA_zr, dA_h))
        if reset_after:
            dB = np.hstack((dA_zr, dA_h * r))
            dWh += seen.T @ right_side(dB)
            db[1] += dB.sum(axis=0)
            dseen = dB @ WhT
        else:
            dWh += np.hstack((seen.T @ right_side(dA_zr), (r * seen).T @ right_side(dA_h)))
            dseen = drs * r + dA_zr @ WhT_zr
        dWx += x.T @ right_side(dA)
        db[0] += dA.sum(axis=0)
        dxs[:, t] = dA @ WxT
        dh_prev = dh_new * (1 - z) + times(dseen, h_mask) + kept
        dh = np.where(on, dh_prev, dh)

    cache.clear()
    grads[0][...] = dWx
    grads[1][...] = dWh
    if b is not None:
        grads[2][...] = db if reset_after else db[0]
    return dxs, (dh,)
