"""Trainers: one for samples with targets, one for language models. Chapters 1, 5 and 6."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnnfast import checks, plot
from rnnfast.io import headers
from rnnfast.text.corpora import sequence_batch
from rnnfast.training.arguments import checked_lengths, ids
from rnnfast.training.evaluation import perplexity
from rnnfast.training.lengths import checked_seed, random_length
from rnnfast.training.loop import BaseTrainer, Step
from rnnfast.typing import Array, LanguageModel, Model, Optimizer


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

    Attributes
    ----------
    loss_list : list of float
        The mean loss since the last evaluation, at every evaluation.
    eval_epochs : list of float
        When each of them was, as the lines count: 2.5 is in the middle of the third epoch.
    current_epoch : int
        Number of finished epochs, over all fits.
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
    ) -> None:
        super().__init__(model, optimizer, callbacks=callbacks, write=write)
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

        Raises
        ------
        ValueError
            `x` and `t` differ in length, or there are fewer samples than one batch.
        Diverged
            A RuntimeError: the loss or the norm of the gradient is not finite.
        """
        x, t = np.asarray(x), np.asarray(t)
        if x.ndim == 0 or t.ndim == 0 or len(x) != len(t):
            raise ValueError(f"fit: x and t must be equally long, got {x.shape} and {t.shape}")
        lengths = checked_lengths("fit", lengths, len(x))
        size = {"samples": len(x), "batch_size": checks.count("fit", "batch_size", batch_size)}
        max_iter = len(x) // batch_size
        if max_iter == 0:
            raise ValueError(f"fit: a batch of {batch_size} needs as many samples, got {len(x)}")
        if self._begin(size, max_iter, max_epoch, max_grad, eval_interval):
            self._order = np.arange(len(x))

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
            or order.dtype != np.intp
            or order.shape != (count,)
            or not np.array_equal(np.sort(order), np.arange(count))
        ):
            raise headers.Wrong("the array order must be an order of the samples")

    def _begin_epoch(self) -> None:
        if self._progress["iter"] == 0:
            self._order = self._order[np.random.permutation(len(self._order))]


class RnnlmTrainer(BaseTrainer):
    """Train a language model whose recurrent layers are stateful: truncated BPTT.

    Parameters
    ----------
    model : LanguageModel
        One of rnnfast.models, or a model of the book such as Rnnlm.
    optimizer : Optimizer
        One of rnnfast.optim, or any with `update(params, grads)`. Checkpoints need one of ours.
    callbacks : sequence of callable
        Called with a `Step` after every iteration.
    write : callable, optional
        Prints a line at every evaluation; by default to stdout.

    Attributes
    ----------
    ppl_list : list of float
        The perplexity since the last evaluation, at every evaluation of the last fit; None before
        the first fit.
    eval_epochs : list of float
        When each of them was, as the lines count: 2.5 is in the middle of the third epoch.
    time_idx : int
        Position in the text of the next batch; None before the first fit.
    current_epoch : int
        Number of finished epochs, over all fits.
    stopped : bool
        Whether `stop` ended the last fit.

    Notes
    -----
    Each iteration continues where the last one stopped: the state is carried forward, the gradient
    is truncated.

    References
    ----------
    Deep Learning from Scratch 2, chapters 5 and 6, common/trainer.py.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import models, optim, trainer
    >>> ids = np.arange(41) % 4
    >>> model = models.SimpleRnnlm(4, wordvec_size=4, hidden_size=8, rng=0)
    >>> fitting = trainer.RnnlmTrainer(model, optim.Adam(0.05))
    >>> sizes = {"batch_size": 2, "time_size": 5}
    >>> fitting.fit(ids[:-1], ids[1:], 30, **sizes, eval_interval=None, restart_every=4)
    >>> trainer.eval_accuracy(model, ids, **sizes)
    1.0
    """

    measure = "perplexity"

    def __init__(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        *,
        callbacks: Sequence[Callable[[Step], Any]] = (),
        write: Callable[[str], Any] | None = None,
    ) -> None:
        super().__init__(model, optimizer, callbacks=callbacks, write=write)
        # both are None before the first fit only, so that Any spares scripts a check
        self.time_idx: Any = None
        self.ppl_list: Any = None
        self._rate = 1.0  # of the learning rate in this iteration

    kept = (*BaseTrainer.kept, "time_idx", "ppl_list")

    def get_batch(self, x: Any, t: Any, batch_size: int, time_size: int) -> tuple[Any, Any]:
        """Take the next batch of a text.

        Parameters
        ----------
        x, t : array of int (length,)
            Ids and their targets.
        batch_size, time_size : int
            N and T.

        Returns
        -------
        tuple of array (N, T)
            Inputs and targets; see `data.sequence_batch`.
        """
        xs, ts = sequence_batch(x, t, batch_size, time_size, self.time_idx)
        self.time_idx += time_size
        return xs, ts

    def fit(
        self,
        xs: Sequence[int] | Array,
        ts: Sequence[int] | Array,
        max_epoch: int = 10,
        batch_size: int = 20,
        time_size: int = 35,
        max_grad: float | None = None,
        eval_interval: int | None = 20,
        *,
        restart_every: int | None = None,
        length_seed: int | None = None,
    ) -> None:
        """Train on a text.

        Parameters
        ----------
        xs, ts : array of int (length,)
            Ids of the text, and for each id the next one.
        max_epoch : int
            Number of epochs.
        batch_size, time_size : int
            Size of a batch (N, T).
        max_grad : float, optional
            Bound of the gradient's norm, see `clip_grads`; None does not clip.
        eval_interval : int or None
            Iterations between two evaluations: the perplexity since the last one is appended to
            `ppl_list` and printed. None for no evaluation.
        restart_every : int, optional
            Each sample restarts from a zero state once in this number of iterations, one sample
            after the other, so that the model learns to begin a text. None, the book's way, never
            restarts; a model that was trained for few iterations may then be poor at a zero state.
        length_seed : int, optional
            Draw the number of steps of each iteration by this seed, around `time_size`, and scale
            the learning rate with it; see `rnnfast.training.lengths`. None takes `time_size` steps.

        Raises
        ------
        ValueError
            `xs` and `ts` differ in length, or the text is shorter than one batch.
        Diverged
            A RuntimeError: the loss or the norm of the gradient is not finite.
        """
        xs, ts = ids("fit", "xs", xs), ids("fit", "ts", ts)
        if len(xs) != len(ts):
            raise ValueError(f"fit: xs and ts must be equally long, got {len(xs)} and {len(ts)}")
        size = {
            "length": len(xs),
            "batch_size": checks.count("fit", "batch_size", batch_size),
            "time_size": checks.count("fit", "time_size", time_size),
        }
        max_iter = len(xs) // (batch_size * time_size)
        if max_iter == 0:
            raise ValueError(
                f"fit: a batch of {batch_size} x {time_size} needs at least "
                f"{batch_size * time_size} ids, got {len(xs)}"
            )
        if restart_every is not None:
            checks.count("fit", "restart_every", restart_every)
        if length_seed is not None:
            checked_seed("fit", "length_seed", length_seed)
        resumed = self._restored
        if self._begin(size, max_iter, max_epoch, max_grad, eval_interval):
            self.time_idx = 0
            if not resumed:
                self.ppl_list, self.eval_epochs = [], []
            else:
                self.model.reset_state()  # it belongs to samples of other sizes

        def batch(i: int) -> tuple[Any, ...]:
            if restart_every is not None:
                self._restart(self._progress["epoch"] * max_iter + i, restart_every)
            steps = time_size
            if length_seed is not None:
                steps = random_length(time_size, length_seed, self.iterations(max_iter))
            self._rate = steps / time_size
            return self.get_batch(xs, ts, batch_size, steps)

        self._loop(batch, max_iter, max_epoch, max_grad, self.ppl_list)

    def _update(
        self, max_grad: float | None, xs: Any, ts: Any, lengths: Any = None
    ) -> tuple[float, float | None]:
        """As in BaseTrainer, with the learning rate for this number of steps."""
        lr = self.optimizer.lr
        self.optimizer.lr = lr * self._rate
        try:
            return super()._update(max_grad, xs, ts, lengths)
        finally:
            self.optimizer.lr = lr

    def _restart(self, iteration: int, every: int) -> None:
        """Set the state of each `every`th sample to zero, of other samples in each iteration."""
        for layer in self.model.layers:
            if getattr(layer, "stateful", False) and any(a is not None for a in layer.state):
                state = [array.copy() for array in layer.state]
                for array in state:
                    array[-iteration % every :: every] = 0
                layer.set_state(*state)

    def plot(self, ylim: tuple[float, float] | None = None) -> None:
        """Show the perplexity curve in a window.

        Parameters
        ----------
        ylim : (float, float), optional
            Limits of the y axis.

        Raises
        ------
        ModuleNotFoundError
            matplotlib, the extra `plot`, is missing.
        """
        plot.show_curve(*self._curve(self.ppl_list or []), ylim)

    def _value(self, loss: float) -> float:
        return perplexity(loss)
