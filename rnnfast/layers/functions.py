"""sigmoid, relu, softmax and cross_entropy_error. Deep Learning from Scratch 2, chapter 1.

They take arrays of any real dtype and return new ones; nothing overflows and nothing warns.
"""

import numpy as np

from rnnfast import checks


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # exp(-x) = inf is right: the result is 0
        return 1 / (1 + np.exp(-x))


def relu(x):
    """max(0, x)."""
    return np.maximum(0, x)


def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis."""
    if x.shape[-1] == 0:
        raise ValueError(f"softmax: x must have a last axis of at least 1, got {x.shape}")
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


def cross_entropy_error(y, t):
    """Mean of -log(y[t] + 1e-7) over the batch, as the book defines it.

    y (N, K) or (K,) probabilities; t (N,) class ids or one-hot like y. The loss layers do not
    add 1e-7. TypeError unless ids are integers, ValueError for one outside [0, K).
    """
    y = checks.real("cross_entropy_error", "y", y)
    t = checks.real("cross_entropy_error", "t", t)
    if y.ndim == 1:
        y, t = y.reshape(1, -1), t.reshape(1, -1)
    if t.size == y.size:  # one-hot
        t = t.reshape(y.shape).argmax(axis=1)
    N, K = y.shape
    t = t.reshape(-1)
    if t.shape != (N,):
        raise checks.shape_error("cross_entropy_error", "t", f"(N,) = ({N},) or one-hot", t)
    t = checks.integers("cross_entropy_error", "t", t)
    checks.in_range("cross_entropy_error", "t", t, K)
    if N == 0:
        return 0.0
    return -np.sum(np.log(y[np.arange(N), t] + 1e-7)) / N
