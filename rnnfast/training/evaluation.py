"""Perplexity and accuracy of a model on data that it was not trained on. Chapters 5, 6 and 7."""

import inspect
import math
import warnings

import numpy as np

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.layers.freezing import frozen
from rnnfast.text.corpora import sequence_batch
from rnnfast.training.arguments import checked_lengths, given, ids


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
        return float((to_numpy(model.predict(xs)).argmax(axis=2) == ts).mean())

    with frozen(model):
        return _mean_of_batches("eval_accuracy", model, corpus, batch_size, time_size, share, prime)


def _mean_of_batches(owner, model, corpus, batch_size, time_size, measure, prime):
    corpus = ids(owner, "corpus", corpus)
    xs, ts = corpus[:-1], corpus[1:]
    checks.count(owner, "batch_size", batch_size)
    checks.count(owner, "time_size", time_size)
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
            total += measure(*sequence_batch(xs, ts, batch_size, time_size, i * time_size))
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
        found = model.generate_batch(xs[rows], start_id, sample_size, **given(lengths, rows))
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
        scores = to_numpy(model.predict(xs[rows], **given(lengths, rows)))
        right += int(((scores.argmax(axis=-1) == ts[rows]) & counted[rows]).sum())
    return right / int(counted.sum())


def _checked(owner, xs, ts, lengths, batch_size):
    """Arrays of all samples, and the slices that batches of them are."""
    xs, ts = np.asarray(xs), np.asarray(ts)
    checks.count(owner, "batch_size", batch_size)
    if xs.ndim == 0 or ts.ndim == 0 or len(xs) != len(ts):
        raise ValueError(f"{owner}: xs and ts must be equally long, got {xs.shape} and {ts.shape}")
    if len(xs) == 0:
        raise ValueError(f"{owner}: xs must not be empty")
    batches = [slice(i, i + batch_size) for i in range(0, len(xs), batch_size)]
    return xs, ts, checked_lengths(owner, lengths, len(xs)), batches


EVAL_BATCH, EVAL_TIME = 10, 35  # the book's


def evaluate(model, ids, batch_size=None, time_size=None, measure=eval_perplexity, *, prime=None):
    """measure with the book's batches, or one sample where the text is too short."""
    short = len(ids) - 1 < (batch_size or EVAL_BATCH) * (time_size or EVAL_TIME)
    batch_size = batch_size or (1 if short else EVAL_BATCH)
    time_size = time_size or (min(EVAL_TIME, len(ids) - 1) if short else EVAL_TIME)
    return measure(model, ids, batch_size, time_size, prime=prime)
