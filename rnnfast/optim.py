"""Optimisers and gradient clipping, with the book's names and signatures (chapters 1 and 6).

Parameters are updated in place. A parameter that a model lists more than once (the same array,
or the transposed view that weight tying makes) is recognised by its memory, never by its values.
float32 and float64 arrays are updated by their device's column, in one pass over each; other types
by NumPy.
"""

import math

import numpy as np

from rnnfast.checks import FLOATS
from rnnfast.kernels import load, resolve
from rnnfast.reference import ops as numpy_ops


class SGD:
    """p -= lr * g"""

    def __init__(self, lr=0.01):
        self.lr = lr

    def update(self, params, grads):
        for param, grad in zip(*remove_duplicate(params, grads), strict=True):
            _column(param).sgd(param, _like(param, grad), self.lr)


class Adam:
    """Kingma and Ba, https://arxiv.org/abs/1412.6980, with the book's epsilon of 1e-7.

    Moments belong to a parameter by its place in the list: give the same list at every step.
    """

    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999):
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.iter = 0
        self.m = None
        self.v = None

    def update(self, params, grads):
        params, grads = remove_duplicate(params, grads)
        if self.m is None:
            self.m = [np.zeros_like(param) for param in params]
            self.v = [np.zeros_like(param) for param in params]
        if [m.shape for m in self.m] != [param.shape for param in params]:
            raise ValueError("Adam: the parameters are not those of the first update")

        self.iter += 1
        correction = math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        rate = self.lr * correction

        for param, grad, m, v in zip(params, grads, self.m, self.v, strict=True):
            adam = _column(param).adam
            adam(param, _like(param, grad), m, v, rate, self.beta1, self.beta2)


def clip_grads(grads, max_norm):
    """Scale all gradients in place so that their common 2-norm is at most `max_norm`.

    Returns the norm before clipping, summed in float64.
    """
    total = math.sqrt(sum(_column(grad).sum_of_squares(grad) for grad in grads))
    rate = max_norm / (total + 1e-6)
    if rate < 1:
        for grad in grads:
            _column(grad).scale(grad, rate)
    return total


def remove_duplicate(params, grads):
    """List each shared parameter once; its gradients are added up, in place, in the first's array.

    Returns two new lists. Without shared parameters nothing is written.
    """
    if len(params) != len(grads):
        raise ValueError(f"expected one gradient a parameter, got {len(grads)} for {len(params)}")
    unique_params, unique_grads, place = [], [], {}
    for param, grad in zip(params, grads, strict=True):
        address = _address(param)
        if (same := (address, param.shape, param.strides)) in place:
            _add(unique_grads[place[same]], grad)
        elif (tied := (address, param.shape[::-1], param.strides[::-1])) in place:
            _add(unique_grads[place[tied]], grad.T)
        else:
            place[same] = len(unique_params)
            unique_params.append(param)
            unique_grads.append(grad)
    return unique_params, unique_grads


def _column(array):
    """The column's ops; NumPy for a type that the others do not know."""
    if getattr(array, "dtype", None) not in FLOATS:
        return numpy_ops
    return load("ops", resolve(None, array))


def _like(param, grad):
    """grad in param's type, where both are numbers of any kind."""
    if isinstance(grad, np.ndarray) and param.dtype in FLOATS and grad.dtype != param.dtype:
        return grad.astype(param.dtype, casting="same_kind")
    return grad


def _add(total, grad):
    """total += grad: a step of SGD with the rate -1, which is exact."""
    _column(total).sgd(total, _like(total, grad), -1.0)


def _address(array):
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface["data"][0]
