"""Shares of right answers and labels of models that read sequences. Chapter 7."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.training.arguments import checked_lengths, given


class _Generates(Protocol):
    """Models that answer a batch; an argument `lengths` is optional."""

    @property
    def generate_batch(self) -> Callable[..., Any]: ...


class _Labels(Protocol):
    """Models that score labels; `ignore_label` is that of their loss layer."""

    @property
    def loss_layer(self) -> Any: ...
    @property
    def predict(self) -> Callable[..., Any]: ...


def eval_exact(
    model: _Generates,
    xs: ArrayLike,
    ts: ArrayLike,
    batch_size: int = 500,
    *,
    lengths: ArrayLike | None = None,
) -> float:
    """Share of answers that are right in every id: the book's eval_seq2seq, in batches.

    Parameters
    ----------
    model : Seq2seq or VectorToSequence
        One of rnnfast.sequences, or a model with the same `generate_batch`.
    xs : array (length, ...)
        Questions.
    ts : array of int (length, T)
        Answers. All begin with the same id, from which the model starts.
    batch_size : int
        Number of questions at a time.
    lengths : array of int (length,), optional
        Lengths of the questions.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        There are no questions, `xs` and `ts` differ in length, or the answers begin with
        different ids.

    References
    ----------
    Deep Learning from Scratch 2, chapter 7, common/util.py.
    """
    xs, ts, lengths, batches = checked_samples("eval_exact", xs, ts, lengths, batch_size)
    if ts.ndim != 2 or ts.shape[1] == 0 or (ts[:, 0] != ts[0, 0]).any():
        raise ValueError("eval_exact: ts must be (length, T), all beginning with the same id")
    start_id, sample_size = int(ts[0, 0]), ts.shape[1] - 1
    right = 0
    for rows in batches:
        found = model.generate_batch(xs[rows], start_id, sample_size, **given(lengths, rows))
        right += int((found == ts[rows, 1:]).all(axis=1).sum())
    return right / len(ts)


def eval_labels(
    model: _Labels,
    xs: ArrayLike,
    ts: ArrayLike,
    batch_size: int = 500,
    *,
    lengths: ArrayLike | None = None,
) -> float:
    """Share of labels to which a model gives the highest score.

    Parameters
    ----------
    model : SequenceClassifier or SequenceTagger
        One of rnnfast.sequences, or a model with the same `predict` and `loss_layer`.
    xs : array (length, ...)
        Samples.
    ts : array of int (length,) or (length, T)
        Labels. Of (length, T), labels beyond `lengths` do not count; labels equal to the loss
        layer's `ignore_label` never count.
    batch_size : int
        Number of samples at a time.
    lengths : array of int (length,), optional
        Lengths of the samples.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        There are no samples, `xs` and `ts` differ in length, or no label counts.
    """
    xs, ts, lengths, batches = checked_samples("eval_labels", xs, ts, lengths, batch_size)
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


def checked_samples(
    owner: str, xs: ArrayLike, ts: ArrayLike, lengths: ArrayLike | None, batch_size: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, list[slice]]:
    """Arrays of all samples, and the slices of the batches."""
    xs, ts = np.asarray(xs), np.asarray(ts)
    checks.count(owner, "batch_size", batch_size)
    if xs.ndim == 0 or ts.ndim == 0 or len(xs) != len(ts):
        raise ValueError(f"{owner}: xs and ts must be equally long, got {xs.shape} and {ts.shape}")
    if len(xs) == 0:
        raise ValueError(f"{owner}: xs must not be empty")
    batches = [slice(i, i + batch_size) for i in range(0, len(xs), batch_size)]
    return xs, ts, checked_lengths(owner, lengths, len(xs)), batches
