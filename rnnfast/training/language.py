"""The trainer for language models: truncated BPTT. Chapters 5 and 6."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from rnnfast import checks, plot
from rnnfast.layers.freezing import own_state
from rnnfast.text.corpora import sequence_batch
from rnnfast.training.arguments import ids
from rnnfast.training.evaluation import evaluate, perplexity
from rnnfast.training.lengths import checked_seed, random_length
from rnnfast.training.loop import BaseTrainer, Step
from rnnfast.training.rounds import Sync
from rnnfast.training.validation import Measure, checked_patience
from rnnfast.typing import Array, LanguageModel, Optimizer


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
    ppl_list : list of float
        The perplexity since the last evaluation, at every evaluation of the last fit; None before
        the first fit.
    eval_epochs : list of float
        When each of them was, as the lines count: 2.5 is in the middle of the third epoch.
    valid_list : list of float
        The validation perplexity after each epoch, over all fits that had `valid`.
    time_idx : int
        Position in the text of the next batch; None before the first fit.
    current_epoch : int
        Number of finished epochs, over all fits. If `stop` ends a fit in the last iteration of an
        epoch, the next fit counts it.
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
        comm: Any = None,
        sync: Sync | None = None,
        schedule: Callable[[float], float] | None = None,
    ) -> None:
        given: dict[str, Any] = {"callbacks": callbacks, "write": write, "comm": comm, "sync": sync}
        given["schedule"] = schedule
        super().__init__(model, optimizer, **given)
        # both are None before the first fit only, so that Any spares scripts a check
        self.time_idx: Any = None
        self.ppl_list: Any = None
        self._rate: float | None = None  # factor of the learning rate, if lengths vary

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
        valid: Sequence[int] | Array | None = None,
        patience: int | None = None,
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
            Draw the number of steps of each iteration by this seed, as AWD-LSTM does, and scale the
            learning rate with it: normal around `time_size` with a probability of 0.95, else around
            half of it, with a standard deviation of 5, at least 5. None takes `time_size` steps.
        valid : array of int (length,), optional
            Ids of a validation text: after each epoch its perplexity, from a zero state, is
            appended to `valid_list` and printed. The state of the model is kept meanwhile, if it
            has `get_state`.
        patience : int, optional
            Stop after this number of epochs without a lower value, and end with the weights of the
            best epoch, the averages if the optimiser averages. None ends with the last weights.

        Raises
        ------
        ValueError
            `xs` and `ts` differ in length, or the text is shorter than one batch.
        Diverged
            A RuntimeError: the loss or the norm of the gradient is not finite.
        """
        xs, ts = ids("fit", "xs", xs), ids("fit", "ts", ts)
        given: tuple[Any, ...] = max_epoch, batch_size, time_size, max_grad, eval_interval
        measure, patience = self._measure(valid), checked_patience(patience, valid)
        given += restart_every, length_seed, patience
        self._check_together(*given, xs=xs, ts=ts, valid=valid)
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
        if hasattr(self.model, "count_words"):
            self.model.count_words(xs)
        resumed = self._restored
        if self._begin(size, max_iter, max_epoch, max_grad, eval_interval, measure, patience):
            self.time_idx = 0
            if not resumed:
                self.ppl_list, self.eval_epochs = [], []
            else:
                self.model.reset_state()  # it belongs to samples of other sizes
        self._begin_together(batch_size)

        def batch(i: int) -> tuple[Any, ...]:
            if restart_every is not None:
                self._restart(self._progress["epoch"] * max_iter + i, restart_every)
            steps, self._rate = time_size, None
            if length_seed is not None:
                steps = random_length(time_size, length_seed, self.iterations(max_iter))
                self._rate = steps / time_size
            return self.get_batch(xs, ts, batch_size, steps)

        self._loop(batch, max_iter, max_epoch, max_grad, self.ppl_list)

    def _factor(self) -> float | None:
        """As in BaseTrainer; where lengths vary, also the factor of this number of steps."""
        factor = super()._factor()
        if factor is None or self._rate is None:
            return self._rate if factor is None else factor
        return factor * self._rate

    def _measure(self, valid: Any) -> Measure | None:
        """The argument `valid` of fit as a measure: the perplexity, with the model's state kept."""
        if valid is None:
            return None
        corpus = ids("fit", "valid", valid)
        if len(corpus) < 2:
            raise ValueError(f"fit: valid must have at least 2 ids, got {len(corpus)}")
        model: Any = self.model

        def measure() -> float:
            with own_state(model) if hasattr(model, "get_state") else nullcontext():
                return evaluate(model, corpus, comm=self.ranks)

        return measure

    def _restart(self, iteration: int, every: int) -> None:
        """Set the state of each `every`th sample to zero, of other samples in each iteration."""
        first = self._share.first if self._share else 0
        for layer in self.model.layers:
            if getattr(layer, "stateful", False) and any(a is not None for a in layer.state):
                state = [array.copy() for array in layer.state]
                for array in state:
                    array[(-iteration - first) % every :: every] = 0
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
