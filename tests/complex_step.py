"""Derivatives to the last digits, by a complex step: f'(x) = Im f(x + ih) / h, without rounding.

f must be analytic: it may not use abs, max or comparisons of its numbers.
"""

import numpy as np

STEP = 1e-30


def gradients(f, arrays):
    """The gradients of the number f(*arrays) by each array, where f is plain NumPy."""
    arrays = [array.astype(complex) for array in arrays]
    found = [np.empty(array.shape) for array in arrays]
    for array, grad in zip(arrays, found, strict=True):
        for k in np.ndindex(array.shape):
            array[k] += STEP * 1j
            grad[k] = f(*arrays).imag / STEP
            array[k] = array[k].real
    return found


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm(xs, h, c, Wx, Wh, b, h_mask=1.0, g_mask=None, h_kept=None, c_kept=None):
    """hs of all steps; gates f, g, i, o. g_mask, and h_kept and c_kept of zoneout: (N, T, H)."""
    hs = []
    for t in range(xs.shape[1]):
        f, g, i, o = np.split(xs[:, t] @ Wx + (h * h_mask) @ Wh + b, 4, axis=1)
        m = 1.0 if g_mask is None else g_mask[:, t]
        new = sigmoid(f) * c + sigmoid(i) * np.tanh(g) * m
        shown = sigmoid(o) * np.tanh(new)
        h = shown if h_kept is None else np.where(h_kept[:, t], h, shown)
        c = new if c_kept is None else np.where(c_kept[:, t], c, new)
        hs.append(h)
    return np.stack(hs, axis=1), h, c


def cross_entropy(scores, ts):
    """The mean of -log softmax(scores)[ts], for scores (..., V)."""
    picked = np.take_along_axis(scores, ts[..., None], axis=-1)[..., 0]
    return (np.log(np.exp(scores).sum(axis=-1)) - picked).mean()
