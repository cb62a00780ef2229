"""Perplexity and accuracy of a model on data it was not trained on. Chapters 5, 6 and 7."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.distributed.ranks import ranks_of
from rnnfast.layers.freezing import frozen
from rnnfast.layers.shares import Share
from rnnfast.text.corpora import sequence_batch
from rnnfast.training.arguments import ids
from rnnfast.typing import Array, LanguageModel

Progress = Callable[[int, int], Any]  # of the batches done, and of all


def perplexity(loss: float) -> float:
    """Perplexity of a mean cross entropy.

    Parameters
    ----------
    loss : float
        Mean cross entropy in nats.

    Returns
    -------
    float
        exp(loss); inf where that overflows.

    Examples
    --------
    >>> from rnnfast.trainer import perplexity
    >>> perplexity(0.0), perplexity(1000.0)
    (1.0, inf)
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class PerplexityWarning(UserWarning):
    """A perplexity is above the size of the vocabulary: worse than a uniform guess."""


def eval_perplexity(
    model: LanguageModel,
    corpus: Sequence[int] | Array,
    batch_size: int = 10,
    time_size: int = 35,
    *,
    prime: Sequence[int] | Array | None = None,
    comm: Any = None,
    progress: Progress | None = None,
) -> float:
    """Perplexity of a language model on a corpus.

    Parameters
    ----------
    model : LanguageModel
        Its state is zero before and after. The weights of rnnfast's own models are frozen
        meanwhile.
    corpus : array of int (length,)
        Ids of the text.
    batch_size, time_size : int
        Size of a batch (N, T).
    prime : array of int (n,), optional
        Ids that precede the corpus. Each sample then starts from the state after these and after
        the n ids right before it, which do not count, instead of from zero.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share out the samples of each batch. All of them call this function, and get
        the result.
    progress : callable, optional
        Called after each batch with the number of batches done and of all.

    Returns
    -------
    float
        The perplexity.

    Raises
    ------
    ValueError
        The corpus is shorter than one batch.

    Warns
    -----
    PerplexityWarning
        The result is above the number of ids. A model that was always trained from state to state
        may need `prime`.

    Notes
    -----
    As in the book, each sample of a batch starts at its own offset, the state is carried from batch
    to batch, batch losses are averaged, and a tail that does not fill a batch is dropped. No
    activations are kept.

    References
    ----------
    Deep Learning from Scratch 2, common/util.py.

    Examples
    --------
    >>> from rnnfast.models import Rnnlm
    >>> model = Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> round(eval_perplexity(model, np.arange(701) % 10), 1)  # untrained, it guesses blindly
    10.0
    """
    # The book's own Rnnlm has no such argument.
    flag = "train_flg" in inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"train_flg": False} if flag else {}
    forward: Callable[..., Any] = model.forward

    def loss(xs: Any, ts: Any) -> float:
        return float(forward(xs, ts, **options))

    with frozen(model):
        sizes = batch_size, time_size
        given = prime, comm, progress
        mean = mean_of_batches("eval_perplexity", model, corpus, *sizes, loss, *given)
    ppl = perplexity(mean)
    warn_if_blind(ppl, getattr(model, "vocab_size", math.inf), prime is not None)
    return ppl


def warn_if_blind(ppl: float, vocab_size: float, primed: bool) -> None:
    """Warn with a PerplexityWarning if a perplexity is above the vocabulary's size.

    A hundredth more is allowed: untrained models differ from the size by so much.
    """
    if ppl > 1.01 * vocab_size:
        begun = "" if primed else " (from a zero state; prime= and --prime give a text before it)"
        warnings.warn(
            f"perplexity {ppl:,.2f} is above the vocabulary's {vocab_size:,}: worse than a blind "
            f"guess{begun}",
            PerplexityWarning,
            stacklevel=3,
        )


def eval_accuracy(
    model: LanguageModel,
    corpus: Sequence[int] | Array,
    batch_size: int = 10,
    time_size: int = 35,
    *,
    prime: Sequence[int] | Array | None = None,
    comm: Any = None,
    progress: Progress | None = None,
) -> float:
    """Share of ids to which a language model gives the highest score.

    Parameters
    ----------
    model, corpus, batch_size, time_size, prime, comm, progress
        As in `eval_perplexity`.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        The corpus is shorter than one batch.
    """

    params = getattr(model, "params", None)

    def share(xs: Any, ts: Any) -> float:
        if params:  # the scores stay where they are computed
            xs, ts = (checks.beside(params[0], array) for array in (xs, ts))
        return float((model.predict(xs).argmax(axis=2) == ts).mean())

    with frozen(model):
        sizes = batch_size, time_size
        given = prime, comm, progress
        return mean_of_batches("eval_accuracy", model, corpus, *sizes, share, *given)


def mean_of_batches(
    owner: str,
    model: LanguageModel,
    corpus: Any,
    batch_size: int,
    time_size: int,
    measure: Callable[[Any, Any], float],
    prime: Any,
    comm: Any = None,
    progress: Progress | None = None,
) -> float:
    """The mean of measure(xs, ts) over all batches of a corpus, over the samples of all ranks."""
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
    ranks = ranks_of(comm)
    share = Share(0, batch_size, batch_size) if ranks is None else ranks.share(batch_size)
    model.reset_state()
    total = 0.0
    try:
        if prime is not None and share.size:
            _read_before(model, xs, ids(owner, "prime", prime), share, time_size)
        for i in range(max_iter if share.size else 0):
            batch = sequence_batch(xs, ts, batch_size, time_size, i * time_size)
            total += measure(*(array[share.rows] for array in batch))
            if ranks is not None:
                ranks.heart.beat()
            if progress is not None:
                progress(i + 1, max_iter)
    finally:
        model.reset_state()
    if ranks is not None:
        total = ranks.sum([total * share.weight])[0]
    return total / max_iter


def _read_before(model: LanguageModel, xs: Any, prime: Any, share: Share, time_size: int) -> None:
    """Let the model read `prime`, then the ids before each sample of a share of sequence_batch."""
    n = len(prime)
    offsets = np.arange(share.total, dtype=np.int64)[share.rows, np.newaxis] * (
        len(xs) // share.total
    )
    for starts in (0 * offsets, offsets):
        for i in range(0, n, time_size):
            at = starts + np.arange(i, min(i + time_size, n))  # in prime and xs, without copying xs
            before = prime[np.minimum(at, n - 1)], xs[np.maximum(at - n, 0)]
            model.predict(np.where(at < n, *(ids.astype(np.int64) for ids in before)))


EVAL_BATCH, EVAL_TIME = 10, 35  # the book's


def evaluate(
    model: LanguageModel,
    ids: Any,
    batch_size: int | None = None,
    time_size: int | None = None,
    measure: Callable[..., float] = eval_perplexity,
    *,
    prime: Any = None,
    comm: Any = None,
    progress: Progress | None = None,
) -> float:
    """A measure with the book's batches, or with one sample if the text is too short for them."""
    short = len(ids) - 1 < (batch_size or EVAL_BATCH) * (time_size or EVAL_TIME)
    batch_size = batch_size or (1 if short else EVAL_BATCH)
    time_size = time_size or (min(EVAL_TIME, len(ids) - 1) if short else EVAL_TIME)
    more = {"prime": prime} | ({} if comm is None else {"comm": comm})
    return measure(model, ids, batch_size, time_size, progress=progress, **more)
