"""The training loop: batches, updates, lines, callbacks. Chapters 1, 5 and 6."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from rnnfast import checks
from rnnfast.training.arguments import checked_callbacks
from rnnfast.training.checkpoints import Checkpointed
from rnnfast.training.parallel import Together
from rnnfast.training.rounds import Sync
from rnnfast.training.schedules import checked_schedule, factor_at
from rnnfast.training.step import TrainingStep
from rnnfast.training.stopping import diverged
from rnnfast.training.validation import Measure, Validating
from rnnfast.typing import Model, Optimizer


class Step(NamedTuple):
    """One iteration, as a trainer reports it to its callbacks; counts start at 1.

    Attributes
    ----------
    epoch : int
        The epoch.
    iter, max_iter : int
        The iteration of the epoch, and their number.
    loss : float
        Mean cross entropy of the batch, nats.
    grad_norm : float or None
        Norm of all gradients before clipping; None without `max_grad`.
    perplexity : float or None
        Over the iterations since the last evaluation; None between evaluations.
    seconds : float
        Training time, over all fits and resumed runs, without validation.
    lr : float or None
        The learning rate of the update; None if the optimiser has no `lr`.
    valid : float or None
        The measure on the validation data, after the last iteration of an epoch; None at the
        others, and without `valid`.
    """

    epoch: int
    iter: int
    max_iter: int
    loss: float
    grad_norm: float | None
    perplexity: float | None
    seconds: float
    lr: float | None = None
    valid: float | None = None


class BaseTrainer(Together, Validating, Checkpointed):
    """The loop of both trainers.

    `callbacks` are called with a `Step` after every iteration; `write` prints a line at every
    evaluation, by default on stdout. With several ranks (`comm`) each of them calls its callbacks,
    with the same steps, and rank 0 alone prints lines.
    """

    measure = "loss"  # of lines and curves
    optimizer: Optimizer

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        *,
        callbacks: Sequence[Callable[[Step], Any]] = (),
        write: Callable[[str], Any] | None = None,
        comm: Any = None,
        sync: Sync | None = None,
        schedule: Callable[[float], float] | None = None,
    ) -> None:
        owner = type(self).__name__
        if isinstance(optimizer, type) or not hasattr(optimizer, "update"):
            kind = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else None
            got = kind or type(optimizer).__name__
            raise TypeError(f"{owner}: optimizer must have an update, as SGD(0.1) has, got {got}")
        self.model = model
        self.optimizer = optimizer
        self.schedule = checked_schedule(owner, schedule, optimizer)
        self.callbacks = checked_callbacks(owner, callbacks)
        self.write: Callable[[str], Any] = write or partial(print, flush=True)
        self.eval_interval: int | None = None
        self.current_epoch = 0
        self.eval_epochs: list[float] = []
        self.valid_list: list[float] = []
        self.max_iter: int | None = None  # iterations of an epoch
        self.seconds = 0.0
        self.stopped = False
        self._progress = None
        self._restored = False
        self._step: Any = None  # a TrainingStep or a ParallelStep
        self._begun = 0.0  # when training would have begun without interruptions
        self._valid: Measure | None = None
        self._patience: int | None = None
        self._best = None
        self._join(comm, sync)

    def __repr__(self) -> str:
        kind, model = type(self).__name__, type(self.model).__name__
        return f"{kind}({model}, {self.optimizer!r}, epoch {self.current_epoch})"

    def report_to(
        self,
        callbacks: Sequence[Callable[[Step], Any]],
        write: Callable[[str], Any] | None = None,
    ) -> None:
        """Replace the callbacks and `write`: what needs the trainer itself is made after it.

        Parameters
        ----------
        callbacks, write
            As in the constructor; without `write` it stays as it is.
        """
        self.callbacks = checked_callbacks(type(self).__name__, callbacks)
        self.write = write or self.write

    def go_on_with(self, model: Model, optimizer: Optimizer) -> None:
        """Train another model with another optimiser, from the next `fit` on.

        Epochs, iterations and evaluations are counted on.
        """
        self.model, self.optimizer = model, optimizer
        self._forget()

    def stop(self) -> None:
        """End `fit` after the current iteration.

        A callback or a signal handler may call it; between two fits it ends the next one after
        one iteration. With several ranks one of them is enough; all stop after the next iteration.
        """
        if self.ranks is None:
            self.stopped = True
        self._stops = True

    def iterations(self, max_iter: int) -> int:
        """Count the iterations of all fits.

        Parameters
        ----------
        max_iter : int
            Iterations of an epoch.

        Returns
        -------
        int
            Iterations of the finished epochs and of the present one.
        """
        done: int = self.current_epoch * max_iter + (self._progress or {"iter": 0})["iter"]
        return done

    @property
    def between_epochs(self) -> bool:
        """Whether no epoch is in progress, so that a resumed fit may have other batch sizes."""
        now = self._progress
        return now is None or now["iter"] in (0, self.max_iter)

    def _begin(
        self,
        size: dict[str, int],
        max_iter: int,
        max_epoch: int,
        max_grad: float | None,
        eval_interval: int | None,
        valid: Measure | None = None,
        patience: int | None = None,
    ) -> bool:
        """Check the common arguments of both fits; a resumed fit must have the same `size`.

        Returns whether this fit starts with its first batch, not at the position of a checkpoint.
        """
        checks.count("fit", "max_epoch", max_epoch, least=0)
        if eval_interval is not None:
            eval_interval = checks.count("fit", "eval_interval", eval_interval)
        if max_grad is not None and not checks.number("fit", "max_grad", max_grad) > 0:
            raise ValueError(f"fit: max_grad must be positive or None, got {max_grad}")
        if self._restored:
            now = self._progress
            fresh: bool = now["size"] != size
            if fresh:
                self._resize(now["size"], size)
                if now["iter"]:  # the epoch has ended
                    now["epoch"] += 1
                    now["iter"] = 0
                    self.current_epoch += 1
            self._restored = False
        else:
            self._progress = {"epoch": 0, "iter": 0, "total": 0.0, "count": 0}
            fresh = True
        self._progress["size"] = size
        self._progress.setdefault("valid", len(self.valid_list))  # validations before this fit
        self._valid, self._patience = valid, patience
        if patience is None or not self.valid_list[self._progress["valid"] :]:
            self._best = None
        self.max_iter = max_iter
        self.eval_interval = eval_interval
        self.stopped = self.ranks is None and self._stops  # a signal came between two fits
        return fresh

    def _resize(self, old: dict[str, int], new: dict[str, int]) -> None:
        """Other sizes of batches in a resumed fit are a ValueError, unless an epoch begins."""
        batches = ("batch_size", "time_size")
        same = all(new[name] == old[name] for name in new if name not in batches)
        if not (same and self.between_epochs):
            raise ValueError(
                f"fit: the checkpoint was made with {old}, got {new}; the sizes of a batch may "
                f"change where an epoch begins, it is after iteration {self._progress['iter']}"
            )

    def _loop(
        self,
        batch: Callable[[int], tuple[Any, ...]],
        max_iter: int,
        max_epoch: int,
        max_grad: float | None,
        values: list[float],
    ) -> None:
        """Train on batch(i) for i below max_iter; append the evaluations to `values`."""
        now = self._progress
        self._begun = time.monotonic() - self.seconds
        try:
            while now["epoch"] < max_epoch:
                self._begin_epoch()
                while now["iter"] < max_iter:
                    i = now["iter"]
                    loss, norm, lr = self._scaled_update(max_grad, batch(i))
                    now["iter"] += 1
                    now["total"] += loss
                    now["count"] += 1
                    self.seconds = self._elapsed()
                    ppl = None
                    if self.eval_interval is not None and i % self.eval_interval == 0:
                        value = self._value(now["total"] / now["count"])
                        now["total"], now["count"] = 0.0, 0
                        values.append(value)
                        self.eval_epochs.append(self.current_epoch + (i + 1) / max_iter)
                        ppl = value if self.measure == "perplexity" else None
                        if self.leads:
                            self.write(
                                f"| epoch {self.current_epoch + 1} | iter {i + 1} / {max_iter} "
                                f"| time {int(self.seconds)}[s] | {self.measure} {value:.2f}"
                            )
                    valid = self._validated() if now["iter"] == max_iter else None
                    epoch, seconds = self.current_epoch + 1, self.seconds
                    step = Step(epoch, i + 1, max_iter, loss, norm, ppl, seconds, lr, valid)
                    for callback in self.callbacks:
                        callback(step)
                    if self.stopped:
                        self._stops = False
                        return
                now["epoch"] += 1
                now["iter"] = 0
                self.current_epoch += 1
                if self._worn_out():
                    break
            self._take_best()
            self._progress = None
        finally:
            self._step = None  # with the memory of its graph

    def _begin_epoch(self) -> None:
        """Before each epoch, and before the rest of an epoch that is resumed."""
        self._share_random()

    def _curve(self, values: list[float]) -> tuple[list[float], list[float]]:
        """Epochs, for the x axis, and the values of their evaluations as Python floats."""
        known = values[len(values) - len(self.eval_epochs) :]  # an older checkpoint has no epochs
        return self.eval_epochs, [float(value) for value in known]

    def _value(self, loss: float) -> float:
        """The value of an evaluation, of the mean loss."""
        return loss

    def _factor(self) -> float | None:
        """What multiplies the learning rate of the next iteration; None: nothing does."""
        if self.schedule is None:
            return None
        done = self.current_epoch + self._progress["iter"] / (self.max_iter or 1)
        return factor_at(self.schedule, done)

    def _scaled_update(
        self, max_grad: float | None, inputs: tuple[Any, ...]
    ) -> tuple[float, float | None, float | None]:
        """One iteration with its own learning rate: its loss, gradient norm, and that rate.

        Without a factor the optimiser needs no `lr`, and may change it while it updates.
        """
        factor, lr = self._factor(), getattr(self.optimizer, "lr", None)
        if factor is None or lr is None:
            return *self._update(max_grad, *inputs), lr
        self.optimizer.lr = lr * factor
        try:
            return *self._update(max_grad, *inputs), lr * factor
        finally:
            self.optimizer.lr = lr

    def _update(
        self, max_grad: float | None, xs: Any, ts: Any, lengths: Any = None
    ) -> tuple[float, float | None]:
        """One iteration: its loss and gradient norm; RuntimeError if one is not finite.

        On the CPU the check precedes the update; on a GPU that would synchronize with the host.
        """
        step = self._step
        if step is None or step.model is not self.model or step.optimizer is not self.optimizer:
            check = self._check_finite
            if self.ranks is None:
                step = TrainingStep(self.model, self.optimizer, max_grad, check=check)
            else:
                step = self._parallel_step(self.ranks, max_grad, check)
            self._step = step
        loss, norm = step(xs, ts, lengths)
        loss, norm = float(loss), None if norm is None else float(norm)  # on the host
        self._check_finite(loss, norm)
        return loss, norm

    def _check_finite(self, loss: Any, norm: Any) -> None:
        """Diverged unless loss and norm are finite."""
        if not (math.isfinite(loss) and math.isfinite(norm or 0.0)):
            raise diverged(self.current_epoch + 1, self._progress["iter"] + 1, loss, norm)
