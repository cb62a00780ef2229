"""A share of a batch: the samples of it that this process has, where several train on one batch.

Layers whose numbers depend on the place of a sample in the batch ask for it: masks of dropout.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from rnnfast import checks


class Share(NamedTuple):
    """Some samples of a batch, one after the other.

    Attributes
    ----------
    first, size : int
        The first of them, and how many they are.
    total : int
        The number of samples of the batch.

    Examples
    --------
    >>> from rnnfast.layers.shares import share_of
    >>> [share_of(7, rank, 3).size for rank in range(3)]
    [3, 2, 2]
    """

    first: int
    size: int
    total: int

    @property
    def rows(self) -> slice:
        """Where they are in an array of the batch."""
        return slice(self.first, self.first + self.size)

    @property
    def weight(self) -> float:
        """Which part of the batch they are."""
        return self.size / self.total


def share_of(total: int, rank: int, ranks: int) -> Share:
    """The share of one of several ranks; the first ones have one sample more if need be.

    Parameters
    ----------
    total : int
        The number of samples of the batch.
    rank, ranks : int
        Which of how many.
    """
    least, more = divmod(total, ranks)
    return Share(rank * least + min(rank, more), least + (rank < more), total)


Sum = Callable[[list[float]], list[float]]

_current: ContextVar[Share | None] = ContextVar("rnnfast_share", default=None)
_sum: ContextVar[Sum | None] = ContextVar("rnnfast_sum", default=None)


def current_share() -> Share | None:
    """The share that a forward works on; None where it has the whole batch."""
    return _current.get()


def over_the_batch(sums: Any, count: Any) -> tuple[Any, Any]:
    """Sums over samples, of the whole batch.

    Parameters
    ----------
    sums : array (n,)
        Sums over the samples that a forward works on.
    count : int
        One more, of what is counted.

    Returns
    -------
    tuple
        sums and count themselves where these samples are the whole batch, or nobody adds those of
        other shares.
    """
    add = _sum.get()
    if add is None:
        return sums, count
    *found, total = add([*sums.tolist(), float(count)])
    return checks.beside(sums, np.array(found)), total


@contextmanager
def working_on(share: Share, add: Sum | None = None) -> Iterator[None]:
    """Within the block, samples are this share of a batch, and masks are those of its samples.

    add: makes sums over all shares of sums over this one; None where others do not wait for them.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeDropout
    >>> from rnnfast.layers.shares import Share, working_on
    >>> xs = np.ones((4, 2, 3))
    >>> whole = TimeDropout(0.5, rng=0).forward(xs)
    >>> with working_on(Share(first=1, size=2, total=4)):
    ...     part = TimeDropout(0.5, rng=0).forward(xs[1:3])
    >>> (part == whole[1:3]).all()
    np.True_
    """
    first, size, total = (checks.count("share", n, v, least=0) for n, v in share._asdict().items())
    if first + size > total:
        raise ValueError(f"share: must be samples of a batch of {total}, got {share}")
    token, sums = _current.set(share), _sum.set(add)
    try:
        yield
    finally:
        _current.reset(token)
        _sum.reset(sums)


def counted_targets(loss_layer: Any, ts: Any) -> Any:
    """How many targets of each sample count in the mean of a loss.

    Parameters
    ----------
    loss_layer : layer
        With an `ignore_label` or with `ignore_nan` it may ignore targets.
    ts : array (N, ...)
        Targets: ids, one-hot or real numbers.

    Returns
    -------
    ndarray of int (N,)
    """
    if getattr(loss_layer, "ignore_nan", False):
        return checks.beside(np.empty(0), counted_steps(ts)).sum(axis=1)
    ignored = getattr(loss_layer, "ignore_label", None)
    if ignored is None or ts.ndim != 2:
        return np.ones(len(ts), np.int64) * (ts.shape[1] if ts.ndim > 1 else 1)
    return checks.beside(np.empty(0), ts != ignored).sum(axis=1)


def counted_steps(ts: Any) -> Any:
    """Whether a step has a target that is there: (N, T), of real numbers or NaN (N, T, ...)."""
    there = ~np.isnan(ts)
    return there if ts.ndim == 2 else there.any(axis=2)
