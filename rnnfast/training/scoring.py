"""Probability of each token of a text under a language model."""

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.layers.freezing import frozen, own_state
from rnnfast.typing import LanguageModel

SCORE_STEPS = 1024  # tokens whose scores are in memory at a time
LEAST = 64  # ids of the shortest beginning that `ending` chooses


def ending(model: LanguageModel, ids: Any) -> list[int]:
    """Choose the end of a text that a model reads before another text.

    Parameters
    ----------
    model : LanguageModel
        One of rnnfast.models; its state is unchanged afterwards.
    ids : array of int (length,)
        The text.

    Returns
    -------
    list of int
        The last 64 to 128 ids, all of them in a shorter text.

    Notes
    -----
    A model that was trained for few iterations may diverge from a zero state at some tokens and
    not recover. The chosen beginning is the one after which the next ids have the highest
    probability.
    """
    T = min(LEAST, len(ids))
    starts = list(range(len(ids) - T, max(len(ids) - 2 * LEAST, 0) - 1, -(LEAST // 8)))
    rows = np.stack([ids[start : start + T] for start in starts])
    with own_state(model):
        model.reset_state()
        scores = log_softmax(model.predict(rows[:, :-1])[:, T // 2 :])
    right = np.take_along_axis(scores, rows[:, 1 + T // 2 :, np.newaxis], axis=2)
    found: list[int] = ids[starts[right[:, :, 0].sum(axis=1).argmax()] :].tolist()
    return found


def log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithm of the softmax over the last axis, in float64."""
    scores = scores.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def log_probabilities(model: LanguageModel, ids: NDArray[Any]) -> NDArray[np.float64]:
    """Log probability of each id of a text, given all ids before it.

    Parameters
    ----------
    model : LanguageModel
        Its state is zero before and after.
    ids : array of int (n,)
        The text.

    Returns
    -------
    float64 (n - 1,)
        log P(ids[i] | ids[0], ..., ids[i - 1]) for i from 1 on, natural logarithms.
    """
    return np.concatenate([np.empty(0), *(logs for logs, _ in token_scores(model, ids))])


def token_scores(
    model: LanguageModel, ids: NDArray[Any]
) -> Generator[tuple[NDArray[np.float64], NDArray[np.bool_]], None, None]:
    """Log probabilities in pieces of SCORE_STEPS, and whether each id had the highest score."""
    model.reset_state()
    try:
        with frozen(model):
            for i in range(0, len(ids) - 1, SCORE_STEPS):
                xs, ts = ids[i : i + SCORE_STEPS], ids[i + 1 : i + 1 + SCORE_STEPS]
                scores = log_softmax(model.predict(xs[np.newaxis, : len(ts)])[0])
                yield scores[np.arange(len(ts)), ts], scores.argmax(axis=1) == ts
    finally:
        model.reset_state()
