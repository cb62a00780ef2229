"""The training loop: batches, updates, lines, callbacks. Chapters 1, 5 and 6."""

import math
import time
from functools import partial
from typing import NamedTuple

from rnnfast import checks
from rnnfast.training.arguments import given
from rnnfast.training.checkpoints import Checkpointed
from rnnfast.training.gradients import clip_grads, remove_duplicate
from rnnfast.training.stopping import diverged


class Step(NamedTuple):
    """What a trainer tells its callbacks after every iteration; counts start at 1."""

    epoch: int
    iter: int
    max_iter: int
    loss: float  # mean cross entropy of this batch, nats
    grad_norm: float | None  # before clipping; None without max_grad
    perplexity: float | None  # over the iterations since the last one; None between evaluations
    seconds: float  # of training so far, over all fits and resumed runs


class BaseTrainer(Checkpointed):
    """The loop of both trainers.

    `callbacks` are called with a `Step` after every iteration; `write` prints a line at every
    evaluation, by default on stdout.
    """

    measure = "loss"  # what lines and curves show

    def __init__(self, model, optimizer, *, callbacks=(), write=None):
        self.model = model
        self.optimizer = optimizer
        self.callbacks = callbacks
        self.write = write or partial(print, flush=True)
        self.eval_interval = None
        self.current_epoch = 0
        self.max_iter = None  # iterations of an epoch
        self.seconds = 0.0
        self.stopped = False
        self._progress = None  # where the present or last fit is
        self._restored = False  # the next fit goes on from there

    def stop(self):
        """End `fit` after the current iteration; a callback or a signal handler may call it."""
        self.stopped = True

    def iterations(self, max_iter):
        """How many iterations of `max_iter` an epoch are done, over all fits."""
        return self.current_epoch * max_iter + (self._progress or {"iter": 0})["iter"]

    @property
    def between_epochs(self):
        """Whether no epoch is under way, so that a resumed fit may take batches of other sizes."""
        now = self._progress
        return now is None or now["iter"] in (0, self.max_iter)

    def _begin(self, size, max_iter, max_epoch, max_grad, eval_interval):
        """Check what both fits take; size names what a resumed fit has to agree on.

        -> whether this fit starts with its first batch rather than where a checkpoint is.
        """
        checks.count("fit", "max_epoch", max_epoch, least=0)
        if eval_interval is not None:
            checks.count("fit", "eval_interval", eval_interval)
        if max_grad is not None and not checks.number("fit", "max_grad", max_grad) > 0:
            raise ValueError(f"fit: max_grad must be positive or None, got {max_grad}")
        if self._restored:
            now = self._progress
            fresh = now["size"] != size
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
        self.max_iter = max_iter
        self.eval_interval = eval_interval
        self.stopped = False
        return fresh

    def _resize(self, old, new):
        """A resumed fit has batches of other sizes: ValueError unless an epoch begins."""
        batches = ("batch_size", "time_size")
        same = all(new[name] == old[name] for name in new if name not in batches)
        if not (same and self.between_epochs):
            raise ValueError(
                f"fit: the checkpoint was made with {old}, got {new}; the sizes of a batch may "
                f"change where an epoch begins, it is after iteration {self._progress['iter']}"
            )

    def _loop(self, batch, max_epoch, max_grad, values):
        """Train on batch(i); `values` collects what is evaluated."""
        now, max_iter = self._progress, self.max_iter
        start = time.monotonic() - self.seconds
        while now["epoch"] < max_epoch:
            self._begin_epoch()
            while now["iter"] < max_iter:
                i = now["iter"]
                loss, norm = self._update(max_grad, *batch(i))
                now["iter"] += 1
                now["total"] += loss
                now["count"] += 1
                self.seconds = time.monotonic() - start
                ppl = None
                if self.eval_interval is not None and i % self.eval_interval == 0:
                    value = self._value(now["total"] / now["count"])
                    now["total"], now["count"] = 0.0, 0
                    values.append(value)
                    ppl = value if self.measure == "perplexity" else None
                    self.write(
                        f"| epoch {self.current_epoch + 1} | iter {i + 1} / {max_iter} "
                        f"| time {int(self.seconds)}[s] | {self.measure} {value:.2f}"
                    )
                step = Step(self.current_epoch + 1, i + 1, max_iter, loss, norm, ppl, self.seconds)
                for callback in self.callbacks:
                    callback(step)
                if self.stopped:
                    return
            now["epoch"] += 1
            now["iter"] = 0
            self.current_epoch += 1
        self._progress = None

    def _begin_epoch(self):
        pass

    def _curve(self, values):
        """Epochs, for the x axis, and the values of their evaluations; floats of the host."""
        if not values:
            return [], []
        at = [(i + 1) / self.max_iter for i in range(0, self.max_iter, self.eval_interval)]
        xs = [k // len(at) + at[k % len(at)] for k in range(len(values))]
        return xs, [float(value) for value in values]

    def _value(self, loss):
        return loss

    def _update(self, max_grad, xs, ts, lengths=None):
        """One iteration -> its loss and gradient norm; RuntimeError where one is not finite.

        On the CPU that is found before anything is updated; a GPU would have to be waited for.
        """
        loss = self.model.forward(xs, ts, **given(lengths))
        if not checks.is_cupy(loss):
            self._check_finite(loss, None)
        self.model.backward()
        params, grads = remove_duplicate(self.model.params, self.model.grads)
        norm = None if max_grad is None else clip_grads(grads, max_grad)
        if not checks.is_cupy(norm):
            self._check_finite(loss, norm)
        self.optimizer.update(params, grads)
        loss, norm = float(loss), None if norm is None else float(norm)  # both of the host
        self._check_finite(loss, norm)
        return loss, norm

    def _check_finite(self, loss, norm):
        if not (math.isfinite(loss) and math.isfinite(norm or 0.0)):
            raise diverged(self.current_epoch + 1, self._progress["iter"] + 1, loss, norm)
