"""Optimisers with the book's names and signatures (chapters 1 and 6).

Parameters are updated in place. A parameter that a model lists more than once (the same array,
or the transposed view of weight tying) is recognised by its memory, never by its values.
float32 and float64 arrays are updated by the kernels of their device, in one pass over each, or two
with weight decay; other dtypes by NumPy. A signal during a pass on the CPU is handled after it, so
that none is left half done.

Every optimiser has `update(params, grads)`, both lists in the same order, and `state_dict()`, a
plain dict of numbers and lists of arrays from which `load_state_dict` continues exactly.

A learning rate and a weight decay are finite numbers from 0 up; the decay rate of a running mean
(momentum, decay_rate, beta1, beta2) is in [0, 1). Other values raise TypeError or ValueError in the
constructor, in `load_state_dict` and in `update`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnfast.training.averaging import ASGD, NTASGD
from rnnfast.training.gradients import column_of, ops_of_all
from rnnfast.training.optimizer import BaseOptimizer


class SGD(BaseOptimizer):
    """Stochastic gradient descent.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.
    weight_decay : float
        Factor of an L2 penalty, finite, from 0 up.

    Notes
    -----
    ::

        p -= lr * (g + weight_decay * p)

    The gradient g is clipped, if it is, without the penalty.

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

    numbers = ("lr", "weight_decay")

    def __init__(self, lr: float = 0.01, weight_decay: float = 0.0) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient.

        Parameters
        ----------
        params, grads : sequence of arrays
            Parameters and their gradients, in the same order at every update.

        Raises
        ------
        TypeError
            An entry is not an array, or a parameter is not of floating point.
        ValueError
            The lists differ in length, a parameter is read-only, a gradient has another shape than
            its parameter, or the shapes are not those of the first update. No parameter has
            changed then.
        """
        each = list(self._each(params, grads))
        params, grads = [param for param, _ in each], [grad for _, grad in each]
        for param in params:
            self._decay(param)
        ops = ops_of_all(params)
        if ops is not None and ops.sgd_of_all(params, grads, self.lr):
            return
        for param, grad in each:
            column_of(param).sgd(param, grad, self.lr)


class Momentum(BaseOptimizer):
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


class Nesterov(Momentum):
    """SGD with Nesterov's momentum, as the book computes it.

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
        p += momentum**2 * v - (1 + momentum) * lr * g

    This is the book's order. The paper takes the v of before in the second line.

    References
    ----------
    Y. Bengio, N. Boulanger-Lewandowski, R. Pascanu, Advances in optimizing recurrent networks,
    2012, https://arxiv.org/abs/1212.0901. Deep Learning from Scratch 2, common/optimizer.py.
    """

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient; as SGD.update."""
        for param, grad, v in self._each(params, grads):
            step = self.lr * grad
            v *= self.momentum
            v -= step
            param += self.momentum**2 * v - (1 + self.momentum) * step


class AdaGrad(BaseOptimizer):
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


class RMSprop(BaseOptimizer):
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


class Adam(BaseOptimizer):
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
        each = list(self._each(params, grads))
        self.iter += 1
        lists = [list(arrays) for arrays in zip(*each, strict=True)] or [[]]
        ops, numbers = ops_of_all(lists[0]), (self.lr, self.beta1, self.beta2, self.iter)
        if ops is not None and ops.adam_of_all(*lists, *numbers):
            return
        correction = math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        rate = self.lr * correction
        for param, grad, m, v in each:
            column_of(param).adam(param, grad, m, v, rate, self.beta1, self.beta2)


OPTIMIZERS: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam, ASGD, NTASGD)
}
