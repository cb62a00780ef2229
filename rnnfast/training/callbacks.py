"""What watches a training run: progress bar, log, learning rate, checkpoints, divergence.

A trainer calls each of its `callbacks` with a Step after every iteration.
"""

import json
import math
import sys
import time

from rnnfast import checks
from rnnfast.training.evaluation import perplexity
from rnnfast.training.stopping import diverged


class Plateau:
    """Divides the learning rate by `factor` whenever the validation perplexity did not improve.

    The rule of the book's ch06/train_better_rnnlm.py; `best` is the lowest perplexity so far.
    """

    def __init__(self, optimizer, factor=4.0):
        if not checks.number("Plateau", "factor", factor) >= 1:
            raise ValueError(f"Plateau: factor must be from 1 up, got {factor}")
        self.optimizer = optimizer
        self.factor = factor
        self.best = math.inf

    def update(self, ppl):
        """-> True if `ppl` is the best so far: the weights are worth saving."""
        if ppl < self.best:
            self.best = ppl
            return True
        self.optimizer.lr /= self.factor
        return False


class Checkpoint:
    """A callback that saves a trainer's checkpoint every `seconds` and at the end of an epoch.

    extra: called at every save, gives the `extra` of save_checkpoint; vocabulary: see there.
    every_epoch: whether it saves at the last iteration of each epoch.
    """

    def __init__(self, trainer, path, seconds=300.0, extra=lambda: None, *, vocabulary=None):
        self.trainer = trainer
        self.path = path
        self.seconds = seconds
        self.extra = extra
        self.vocabulary = vocabulary
        self.every_epoch = True
        self._last = time.monotonic()

    def save(self):
        self.trainer.save_checkpoint(self.path, self.extra(), vocabulary=self.vocabulary)
        self._last = time.monotonic()

    def step(self, step):
        ends = self.every_epoch and step.iter == step.max_iter
        if ends or time.monotonic() - self._last >= self.seconds:
            self.save()


class ProgressBar:
    """A tqdm bar on stderr, silent where that is not a terminal; `write` prints beside it."""

    def __init__(self, total, done=0):
        from tqdm import tqdm

        options = {"file": sys.stderr, "disable": None, "unit": "it", "leave": False}
        self.bar = tqdm(total=total, initial=done, **options)

    def step(self, step):
        if step.perplexity is not None:
            self.bar.set_postfix(perplexity=f"{step.perplexity:.2f}", refresh=False)
        self.bar.update()

    def write(self, line, file=None):
        """Print a line, on stdout if no other file is named."""
        file = file or sys.stdout
        self.bar.write(line, file=file)
        file.flush()

    def warn(self, message, *where):
        """A `warnings.showwarning`."""
        self.write(f"rnnfast: warning: {message}", sys.stderr)

    def close(self):
        self.bar.close()


class JsonlLog:
    """One JSON object a line in a file that is open for unbuffered writing."""

    def __init__(self, file):
        self.file = file

    def write(self, **fields):
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        line = text.encode(errors="backslashreplace") + b"\n"
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            error.filename = self.file.name  # that the disk is full is said without a name
            raise

    def step(self, step):
        if step.perplexity is not None:
            self.write(event="train", **step._asdict())


def check_divergence(step):
    """RuntimeError as soon as the perplexity or the gradient is no finite number."""
    if not (math.isfinite(perplexity(step.loss)) and math.isfinite(step.grad_norm or 0.0)):
        raise diverged(step.epoch, step.iter, step.loss, step.grad_norm)


class Watch:
    """A callback that knows how the loss of a language model of `vocab_size` tokens goes.

    `loss` is its running mean over some ten iterations, `lowest` the lowest of these. It has
    `risen` where it is half a nat above the lowest and above that of a blind guess, which no text
    explains. RuntimeError after `patience` such iterations, and where check_divergence has one.
    """

    RISE = 0.5

    def __init__(self, vocab_size, patience=100):
        self.blind = math.log(vocab_size)
        self.patience = patience
        self.loss = self.lowest = math.inf
        self._iterations = 0  # since it has risen

    @property
    def risen(self):
        return self._iterations > 0

    def step(self, step):
        check_divergence(step)
        self.loss = step.loss if self.loss == math.inf else 0.9 * self.loss + 0.1 * step.loss
        self.lowest = min(self.lowest, self.loss)
        high = self.loss > max(self.blind, self.lowest + self.RISE)
        self._iterations = self._iterations + 1 if high else 0
        if self._iterations >= self.patience:
            raise diverged(step.epoch, step.iter, step.loss, step.grad_norm)
