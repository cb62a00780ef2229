"""Optimisers with the book's names and signatures (chapters 1 and 6).

Parameters are updated in place. A parameter that a model lists more than once (the same array,
or the transposed view of weight tying) is recognised by its memory, never by its values.
float32 and float64 arrays are updated by the kernels of their device, in one pass over each; other
dtypes by NumPy. A signal during an update on the CPU is handled after the update, so that no
update is left half done.

Every optimiser has `update(params, grads)`, both lists in the same order, and `state_dict()`, a
plain dict of numbers and lists of arrays from which `load_state_dict` continues exactly.

A learning rate is a finite number from 0 up; the decay rate of a running mean (momentum,
decay_rate, beta1, beta2) is in [0, 1). Other values raise TypeError or ValueError in the
constructor, in `load_state_dict` and in `update`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.checks import is_array, is_numpy, writeable
from rnnfast.training.gradients import column_of, like, remove_duplicate


class _Optimizer:
    """Named numbers, and named lists of arrays with one array per parameter.

    The lists are None before the first update. Every update takes the same list of parameters:
    other shapes are a ValueError.
    """

    numbers: tuple[str, ...] = ("lr",)
    arrays: tuple[str, ...] = ()
    lr: float

    def __init__(self, **numbers: Any) -> None:
        for name in self.numbers:
            setattr(self, name, self._checked(name, numbers.get(name, 0)))
        for name in self.arrays:
            setattr(self, name, None)

    def __repr__(self) -> str:
        numbers = [f"{name}={getattr(self, name)!r}" for name in self.numbers if name != "iter"]
        return f"{type(self).__name__}({', '.join(numbers)})"

    def _checked(self, name: str, value: Any) -> Any:
        """value as one of `numbers`: a Python float, an int for iter."""
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

    def state_dict(self) -> dict[str, Any]:
        """Copy the state of the optimiser.

        Returns
        -------
        dict
            The numbers and copies of the arrays by name: lists of NumPy arrays, or None before
            the first update.
        """
        state: dict[str, Any] = {name: getattr(self, name) for name in self.numbers}
        for name in self.arrays:
            arrays = getattr(self, name)
            state[name] = None if arrays is None else [_to_numpy(array) for array in arrays]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`.

        Parameters
        ----------
        state : dict
            What `state_dict` of an optimiser of the same class returned.

        Raises
        ------
        ValueError
            The state does not fit; nothing is changed.
        """
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

    def _each(self, params: Sequence[Any], grads: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """(param, grad, its arrays ...) of every parameter, checked; the arrays start at zero."""
        for name in self.numbers:
            self._checked(name, getattr(self, name))  # a script may have assigned other values
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
    """Stochastic gradient descent.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.

    Notes
    -----
    ::

        p -= lr * g

    References
    ----------
    Deep Learning from Scratch 2, chapter 1, common/optimizer.py.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import optim
    >>> p, g = np.array([1.0, 2.0]), np.array([1.0, -1.0])
    >>> optim.SGD(lr=0.5).update([p], [g])
    >>> p
    array([0.5, 2.5])
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr=lr)

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient.

        Parameters
        ----------
        params, grads : sequence of arrays
            Parameters and their gradients, in the same order at every update.

        Raises
        ------
        ValueError
            The lists differ in length, a parameter is read-only, or the shapes are not those of
            the first update.
        """
        for param, grad in self._each(params, grads):
            column_of(param).sgd(param, grad, self.lr)


class Momentum(_Optimizer):
    """SGD with momentum.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.
    momentum : float
        Decay rate of the velocity `v`, in [0, 1).

    Notes
    -----
    ::

        v  = momentum * v - lr * g
        p += v

    References
    ----------
    Deep Learning from Scratch 2, common/optimizer.py.
    """

    numbers = ("lr", "momentum")
    arrays = ("v",)
    momentum: float
    v: list[Any] | None

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr=lr, momentum=momentum)

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient; as SGD.update."""
        for param, grad, v in self._each(params, grads):
            v *= self.momentum
            v -= self.lr * grad
            param += v


class AdaGrad(_Optimizer):
    """AdaGrad: a learning rate per element, which falls with the sum of squared gradients.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.

    Notes
    -----
    ::

        h += g**2
        p -= lr * g / (sqrt(h) + 1e-7)

    References
    ----------
    J. Duchi, E. Hazan, Y. Singer, Adaptive subgradient methods, JMLR 12, 2011.
    Deep Learning from Scratch 2, common/optimizer.py.
    """

    arrays = ("h",)
    h: list[Any] | None

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr=lr)

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient; as SGD.update."""
        for param, grad, h in self._each(params, grads):
            h += grad * grad
            param -= self.lr * grad / (np.sqrt(h) + 1e-7)


class RMSprop(_Optimizer):
    """RMSprop: AdaGrad with a running mean of squared gradients in place of their sum.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.
    decay_rate : float
        Decay rate of the running mean `h`, in [0, 1).

    Notes
    -----
    ::

        h  = decay_rate * h + (1 - decay_rate) * g**2
        p -= lr * g / (sqrt(h) + 1e-7)

    References
    ----------
    Deep Learning from Scratch 2, common/optimizer.py.
    """

    numbers = ("lr", "decay_rate")
    arrays = ("h",)
    decay_rate: float
    h: list[Any] | None

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__(lr=lr, decay_rate=decay_rate)

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient; as SGD.update."""
        for param, grad, h in self._each(params, grads):
            h *= self.decay_rate
            h += (1 - self.decay_rate) * grad * grad
            param -= self.lr * grad / (np.sqrt(h) + 1e-7)


class Adam(_Optimizer):
    """Adam, with the book's epsilon of 1e-7.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.
    beta1, beta2 : float
        Decay rates of the running means `m` of gradients and `v` of squared gradients, in [0, 1).

    Notes
    -----
    ``iter`` counts the updates, t below. ::

        m  = beta1 * m + (1 - beta1) * g
        v  = beta2 * v + (1 - beta2) * g**2
        p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + 1e-7)

    References
    ----------
    D. Kingma, J. Ba, Adam: a method for stochastic optimization, 2014,
    https://arxiv.org/abs/1412.6980. Deep Learning from Scratch 2, common/optimizer.py.

    Examples
    --------
    >>> from rnnfast import optim
    >>> optim.Adam()
    Adam(lr=0.001, beta1=0.9, beta2=0.999)
    """

    numbers = ("lr", "beta1", "beta2", "iter")
    arrays = ("m", "v")
    beta1: float
    beta2: float
    iter: int
    m: list[Any] | None
    v: list[Any] | None

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__(lr=lr, beta1=beta1, beta2=beta2)

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient; as SGD.update."""
        each = self._each(params, grads)
        self.iter += 1
        correction = math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        rate = self.lr * correction
        for param, grad, m, v in each:
            column_of(param).adam(param, grad, m, v, rate, self.beta1, self.beta2)


OPTIMIZERS: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (SGD, Momentum, AdaGrad, RMSprop, Adam)
}


def _to_numpy(array: Any) -> Any:
    """A copy on the host."""
    return array.get() if hasattr(array, "get") else array.copy()


def _at_home(array: Any, param: Any) -> Any:
    """array on the device of param: loaded arrays are NumPy's."""
    if is_numpy(array) and not is_numpy(param):
        moved = np.empty_like(param)
        moved.set(array)
        return moved
    return array
