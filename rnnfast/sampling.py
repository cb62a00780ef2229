"""Text from a language model, one id at a time (chapter 7)."""

from itertools import islice

import numpy as np


def generate(model, start_ids, sample_size, *, temperature=1.0, skip_ids=None, rng=None):
    """`sample_size` ids that continue `start_ids`, as a list; for the options see `stream`.

    Starts from a zero state; the model's own state is put aside and is there again afterwards.
    """
    state = model.get_state()
    model.reset_state()
    try:
        ids = stream(model, start_ids, temperature=temperature, skip_ids=skip_ids, rng=rng)
        return list(islice(ids, sample_size))
    finally:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            model.set_state(state)


def stream(model, start_ids, *, temperature=1.0, skip_ids=None, rng=None):
    """Ids drawn one after the other, without an end, going on from the model's current state.

    temperature: the scores are divided by it; 0 takes the most probable id.
    skip_ids: ids that are never drawn; the others share their probability.
    rng: a seed or a Generator; None draws from np.random, as the book does.
    """
    start_ids = np.asarray(start_ids)
    if start_ids.ndim != 1 or len(start_ids) == 0 or start_ids.dtype.kind not in "iu":
        raise ValueError(f"start_ids must be at least one integer id, got {start_ids.tolist()}")
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature must be finite and not negative, got {temperature}")
    return _draw(model, start_ids, temperature, skip_ids, rng)


def _draw(model, ids, temperature, skip_ids, rng):
    rng = np.random if rng is None else np.random.default_rng(rng)
    while True:
        scores = model.predict(np.reshape(ids, (1, -1)))[0, -1].astype(np.float64)
        if skip_ids is not None:
            scores[list(skip_ids)] = -np.inf
            if not np.isfinite(scores).any():
                raise ValueError("skip_ids leaves no id to draw")
        drawn = int(scores.argmax())
        if temperature > 0:
            weights = np.exp((scores - scores[drawn]) / temperature)
            cdf = np.cumsum(weights)
            drawn = int(cdf.searchsorted(rng.random() * cdf[-1], side="right"))
        yield drawn
        ids = drawn
