"""Averaged SGD, and its trigger by the validation perplexity: the optimisers of AWD-LSTM."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.training.gradients import column_of, distinct
from rnnfast.training.optimizer import BaseOptimizer, at_home


class ASGD(BaseOptimizer):
    """Averaged SGD: SGD that also keeps the mean of the parameters over its updates.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.
    start : int or None
        The number of updates before the first one that is averaged. None averages nothing until
        `begin` is called.
    weight_decay : float
        Factor of an L2 penalty, finite, from 0 up.

    Attributes
    ----------
    iter : int
        The number of updates.
    mean : list of array or None
        The means, float64 for every dtype, so that they stay exact over many updates; None before
        the first update that is averaged.

    Notes
    -----
    ``iter`` counts the updates, t below. ::

        p   -= lr * (g + weight_decay * p)
        mean = (p(start + 1) + ... + p(t)) / (t - start)

    The updates do not depend on the means. Evaluate, and save for others, within
    ``with optimizer.averaged(model.params)``.

    References
    ----------
    B. Polyak, A. Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    Merity et al. 2017, https://arxiv.org/abs/1708.02182.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import optim
    >>> p, g = np.array([4.0]), np.array([1.0])
    >>> optimizer = optim.ASGD(lr=1.0)
    >>> for _ in range(3):
    ...     optimizer.update([p], [g])
    >>> with optimizer.averaged([p]):
    ...     print(p)
    [2.]
    >>> p
    array([1.])
    """

    numbers: tuple[str, ...] = ("lr", "iter", "start", "weight_decay")
    arrays = ("mean",)
    dtype = np.dtype(np.float64)
    iter: int
    start: int | None
    mean: list[Any] | None

    def __init__(self, lr: float = 0.01, start: int | None = 0, weight_decay: float = 0.0) -> None:
        super().__init__(lr=lr, start=start, weight_decay=weight_decay)

    @property
    def averaging(self) -> bool:
        """Whether the next update is averaged."""
        return self.start is not None and self.iter >= self.start

    def begin(self) -> None:
        """Average from the next update on; without effect if this has begun."""
        if not self.averaging:
            self.start = self.iter

    def update(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """Update every parameter in place by its gradient, and the means; as SGD.update."""
        averaging = self.averaging
        each = self._each(params, grads, arrays=averaging)
        self.iter += 1
        count = self.iter - (self.start or 0)
        for param, grad, *means in each:
            self._decay(param)
            column_of(param).sgd(param, grad, self.lr)
            for mean in means:
                mean += (param - mean) / count

    def write_averages(self, params: Sequence[Any]) -> None:
        """Write the means over the parameters; without effect before there are means.

        Parameters
        ----------
        params : sequence of arrays
            Those of `update`.

        Raises
        ------
        ValueError
            They are not those of the updates. Nothing is written then.
        """
        if self.mean is not None:
            params = distinct(params)
            self._check_same(self.mean, params)
            for param, mean in zip(params, self.mean, strict=True):
                param[...] = at_home(mean, param)

    @contextmanager
    def averaged(self, params: Sequence[Any]) -> Iterator[None]:
        """Have the means in place of the parameters for one block.

        Parameters
        ----------
        params : sequence of arrays
            Those of `update`.
        """
        params = distinct(params)
        kept = [param.copy() for param in params] if self.mean is not None else []
        self.write_averages(params)
        try:
            yield
        finally:
            for param, old in zip(params, kept, strict=False):
                param[...] = old

    def _checked(self, name: str, value: Any) -> Any:
        if name == "start":
            owner = type(self).__name__
            return None if value is None else checks.count(owner, name, value, least=0)
        return super()._checked(name, value)


class NTASGD(ASGD):
    """Non-monotonically triggered averaged SGD: SGD first, averaged when it no longer improves.

    Parameters
    ----------
    lr : float
        Learning rate, finite, from 0 up.
    interval : int
        The non-monotone interval n, a number of checks from 1 up.
    weight_decay : float
        Factor of an L2 penalty, finite, from 0 up; as of ASGD.

    Attributes
    ----------
    ppls : tuple of float
        The perplexities of all checks.

    Notes
    -----
    Averaging begins with the first check that is worse than the best one of those more than n
    checks ago. The learning rate stays.

    References
    ----------
    Merity et al. 2017, https://arxiv.org/abs/1708.02182, algorithm 1.

    Examples
    --------
    >>> from rnnfast import optim
    >>> optimizer = optim.NTASGD(lr=30.0, interval=2)
    >>> [optimizer.check(ppl) for ppl in (90.0, 80.0, 81.0, 82.0, 79.0)]
    [False, False, False, False, False]
    >>> optimizer.check(81.0)  # the best one until three checks ago is 80
    True
    >>> optimizer.averaging
    True
    """

    numbers = ("lr", "iter", "start", "interval", "ppls", "weight_decay")
    hidden = ("iter", "start", "ppls")
    interval: int
    ppls: tuple[float, ...]

    def __init__(self, lr: float = 0.01, interval: int = 5, weight_decay: float = 0.0) -> None:
        numbers = {"start": None, "interval": interval, "ppls": (), "weight_decay": weight_decay}
        BaseOptimizer.__init__(self, lr=lr, **numbers)

    def check(self, ppl: float) -> bool:
        """Take the validation perplexity of a check, and begin to average if it is time.

        Parameters
        ----------
        ppl : float
            Measured with the means if there are some.

        Returns
        -------
        bool
            Whether averaging begins with this check.
        """
        before, n = self.ppls, self.interval
        ppl = checks.number(type(self).__name__, "ppl", ppl)
        begins = not self.averaging and len(before) > n and ppl > min(before[:-n])
        if begins:
            self.begin()
        self.ppls = (*before, ppl)
        return begins

    def _checked(self, name: str, value: Any) -> Any:
        owner = type(self).__name__
        if name == "interval":
            return checks.count(owner, name, value)
        if name == "ppls":
            if not isinstance(value, (tuple, list)):
                kind = type(value).__name__
                raise TypeError(f"{owner}: ppls must be a tuple of numbers, got {kind}")
            return tuple(checks.number(owner, name, ppl) for ppl in value)
        return super()._checked(name, value)
