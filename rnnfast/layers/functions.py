"""sigmoid, relu, softmax and cross_entropy_error. Deep Learning from Scratch 2, chapter 1.

They take arrays of any real dtype and return new ones. Nothing overflows and nothing warns.
"""

from typing import Any

import numpy as np

from rnnfast import checks


def _floats(x: Any) -> Any:
    """x, integers and bool as float64: unsigned ones have no -x, and float16 is too small."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    return x.astype(np.float64) if x.dtype.kind in "iub" else x


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)).

    Parameters
    ----------
    x : array or number
        Real numbers.

    Returns
    -------
    array like x

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0]))
    array([0. , 0.5])
    """
    x = _floats(x)
    with np.errstate(over="ignore"):  # exp(-x) = inf is right: the result is 0
        return 1 / (1 + np.exp(-x))


def relu(x: Any) -> Any:
    """max(0, x).

    Parameters
    ----------
    x : array or number
        Real numbers.

    Returns
    -------
    array like x

    Examples
    --------
    >>> relu(np.array([-1.5, 0.5]))
    array([0. , 0.5])
    """
    return np.maximum(0, x)


def softmax(x: Any) -> Any:
    """exp(x) / sum(exp(x)) over the last axis.

    Parameters
    ----------
    x : array (..., K)
        Scores.

    Returns
    -------
    array (..., K)
        Probabilities.

    Raises
    ------
    ValueError
        If K is 0.

    Examples
    --------
    >>> softmax(np.array([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    x = _floats(x)
    if x.shape[-1:] in ((), (0,)):
        raise ValueError(f"softmax: x must have a last axis of at least 1, got {x.shape}")
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


def cross_entropy_error(y: Any, t: Any) -> Any:
    """Mean of -log(y[t] + 1e-7) over the batch, as in the book. The loss layers do not add 1e-7.

    Parameters
    ----------
    y : array (N, K) or (K,)
        Probabilities.
    t : array of int (N,), or one-hot like y
        Class ids.

    Returns
    -------
    float
        The loss; 0.0 for an empty batch.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        For an id outside [0, K), or a wrong shape.

    Examples
    --------
    >>> round(float(cross_entropy_error(np.array([[0.5, 0.5]]), np.array([1]))), 4)
    0.6931
    """
    y = checks.real("cross_entropy_error", "y", y)
    t = checks.real("cross_entropy_error", "t", t)
    if y.ndim not in (1, 2):
        raise checks.shape_error("cross_entropy_error", "y", "(N, K) or (K,)", y)
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
