"""The operations without a time loop, in NumPy: affine, embedding, losses, dropout, optimisers.

Shapes: M rows (a sequence batch is flattened to M = N*T), K inputs, N outputs, V vocabulary,
D embedding width. Deep Learning from Scratch 2, chapters 1, 4 and 5.
"""

import math

import numpy as np

from rnnfast.reference.packed import as_it_is, right_side_for


def sigmoid(x):
    """1 / (1 + exp(-x)); the exponents in use are never positive, so that none overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def affine_forward(x, W, b):
    """y = x W + b for x (M, K), W (K, N) and b (N,) or None; y (M, N)."""
    return _affine(x, W, b, right_side_for((W,)))


def affine_backward(dy, x, W, dW, db):
    """Write dW (K, N) and db (N,), unless db is None; returns dx (M, K) for dy (M, N)."""
    return _affine_back(dy, x, W, dW, db, right_side_for((W,)))


def _affine(x, W, b, right_side=as_it_is):
    """affine_forward; right_side as right_side_for gives it."""
    y = x @ right_side(W)
    return y if b is None else y + b


def _affine_back(dy, x, W, dW, db, right_side=as_it_is):
    """affine_backward; right_side as right_side_for gives it."""
    dx, of_W, of_b = dy @ right_side(W).T, x.T @ right_side(dy), dy.sum(axis=0)
    dW[...] = of_W
    if db is not None:
        db[...] = of_b
    return dx


def embedding_forward(ids, W):
    """The rows of W (V, D) with the indices `ids`, an array ids.shape + (D,).

    Raises ValueError for an id outside [0, V), TypeError for a dtype other than an integer one.
    """
    _check_ids("embedding: ids", ids, len(W))
    return W[ids]


def embedding_backward(dout, ids, dW):
    """Write all of dW (V, D): row v is the sum of dout over the places where ids == v."""
    _check_ids("embedding: ids", ids, len(dW))
    total = np.zeros_like(dW)
    np.add.at(total, ids, dout)  # unlike dW[ids] += dout, this adds repeated ids each time
    dW[...] = total


def softmax_loss_forward(xs, ts, *, ignore_label=-1):
    """The mean of -log softmax(xs)[ts] over the rows whose target is not `ignore_label`.

    xs (M, V) logits, ts (M,) integer targets. Returns the loss, a Python float summed in float64
    (0.0 if all targets are ignored), and the cache. A target outside [0, V) is a ValueError.
    """
    counts = ts != ignore_label
    _check_ids("softmax_loss: ts", ts[counts], xs.shape[1])
    rows = np.flatnonzero(counts)
    log_p = _log_softmax(xs[rows])
    ts = ts[rows]
    cache = xs, ts, rows
    if len(rows) == 0:
        return 0.0, cache
    return float(-log_p[np.arange(len(rows)), ts].mean()), cache


def softmax_loss_backward(cache, dout=1.0):
    """dxs (M, V) = dout (softmax(xs) - onehot(ts)) / count of rows; 0 in ignored rows."""
    xs, ts, rows = cache
    dxs = np.zeros_like(xs)
    if len(rows):
        dx = np.exp(_log_softmax(xs[rows]))
        dx[np.arange(len(rows)), ts] -= 1
        dxs[rows] = dx * (dout / len(rows))
    return dxs


def affine_softmax_loss_forward(x, W, b, ts, *, ignore_label=-1, train=True, spent=None):
    """softmax_loss_forward of affine_forward(x, W, b).

    Returns the loss and the cache, which is None unless `train`. `spent` is the cache of an
    earlier call or None; its memory may be reused after backward. In ignored rows x is not used.
    """
    x = np.where((ts != ignore_label)[:, np.newaxis], x, x.dtype.type(0))  # 0 NaN is NaN, in dW
    right_side = right_side_for((W,))
    scores = _affine(x, W, b, right_side)
    loss, cache = softmax_loss_forward(scores, ts, ignore_label=ignore_label)
    return loss, [x, W, cache, right_side] if train else None


def affine_softmax_loss_backward(cache, dW, db, dout=1.0):
    """Write dW and db, unless db is None; returns dx. A second call is a RuntimeError."""
    if not cache:
        raise RuntimeError("affine_softmax_loss: backward needs a cache that is not consumed")
    x, W, of_loss, right_side = cache
    dx = _affine_back(softmax_loss_backward(of_loss, dout), x, W, dW, db, right_side)
    cache.clear()
    return dx


def mixture_softmax(hs, prior, W, b):
    """log p (M, V) of a mixture of K softmaxes; Yang et al. 2017, arXiv 1711.03953.

    p = sum_k pi_k softmax(hs[:, k] W + b) with pi = softmax(prior), for hs (M, K, D), prior (M, K),
    W (D, V) and b (V,) or None. No column makes an array (M, K, V).
    """
    log_pi = _log_softmax(prior)
    log_p = np.full((len(hs), W.shape[1]), -np.inf)
    right_side = right_side_for((W,))
    for k in range(hs.shape[1]):
        log_p_k = _log_softmax(_affine(hs[:, k], W, b, right_side))
        with np.errstate(invalid="ignore"):  # NaN
            np.logaddexp(log_p, log_pi[:, [k]] + log_p_k, out=log_p)
    return log_p.astype(W.dtype)


def mixture_softmax_loss_forward(hs, prior, W, b, ts, *, ignore_label=-1, train=True):
    """The mean of -log p[ts] over the rows whose target is not `ignore_label`.

    hs, prior, W, b and p as in mixture_softmax, ts (M,) integer targets. Returns the loss and the
    cache, which is None unless `train`. In ignored rows hs and prior are not used. With
    r_k = pi_k p_k[t] / p[t], the share of softmax k:

        dprior = pi - r;  the gradient of the scores of softmax k = r_k (p_k - onehot(t))
    """
    counts = ts != ignore_label
    _check_ids("mixture_softmax_loss: ts", ts[counts], W.shape[1])
    rows = np.flatnonzero(counts)
    ts, log_pi = ts[rows], _log_softmax(prior[rows])
    shares = np.empty_like(log_pi)  # of log p[t], by k
    right_side = right_side_for((W,))
    for k in range(hs.shape[1]):
        log_p_k = _log_softmax(_affine(hs[rows, k], W, b, right_side))
        shares[:, k] = log_pi[:, k] + log_p_k[np.arange(len(rows)), ts]
    with np.errstate(invalid="ignore"):  # NaN, also where a target has the probability 0
        log_p = np.logaddexp.reduce(shares, axis=1)
        r = np.exp(shares - log_p[:, np.newaxis])
    loss = float(-log_p.mean()) if len(rows) else 0.0
    return loss, [hs, W, b, ts, rows, np.exp(log_pi), r, right_side] if train else None


def mixture_softmax_loss_backward(cache, dW, db, dout=1.0):
    """Write dW and db (or None); returns dhs and dprior. A second call is a RuntimeError."""
    if not cache:
        raise RuntimeError("mixture_softmax_loss: backward needs a cache that is not consumed")
    hs, W, b, ts, rows, pi, r, right_side = cache
    factor = dout / max(len(rows), 1)
    dhs, dprior = np.zeros_like(hs), np.zeros(hs.shape[:2], hs.dtype)
    dprior[rows] = (pi - r) * factor
    of_W, of_b = np.zeros_like(W), np.zeros_like(W, shape=W.shape[1])
    dW_k, db_k = np.empty_like(of_W), np.empty_like(of_b)
    for k in range(hs.shape[1]):
        dscores = np.exp(_log_softmax(_affine(hs[rows, k], W, b, right_side)))
        dscores[np.arange(len(rows)), ts] -= 1
        dscores = (dscores * (r[:, [k]] * factor)).astype(W.dtype)
        dhs[rows, k] = _affine_back(dscores, hs[rows, k], W, dW_k, db_k, right_side)
        of_W += dW_k
        of_b += db_k
    dW[...] = of_W
    if db is not None:
        db[...] = of_b
    cache.clear()
    return dhs, dprior


def sum_of_squares(x):
    """The sum of x^2 in float64, a Python float."""
    return float(np.square(x, dtype=np.float64).sum())


def scale(x, factor):
    """x *= factor, in place."""
    x *= factor


def sgd(param, grad, lr):
    """param -= lr grad, in place."""
    param -= lr * grad


def adam(param, grad, m, v, rate, beta1, beta2):
    """One step of Adam in place.

    m += (1 - beta1) (grad - m), v += (1 - beta2) (grad^2 - v), param -= rate m / (sqrt(v) + 1e-7).
    """
    squares = grad * grad
    m += (1.0 - beta1) * (grad - m)
    v += (1.0 - beta2) * (squares - v)
    param -= rate * m / (np.sqrt(v) + 1e-7)


def dropout_mask(shape, ratio, key, step, dtype, first=0):
    """A mask of 0 (with probability `ratio`) and 1 / (1 - ratio).

    The generator is counter-based: the mask depends only on `key` = (seed, layer) and `step`, not
    on earlier draws or on the dtype. Therefore all columns and all runs draw the same mask.
    Element k is kept if (w >> 11) / 2^53 >= ratio, where w is word k % 4 of Philox4x64-10 at
    counter (1 + k // 4, 0, 0, step). The first element of the mask is element `first`, so that
    the rows of a larger mask can be drawn alone.
    """
    before, rest = divmod(first, 4)
    philox = np.random.Philox(
        key=np.array(key, dtype=np.uint64),
        counter=np.array([before, 0, 0, step], dtype=np.uint64),
    )
    draws = np.random.Generator(philox).random(rest + math.prod(shape))[rest:]
    kept = draws.reshape(shape) >= ratio
    return np.where(kept, 1 / (1 - ratio), 0).astype(dtype)


def _log_softmax(xs):
    """In float64, shifted by the maximum. A row without a finite maximum becomes NaN, silently."""
    xs = xs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        xs -= xs.max(axis=1, keepdims=True, initial=-np.inf)
        return xs - np.log(np.exp(xs).sum(axis=1, keepdims=True))


def _check_ids(name, ids, size):
    """Check for integers in [0, size). NumPy would silently take -1 as the last row."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {ids.dtype}")
    wrong = ids[(ids < 0) | (ids >= size)]
    if wrong.size:
        raise ValueError(f"{name} must be in [0, {size}), got {wrong.flat[0]}")
