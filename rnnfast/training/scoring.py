"""The probability of each token of a text under a language model."""

import numpy as np

from rnnfast.layers.freezing import frozen, own_state

SCORE_STEPS = 1024  # tokens whose scores are in memory at a time
LEAST = 64  # the same of a training text


def ending(model, ids):
    """The end of ids (length,), a text, for a model to read before another: a list of 64 to 128.

    A model of few iterations may run off at some token if its state is zero, and not come back. So
    that beginning is taken after which the next 64 ids surprise it least. The model's state stays.
    """
    T = min(LEAST, len(ids))
    starts = list(range(len(ids) - T, max(len(ids) - 2 * LEAST, 0) - 1, -(LEAST // 8)))
    rows = np.stack([ids[start : start + T] for start in starts])
    with own_state(model):
        model.reset_state()
        scores = log_softmax(model.predict(rows[:, :-1])[:, T // 2 :])
    right = np.take_along_axis(scores, rows[:, 1 + T // 2 :, np.newaxis], axis=2)
    return ids[starts[right[:, :, 0].sum(axis=1).argmax()] :].tolist()


def log_softmax(scores):
    """Over the last axis, in float64."""
    scores = scores.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def log_probabilities(model, ids):
    """log P(ids[i] | ids[0] ... ids[i-1]) for i from 1 on, natural logarithms: float64 (n - 1,).

    The model's state is zero before and after.
    """
    return np.concatenate([np.empty(0), *(logs for logs, _ in token_scores(model, ids))])


def token_scores(model, ids):
    """The same by SCORE_STEPS, each with whether these ids were the likeliest."""
    model.reset_state()
    try:
        with frozen(model):
            for i in range(0, len(ids) - 1, SCORE_STEPS):
                xs, ts = ids[i : i + SCORE_STEPS], ids[i + 1 : i + 1 + SCORE_STEPS]
                scores = log_softmax(model.predict(xs[np.newaxis, : len(ts)])[0])
                yield scores[np.arange(len(ts)), ts], scores.argmax(axis=1) == ts
    finally:
        model.reset_state()
