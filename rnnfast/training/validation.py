"""Validation during training: a measure after each epoch, and when it stops improving."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnfast import checks
from rnnfast.distributed.ranks import Ranks, ranks_of
from rnnfast.io.weights import copy_into, to_numpy
from rnnfast.layers.shares import Share, counted_targets
from rnnfast.training.answers import checked_samples
from rnnfast.training.arguments import given
from rnnfast.training.averaging import ASGD, NTASGD
from rnnfast.typing import Model

Measure = Callable[[], float]


def eval_loss(
    model: Model,
    xs: ArrayLike,
    ts: ArrayLike,
    batch_size: int = 500,
    *,
    lengths: ArrayLike | None = None,
    comm: Any = None,
) -> float:
    """Loss of a model on samples that it was not trained on.

    Parameters
    ----------
    model : Model
        Any model of the book, with ``forward(x, t)``. Those with an argument `train_flg` get False:
        they apply no dropout.
    xs, ts : array (length, ...)
        Samples and their targets.
    batch_size : int
        Number of samples at a time.
    lengths : array of int (length,), optional
        Lengths of the samples.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share out the samples of each batch. All of them call this function, and get
        the result.

    Returns
    -------
    float
        The mean over all targets that count, as if all samples were one batch.

    Raises
    ------
    ValueError
        There are no samples, `xs` and `ts` differ in length, or no target counts.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import sequences, trainer
    >>> model = sequences.SequenceClassifier(1, 8, classes=2, rng=0)
    >>> round(trainer.eval_loss(model, np.ones((3, 5, 1)), np.array([0, 1, 1])), 1)
    0.7
    """
    samples, targets, checked, batches = checked_samples("eval_loss", xs, ts, lengths, batch_size)
    ranks, forward = ranks_of(comm), _forward(model)
    flag = "train_flg" in inspect.signature(forward).parameters
    options: dict[str, Any] = {"train_flg": False} if flag else {}
    total = count = 0.0
    for batch in batches:
        size = len(targets[batch])
        share = Share(0, size, size) if ranks is None else ranks.share(size)
        rows = slice(batch.start + share.first, batch.start + share.first + share.size)
        weight = int(_counted(model, targets[rows], given(checked, rows)).sum())
        if weight:
            loss = forward(samples[rows], targets[rows], **options, **given(checked, rows))
            total, count = total + float(loss) * weight, count + weight
        if ranks is not None:
            ranks.heart.beat()
    if ranks is not None:
        total, count = ranks.sum([total, count])
    if not count:
        raise ValueError("eval_loss: ts must have a target that counts, got none")
    return total / count


def _forward(model: Any) -> Callable[..., Any]:
    """A model's forward, which may have arguments that not every model has."""
    forward: Callable[..., Any] = model.forward
    return forward


def _counted(model: Any, ts: Any, lengths: dict[str, Any]) -> Any:
    """How many targets of each sample count."""
    if hasattr(model, "counted_targets"):
        return model.counted_targets(ts, **lengths)
    return counted_targets(getattr(model, "loss_layer", None), ts)


def of_samples(model: Model, valid: Any, ranks: Ranks | None) -> Measure | None:
    """The measure for the argument `valid` of `Trainer.fit`, checked."""
    if valid is None:
        return None
    if callable(valid):
        return _of_function(valid, ranks)
    if not isinstance(valid, (tuple, list)) or len(valid) not in (2, 3):
        got = f"{type(valid).__name__} of {len(valid)}" if hasattr(valid, "__len__") else valid
        raise TypeError(f"fit: valid must be (xs, ts), (xs, ts, lengths) or a function, got {got}")
    lengths = valid[2] if len(valid) == 3 else None
    xs, ts, lengths, _ = checked_samples("fit: valid", valid[0], valid[1], lengths, 1)
    return lambda: eval_loss(model, xs, ts, lengths=lengths, comm=ranks)


def _of_function(function: Callable[[], Any], ranks: Ranks | None) -> Measure:
    """A function of the caller's. All ranks call it, and take what it returns on rank 0."""

    def measure() -> float:
        value = checks.number("fit", "the result of valid", function())
        return value if ranks is None else float(ranks.from_first(lambda: value))

    return measure


def checked_patience(patience: Any, valid: Any) -> int | None:
    """The argument `patience` of fit."""
    if patience is None:
        return None
    if valid is None:
        raise ValueError(f"fit: patience needs valid, got {patience} without it")
    return checks.count("fit", "patience", patience)


def improves(values: Sequence[float]) -> bool:
    """Whether the last one is below all before it."""
    return values[-1] < min((value for value in values[:-1] if value == value), default=math.inf)


def epochs_without_improvement(values: Sequence[float]) -> int:
    """How many values have come since the lowest one. NaN is never the lowest.

    Examples
    --------
    >>> epochs_without_improvement([3.0, 2.0, 2.0, 2.5]), epochs_without_improvement([3.0, 2.0])
    (2, 0)
    """
    best, since = math.inf, 0
    for value in values:
        since += 1
        if value < best:
            best, since = value, 0
    return since


class Validating:
    """The part of a trainer that measures the model after each epoch.

    It needs the optimiser, the position of the loop, and the parameters by name.
    """

    model: Any
    optimizer: Any
    current_epoch: int
    leads: Any  # a property, of Together
    measure: str
    valid_list: list[float]
    write: Callable[[str], Any]
    _begun: float
    _best: Any  # of Checkpointed
    _named_params: Callable[[], dict[str, Any]]  # a method, of Checkpointed
    _patience: int | None
    _progress: Any
    _valid: Measure | None

    def _validated(self) -> float | None:
        """The measure on the validation data, if there are some, after an epoch."""
        if self._valid is None:
            return None
        begun = time.monotonic()
        with averaged(self.optimizer, self.model.params):
            value = self._valid()
            self.valid_list.append(value)
            if self._patience is not None and improves(self._of_this_fit()):
                self._best = copies(self._named_params())
        if isinstance(self.optimizer, NTASGD):
            self.optimizer.check(value)
        if self.leads:
            digits = 2 if self.measure == "perplexity" else 4
            epoch = self.current_epoch + 1
            self.write(f"| epoch {epoch} | validation {self.measure} {value:.{digits}f}")
        self._begun += time.monotonic() - begun
        return value

    def _of_this_fit(self) -> list[float]:
        """The validations of the present fit."""
        return self.valid_list[self._progress["valid"] :]

    def _worn_out(self) -> bool:
        """Whether patience is at its end."""
        patience = self._patience
        if patience is None or epochs_without_improvement(self._of_this_fit()) < patience:
            return False
        if self.leads:
            self.write(no_improvement(self.current_epoch, patience))
        return True

    def _take_best(self) -> None:
        """At the end of a fit with patience: the weights of its best epoch."""
        if self._patience is not None and self._best is not None:
            copy_into(self._named_params(), self._best, "the best epoch")
        self._best = None


def no_improvement(epoch: int, epochs: int) -> str:
    """The line that says why training ends after an epoch."""
    return f"| epoch {epoch} | no improvement in {'1 epoch' if epochs == 1 else f'{epochs} epochs'}"


@contextmanager
def averaged(optimizer: Any, params: Sequence[Any]) -> Iterator[None]:
    """Have the averages of an ASGD in place of the parameters for one block."""
    if isinstance(optimizer, ASGD):
        with optimizer.averaged(params):
            yield
    else:
        yield


def copies(params: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Copies of parameters by name, on the host."""
    return {name: np.array(to_numpy(param)) for name, param in params.items()}
