"""Rounds of local updates: ranks that exchange weights once in many iterations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.distributed.compression import HalfSums
from rnnfast.distributed.exchange import Traffic, sum_arrays
from rnnfast.distributed.ranks import Ranks
from rnnfast.layers.shares import working_on
from rnnfast.training.arguments import given
from rnnfast.training.gradients import clip_grads, distinct, remove_duplicate


@dataclass(frozen=True)
class Sync:
    """How ranks that train together exchange what they have learned.

    Parameters
    ----------
    every : int
        1 sums the gradients in every iteration: the numbers are those of one process. More lets
        each rank make so many updates of its own, with its share of each batch, before they meet.
    lr, momentum : float
        Of the outer step with which they meet, with `every` above 1.
    half : bool
        Send 16 bits of each number, with error feedback.

    Notes
    -----
    With `every` above 1, the weights p of a round's beginning and the p_r of the ranks at its end,
    of which each counts as much as its share of the batch::

        d  = p - mean of p_r
        v  = momentum v + d
        p -= lr (d + momentum v)            Nesterov's momentum

    The defaults, lr=1 and momentum=0, take the mean: local SGD. lr=0.7 and momentum=0.9 are
    DiLoCo's, for long rounds of AdamW: an outer step is then as long as 7 rounds in one direction,
    too long for the learning rates of the book's SGD. An epoch ends with a round. Arrays of the
    optimiser are averaged, too. Between two meetings ranks know nothing of each other: the loss of
    a `Step` is the mean of the last complete round, and training stops, and saves checkpoints,
    where rounds end. What error feedback keeps back is not in checkpoints.

    References
    ----------
    Douillard et al. 2023, https://arxiv.org/abs/2311.08105 (DiLoCo); Stich 2018,
    https://arxiv.org/abs/1805.09767 (local SGD); Seide et al. 2014 (16 bits and less).
    """

    every: int = 1
    lr: float = 1.0
    momentum: float = 0.0
    half: bool = False

    def __post_init__(self) -> None:
        checks.count("Sync", "every", self.every)
        if not 0 < checks.number("Sync", "lr", self.lr) < math.inf:
            raise ValueError(f"Sync: lr must be finite, above 0, got {self.lr}")
        if not 0 <= checks.number("Sync", "momentum", self.momentum) < 1:
            raise ValueError(f"Sync: momentum must be in [0, 1), got {self.momentum}")
        checks.flag("Sync", "half", self.half)


class RoundStep:
    """One iteration of this rank alone, and at the end of a round the meeting with the others.

    Parameters
    ----------
    ranks, model, optimizer, max_grad, check, tell, traffic
        As of ParallelStep.
    sync : Sync
    velocity : list of array
        v, one for each distinct parameter. It is changed in place.
    ends : callable
        Whether this iteration is the last one of a round.
    """

    def __init__(
        self,
        ranks: Ranks,
        model: Any,
        optimizer: Any,
        max_grad: float | None,
        check: Callable[[Any, Any], Any],
        tell: Callable[[], Sequence[float]],
        traffic: Traffic,
        sync: Sync,
        velocity: list[Any],
        ends: Callable[[], bool],
    ) -> None:
        self.ranks, self.model, self.optimizer = ranks, model, optimizer
        self.max_grad, self._check, self._tell = max_grad, check, tell
        self._traffic, self._sync, self._ends = traffic, sync, ends
        self._velocity = velocity
        self._params = distinct(model.params)
        self._start = [param.copy() for param in self._params]
        self._half = HalfSums(ranks) if sync.half else None
        self._losses: Any = 0.0  # of the round, their sum
        self._norms: Any = 0.0
        self._count = 0
        self._known: tuple[float, float | None] | None = None  # of the last complete round
        self.heard: list[float] = []

    def __call__(self, xs: Any, ts: Any, lengths: Any = None) -> tuple[float, float | None]:
        """Train on this rank's share of a batch.

        Parameters
        ----------
        xs, ts, lengths
            The whole batch, the same on all ranks.

        Returns
        -------
        loss : float
            The mean of the last complete round of all ranks, the same on all.
        norm : float or None
            Likewise.
        """
        share = self.ranks.share(len(xs))
        rows = share.rows
        with working_on(share):
            loss = self.model.forward(xs[rows], ts[rows], **given(lengths, rows))
        self.model.backward()
        params, grads = remove_duplicate(self.model.params, self.model.grads)
        norm = 0.0 if self.max_grad is None else clip_grads(grads, self.max_grad)
        self.optimizer.update(params, grads)
        self._losses = self._losses + loss  # on a GPU all of this stays there
        self._norms = self._norms + norm
        self._count += 1
        self.ranks.heart.beat()
        if self._known is None or self._ends():
            self._meet(share.weight, self._ends())
        known = self._known
        assert known is not None
        return known

    def _meet(self, weight: float, ends: bool) -> None:
        """Exchange the losses and, at the end of a round, the weights.

        If a loss is not finite, the weights are those of the beginning of the round.
        """
        share = weight / self._count
        means = share * float(self._losses), share * float(self._norms)
        found = self.ranks.sum([*means, *self._tell()])
        stops, *rest = found[2:]
        self.heard = [stops if ends else 0.0, *rest]  # weights are equal where a round ends
        self._known = found[0], None if self.max_grad is None else found[1]
        if ends:
            self._losses, self._norms, self._count = 0.0, 0.0, 0
        finite = bool(np.isfinite(found[:2]).all())
        if ends and finite:
            self._outer_step(weight)
        elif not finite:
            for param, old in zip(self._params, self._start, strict=True):
                param[...] = old
        self._check(*self._known)

    def _outer_step(self, weight: float) -> None:
        lr, momentum = self._sync.lr, self._sync.momentum
        pairs = list(zip(self._params, self._start, strict=True))
        moved = [weight * (old - param) for param, old in pairs]
        names = getattr(self.optimizer, "arrays", ())
        arrays = [getattr(self.optimizer, name) or () for name in names]
        averaged = [array for each in arrays for array in each]
        for array in averaged:
            array *= weight
        if self._half is None:
            sum_arrays(self.ranks, moved + averaged, self._traffic)
        else:
            sum_arrays(self.ranks, moved, self._traffic, self._half)
            sum_arrays(self.ranks, averaged, self._traffic)
        for (param, old), v, d in zip(pairs, self._velocity, moved, strict=True):
            v *= momentum
            v += d
            old -= lr * (d + momentum * v)
            param[...] = old
