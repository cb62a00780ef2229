"""Optimisers and gradient clipping, with the book's names and signatures (chapters 1 and 6).

Parameters are updated in place. A parameter that a model lists more than once (the same array,
or the transposed view that weight tying makes) is recognised by its memory, never by its values.
float32 and float64 arrays are updated by their device's column, in one pass over each; other types
by NumPy. A signal that comes during an update of the CPU is seen after it, as half an update is
none.

Every optimiser has `update(params, grads)`, both lists in the same order, and `state_dict()`, a
plain dict of numbers and lists of arrays from which `load_state_dict` goes on exactly.

A learning rate is a finite number from 0 up, what a running mean keeps of itself (momentum,
decay_rate, beta1, beta2) one in [0, 1); others are a TypeError or a ValueError, when an optimiser
is made, in `load_state_dict` and in `update`.
"""

import math

import numpy as np

from rnnfast import checks
from rnnfast.checks import is_array, is_numpy, writeable
from rnnfast.training.gradients import column_of, like, remove_duplicate


class _Optimizer:
    """Numbers and, for each parameter by its place in the list, arrays (None before an update).

    Give the same list of parameters at every update: other shapes are a ValueError.
    """

    numbers = ("lr",)
    arrays = ()

    def __init__(self, **numbers):
        for name in self.numbers:
            setattr(self, name, self._checked(name, numbers.get(name, 0)))
        for name in self.arrays:
            setattr(self, name, None)

    def _checked(self, name, value):
        """value as one of `numbers`, a Python float (iter: an int)."""
        owner = type(self).__name__
        if name == "iter":
            if (value := checks.integer(owner, name, value)) < 0:
                raise ValueError(f"{owner}: iter must be from 0 up, got {value}")
            return value
        value = checks.number(owner, name, value)
        limit, wanted = (math.inf, "finite, from 0 up") if name == "lr" else (1, "in [0, 1)")
        if not 0 <= value < limit:
            raise ValueError(f"{owner}: {name} must be {wanted}, got {value}")
        return value

    def state_dict(self):
        """The numbers and copies of the arrays (lists of NumPy arrays, or None), by name."""
        state = {name: getattr(self, name) for name in self.numbers}
        for name in self.arrays:
            arrays = getattr(self, name)
            state[name] = None if arrays is None else [_to_numpy(array) for array in arrays]
        return state

    def load_state_dict(self, state):
        """Take over what `state_dict` gave; ValueError, and nothing changed, if it does not fit."""
        name = type(self).__name__
        expected = {*self.numbers, *self.arrays}
        if not isinstance(state, dict) or state.keys() != expected:
            found = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"{name}: state must have {sorted(expected)}, got {found}")
        try:
            numbers = {key: self._checked(key, state[key]) for key in self.numbers}
        except TypeError as error:
            raise ValueError(str(error)) from None
        lists = [state[key] for key in self.arrays]
        if any(arrays is None for arrays in lists):
            fits = all(arrays is None for arrays in lists)
        else:
            shapes = [[getattr(array, "shape", None) for array in arrays] for arrays in lists]
            fits = all(row == shapes[0] and None not in row for row in shapes)
        if not fits:
            raise ValueError(f"{name}: {', '.join(self.arrays)} must be equal lists of arrays")
        for key, value in numbers.items():
            setattr(self, key, value)
        for key, arrays in zip(self.arrays, lists, strict=True):
            setattr(self, key, None if arrays is None else [array.copy() for array in arrays])

    def _each(self, params, grads):
        """(param, grad, its arrays ...) of every parameter, checked; the arrays start at zero."""
        for name in self.numbers:
            self._checked(name, getattr(self, name))  # they may have been assigned to
        params, grads = remove_duplicate(params, grads)
        for param in params:
            if is_array(param) and not writeable(param):
                raise ValueError("update: param must be writable, got a read-only array")
        for name in self.arrays:
            arrays = getattr(self, name)
            if arrays is None:
                setattr(self, name, [np.zeros_like(param) for param in params])
            elif [(a.shape, a.dtype) for a in arrays] != [(p.shape, p.dtype) for p in params]:
                owner = type(self).__name__
                raise ValueError(f"{owner}: the parameters are not those of the first update")
            else:
                setattr(self, name, list(map(_at_home, arrays, params)))
        grads = [like(param, grad) for param, grad in zip(params, grads, strict=True)]
        return zip(params, grads, *(getattr(self, name) for name in self.arrays), strict=True)


class SGD(_Optimizer):
    """p -= lr * g"""

    def __init__(self, lr=0.01):
        super().__init__(lr=lr)

    def update(self, params, grads):
        for param, grad in self._each(params, grads):
            column_of(param).sgd(param, grad, self.lr)


class Momentum(_Optimizer):
    """v = momentum * v - lr * g; p += v"""

    numbers = ("lr", "momentum")
    arrays = ("v",)

    def __init__(self, lr=0.01, momentum=0.9):
        super().__init__(lr=lr, momentum=momentum)

    def update(self, params, grads):
        for param, grad, v in self._each(params, grads):
            v *= self.momentum
            v -= self.lr * grad
            param += v


class AdaGrad(_Optimizer):
    """h += g**2; p -= lr * g / (sqrt(h) + 1e-7) (Duchi et al. 2011)"""

    arrays = ("h",)

    def __init__(self, lr=0.01):
        super().__init__(lr=lr)

    def update(self, params, grads):
        for param, grad, h in self._each(params, grads):
            h += grad * grad
            param -= self.lr * grad / (np.sqrt(h) + 1e-7)


class RMSprop(_Optimizer):
    """h = decay_rate * h + (1 - decay_rate) * g**2; p -= lr * g / (sqrt(h) + 1e-7)"""

    numbers = ("lr", "decay_rate")
    arrays = ("h",)

    def __init__(self, lr=0.01, decay_rate=0.99):
        super().__init__(lr=lr, decay_rate=decay_rate)

    def update(self, params, grads):
        for param, grad, h in self._each(params, grads):
            h *= self.decay_rate
            h += (1 - self.decay_rate) * grad * grad
            param -= self.lr * grad / (np.sqrt(h) + 1e-7)


class Adam(_Optimizer):
    """Kingma and Ba, https://arxiv.org/abs/1412.6980, with the book's epsilon of 1e-7."""

    numbers = ("lr", "beta1", "beta2", "iter")
    arrays = ("m", "v")

    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999):
        super().__init__(lr=lr, beta1=beta1, beta2=beta2)

    def update(self, params, grads):
        each = self._each(params, grads)
        self.iter += 1
        correction = math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        rate = self.lr * correction
        for param, grad, m, v in each:
            column_of(param).adam(param, grad, m, v, rate, self.beta1, self.beta2)


OPTIMIZERS = {cls.__name__: cls for cls in (SGD, Momentum, AdaGrad, RMSprop, Adam)}


def _to_numpy(array):
    """A copy on the host."""
    return array.get() if hasattr(array, "get") else array.copy()


def _at_home(array, param):
    """array itself, or its copy on param's device: what was loaded comes as a NumPy array."""
    if is_numpy(array) and not is_numpy(param):
        moved = np.empty_like(param)
        moved.set(array)
        return moved
    return array
