"""Callbacks of a training run: progress bar, log, learning rate, checkpoints, divergence.

A trainer calls each of its `callbacks` with a Step after every iteration.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from typing import IO, Any

from rnnfast import checks
from rnnfast.io.arrays import plain
from rnnfast.io.bars import bar
from rnnfast.training.checkpoints import Checkpointed
from rnnfast.training.evaluation import perplexity
from rnnfast.training.loop import Step
from rnnfast.training.stopping import diverged
from rnnfast.typing import Optimizer


class Plateau:
    """Reduce the learning rate when the validation perplexity stops improving.

    Parameters
    ----------
    optimizer : Optimizer
        Its `lr` is divided by `factor`.
    factor : float
        From 1 up.
    best : float
        The lowest perplexity so far, also an attribute. A resumed run gives that of its beginning.

    References
    ----------
    Deep Learning from Scratch 2, ch06/train_better_rnnlm.py.

    Examples
    --------
    >>> from rnnfast import optim, trainer
    >>> plateau = trainer.Plateau(optim.SGD(lr=20.0), factor=4.0)
    >>> plateau.update(150.0), plateau.update(160.0)
    (True, False)
    >>> plateau.optimizer
    SGD(lr=5.0)
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 4.0, *, best: float = math.inf
    ) -> None:
        if not checks.number("Plateau", "factor", factor) >= 1:
            raise ValueError(f"Plateau: factor must be from 1 up, got {factor}")
        self.optimizer = optimizer
        self.factor = factor
        self.best = checks.number("Plateau", "best", best)

    def update(self, ppl: float) -> bool:
        """Take the perplexity of an epoch; reduce the learning rate unless it is the best so far.

        Parameters
        ----------
        ppl : float
            Validation perplexity.

        Returns
        -------
        bool
            True if `ppl` is the best so far: the weights are worth saving.
        """
        if ppl < self.best:
            self.best = ppl
            return True
        self.optimizer.lr /= self.factor
        return False


class Checkpoint:
    """Save a trainer's checkpoint at intervals and at the end of each epoch.

    Give its method `step` to the trainer as a callback.

    Parameters
    ----------
    trainer : Trainer or RnnlmTrainer
        The trainer to save.
    path : path-like
        The file, replaced at every save.
    seconds : float
        Time between two saves.
    extra : callable
        Called at every save; returns the `extra` of `save_checkpoint`.
    vocabulary : optional
        As in `save_checkpoint`.

    Attributes
    ----------
    every_epoch : bool
        Whether to save at the last iteration of each epoch, True by default.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from rnnfast import models, optim, trainer
    >>> model = models.Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> train = trainer.RnnlmTrainer(model, optim.SGD(1.0))
    >>> ids = np.arange(701) % 10
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(train, os.path.join(folder, "checkpoint.safetensors"))
    ...     train.callbacks = [checkpoint.step]
    ...     train.fit(ids[:-1], ids[1:], max_epoch=1, eval_interval=None)
    ...     os.listdir(folder)
    ['checkpoint.safetensors']
    """

    def __init__(
        self,
        trainer: Checkpointed,
        path: str | os.PathLike[str],
        seconds: float = 300.0,
        extra: Callable[[], Any] = lambda: None,
        *,
        vocabulary: Any = None,
    ) -> None:
        self.trainer = trainer
        self.path = path
        self.seconds = seconds
        self.extra = extra
        self.vocabulary = vocabulary
        self.every_epoch = True
        self._last = trainer.clock()

    def save(self) -> None:
        """Save a checkpoint now."""
        self.trainer.save_checkpoint(self.path, self.extra(), vocabulary=self.vocabulary)
        self._last = self.trainer.clock()

    def step(self, step: Step) -> None:
        """Save a checkpoint if it is time, and ranks have equal weights; a callback."""
        ends = self.every_epoch and step.iter == step.max_iter
        due = ends or self.trainer.clock() - self._last >= self.seconds
        if due and self.trainer.equal:
            self.save()


class ProgressBar:
    """A tqdm progress bar on stderr, disabled unless stderr is a terminal.

    Give its method `step` to a trainer as a callback, and `write` as its `write`.

    Parameters
    ----------
    total : int
        Number of iterations.
    done : int
        Number of iterations that are already done.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.bar = bar(total=total, initial=done, unit="it")

    def step(self, step: Step) -> None:
        """Advance by one iteration; a callback."""
        if step.perplexity is not None:
            self.bar.set_postfix(perplexity=f"{step.perplexity:.2f}", refresh=False)
        self.bar.update()

    def show(self, done: int, total: int) -> None:
        """Advance to a number of batches, of so many; the `progress` of an evaluation."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def describe(self, text: str) -> None:
        """Show a text before the bar."""
        self.bar.set_description(text, refresh=False)

    def write(self, line: str, file: IO[str] | None = None) -> None:
        """Print a line above the bar, on stdout unless another file is given."""
        out: IO[str] = file or sys.stdout
        self.bar.write(line, file=out)
        out.flush()

    def warn(self, message: Any, *where: Any) -> None:
        """Print a warning above the bar; a replacement for `warnings.showwarning`."""
        self.write(f"rnnfast: warning: {message}", sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


class JsonlLog:
    """A log with one JSON object per line.

    Give its method `step` to a trainer as a callback: it logs every evaluation.

    Parameters
    ----------
    file : binary file
        Open for unbuffered writing.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, **fields: Any) -> None:
        """Write one line.

        Parameters
        ----------
        **fields
            Fields of the object; numbers, which may be NumPy's, have to be finite.

        Raises
        ------
        OSError
            The line cannot be written; the error names the file.
        """
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, default=plain)
        line = text.encode(errors="backslashreplace") + b"\n"
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            error.filename = self.file.name  # the error of a full disk names no file
            raise

    def step(self, step: Step) -> None:
        """Write the fields of a Step if there was an evaluation; a callback."""
        if step.perplexity is not None:
            self.write(event="train", **step._asdict())


def check_divergence(step: Step) -> None:
    """Stop training as soon as the perplexity or the gradient is not finite; a callback.

    Parameters
    ----------
    step : Step
        The last iteration.

    Raises
    ------
    Diverged
        A RuntimeError that names epoch and iteration.
    """
    if not (math.isfinite(perplexity(step.loss)) and math.isfinite(step.grad_norm or 0.0)):
        raise diverged(step.epoch, step.iter, step.loss, step.grad_norm)


class Watch:
    """Watch the loss of a language model and stop training that diverges.

    Give its method `step` to a trainer as a callback.

    Parameters
    ----------
    vocab_size : int
        Number of tokens; a blind guess has the loss log(vocab_size).
    patience : int
        Number of consecutive iterations with a risen loss after which training stops.
    lowest : float
        The lowest running mean so far, also an attribute. A resumed run gives that of its
        beginning.

    Attributes
    ----------
    loss : float
        Running mean over about ten iterations; inf before the first.

    Notes
    -----
    The loss has risen if its running mean is half a nat above the lowest one and above the loss of
    a blind guess. No text explains such a loss.
    """

    RISE = 0.5

    def __init__(self, vocab_size: int, patience: int = 100, *, lowest: float = math.inf) -> None:
        self.blind = math.log(vocab_size)
        self.patience = patience
        self.loss = math.inf
        self.lowest = checks.number("Watch", "lowest", lowest)
        self._iterations = 0  # since the loss has risen

    @property
    def risen(self) -> bool:
        """Whether the loss has risen."""
        return self._iterations > 0

    def step(self, step: Step) -> None:
        """Take the loss of an iteration; a callback.

        Raises
        ------
        Diverged
            The loss has stayed risen for `patience` iterations, or as `check_divergence`.
        """
        check_divergence(step)
        self.loss = step.loss if self.loss == math.inf else 0.9 * self.loss + 0.1 * step.loss
        self.lowest = min(self.lowest, self.loss)
        high = self.loss > max(self.blind, self.lowest + self.RISE)
        self._iterations = self._iterations + 1 if high else 0
        if self._iterations >= self.patience:
            raise diverged(step.epoch, step.iter, step.loss, step.grad_norm)
