"""Gradient clipping, and parameters that a model lists more than once. Chapters 5 and 6."""

from rnnfast import checks
from rnnfast.checks import FLOATS, is_array, is_cupy, place, plain
from rnnfast.kernels import load, resolve
from rnnfast.reference import ops as numpy_ops


def clip_grads(grads, max_norm):
    """Scale all gradients in place so that their common 2-norm is at most `max_norm`.

    Returns the norm before clipping, summed in float64. ValueError unless max_norm is above 0.
    """
    if not checks.number("clip_grads", "max_norm", max_norm) > 0:
        raise ValueError(f"clip_grads: max_norm must be positive, got {max_norm}")
    total = sum(column_of(grad).sum_of_squares(grad) for grad in grads) ** 0.5
    rate = max_norm / (total + 1e-6)
    if is_cupy(rate):
        rate = rate.clip(None, 1)  # times 1 changes nothing
    elif not rate < 1:
        return total
    for grad in grads:
        column_of(grad).scale(grad, rate)
    return total


def remove_duplicate(params, grads):
    """List each shared parameter once; its gradients are added up, in place, in the first's array.

    Returns two new lists. Without shared parameters nothing is written.
    """
    if len(params) != len(grads):
        raise ValueError(f"expected one gradient a parameter, got {len(grads)} for {len(params)}")
    unique_params, unique_grads, known = [], [], {}
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


def column_of(array):
    """The column's ops; NumPy for a type that the others do not know."""
    if getattr(array, "dtype", None) not in FLOATS:
        return numpy_ops
    return load("ops", resolve(None, array))


def like(param, grad):
    """grad in param's type, where both are numbers of any kind."""
    if is_array(grad) and param.dtype in FLOATS and grad.dtype != param.dtype:
        return grad.astype(param.dtype, casting="same_kind")
    return grad


def _add(total, grad):
    """total += grad: a step of SGD with the rate -1, which is exact."""
    column_of(total).sgd(total, like(total, grad), -1.0)
