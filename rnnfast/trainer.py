"""Training by truncated BPTT (chapters 5 and 6), and the job behind `rnnfast train`."""

import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from rnnfast import data, plot
from rnnfast.models import Rnnlm
from rnnfast.optim import SGD, Adam, clip_grads, remove_duplicate
from rnnfast.sampling import generate

# The job's defaults: one minute on two cores for the built-in text.
EPOCHS = 8
HIDDEN = 256
EMBEDDING = 64
BATCH_SIZE = 32
TIME_SIZE = 64
MAX_GRAD = 0.25
OPTIMIZERS = {"adam": (Adam, 0.005), "sgd": (SGD, 20.0)}  # class, learning rate
TEMPERATURE = 0.8


class Step(NamedTuple):
    """What a trainer tells its callbacks after every iteration; counts start at 1."""

    epoch: int
    iter: int
    max_iter: int
    loss: float  # mean cross entropy of this batch, nats
    grad_norm: float | None  # before clipping; None without max_grad
    perplexity: float | None  # over the iterations since the last one; None between evaluations
    seconds: float  # since fit began


class RnnlmTrainer:
    """Trains a language model whose recurrent layers are stateful.

    Each iteration continues where the last one stopped: the state is carried forward, the
    gradient is cut. `callbacks` are called with a `Step` after every iteration; `write` prints
    a perplexity line, by default on stdout.
    """

    def __init__(self, model, optimizer, *, callbacks=(), write=None):
        self.model = model
        self.optimizer = optimizer
        self.callbacks = callbacks
        self.write = write or partial(print, flush=True)
        self.time_idx = None
        self.ppl_list = None
        self.eval_interval = None
        self.current_epoch = 0
        self.stopped = False

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
    ):
        """Train on ids `xs` with targets `ts`, both (length,).

        Every `eval_interval` iterations (None: never) the perplexity since the last time goes
        into `ppl_list` and is printed. ValueError if not even one batch fits into the text.
        """
        if len(xs) != len(ts):
            raise ValueError(f"fit: xs and ts must be equally long, got {len(xs)} and {len(ts)}")
        max_iter = len(xs) // (batch_size * time_size)
        if max_iter == 0:
            raise ValueError(
                f"fit: a batch of {batch_size} x {time_size} needs at least "
                f"{batch_size * time_size} ids, got {len(xs)}"
            )
        self.time_idx = 0
        self.ppl_list = []
        self.eval_interval = eval_interval
        self.stopped = False
        losses = []
        start = time.monotonic()
        for _ in range(max_epoch):
            for i in range(max_iter):
                batch = self.get_batch(xs, ts, batch_size, time_size)
                loss, norm = self._update(*batch, max_grad)
                losses.append(loss)
                evaluate = eval_interval is not None and i % eval_interval == 0
                ppl = perplexity(sum(losses) / len(losses)) if evaluate else None
                seconds = time.monotonic() - start
                step = Step(self.current_epoch + 1, i + 1, max_iter, loss, norm, ppl, seconds)
                if evaluate:
                    losses.clear()
                    self.ppl_list.append(ppl)
                    self.write(
                        f"| epoch {step.epoch} | iter {step.iter} / {max_iter} "
                        f"| time {int(seconds)}[s] | perplexity {ppl:.2f}"
                    )
                for callback in self.callbacks:
                    callback(step)
                if self.stopped:
                    return
            self.current_epoch += 1

    def stop(self):
        """End `fit` after the current iteration; a callback or a signal handler may call it."""
        self.stopped = True

    def plot(self, ylim=None):
        """Show the perplexity curve in a window; needs the `plot` extra."""
        plot.show_perplexity(self.ppl_list, self.eval_interval, ylim)

    def _update(self, xs, ts, max_grad):
        loss = self.model.forward(xs, ts)
        self.model.backward()
        params, grads = remove_duplicate(self.model.params, self.model.grads)
        norm = None if max_grad is None else clip_grads(grads, max_grad)
        self.optimizer.update(params, grads)
        return float(loss), norm


def perplexity(loss):
    """exp of a mean cross entropy in nats; inf where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def eval_perplexity(model, corpus, batch_size=10, time_size=35):
    """Perplexity on ids (length,): the state is carried, no activations are kept.

    As in the book, samples start at their own offsets, batch losses are averaged and a tail
    that does not fill a batch is dropped. The model's state is zero before and after.
    ValueError if not even one batch fits.
    """
    xs, ts = corpus[:-1], corpus[1:]
    max_iter = len(xs) // (batch_size * time_size)
    if max_iter == 0:
        raise ValueError(
            f"eval_perplexity: a batch of {batch_size} x {time_size} needs at least "
            f"{batch_size * time_size + 1} ids, got {len(corpus)}"
        )
    model.reset_state()
    total = 0.0
    for i in range(max_iter):
        batch = data.sequence_batch(xs, ts, batch_size, time_size, i * time_size)
        total += float(model.forward(*batch, train_flg=False))
    model.reset_state()
    return perplexity(total / max_iter)


def train_language_model(
    file=None,
    out="rnnfast-out",
    *,
    epochs=EPOCHS,
    hidden=HIDDEN,
    embedding=EMBEDDING,
    batch_size=BATCH_SIZE,
    time_size=TIME_SIZE,
    optimizer="adam",
    lr=None,
    max_grad=MAX_GRAD,
    eval_interval=20,
    seed=0,
    sample=400,
):
    """Train an LSTM character model on a text, evaluate it on the last 5%, and let it write.

    file: a UTF-8 text; None takes CPython's own documentation. Into the folder `out` go the
    weights, a log with one JSON object a line, and the perplexity curve if matplotlib is there.
    Everything that can be wrong with the arguments is raised before training starts. Ctrl-C
    finishes the running iteration, saves the weights and raises KeyboardInterrupt.
    """
    name = "Python's documentation" if file is None else file
    text = data.python_docs() if file is None else data.read_text(file)
    vocabulary = data.CharVocabulary.from_text(text)
    corpus = vocabulary.encode(text)
    held_out = corpus[-max(2, len(corpus) // 20) :]
    xs, ts = corpus[: -len(held_out) - 1], corpus[1 : -len(held_out)]
    if len(xs) < batch_size * time_size:
        raise ValueError(
            f"{name}: {len(corpus):,} characters are too few for batches of {batch_size} x "
            f"{time_size}; try a longer text or a smaller --batch-size or --time-size"
        )
    os.makedirs(out, exist_ok=True)
    tempfile.TemporaryFile(dir=out).close()  # an unwritable folder shows here, not at the end

    optimizer_class, default_lr = OPTIMIZERS[optimizer]
    lr = default_lr if lr is None else lr
    model = Rnnlm(len(vocabulary), embedding, hidden, rng=seed)
    parameters = sum(param.size for param in model.params)
    print(f"{name}: {len(corpus):,} characters, {len(vocabulary)} different")
    print(
        f"Rnnlm on {model.lstm_layer.device}: embedding {embedding}, hidden {hidden}, "
        f"{parameters:,} parameters",
        flush=True,
    )

    weights_file = os.path.join(out, "Rnnlm.safetensors")
    with ExitStack() as stack:
        log_file = os.path.join(out, "log.jsonl")
        log = JsonlLog(stack.enter_context(open(log_file, "w", encoding="utf-8")))
        bar = ProgressBar(epochs * (len(xs) // (batch_size * time_size)))
        stack.callback(bar.close)
        trainer = RnnlmTrainer(
            model,
            optimizer_class(lr),
            callbacks=[check_divergence, bar.step, log.step],
            write=bar.write,
        )
        log.write(
            event="start",
            text=name,
            characters=len(corpus),
            **model.sizes,
            optimizer=optimizer,
            lr=lr,
            max_grad=max_grad,
            batch_size=batch_size,
            time_size=time_size,
            seed=seed,
        )
        with stop_on_interrupt(trainer):
            trainer.fit(xs, ts, epochs, batch_size, time_size, max_grad, eval_interval)
            model.save_params(weights_file, vocabulary.tokens)
        bar.write(f"weights: {weights_file}")
        if trainer.stopped:
            raise KeyboardInterrupt
        bar.close()

        held_out_ppl = eval_perplexity(model, held_out, 1, min(time_size, len(held_out) - 1))
        log.write(event="held_out", characters=len(held_out), perplexity=held_out_ppl)
        print(f"held-out perplexity (last {len(held_out):,} characters): {held_out_ppl:.2f}")

    if plot.available():
        curve = os.path.join(out, "perplexity.png")
        plot.save_perplexity(curve, trainer.ppl_list, eval_interval)
        print(f"curve: {curve}")
    else:
        print("curve: not drawn, matplotlib is missing (pip install 'rnnfast[plot]')")
    if sample:
        # A whole sequence to begin with: training has hardly ever seen a state of zero.
        ids = generate(model, corpus[:time_size], sample, temperature=TEMPERATURE, rng=seed)
        print(f"generated text (temperature {TEMPERATURE}):\n{vocabulary.decode(ids)}")


class ProgressBar:
    """A tqdm bar on stderr, silent where that is not a terminal; `write` prints beside it."""

    def __init__(self, total):
        from tqdm import tqdm

        self.bar = tqdm(total=total, file=sys.stderr, disable=None, unit="it", leave=False)

    def step(self, step):
        if step.perplexity is not None:
            self.bar.set_postfix(perplexity=f"{step.perplexity:.2f}", refresh=False)
        self.bar.update()

    def write(self, line):
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self):
        self.bar.close()


class JsonlLog:
    """One JSON object a line in an open text file, flushed as soon as it is written."""

    def __init__(self, file):
        self.file = file

    def write(self, **fields):
        self.file.write(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
        self.file.flush()

    def step(self, step):
        if step.perplexity is not None:
            self.write(event="train", **step._asdict())


def check_divergence(step):
    """RuntimeError as soon as the perplexity or the gradient is no finite number."""
    if not (math.isfinite(perplexity(step.loss)) and math.isfinite(step.grad_norm or 0.0)):
        raise RuntimeError(
            f"training diverged at epoch {step.epoch}, iter {step.iter} (loss {step.loss}, "
            f"gradient norm {step.grad_norm}); try a smaller learning rate"
        )


@contextmanager
def stop_on_interrupt(trainer):
    """Within the block the first Ctrl-C is trainer.stop(); a second one interrupts at once."""
    usual = signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not usual:
        yield  # signals belong to somebody else
        return

    def stop(signum, frame):
        signal.signal(signal.SIGINT, usual)
        trainer.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
