"""Training loops (chapters 1, 5 and 6): batches, truncated BPTT, checkpoints, evaluation.

A checkpoint holds all that a training run depends on, so that a run that is resumed from it has
the losses, bit for bit, of one that was never interrupted.
"""

import copy
import inspect
import json
import math
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from rnnfast import checks, data, headers, io, plot
from rnnfast.optim import clip_grads, remove_duplicate
from rnnfast.sampling import frozen


class Step(NamedTuple):
    """What a trainer tells its callbacks after every iteration; counts start at 1."""

    epoch: int
    iter: int
    max_iter: int
    loss: float  # mean cross entropy of this batch, nats
    grad_norm: float | None  # before clipping; None without max_grad
    perplexity: float | None  # over the iterations since the last one; None between evaluations
    seconds: float  # of training so far, over all fits and resumed runs


class _Trainer:
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
        count("fit", "max_epoch", max_epoch, least=0)
        if eval_interval is not None:
            count("fit", "eval_interval", eval_interval)
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
        loss = self.model.forward(xs, ts, **_given(lengths))
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

    # Checkpoints

    kept = ("current_epoch", "eval_interval", "max_iter", "seconds")  # attributes for JSON

    def save_checkpoint(self, path, extra=None, *, vocabulary=None):
        """Write all that further training depends on to `path`, a safetensors file.

        Weights, the optimiser's state, the recurrent state, dropout's counters, np.random's
        state, and where `fit` is; a callback may call it. extra: a JSON object of the caller's.
        A checkpoint of one of rnnfast's models is a weight file, too: models.load_model reads it,
        with its vocabulary (one of rnnfast.data). The file is replaced at once when it is complete:
        at any moment there is a whole one. OSError, with the old file untouched, if it cannot be
        written.
        """
        arrays, header = self._model_state()
        arrays |= {f"params/{name}": param for name, param in self._named_params().items()}
        state = self.optimizer.state_dict()
        for name in self.optimizer.arrays:
            for i, array in enumerate(state.pop(name) or ()):
                arrays[f"optimizer/{name}/{i}"] = array
        _, keys, *position = np.random.get_state()
        arrays["random"] = keys
        if self._order is not None:
            arrays["order"] = self._order
        header |= {
            "trainer": type(self).__name__,
            "optimizer": [type(self.optimizer).__name__, state],
            "random": position,
            "progress": self._progress,
            **{name: getattr(self, name) for name in self.kept},
        }
        whole = {"checkpoint": header, "extra": extra}
        if hasattr(self.model, "sizes"):
            whole |= io.model_header(path, type(self.model).__name__, self.model.sizes, vocabulary)
        io.save_arrays(path, arrays, whole)

    def load_checkpoint(self, path, *, optimizer=True):
        """Take over what `save_checkpoint` wrote -> its `extra`.

        Model and optimiser have to be like those that were saved, by class and sizes. With
        optimizer=False the trainer's own stays as it is, of whatever class. If a fit was under
        way, the next `fit`, called with the same arguments, goes on where that was; where an epoch
        begins it may be given other batches (an RnnlmTrainer's state is zero then). OSError if the
        file cannot be read; ValueError, and nothing changed, if it does not fit.
        """
        arrays, whole = io.load_arrays(path)
        if "checkpoint" not in whole:
            raise ValueError(f"{path}: not a checkpoint")
        try:
            self._take_over(path, arrays, whole["checkpoint"], optimizer)
        except headers.Wrong as error:
            raise ValueError(f"{path}: damaged checkpoint ({error})") from None
        return whole.get("extra")

    def _take_over(self, path, arrays, header, with_optimizer):
        optimizer, state = header["optimizer"]
        pairs = [("trainer", header["trainer"], type(self).__name__)]
        if with_optimizer:
            pairs.append(("optimiser", optimizer, type(self.optimizer).__name__))
        for what, saved, mine in pairs:
            if saved != mine:
                raise ValueError(f"{path}: a checkpoint of the {what} {saved}, not {mine}")
        groups = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = array
        if foreign := groups.keys() - {"params", "optimizer", "state", "random", "order"}:
            raise headers.Wrong(f"there are arrays for {', '.join(sorted(foreign))[:60]}")
        keys = arrays.get("random")
        if keys is None or (keys.dtype, keys.shape) != (np.uint32, (624,)):
            raise headers.Wrong("the array random must be uint32 (624,)")
        random = ("MT19937", keys, *header["random"])
        progress = header["progress"]
        for name in self.kept:
            unset = name in header and header[name] is None and name not in _Trainer.kept
            if name not in header or (unset and progress is not None):
                raise headers.Wrong(f"checkpoint.{name} is missing")
        self._check_order(progress, arrays.get("order"))
        kept = {name: header[name] for name in self.kept}
        states, dropout = self._checked_model_state(path, groups.get("state", {}), header)
        params = self._named_params(), groups.get("params", {}), path
        io.check_fits(*params)
        if with_optimizer:
            state |= self._optimizer_arrays(groups.get("optimizer", {}))
            try:
                copy.copy(self.optimizer).load_state_dict(state)
            except ValueError as error:
                raise headers.Wrong(f"checkpoint.optimizer: {error}") from None

        io.copy_into(*params)  # the first to change anything
        if with_optimizer:
            self.optimizer.load_state_dict(state)
        self._set_model_state(states, dropout)
        np.random.set_state(random)
        for name, value in kept.items():
            setattr(self, name, value)
        self._order = arrays.get("order")
        self._progress, self._restored = progress, progress is not None

    _order = None  # of the samples of an epoch; Trainer's

    def _check_order(self, progress, order):
        """Wrong unless a checkpoint's order of samples is this trainer's."""
        if order is not None:
            raise headers.Wrong("there is an array order")

    def _optimizer_arrays(self, places):
        """The optimiser's arrays of a checkpoint as its state has them, one for each parameter."""
        params = {}  # each once, as the optimiser knows them
        for param in self.model.params:
            params.setdefault(frozenset(map(checks.place, (param, param.T))), param)
        expected = [(param.shape, param.dtype) for param in params.values()]
        state, names = {}, self.optimizer.arrays
        for name in names:
            found = [places.pop(f"{name}/{i}", None) for i in range(len(params))]
            there = [(array.shape, array.dtype) for array in found if array is not None]
            if there not in ([], expected):
                raise headers.Wrong(f"the optimiser's {name} must be arrays like the parameters")
            state[name] = found if there else None
        if places or len({value is None for value in state.values()}) > 1:
            raise headers.Wrong(f"the optimiser's arrays must be {', '.join(names) or 'none'}")
        return state

    def _named_params(self):
        params = self.model.params
        names = getattr(self.model, "param_names", None) or map(str, range(len(params)))
        pairs = zip(names, params, strict=True)
        return {name: param for name, param in pairs if name is not None}

    def _model_state(self):
        """The recurrent state and dropout's counters, as arrays by name and JSON."""
        if hasattr(self.model, "reset_state") and not hasattr(self.model, "get_state"):
            raise TypeError("checkpoints: a model with reset_state() needs get_state(), too")
        states = self.model.get_state() if hasattr(self.model, "get_state") else []
        arrays = {
            f"state/{i}/{k}": array
            for i, state in enumerate(states)
            for k, array in enumerate(state)
            if array is not None
        }
        dropout = [[layer.step, getattr(layer, "_key", None)] for layer in self._counting()]
        return arrays, {"recurrent": len(states), "dropout": dropout}

    def _counting(self):
        """Dropout layers: their masks follow from a seed and the number of those before."""
        found = {}
        for value in vars(self.model).values():
            for layer in value if isinstance(value, (list, tuple)) else (value,):
                if hasattr(layer, "step") and hasattr(layer, "dropout_ratio"):
                    found[id(layer)] = layer
        return list(found.values())

    def _checked_model_state(self, path, arrays, header):
        """-> the states, a list for each recurrent layer, and (step, key) of each dropout layer."""
        mine = self._model_state()[1]
        for what, saved, found in [
            ("recurrent", header["recurrent"], mine["recurrent"]),
            ("dropout", len(header["dropout"]), len(mine["dropout"])),
        ]:
            if saved != found:
                raise ValueError(f"{path}: {saved} {what} layers, the model has {found}")
        states, sizes = [], set()
        for i in range(mine["recurrent"]):
            layer = self.model.recurrent_layers[i]
            H, names = layer.Wh.shape[0], [f"{i}/{k}" for k in range(len(layer.states))]
            state = [arrays.pop(name, None) for name in names]
            for array in state:
                if array is None:
                    continue
                if array.ndim != 2 or array.shape[1] != H:
                    raise ValueError(f"{path}: a state must be (N, {H}), found {array.shape}")
                if array.dtype != layer.Wh.dtype:
                    raise headers.Wrong(f"state/{i} must be {layer.Wh.dtype}, found {array.dtype}")
                sizes.add(len(array))
            states.append(state)
        if arrays or len(sizes) > 1:
            what = f"no {min(arrays)[:60]!r}" if arrays else f"of one N, found {sorted(sizes)}"
            raise headers.Wrong(f"states must be {what}")
        return states, [(step, key and tuple(key)) for step, key in header["dropout"]]

    def _set_model_state(self, states, dropout):
        if hasattr(self.model, "reset_state"):
            self.model.reset_state()
        for i, state in enumerate(states):
            if any(array is not None for array in state):
                like = self.model.params[0]
                there = [None if array is None else io.to_device(array, like) for array in state]
                self.model.recurrent_layers[i].set_state(*there)
        for layer, (step, key) in zip(self._counting(), dropout, strict=True):
            layer.step = step
            if hasattr(layer, "_key"):
                layer._key = key


class Trainer(_Trainer):
    """Trains any model of the book that has forward(x, t), backward(), params and grads.

    Each epoch goes through the samples in a new order, drawn with np.random as the book draws it
    (chapter 1). `loss_list` has the mean loss since the last evaluation, at every evaluation.
    """

    def __init__(self, model, optimizer, *, callbacks=(), write=None):
        super().__init__(model, optimizer, callbacks=callbacks, write=write)
        self.loss_list = []

    kept = (*_Trainer.kept, "loss_list")

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
        lengths = _lengths("fit", lengths, len(x))
        size = {"samples": len(x), "batch_size": count("fit", "batch_size", batch_size)}
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


class RnnlmTrainer(_Trainer):
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

    kept = (*_Trainer.kept, "time_idx", "ppl_list")

    def get_batch(self, x, t, batch_size, time_size):
        """The next (N, T) inputs and targets; see data.sequence_batch."""
        batch = data.sequence_batch(x, t, batch_size, time_size, self.time_idx)
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
            "batch_size": count("fit", "batch_size", batch_size),
            "time_size": count("fit", "time_size", time_size),
        }
        max_iter = len(xs) // (batch_size * time_size)
        if max_iter == 0:
            raise ValueError(
                f"fit: a batch of {batch_size} x {time_size} needs at least "
                f"{batch_size * time_size} ids, got {len(xs)}"
            )
        if restart_every is not None:
            count("fit", "restart_every", restart_every)
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


def perplexity(loss):
    """exp of a mean cross entropy in nats; inf where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class PerplexityWarning(UserWarning):
    """A perplexity above the vocabulary's size: worse than taking every token to be as likely."""


def eval_perplexity(model, corpus, batch_size=10, time_size=35, *, prime=None):
    """Perplexity on ids (length,): the state is carried, no activations are kept.

    As in the book, samples start at their own offsets, batch losses are averaged and a tail
    that does not fill a batch is dropped. The model's state is zero before and after; the weights
    of rnnfast's own models are frozen meanwhile. ValueError if not even one batch fits.

    prime: ids (n,) that stand before the corpus. Each sample then begins with the state after them
    and the n ids right before it, which do not count, instead of zero. A PerplexityWarning where
    the result is above the number of ids: a model that was always trained from state to state may
    need that.
    """
    # The book's own Rnnlm does not know the flag.
    flag = "train_flg" in inspect.signature(model.forward).parameters
    options = {"train_flg": False} if flag else {}

    def loss(xs, ts):
        return float(model.forward(xs, ts, **options))

    with frozen(model):
        mean = _mean_of_batches(
            "eval_perplexity", model, corpus, batch_size, time_size, loss, prime
        )
    ppl = perplexity(mean)
    warn_if_blind(ppl, getattr(model, "vocab_size", math.inf), prime is not None)
    return ppl


def warn_if_blind(ppl, vocab_size, primed):
    """A PerplexityWarning where a perplexity is above the vocabulary's size.

    By more than a hundredth, which is what untrained models differ from it by.
    """
    if ppl > 1.01 * vocab_size:
        begun = "" if primed else " (from a zero state; prime= and --prime give a text before it)"
        warnings.warn(
            f"perplexity {ppl:,.2f} is above the vocabulary's {vocab_size:,}: worse than a blind "
            f"guess{begun}",
            PerplexityWarning,
            stacklevel=3,
        )


def eval_accuracy(model, corpus, batch_size=10, time_size=35, *, prime=None):
    """How often the likeliest next id is the right one, from 0 to 1; else as eval_perplexity."""

    def share(xs, ts):
        return float((io.to_numpy(model.predict(xs)).argmax(axis=2) == ts).mean())

    with frozen(model):
        return _mean_of_batches("eval_accuracy", model, corpus, batch_size, time_size, share, prime)


def _mean_of_batches(owner, model, corpus, batch_size, time_size, measure, prime):
    corpus = ids(owner, "corpus", corpus)
    xs, ts = corpus[:-1], corpus[1:]
    count(owner, "batch_size", batch_size)
    count(owner, "time_size", time_size)
    max_iter = len(xs) // (batch_size * time_size)
    if max_iter == 0:
        raise ValueError(
            f"{owner}: a batch of {batch_size} x {time_size} needs at least "
            f"{batch_size * time_size + 1} ids, got {len(corpus)}"
        )
    model.reset_state()
    total = 0.0
    try:
        if prime is not None:
            _read_before(model, xs, ids(owner, "prime", prime), batch_size, time_size)
        for i in range(max_iter):
            total += measure(*data.sequence_batch(xs, ts, batch_size, time_size, i * time_size))
    finally:
        model.reset_state()
    return total / max_iter


def _read_before(model, xs, prime, batch_size, time_size):
    """Let the model read `prime`, then what stands before each sample of sequence_batch."""
    n = len(prime)
    offsets = np.arange(batch_size)[:, np.newaxis] * (len(xs) // batch_size)
    for starts in (0 * offsets, offsets):
        for i in range(0, n, time_size):
            at = starts + np.arange(i, min(i + time_size, n))  # of both, without a copy of xs
            before = prime[np.minimum(at, n - 1)]
            model.predict(np.where(at < n, before, xs[np.maximum(at - n, 0)]))


def eval_exact(model, xs, ts, batch_size=500, *, lengths=None):
    """The share of answers that are right in every id, from 0 to 1: the book's eval_seq2seq.

    model: a Seq2seq or VectorToSequence of rnnfast.sequences, or what has its generate_batch. xs
    are the questions; ts (length, T) the answers, of which each begins with the same id. lengths:
    those of the questions.
    """
    xs, ts, lengths, batches = _checked("eval_exact", xs, ts, lengths, batch_size)
    if ts.ndim != 2 or ts.shape[1] == 0 or (ts[:, 0] != ts[0, 0]).any():
        raise ValueError("eval_exact: ts must be (length, T), all beginning with the same id")
    start_id, sample_size = int(ts[0, 0]), ts.shape[1] - 1
    right = 0
    for rows in batches:
        found = model.generate_batch(xs[rows], start_id, sample_size, **_given(lengths, rows))
        right += int((found == ts[rows, 1:]).all(axis=1).sum())
    return right / len(ts)


def eval_labels(model, xs, ts, batch_size=500, *, lengths=None):
    """How often the highest score is that of the right label, from 0 to 1.

    model: a SequenceClassifier or SequenceTagger of rnnfast.sequences, or what has its predict.
    ts (length,), or (length, T) where those behind `lengths` or equal to the loss layer's
    ignore_label do not count.
    """
    xs, ts, lengths, batches = _checked("eval_labels", xs, ts, lengths, batch_size)
    counted = ts != model.loss_layer.ignore_label
    if lengths is not None and ts.ndim == 2:
        counted &= np.arange(ts.shape[1]) < lengths[:, np.newaxis]
    if not counted.any():
        raise ValueError("eval_labels: ts must have a label to guess, got none")
    right = 0
    for rows in batches:
        scores = io.to_numpy(model.predict(xs[rows], **_given(lengths, rows)))
        right += int(((scores.argmax(axis=-1) == ts[rows]) & counted[rows]).sum())
    return right / int(counted.sum())


def _checked(owner, xs, ts, lengths, batch_size):
    """Arrays of all samples, and the slices that batches of them are."""
    xs, ts = np.asarray(xs), np.asarray(ts)
    count(owner, "batch_size", batch_size)
    if xs.ndim == 0 or ts.ndim == 0 or len(xs) != len(ts):
        raise ValueError(f"{owner}: xs and ts must be equally long, got {xs.shape} and {ts.shape}")
    if len(xs) == 0:
        raise ValueError(f"{owner}: xs must not be empty")
    batches = [slice(i, i + batch_size) for i in range(0, len(xs), batch_size)]
    return xs, ts, _lengths(owner, lengths, len(xs)), batches


def _lengths(owner, lengths, samples):
    """lengths as an array, one for each sample; a model checks the rest."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    if lengths.shape != (samples,):
        raise ValueError(f"{owner}: lengths must be ({samples},), got {lengths.shape}")
    return lengths


def _given(lengths, rows=slice(None)):
    """lengths as a keyword, for models that know it where there are some."""
    return {} if lengths is None else {"lengths": lengths[rows]}


def ids(owner, name, value):
    """value as an array of integer ids (length,)."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if value.ndim != 1 or value.dtype.kind not in "iu":
        raise ValueError(
            f"{owner}: {name} must be integer ids (length,), got {value.dtype} {value.shape}"
        )
    return value


def count(owner, name, value, least=1):
    """value as an int from `least` up."""
    value = checks.integer(owner, name, value)
    if value < least:
        raise ValueError(f"{owner}: {name} must be from {least} up, got {value}")
    return value


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


class Diverged(RuntimeError):
    """Training has left all bounds."""


def diverged(epoch, iter, loss, norm):
    """The error that says where training diverged."""
    return Diverged(
        f"training diverged at epoch {epoch}, iter {iter} (loss {loss}, gradient norm {norm}); "
        "try a smaller learning rate"
    )


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


class Stop(KeyboardInterrupt):
    """A run that a signal ended, after all was saved; `signum` is its number, None for none."""

    def __init__(self, message, signum):
        super().__init__(message)
        self.signum = signum


@contextmanager
def stop_on_interrupt(trainer):
    """Within the block the first Ctrl-C or SIGTERM is trainer.stop(); a second one ends at once.

    Gives a list, into which the signal's number goes. A signal that has another handler keeps it.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    received = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals are another thread's
        return
    ours = {signum for signum, handler in usual.items() if signal.getsignal(signum) is handler}

    def restore():
        for signum in ours:
            signal.signal(signum, usual[signum])

    def stop(signum, frame):
        restore()
        received.append(signum)
        trainer.stop()

    for signum in ours:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        restore()
