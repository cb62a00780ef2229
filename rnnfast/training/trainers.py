"""The trainer for samples with targets. Chapters 1 and 7."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnnfast import checks, plot
from rnnfast.io import headers
from rnnfast.training.arguments import checked_lengths
from rnnfast.training.loop import BaseTrainer, Step
from rnnfast.training.rounds import Sync
from rnnfast.training.validation import checked_patience, of_samples
from rnnfast.typing import Model, Optimizer


class Trainer(BaseTrainer):
    """Train a model on samples with targets.

    Parameters
    ----------
    model : Model
        Any model of the book, with ``forward(x, t)``, ``backward()``, `params` and `grads`.
    optimizer : Optimizer
        One of rnnfast.optim, or any with `update(params, grads)`. Checkpoints need one of ours.
    callbacks : sequence of callable
        Called with a `Step` after every iteration.
    write : callable, optional
        Prints a line at every evaluation; by default to stdout.
    comm : mpi4py.MPI.Comm, optional
        The ranks that train together. Each has the whole model and all data, and computes its share
        of the samples of every batch; weights, the optimiser's state and seeds are those of rank 0.
    sync : Sync, optional
        How these exchange what they learn, for slow networks; by default in every iteration.
    schedule : callable, optional
        The number of epochs done -> a factor of the learning rate, for example one of
        rnnfast.optim: ``WarmUp(1).then(Cosine(9))``. A resumed run needs the same one.

    Attributes
    ----------
    loss_list : list of float
        The mean loss since the last evaluation, at every evaluation.
    eval_epochs : list of float
        When each of them was, as the lines count: 2.5 is in the middle of the third epoch.
    valid_list : list of float
        The validation measure after each epoch, over all fits that had `valid`.
    current_epoch : int
        Number of finished epochs, over all fits. If `stop` ends a fit in the last iteration of an
        epoch, the next fit counts it.
    stopped : bool
        Whether `stop` ended the last fit.

    Notes
    -----
    Each epoch takes the samples in a new order, drawn with np.random as in the book.

    References
    ----------
    Deep Learning from Scratch 2, chapter 1, common/trainer.py.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import optim, sequences, trainer
    >>> x = np.array([[[0.0], [1.0]], [[1.0], [0.0]]])  # rising, falling: (N, T, D)
    >>> t = np.array([0, 1])
    >>> model = sequences.SequenceClassifier(1, 8, classes=2, rng=0)
    >>> fitting = trainer.Trainer(model, optim.Adam(0.1))
    >>> fitting.fit(x, t, max_epoch=20, batch_size=2, eval_interval=None)
    >>> fitting
    Trainer(SequenceClassifier, Adam(lr=0.1, beta1=0.9, beta2=0.999), epoch 20)
    >>> trainer.eval_labels(model, x, t)
    1.0
    """

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
        given: dict[str, Any] = {"callbacks": callbacks, "write": write, "comm": comm, "sync": sync}
        given["schedule"] = schedule
        super().__init__(model, optimizer, **given)
        self.loss_list: list[float] = []

    kept = (*BaseTrainer.kept, "loss_list")

    def fit(
        self,
        x: ArrayLike,
        t: ArrayLike,
        max_epoch: int = 10,
        batch_size: int = 32,
        max_grad: float | None = None,
        eval_interval: int | None = 20,
        *,
        lengths: ArrayLike | None = None,
        valid: tuple[ArrayLike, ...] | Callable[[], float] | None = None,
        patience: int | None = None,
    ) -> None:
        """Train on samples with targets.

        Parameters
        ----------
        x, t : array (length, ...)
            Samples and their targets.
        max_epoch : int
            Number of epochs.
        batch_size : int
            Samples per batch. Samples that do not fill a batch are left out, other ones in each
            epoch.
        max_grad : float, optional
            Bound of the gradient's norm, see `clip_grads`; None does not clip.
        eval_interval : int or None
            Iterations between two evaluations; None for no evaluation.
        lengths : array of int (length,), optional
            Number of valid steps of each sample, for models whose `forward` takes `lengths`
            (rnnfast.sequences).
        valid : tuple or callable, optional
            Validation samples, (xs, ts) or (xs, ts, lengths): after each epoch their `eval_loss` is
            appended to `valid_list` and printed. Or a function without arguments whose result is
            to become small, such as 1 - `eval_exact`.
        patience : int, optional
            Stop after this number of epochs without a lower value, and end with the weights of the
            best epoch, the averages if the optimiser averages. None ends with the last weights.

        Raises
        ------
        ValueError
            `x` and `t` differ in length, or there are fewer samples than one batch.
        Diverged
            A RuntimeError: the loss or the norm of the gradient is not finite.
        """
        x, t = checks.on_host("fit", "x", x), checks.on_host("fit", "t", t)
        measure = of_samples(self.model, valid, self.ranks)
        patience = checked_patience(patience, valid)
        options = max_epoch, batch_size, max_grad, eval_interval, patience
        held_out: Any = () if valid is None or callable(valid) else valid
        of_valid = {f"valid[{k}]": array for k, array in enumerate(held_out)}
        self._check_together(*options, x=x, t=t, lengths=lengths, **of_valid)
        if x.ndim == 0 or t.ndim == 0 or len(x) != len(t):
            raise ValueError(f"fit: x and t must be equally long, got {x.shape} and {t.shape}")
        lengths = checked_lengths("fit", lengths, len(x))
        size = {"samples": len(x), "batch_size": checks.count("fit", "batch_size", batch_size)}
        max_iter = len(x) // batch_size
        if max_iter == 0:
            raise ValueError(f"fit: a batch of {batch_size} needs as many samples, got {len(x)}")
        if self._begin(size, max_iter, max_epoch, max_grad, eval_interval, measure, patience):
            self._order = np.arange(len(x), dtype=np.int64)
        self._begin_together(batch_size)

        def batch(i: int) -> tuple[Any, ...]:
            rows = self._order[i * batch_size : (i + 1) * batch_size]
            return x[rows], t[rows], None if lengths is None else lengths[rows]

        self._loop(batch, max_iter, max_epoch, max_grad, self.loss_list)

    def plot(self, ylim: tuple[float, float] | None = None) -> None:
        """Show the loss curve in a window.

        Parameters
        ----------
        ylim : (float, float), optional
            Limits of the y axis.

        Raises
        ------
        ModuleNotFoundError
            matplotlib, the extra `plot`, is missing.
        """
        plot.show_curve(*self._curve(self.loss_list), ylim, "loss")

    def _check_order(self, progress: Any, order: Any) -> None:
        if progress is None and order is None:
            return
        count = len(order) if progress is None else progress["size"].get("samples", 0)
        if (
            order is None
            or order.dtype != np.int64
            or order.shape != (count,)
            or not np.array_equal(np.sort(order), np.arange(count))
        ):
            raise headers.Wrong("the array order must be an order of the samples")

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        if self._progress["iter"] == 0:
            self._order = self._order[np.random.permutation(len(self._order))]
