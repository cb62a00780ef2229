"""How the next id is drawn from its scores: temperature, top_k, top_p, skip_ids.

rnnfast.text.sampling says what they mean.
"""

import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks

Choose = Callable[[NDArray[Any], Any], int]  # (scores (V,), rng) -> an id


def chooser(
    owner: str,
    V: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    skip_ids: Iterable[int] | None,
) -> Choose:
    """The function that draws an id, for checked arguments."""
    temperature = checks.number(owner, "temperature", temperature)
    if not 0 <= temperature < np.inf:
        raise ValueError(f"{owner}: temperature must be finite and not negative, got {temperature}")
    if top_k is not None:
        top_k = checks.integer(owner, "top_k", top_k)
        if top_k < 1:
            raise ValueError(f"{owner}: top_k must be from 1 up, got {top_k}")
    if top_p is not None:
        top_p = checks.number(owner, "top_p", top_p)
        if not 0 < top_p <= 1:
            raise ValueError(f"{owner}: top_p must be in (0, 1], got {top_p}")
    skip = sorted(id_set(owner, "skip_ids", skip_ids, V))
    if len(skip) == V:
        raise ValueError(f"{owner}: skip_ids leaves no id to draw")

    def choose(scores: NDArray[Any], rng: Any) -> int:
        scores = scores.astype(np.float64)
        if np.isnan(scores).any() or scores.max() == np.inf:
            raise ValueError(f"{owner}: the model's scores are not finite")
        scores[skip] = -np.inf
        best = int(scores.argmax())
        if scores[best] == -np.inf:
            raise ValueError(f"{owner}: skip_ids leaves no id to draw")
        if temperature == 0:
            return best
        with np.errstate(over="ignore"):  # at tiny temperatures all but the best become -inf
            weights = np.exp((scores - scores[best]) / temperature)
        if top_k is not None or top_p is not None:
            _cut(weights, top_k, top_p)
        cdf = np.cumsum(weights)
        return int(cdf.searchsorted(rng.random() * cdf[-1], side="right"))

    return choose


def _cut(weights: NDArray[Any], top_k: int | None, top_p: float | None) -> None:
    """Set all but the greatest weights to 0, in place. Among equal ones the first are kept."""
    descending = -np.sort(-weights)
    kept = len(weights) if top_k is None else min(top_k, len(weights))
    if top_p is not None:
        cdf = np.cumsum(descending[:kept])
        kept = int(cdf.searchsorted(top_p * cdf[-1])) + 1
    last = descending[kept - 1]
    keep = weights > last
    keep[np.flatnonzero(weights == last)[: kept - int(keep.sum())]] = True
    weights[~keep] = 0


def id_set(owner: str, name: str, ids: Iterable[int] | None, V: int) -> set[int]:
    """The set of ids to skip or to stop at; empty for None."""
    if ids is None:
        return set()
    try:
        found = {checks.integer(owner, name, k) for k in ids}
    except TypeError:
        got = reprlib.repr(ids)
        raise TypeError(f"{owner}: {name} must be integer ids or None, got {got}") from None
    for k in found:
        if not 0 <= k < V:
            raise ValueError(f"{owner}: {name} must be in [0, {V}), got {k}")
    return found
