"""Data parallel training: several ranks, each with its share of the samples of every batch.

Every rank has the whole model, and the whole text. Rank r computes the samples that it has in a
batch, at the offsets at which one process would read them. Gradients are summed over all ranks, so
that all make the same update. The weights, the state of the optimiser, the seeds of dropout and the
numbers of np.random are those of rank 0. The results are those of one process, but for rounding.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.distributed.compression import HalfSums
from rnnfast.distributed.exchange import Exchange, Traffic
from rnnfast.distributed.ranks import Ranks, ranks_of
from rnnfast.layers.shares import Share, counted_targets, working_on
from rnnfast.training.arguments import given
from rnnfast.training.gradients import clip_grads, distinct, remove_duplicate
from rnnfast.training.optimizer import at_home
from rnnfast.training.rounds import RoundStep, Sync
from rnnfast.training.schedules import Schedule
from rnnfast.version import __version__


class ParallelStep:
    """One iteration of all ranks: what TrainingStep is for one process.

    Parameters
    ----------
    ranks : Ranks
    model, optimizer, max_grad
        As of TrainingStep.
    check : callable
        Called with the loss and the norm of the whole batch before the update, on a GPU after it,
        so that the GPU need not wait for the host. It may raise.
    tell : callable
        Makes numbers whose sums over all ranks are `heard` after each call.
    traffic : Traffic
        Goes on counting.
    half : HalfSums, optional
        Sums gradients in 16 bits.

    Attributes
    ----------
    heard : list of float
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
        half: HalfSums | None = None,
    ) -> None:
        self.ranks, self.model, self.optimizer = ranks, model, optimizer
        self.max_grad, self._check, self._tell = max_grad, check, tell
        self._exchange = Exchange(ranks, model, traffic, half)
        self._announces = "on_gradients" in signature(model.backward).parameters
        self.heard: list[float] = []

    def __call__(self, xs: Any, ts: Any, lengths: Any = None) -> tuple[float, float | None]:
        """Train on a batch.

        Parameters
        ----------
        xs, ts, lengths
            The whole batch, the same on all ranks.

        Returns
        -------
        loss : float
            The mean over the whole batch.
        norm : float or None
            The norm of the whole gradient before clipping; None without `max_grad`.
        """
        model, share = self.model, self.ranks.share(len(xs))
        weight, rows = self._weight(ts, lengths, share), share.rows
        with working_on(share, self.ranks.sum):
            loss = model.forward(xs[rows], ts[rows], **given(lengths, rows))
        of_share: Any = loss * weight if weight else 0.0  # without targets it may be NaN
        if on_gpu := checks.is_cupy(loss):  # where it stays: the host goes on
            xp = checks.namespace(loss)
            summed = xp.zeros(1) + of_share
            numbers = np.array([0.0, *self._tell()])
            self._exchange.begin(numbers, summed)
        else:
            summed = numbers = np.array([float(of_share), *self._tell()])
            self._exchange.begin(numbers)
        announced = (self._exchange.add,) if self._announces else ()
        model.backward(weight, *announced)
        self._exchange.finish()
        self.heard = numbers[1:].tolist()
        params, grads = remove_duplicate(model.params, model.grads)
        norm = None if self.max_grad is None else clip_grads(grads, self.max_grad)
        if not on_gpu:
            loss, norm = self._checked(summed, norm)
        self.optimizer.update(params, grads)
        if on_gpu:
            self._exchange.wait()
            loss, norm = self._checked(summed, norm)
        return loss, norm

    def _checked(self, summed: Any, norm: Any) -> tuple[float, float | None]:
        """Loss and norm, on the host, after the check."""
        loss, norm = float(summed[0]), None if norm is None else float(norm)
        self._check(loss, norm)
        return loss, norm

    def _weight(self, ts: Any, lengths: Any, share: Share) -> float:
        """The part of the batch's targets that this rank has."""
        if hasattr(self.model, "counted_targets"):
            counts = self.model.counted_targets(ts, lengths)
        else:
            counts = counted_targets(getattr(self.model, "loss_layer", None), ts)
        whole = int(counts.sum())
        if not whole:
            return share.weight
        if (counts != counts[0]).any() and _penalised(self.model):
            raise ValueError(
                "fit: with penalties on activations or past decode all samples must have the same "
                "number of targets on several ranks, some are ignored"
            )
        return int(counts[share.rows].sum()) / whole


class Together:
    """The part of a trainer that agrees with those of other ranks.

    Attributes
    ----------
    ranks : Ranks or None
        None for one process.
    sync : Sync
        How they exchange what they learn.
    traffic : Traffic
        What the exchange of gradients has cost.
    """

    model: Any
    optimizer: Any
    schedule: Any
    seconds: float
    stopped: bool
    max_iter: int | None
    _begun: float
    _progress: Any
    _counting: Callable[[], list[Any]]  # a method: the layers that count masks

    def _join(self, comm: Any, sync: Sync | None) -> None:
        """Train together with the other ranks of a communicator."""
        if sync is not None and not isinstance(sync, Sync):
            raise TypeError(f"sync must be a Sync or None, got {type(sync).__name__}")
        self.ranks: Ranks | None = ranks_of(comm)
        self.sync = sync or Sync()
        self.traffic = Traffic()
        self._share: Share | None = None
        self._stops = False  # this rank is to stop; `stopped`: all have agreed on it
        self._now = 0.0  # rank 0's clock
        if self.ranks is not None:
            self._now = self.ranks.from_first(time.monotonic)
        self._forget()

    def _forget(self) -> None:
        """Begin with a model anew: what the exchange keeps is of the arrays of one."""
        self._velocity: list[Any] | None = None  # of the outer step
        self._half: HalfSums | None = None
        if self.ranks is not None:
            self._half = HalfSums(self.ranks) if self.sync.half else None

    @property
    def leads(self) -> bool:
        """Whether this is the rank that prints and writes files, rank 0; True for one process."""
        return self.ranks is None or self.ranks.leads

    def agree(self) -> bool:
        """Stop all ranks if one is to stop; all of them call it.

        Returns
        -------
        bool
            `stopped`.
        """
        if self.ranks is not None and not self.stopped:
            self.stopped = self.ranks.any(self._stops)
        if self.stopped:
            self._stops = False
        return self.stopped

    def _elapsed(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self._begun if self.ranks is None else self.seconds

    def _parallel_step(self, ranks: Ranks, max_grad: float | None, check: Any) -> Any:
        """The iteration of all ranks, which also tells this trainer what it needs to agree on."""

        def tell() -> list[float]:
            now = time.monotonic() if ranks.leads else 0.0
            return [self._stops, now, now - self._begun if ranks.leads else 0.0]

        def checked(loss: float, norm: float | None) -> None:
            stops, self._now, self.seconds = step.heard
            self.stopped = stops > 0
            self._stops = self._stops and not self.stopped
            check(loss, norm)

        model, optimizer, traffic = self.model, self.optimizer, self.traffic
        step: ParallelStep | RoundStep
        if self.sync.every == 1:
            given = checked, tell, traffic, self._half
            step = ParallelStep(ranks, model, optimizer, max_grad, *given)
        else:
            params = distinct(model.params)
            velocity = self._velocity or [np.zeros_like(param) for param in params]
            self._velocity = list(map(at_home, velocity, params))
            of_rounds = self.sync, self._velocity, lambda: self._round_ends(1)
            step = RoundStep(ranks, model, optimizer, max_grad, checked, tell, traffic, *of_rounds)
        return step

    def _round_ends(self, more: int = 0) -> bool:
        """Whether all ranks have equal weights after the iterations done and some more."""
        now = self._progress
        if self.ranks is None or self.sync.every == 1 or now is None:
            return True
        done: int = now["iter"] + more
        return done % self.sync.every == 0 or done == self.max_iter

    def _check_together(self, *options: Any, **arrays: Any) -> None:
        """ValueError unless all ranks have the same version, model, options and data."""
        if self.ranks is None:
            return
        params = [(param.shape, str(param.dtype)) for param in self.model.params]
        on_gpu = [checks.is_cupy(param) for param in self.model.params[:1]]
        values = {
            "rnnfast's version": __version__,
            "the model": (type(self.model).__name__, getattr(self.model, "sizes", None), params),
            "the model's device": "a GPU" if any(on_gpu) else "the CPU",
            "the optimizer": _described(self.optimizer),
            "the options": (*options, self.sync),
        }
        if isinstance(self.schedule, Schedule):  # another function has no repr of its own
            values["the schedule"] = self.schedule
        for name, array in arrays.items():
            values[name] = None if array is None else _digest(np.asarray(array))
        self.ranks.check_same("fit", values)

    def _begin_together(self, batch_size: int) -> None:
        """Take over what rank 0 has, and this rank's part of the state."""
        ranks = self.ranks
        if ranks is None:
            return
        if batch_size < ranks.size:
            raise ValueError(
                f"fit: batch_size must be at least the number of ranks, {ranks.size}, "
                f"got {batch_size}"
            )
        self._share = ranks.share(batch_size)
        ranks.broadcast(distinct(self.model.params))
        if hasattr(self.optimizer, "load_state_dict"):
            state = ranks.from_first(self.optimizer.state_dict)
            if not ranks.leads:
                self.optimizer.load_state_dict(state)
        counting = self._counting()
        masks = ranks.from_first(lambda: [layer.mask_state() for layer in counting])
        for layer, state in zip(counting, masks, strict=True):
            layer.set_mask_state(*state)
        if hasattr(self.model, "get_state"):
            states = [
                [a[self._share.rows] if a is not None and len(a) == batch_size else a for a in s]
                for s in self.model.get_state()
            ]
            self.model.set_state(states)

    def _share_random(self) -> None:
        """Go on with the numbers that np.random draws on rank 0."""
        if self.ranks is not None:
            np.random.set_state(self.ranks.from_first(np.random.get_state))


def _described(optimizer: Any) -> Any:
    """An object whose repr is the same for equal optimisers of different processes."""
    kind: Any = type(optimizer)
    return kind.__name__ if kind.__repr__ is object.__repr__ else optimizer


def _penalised(model: Any) -> bool:
    """Whether penalties are means over other elements than the targets that count."""
    return bool(getattr(model, "penalty_layers", ())) or getattr(model, "past", None) is not None


def _digest(array: Any) -> str:
    head = f"{array.dtype} {array.shape} "
    return head + hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
