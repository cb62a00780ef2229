"""Shares of right answers and labels of models that read sequences. Chapter 7."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.training.arguments import checked_lengths, given


class _Generates(Protocol):
    """Models that answer one question, as the book's; `generate_batch` answers many at once."""

    @property
    def generate(self) -> Callable[..., Any]: ...


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
        One of rnnfast.sequences, or a model with the same `generate_batch`; or the book's, which
        answers one question after another by `generate`.
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

    Examples
    --------
    >>> from rnnfast.sequences import Seq2seq
    >>> model = Seq2seq(vocab_size=10, wordvec_size=4, hidden_size=8, rng=0)
    >>> questions, answers = np.arange(20).reshape(5, 4) % 10, np.tile([9, 1, 2], (5, 1))
    >>> eval_exact(model, questions, answers)
    0.0
    """
    xs, ts, lengths, batches = checked_samples("eval_exact", xs, ts, lengths, batch_size)
    if ts.ndim != 2 or ts.shape[1] == 0 or ts.dtype.kind not in "iu":
        raise ValueError(f"eval_exact: ts must be ids (length, T), got {ts.dtype} {ts.shape}")
    if (ts[:, 0] != ts[0, 0]).any():
        first = sorted({*ts[:, 0].tolist()})
        raise ValueError(f"eval_exact: ts must all begin with the same id, got {first[:5]}")
    start_id, sample_size = int(ts[0, 0]), ts.shape[1] - 1
    answer = getattr(model, "generate_batch", None) or partial(_one_by_one, model)
    right = 0
    for rows in batches:
        found = answer(xs[rows], start_id, sample_size, **given(lengths, rows))
        right += int((found == ts[rows, 1:]).all(axis=1).sum())
    return right / len(ts)


def _one_by_one(model: _Generates, xs: NDArray[Any], *options: Any, **given: Any) -> NDArray[Any]:
    """The answers of a model that takes one question at a time."""
    if given:
        raise TypeError("eval_exact: lengths need a model with generate_batch")
    return np.array([model.generate(x[np.newaxis], *options) for x in xs])


def eval_seq2seq(
    model: _Generates,
    question: ArrayLike,
    correct: ArrayLike,
    id_to_char: Mapping[int, str],
    verbose: bool = False,
    is_reverse: bool = False,
) -> int:
    """Whether the answer to one question is right in every id; the book's function.

    Parameters
    ----------
    model : Seq2seq
        One of rnnfast.sequences, or one of the book's.
    question : array of int (1, T)
    correct : array of int (1, T') or (T',)
        The right answer. The model starts from its first id.
    id_to_char : mapping
        The character of each id.
    verbose : bool
        Print the question, the right answer and the model's with a mark.
    is_reverse : bool
        Print the question from its end.

    Returns
    -------
    int
        1 if it is right, else 0.

    Raises
    ------
    ValueError
        `correct` has no id.

    References
    ----------
    Deep Learning from Scratch 2, chapter 7, common/util.py.

    Examples
    --------
    >>> from rnnfast.sequences import Seq2seq
    >>> model = Seq2seq(vocab_size=4, wordvec_size=4, hidden_size=8, rng=0)
    >>> eval_seq2seq(model, np.array([[0, 1, 2]]), np.array([3, 1, 1]), dict(enumerate("ab+_")))
    0
    """
    question = checks.on_host("eval_seq2seq", "question", question)
    correct = checks.on_host("eval_seq2seq", "correct", correct).ravel()
    if len(correct) == 0:
        raise ValueError("eval_seq2seq: correct must begin with the id to start from, got no id")
    guess = model.generate(question, int(correct[0]), len(correct) - 1)
    asked, wanted, got = (
        "".join(id_to_char[int(i)] for i in ids) for ids in (question.ravel(), correct[1:], guess)
    )
    if verbose:
        print("Q", asked[::-1] if is_reverse else asked)
        print("T", wanted)
        print(_mark(wanted == got), got)
        print("---")
    return int(wanted == got)


def _mark(right: bool) -> str:
    """The book's mark of an answer; O or X where stdout cannot show it."""
    mark = "☑" if right else "☒"
    try:
        mark.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return "O" if right else "X"
    return mark


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
        There are no samples, `ts` has not a label for each of the model's answers, or none counts.
    TypeError
        Labels are no integers.

    Examples
    --------
    >>> from rnnfast.sequences import SequenceTagger
    >>> model = SequenceTagger(vocab_size=10, wordvec_size=4, hidden_size=8, tags=2, rng=0)
    >>> words = np.arange(20).reshape(5, 4) % 10
    >>> 0.0 <= eval_labels(model, words, words % 2) <= 1.0
    True
    """
    xs, ts, lengths, batches = checked_samples("eval_labels", xs, ts, lengths, batch_size)
    if ts.dtype.kind not in "iu":
        raise TypeError(f"eval_labels: ts must be integers, got {ts.dtype}")
    counted = ts != getattr(model.loss_layer, "ignore_label", None)
    if lengths is not None and ts.ndim == 2:
        counted &= np.arange(ts.shape[1]) < lengths[:, np.newaxis]
    if not counted.any():
        raise ValueError("eval_labels: ts must have a label to guess, got none")
    right = 0
    for rows in batches:
        scores = to_numpy(model.predict(xs[rows], **given(lengths, rows)))
        if scores.shape[:-1] != ts[rows].shape:
            expected = (len(ts), *scores.shape[1:-1])
            raise ValueError(f"eval_labels: ts must be {expected}, a label each, got {ts.shape}")
        right += int(((scores.argmax(axis=-1) == ts[rows]) & counted[rows]).sum())
    return right / int(counted.sum())


def checked_samples(
    owner: str, xs: ArrayLike, ts: ArrayLike, lengths: ArrayLike | None, batch_size: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, list[slice]]:
    """Arrays of all samples, and the slices of the batches."""
    xs, ts = checks.on_host(owner, "xs", xs), checks.on_host(owner, "ts", ts)
    checks.count(owner, "batch_size", batch_size)
    if xs.ndim == 0 or ts.ndim == 0 or len(xs) != len(ts):
        raise ValueError(f"{owner}: xs and ts must be equally long, got {xs.shape} and {ts.shape}")
    if len(xs) == 0:
        raise ValueError(f"{owner}: xs must not be empty")
    batches = [slice(i, i + batch_size) for i in range(0, len(xs), batch_size)]
    return xs, ts, checked_lengths(owner, lengths, len(xs)), batches
