"""Learning-rate schedules: factors of the optimiser's learning rate over the epochs.

A schedule is a function of the number of epochs that are done, 2.5 in the middle of the third one.
A trainer asks it before every iteration and multiplies `lr` by it for that iteration only. So the
optimiser keeps its learning rate, `Plateau` and a resumed run may change it, and a resumed run
continues the schedule exactly. Any other function from such a number to a factor will do, too.

    WarmUp(1).then(Cosine(9))          one after the other
    WarmUp(1) * StepDecay(10, 0.5)     both at the same time
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from rnnfast import checks


class Schedule:
    """The base of the schedules.

    Attributes
    ----------
    epochs : float
        When it ends, that is, no longer changes; inf if it never does.
    """

    epochs: float = math.inf

    def __call__(self, epoch: float) -> float:
        """Return the factor of the learning rate.

        Parameters
        ----------
        epoch : float
            The epochs that are done, from 0 up.

        Returns
        -------
        float
        """
        raise NotImplementedError

    def then(self, other: "Schedule") -> "Schedule":
        """Make the schedule that goes on with another one when this one has ended.

        Parameters
        ----------
        other : Schedule
            It begins at its own epoch 0.

        Raises
        ------
        TypeError, ValueError
            The other one is no schedule, or this one never ends.
        """
        return _Chain(self, _schedule("then", other))

    def __mul__(self, other: "Schedule") -> "Schedule":
        return _Product(self, _schedule("*", other))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rise in a straight line from a part of the learning rate to the whole one.

    Parameters
    ----------
    epochs : float
        How long, above 0. It may be less than one epoch.
    start : float
        The factor at the beginning, in [0, 1].

    Examples
    --------
    >>> from rnnfast import optim
    >>> warm_up = optim.WarmUp(2, start=0.5)
    >>> [warm_up(epoch) for epoch in (0, 1, 2, 3)]
    [0.5, 0.75, 1.0, 1.0]
    """

    epochs: float
    start: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "epochs")
        _share(self, "start")

    def __call__(self, epoch: float) -> float:
        """Return the factor; see `Schedule`."""
        return self.start + (1.0 - self.start) * min(epoch / self.epochs, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Fall along half a cosine, slowly at the beginning and at the end.

    Parameters
    ----------
    epochs : float
        How long, above 0.
    last : float
        The factor at the end, in [0, 1].

    References
    ----------
    I. Loshchilov, F. Hutter, SGDR, 2016, https://arxiv.org/abs/1608.03983 (without restarts).

    Examples
    --------
    >>> from rnnfast import optim
    >>> [round(optim.Cosine(4)(epoch), 3) for epoch in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    epochs: float
    last: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "epochs")
        _share(self, "last")

    def __call__(self, epoch: float) -> float:
        """Return the factor; see `Schedule`."""
        fallen = (1.0 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2.0
        return self.last + (1.0 - self.last) * fallen


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiply the learning rate by a factor whenever some epochs are done.

    Parameters
    ----------
    every : float
        Epochs between two steps, above 0.
    factor : float
        In [0, 1].

    Examples
    --------
    >>> from rnnfast import optim
    >>> [optim.StepDecay(2, 0.5)(epoch) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    every: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "every")
        _share(self, "factor")

    def __call__(self, epoch: float) -> float:
        """Return the factor; see `Schedule`."""
        return float(self.factor ** math.floor(epoch / self.every))


class _Chain(Schedule):
    """One schedule, and when it has ended another one."""

    def __init__(self, first: Schedule, second: Schedule) -> None:
        if first.epochs == math.inf:
            raise ValueError(f"then: the first schedule must end, got {first!r}")
        self.first, self.second = first, second
        self.epochs = first.epochs + second.epochs

    def __repr__(self) -> str:
        first = f"({self.first!r})" if isinstance(self.first, _Product) else repr(self.first)
        return f"{first}.then({self.second!r})"

    def __call__(self, epoch: float) -> float:
        """Return the factor; see `Schedule`."""
        begins = self.first.epochs
        return self.first(epoch) if epoch < begins else self.second(epoch - begins)


class _Product(Schedule):
    """Two schedules at the same time."""

    def __init__(self, one: Schedule, other: Schedule) -> None:
        self.one, self.other = one, other
        self.epochs = max(one.epochs, other.epochs)

    def __repr__(self) -> str:
        return f"{self.one!r} * {self.other!r}"

    def __call__(self, epoch: float) -> float:
        """Return the factor; see `Schedule`."""
        return self.one(epoch) * self.other(epoch)


def checked_schedule(owner: str, schedule: Any, optimizer: Any) -> Callable[[float], float] | None:
    """The argument `schedule` of a trainer: a function, for an optimiser that has a rate."""
    if schedule is None:
        return None
    if not callable(schedule):
        kind = type(schedule).__name__
        raise TypeError(f"{owner}: schedule must be a function of the epoch or None, got {kind}")
    if not hasattr(optimizer, "lr"):
        kind = type(optimizer).__name__
        raise TypeError(f"{owner}: a schedule needs an optimizer with lr, got a {kind} without")
    return cast(Callable[[float], float], schedule)


def factor_at(schedule: Callable[[float], float], epoch: float) -> float:
    """What a schedule gives at an epoch, checked."""
    factor = checks.number("schedule", f"the factor of epoch {epoch:g}", schedule(epoch))
    if not 0 <= factor < math.inf:
        raise ValueError(
            f"schedule: the factor of epoch {epoch:g} must be finite, from 0 up, got {factor}"
        )
    return factor


def _schedule(owner: str, other: Any) -> Schedule:
    """The second of two schedules."""
    if not isinstance(other, Schedule):
        kind = type(other).__name__
        raise TypeError(f"{owner}: the second must be a schedule of rnnfast.optim, got {kind}")
    return other


def _positive(schedule: Schedule, name: str) -> None:
    """Check a number of epochs."""
    owner, value = type(schedule).__name__, getattr(schedule, name)
    if not 0 < checks.number(owner, name, value) < math.inf:
        raise ValueError(f"{owner}: {name} must be finite, above 0, got {value}")


def _share(schedule: Schedule, name: str) -> None:
    """Check a factor."""
    owner, value = type(schedule).__name__, getattr(schedule, name)
    if not 0 <= checks.number(owner, name, value) <= 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1], got {value}")
