"""The sLSTM of xLSTM, in NumPy. Beck et al. 2024, https://arxiv.org/abs/2405.04517.

Forward, one step; h', c', n' and m' are the state of the previous step:

    A = x Wx + heads((h' m_h), Wh) + b     four blocks of columns: f, g, i, o
    l = log sigmoid(A_f)             logarithm of the forget gate
    m = max(l + m', A_i)             stabiliser; where n' is 0, as before the first step, m = A_i
    f = exp(l + m' - m)              forget gate, at most 1
    i = exp(A_i - m)                 input gate, at most 1
    g = tanh(A_g)                    the new information; z in the paper
    o = sigmoid(A_o)                 output gate
    c = f c' + i g
    n = f n' + i                     normaliser
    h = o c / n

No exp is of more than 0: one of f and i is 1. c and n are those of the paper's equations (8) and
(9) times exp(-m), so h does not depend on m. The packages xlstm and flashrnn compute the same from
zeros; flashrnn lets n be at least 1, which from zeros it is in any case.

heads() is a product with one matrix for each of the heads of K = H / heads units. Wh (H, 4K) has
them one below the other: head k reads its own units of h, with the rows k K to (k+1) K of Wh, and
these have four blocks of K columns for its own units of f, g, i and o. With one head it is h Wh.

Backward, one step; dh is the sum of the gradients from above (dhs) and from the next step:

    do = dh c / n            dc += dh o / n            dn -= dh o c / n^2
    df = dc c' + dn n'       di = dc g + dn            dg = dc i
    da_f = df f, of the exponent of f                  da_i = di i, of the exponent of i
    dm -= da_f + da_i        and it goes to where m is from: to A_i, or to l + m'
    dA_i = da_i (+ dm)       dl = da_f (+ dm)          dm' = dl
    dA = [dl (1 - sigmoid(A_f)), dg (1 - g^2), dA_i, do o (1 - o)]
    dc' = dc f               dn' = dn f
    dx = dA Wx^T             dh' = heads(dA, Wh^T) m_h
    dWx += x^T dA            dWh += heads((h' m_h)^T, dA)             db += sum of dA over the batch

Where n' is 0, f may reach the bound 1; then da_f is 0. m_h is h_mask, the same at every step:
variational dropout on the recurrent path (Gal and Ghahramani 2016,
https://arxiv.org/abs/1512.05287). Without it m_h is 1.

With lengths, sample n takes part only in the steps t < lengths[n]. In all other steps its state
stays, h = 0 in hs, and the values of xs and dhs have no effect.

Shapes: N batch, T time, D input, H hidden, K units of a head.

    xs, dxs (N, T, D)    hs, dhs (N, T, H)    state, dstate (h, c, n, m), each (N, H)
    Wx (D, 4H)           Wh (H, 4K)           b (4H,) or None    h_mask (N, H)    lengths (N,)
"""

import numpy as np

from rnnfast.reference.ops import sigmoid
from rnnfast.reference.packed import pack as pack
from rnnfast.reference.packed import weights
from rnnfast.reference.steps import at_work, check_cache, in_order, only, times


def forward(xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None):
    """Run the whole sequence; see rnnfast.kernels.

    Returns hs, (h, c, n, m) and the cache for `backward`.
    """
    Wx, Wh, b = weights(params, train, 3, "slstm")
    N, T, _ = xs.shape
    H = Wh.shape[0]
    h, c, n, m = state if state is not None else np.zeros((4, N, H), Wx.dtype)

    hs = np.empty((N, T, H), Wx.dtype)
    steps = []
    for t in in_order(T, reverse):
        on = at_work(lengths, t)
        x, before = only(on, xs[:, t]), (h, c, n, m)
        seen = times(h, h_mask)
        A = x @ Wx + heads(seen, Wh)
        if b is not None:
            A += b
        A_f, A_g, A_i, A_o = (A[:, k * H : (k + 1) * H] for k in range(4))
        kept = log_sigmoid(A_f) + m
        fresh = n == 0
        from_i = fresh | (A_i >= kept)
        m = np.where(from_i, A_i, kept)
        f, i = np.exp(np.minimum(kept - m, 0)), np.exp(A_i - m)
        g, o = np.tanh(A_g), sigmoid(A_o)
        if train:
            of_exp = from_i, fresh & (kept >= m)
            steps.append((t, on, x, seen, before[1:3], (f, g, i, o), sigmoid(-A_f), of_exp))
        c, n = f * c + i * g, f * n + i
        after = o * c / n, c, n, m
        h, c, n, m = (np.where(on, new, old) for new, old in zip(after, before, strict=True))
        hs[:, t] = only(on, h)
    state = h.copy(), c.copy(), n.copy(), m.copy()
    return hs, state, {"steps": steps, "h_mask": h_mask} if train else None


def backward(dhs, dstate, params, cache, grads):
    """Write `grads`, one per param, and empty `cache`; see rnnfast.kernels.

    Returns dxs and (dh, dc, dn, dm).
    """
    check_cache("slstm", cache)
    Wx, Wh, _ = weights(params, True, 3)
    N, T, H = dhs.shape
    dh, dc, dn, dm = dstate if dstate is not None else np.zeros((4, N, H), Wx.dtype)
    dh = dh.copy()

    dxs = np.empty((N, T, Wx.shape[0]), Wx.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(4 * H, Wx.dtype)
    h_mask = cache["h_mask"]
    for t, on, x, seen, (c_prev, n_prev), gates, slope, of_exp in reversed(cache["steps"]):
        (f, g, i, o), (from_i, bounded) = gates, of_exp
        c, n = f * c_prev + i * g, f * n_prev + i
        dh += only(on, dhs[:, t])
        # dc and dn have only the later steps; of_c and of_n have this one, too
        of_c, of_n = dc + dh * o / n, dn - dh * o * c / n**2
        da_f = np.where(bounded, 0, (of_c * c_prev + of_n * n_prev) * f)
        da_i = (of_c * g + of_n) * i
        of_m = dm - da_f - da_i
        dl = da_f + np.where(from_i, 0, of_m)
        dA_f, dA_g = dl * slope, of_c * i * (1 - g**2)
        dA_i, dA_o = da_i + np.where(from_i, of_m, 0), dh * c / n * o * (1 - o)
        dA = only(on, np.hstack((dA_f, dA_g, dA_i, dA_o)))
        dWx += x.T @ dA
        dWh += heads_grad(seen, dA, Wh.shape)
        db += dA.sum(axis=0)
        dxs[:, t] = dA @ Wx.T
        before = times(heads_back(dA, Wh), h_mask), of_c * f, of_n * f, dl
        after = dh, dc, dn, dm
        dh, dc, dn, dm = (np.where(on, new, old) for new, old in zip(before, after, strict=True))

    cache.clear()
    for grad, value in zip(grads, (dWx, dWh, db), strict=False):
        if grad is not None:
            grad[...] = value
    return dxs, (dh, dc.copy(), dn.copy(), dm.copy())


def log_sigmoid(x):
    """The logarithm of sigmoid(x), without overflow."""
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def of_heads(x, K):
    """The numbers (N, H) of each head, (heads, N, K)."""
    N, H = x.shape
    return x.reshape(N, H // K, K).transpose(1, 0, 2)


def gates_of_heads(A, K):
    """The four gate blocks (N, 4H) of each head, (heads, N, 4K)."""
    N, heads = len(A), A.shape[1] // (4 * K)
    return A.reshape(N, 4, heads, K).transpose(2, 0, 1, 3).reshape(heads, N, 4 * K)


def heads(h, Wh):
    """h (N, H) times the matrices of the heads: the gate blocks (N, 4H)."""
    (N, H), K = h.shape, Wh.shape[1] // 4
    product = of_heads(h, K) @ Wh.reshape(-1, K, 4 * K)
    return product.reshape(H // K, N, 4, K).transpose(1, 2, 0, 3).reshape(N, 4 * H)


def heads_back(dA, Wh):
    """The gradient of `heads` with respect to h."""
    H, K = len(Wh), Wh.shape[1] // 4
    product = gates_of_heads(dA, K) @ Wh.reshape(-1, K, 4 * K).transpose(0, 2, 1)
    return product.transpose(1, 0, 2).reshape(len(dA), H)


def heads_grad(h, dA, shape):
    """The gradient of `heads` with respect to Wh, of this shape."""
    K = shape[1] // 4
    return (of_heads(h, K).transpose(0, 2, 1) @ gates_of_heads(dA, K)).reshape(shape)
