"""The trainers: one for samples with targets, one for a language model. Chapters 1, 5 and 6."""

import numpy as np

from rnnfast import checks, plot
from rnnfast.io import headers
from rnnfast.text.corpora import sequence_batch
from rnnfast.training.arguments import checked_lengths, ids
from rnnfast.training.evaluation import perplexity
from rnnfast.training.loop import BaseTrainer


class Trainer(BaseTrainer):
    """Trains any model of the book that has forward(x, t), backward(), params and grads.

    Each epoch goes through the samples in a new order, drawn with np.random as the book draws it
    (chapter 1). `loss_list` has the mean loss since the last evaluation, at every evaluation.
    """

    def __init__(self, model, optimizer, *, callbacks=(), write=None):
        super().__init__(model, optimizer, callbacks=callbacks, write=write)
        self.loss_list = []

    kept = (*BaseTrainer.kept, "loss_list")

    def fit(
        self, x, t, max_epoch=10, batch_size=32, max_grad=None, eval_interval=20, *, lengths=None
    ):
        """Train on samples x (length, ...) with targets t (length, ...), arrays.

        eval_interval: iterations between evaluations, None for none. max_grad: clip_grads.
        lengths (length,): how many steps of a sample count, for models whose forward takes that
        (rnnfast.sequences). The samples that do not fill a batch are left out, other ones in each
        epoch.
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

        def batch(i):
            rows = self._order[i * batch_size : (i + 1) * batch_size]
            return x[rows], t[rows], None if lengths is None else lengths[rows]

        self._loop(batch, max_epoch, max_grad, self.loss_list)

    def plot(self, ylim=None):
        """Show the curve of the loss in a window; needs the `plot` extra."""
        plot.show_curve(*self._curve(self.loss_list), ylim, "loss")

    def _check_order(self, progress, order):
        if progress is None and order is None:
            return
        count = len(order) if progress is None else progress["size"].get("samples", 0)
        fits = order is not None and order.dtype == np.intp and order.shape == (count,)
        if not fits or not np.array_equal(np.sort(order), np.arange(count)):
            raise headers.Wrong("the array order must be an order of the samples")

    def _begin_epoch(self):
        if self._progress["iter"] == 0:
            self._order = self._order[np.random.permutation(len(self._order))]


class RnnlmTrainer(BaseTrainer):
    """Trains a language model whose recurrent layers are stateful (chapters 5 and 6).

    Each iteration continues where the last one stopped: the state is carried forward, the
    gradient is cut. `ppl_list` has the perplexity since the last evaluation, at every evaluation
    of the last fit.
    """

    measure = "perplexity"

    def __init__(self, model, optimizer, *, callbacks=(), write=None):
        super().__init__(model, optimizer, callbacks=callbacks, write=write)
        self.time_idx = None
        self.ppl_list = None

    kept = (*BaseTrainer.kept, "time_idx", "ppl_list")

    def get_batch(self, x, t, batch_size, time_size):
        """The next (N, T) inputs and targets; see data.sequence_batch."""
        batch = sequence_batch(x, t, batch_size, time_size, self.time_idx)
        self.time_idx += time_size
        return batch

    def fit(
        self,
        xs,
        ts,
        max_epoch=10,
        batch_size=20,
        time_size=35,
        max_grad=None,
        eval_interval=20,
        *,
        restart_every=None,
    ):
        """Train on ids `xs` with targets `ts`, both (length,).

        Every `eval_interval` iterations (None: never) the perplexity since the last time goes
        into `ppl_list` and is printed. restart_every: each sample begins again from a zero state
        once in so many iterations, one sample after the other, so that the model learns to begin
        a text; None, the book's way, never does that, and a model of few iterations may then be
        far off where its state is zero. RuntimeError if the loss or the norm of the gradient is
        not finite; ValueError if not even one batch fits into the text.
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
        resumed = self._restored
        if self._begin(size, max_iter, max_epoch, max_grad, eval_interval):
            self.time_idx = 0
            if not resumed:
                self.ppl_list = []
            else:
                self.model.reset_state()  # that of samples which were cut elsewhere

        def batch(i):
            if restart_every is not None:
                self._restart(self.time_idx // time_size, restart_every)
            return self.get_batch(xs, ts, batch_size, time_size)

        self._loop(batch, max_epoch, max_grad, self.ppl_list)

    def _restart(self, iteration, every):
        """Set the state of each `every`th sample to zero, of other ones in each iteration."""
        for layer in self.model.layers:
            if getattr(layer, "stateful", False) and any(a is not None for a in layer.state):
                state = [array.copy() for array in layer.state]
                for array in state:
                    array[-iteration % every :: every] = 0
                layer.set_state(*state)

    def plot(self, ylim=None):
        """Show the perplexity curve in a window; needs the `plot` extra."""
        plot.show_curve(*self._curve(self.ppl_list), ylim)

    def _value(self, loss):
        return perplexity(loss)
