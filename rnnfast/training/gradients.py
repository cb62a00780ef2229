"""Gradient clipping, and parameters that a model lists more than once. Chapters 5 and 6."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.checks import FLOATS, is_array, is_cupy, place, plain, writeable
from rnnfast.kernels import load, resolve
from rnnfast.reference import ops as numpy_ops


def clip_grads(grads: Sequence[Any], max_norm: float) -> Any:
    """Scale all gradients in place so that their common 2-norm is at most `max_norm`.

    Parameters
    ----------
    grads : sequence of arrays
        NumPy or CuPy arrays; written in place.
    max_norm : float
        Upper bound of the norm, above 0.

    Returns
    -------
    float or 0-d CuPy array
        The norm before clipping, summed in float64. On a GPU it stays there: clipping does not
        synchronize with the host.

    Raises
    ------
    TypeError
        A gradient is not an array of floating point.
    ValueError
        `max_norm` is not above 0, or a gradient is read-only. Nothing has been written then.

    Notes
    -----
    ::

        norm = sqrt(sum over all g of sum(g**2))
        g   *= min(1, max_norm / (norm + 1e-6))

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, On the difficulty of training recurrent neural networks,
    2013, https://arxiv.org/abs/1211.5063. Deep Learning from Scratch 2, section 6.1.4.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import optim
    >>> grads = [np.array([3.0]), np.array([4.0])]
    >>> optim.clip_grads(grads, max_norm=1.0)
    5.0
    >>> np.concatenate(grads).round(3)
    array([0.6, 0.8])
    """
    if not checks.number("clip_grads", "max_norm", max_norm) > 0:
        raise ValueError(f"clip_grads: max_norm must be positive, got {max_norm}")
    for i, grad in enumerate(grads):
        if type(grad) is not np.ndarray or grad.dtype.kind != "f":
            _check_floating("clip_grads", f"grads[{i}]", grad)
        if not writeable(grad):
            raise ValueError(f"clip_grads: grads[{i}] must be writable, got a read-only array")
    ops = ops_of_all(grads)
    if ops is not None and (norm := ops.clip(grads, max_norm)) is not None:
        return norm
    total = sum(column_of(grad).sum_of_squares(grad) for grad in grads) ** 0.5
    rate = max_norm / (total + 1e-6)
    if is_cupy(rate):
        rate = rate.clip(None, 1)  # a factor of 1 changes nothing
    elif not rate < 1:
        return total
    for grad in grads:
        column_of(grad).scale(grad, rate)
    return total


def remove_duplicate(params: Sequence[Any], grads: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """List each shared parameter once, with the sum of its gradients.

    Parameters
    ----------
    params, grads : sequence of arrays
        Equally long. A parameter may occur more than once, also as a transposed view (weight
        tying). Shared parameters are recognised by their memory.

    Returns
    -------
    tuple of list
        New lists of parameters and gradients. The gradient of a shared parameter is summed in
        place, in the array listed first. Without shared parameters no array is written.

    Raises
    ------
    TypeError
        An entry is not an array, or a parameter is not of floating point.
    ValueError
        The lists differ in length, or a gradient has another shape than its parameter. Nothing
        has been written then.

    References
    ----------
    Deep Learning from Scratch 2, common/trainer.py.
    """
    if len(params) != len(grads):
        raise ValueError(f"expected one gradient a parameter, got {len(grads)} for {len(params)}")
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if type(param) is not np.ndarray or param.dtype.kind != "f":
            _check_floating("update", f"params[{i}]", param)
        if type(grad) is not np.ndarray:
            grad = _check_array("update", f"grads[{i}]", grad)
        if grad.shape != param.shape:
            expected = f"of the shape of params[{i}], {param.shape}"
            raise checks.shape_error("update", f"grads[{i}]", expected, grad)
    unique_params: list[Any] = []
    unique_grads: list[Any] = []
    known: dict[Any, int] = {}
    for param, grad in zip(params, grads, strict=True):
        param, grad = plain("update", "param", param), plain("update", "grad", grad)
        if (same := place(param)) in known:
            _add(unique_grads[known[same]], grad)
        elif (tied := place(param.T)) in known:
            _add(unique_grads[known[tied]], grad.T)
        else:
            known[same] = len(unique_params)
            unique_params.append(param)
            unique_grads.append(grad)
    return unique_params, unique_grads


def distinct(params: Sequence[Any]) -> list[Any]:
    """The parameters, shared ones once, in the order of `remove_duplicate`."""
    found: dict[Any, Any] = {}
    for param in params:
        found.setdefault(frozenset(map(place, (param, param.T))), param)
    return list(found.values())


def column_of(array: Any) -> Any:
    """The ops of the array's device; NumPy's for dtypes other than float32 and float64."""
    if getattr(array, "dtype", None) not in FLOATS:
        return numpy_ops
    return load("ops", resolve(None, array))


def ops_of_all(arrays: Sequence[Any]) -> Any:
    """The ops of a GPU that can take all arrays at once, or None."""
    if not (arrays and all(map(is_cupy, arrays))):
        return None
    ops = column_of(arrays[0])
    return ops if hasattr(ops, "clip") else None


def like(param: Any, grad: Any) -> Any:
    """grad in the dtype of param, if both are numbers."""
    if is_array(grad) and param.dtype in FLOATS and grad.dtype != param.dtype:
        return grad.astype(param.dtype, casting="same_kind")
    return grad


def _check_array(owner: str, name: str, x: Any) -> Any:
    """x, an array; TypeError for anything else, and for a masked one."""
    if not is_array(x):
        raise TypeError(f"{owner}: {name} must be a NumPy array, got {type(x).__name__}")
    return plain(owner, name, x)


def _check_floating(owner: str, name: str, x: Any) -> None:
    """TypeError unless x is an array of floating point."""
    if _check_array(owner, name, x).dtype.kind != "f":
        raise TypeError(f"{owner}: {name} must be of floating point, got {x.dtype}")


def _add(total: Any, grad: Any) -> None:
    """total += grad: an SGD step with the rate -1, which is exact."""
    column_of(total).sgd(total, like(total, grad), -1.0)
