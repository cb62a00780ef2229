"""The neural cache: a language model that also remembers the last words and their hidden states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.freezing import frozen
from rnnfast.text.sampling import vocab_size
from rnnfast.training.evaluation import Progress, mean_of_batches, perplexity, warn_if_blind
from rnnfast.training.scoring import log_softmax
from rnnfast.typing import Array, LanguageModel


@dataclass(frozen=True)
class NeuralCache:
    """The settings of a neural cache, for `eval_cache` and `eval_dynamic`.

    Parameters
    ----------
    size : int
        Number of words that it remembers.
    theta : float
        Flatness, from 0 up. With 0 all remembered words count alike; the greater it is, the more
        only those count whose hidden states are like the present one.
    ratio : float
        The share of the cache in the mixture, lambda in the paper, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        For a wrong argument.

    Notes
    -----
    The cache holds the pairs of a hidden state h_i and the word that followed it, w_{i+1}, of the
    last `size` steps. h is the input of the last layer. ::

        p_cache(w) ~ sum over i of exp(theta h_t . h_i) [w = w_{i+1}]
        p(w)       = (1 - ratio) p_model(w) + ratio p_cache(w)

    An empty cache has no share: p is then p_model.

    References
    ----------
    E. Grave, A. Joulin, N. Usunier, Improving neural language models with a continuous cache, 2016,
    https://arxiv.org/abs/1612.04426.

    Examples
    --------
    >>> from rnnfast.trainer import NeuralCache
    >>> NeuralCache(size=500, theta=0.5)
    NeuralCache(size=500, theta=0.5, ratio=0.1)
    """

    size: int = 500
    theta: float = 0.6
    ratio: float = 0.1

    def __post_init__(self) -> None:
        owner = type(self).__name__
        checks.count(owner, "size", self.size)
        checks.nonnegative(owner, "theta", self.theta)
        checks.ratio(owner, "ratio", self.ratio)


def eval_cache(
    model: LanguageModel,
    corpus: Sequence[int] | Array,
    batch_size: int = 1,
    time_size: int = 35,
    *,
    cache: NeuralCache | None = None,
    prime: Sequence[int] | Array | None = None,
    progress: Progress | None = None,
) -> float:
    """Perplexity of a language model with a neural cache on a corpus.

    Parameters
    ----------
    model : LanguageModel
        One of rnnfast.models. Its weights are frozen meanwhile; its state is zero before and after.
    corpus : array of int (length,)
        Ids of the text.
    batch_size, time_size : int
        Size of a batch (N, T). Every sample has a cache of its own, so more samples find less.
    cache : NeuralCache, optional
        The settings; None is ``NeuralCache()``.
    prime : array of int (n,), optional
        As in `eval_perplexity`. The cache is empty after it.
    progress : callable, optional
        As in `eval_perplexity`.

    Returns
    -------
    float
        The perplexity.

    Raises
    ------
    TypeError
        The model is not one of rnnfast.models, or `cache` no NeuralCache.
    ValueError
        The corpus is shorter than one batch.

    Notes
    -----
    Batches and their mean are those of `eval_perplexity`. See `NeuralCache` for the equations.

    Examples
    --------
    >>> from rnnfast.models import Rnnlm
    >>> from rnnfast.trainer import eval_cache, eval_perplexity
    >>> model = Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> text = np.array([1, 2, 3] * 12)  # the model has learned nothing, the cache finds the words
    >>> round(eval_perplexity(model, text, 1), 1), round(eval_cache(model, text), 1)
    (10.0, 8.5)
    """
    settings = checked_cache("eval_cache", NeuralCache() if cache is None else cache)
    net: Any = model
    V = vocab_size("eval_cache", net)
    remembered = Remembered(settings)

    def loss(xs: Any, ts: Any) -> Any:
        hidden = net.hidden(xs)
        return remembered.loss(net.top_states(hidden), target_logs(net.scores(hidden), ts), ts)

    with frozen(model):
        given = batch_size, time_size, loss, prime, None, progress
        mean = mean_of_batches("eval_cache", model, corpus, *given)
    ppl = perplexity(float(mean))
    warn_if_blind(ppl, V, prime is not None)
    return ppl


def checked_cache(owner: str, cache: Any) -> NeuralCache:
    """The argument `cache` of a function."""
    checked: NeuralCache = checks.of_kind(owner, "cache", cache, NeuralCache)
    return checked


def target_logs(scores: Any, ts: Any) -> Any:
    """log p_model of the targets ts (N, T), from their scores (N, T, V), in float64."""
    logs: Any = log_softmax(scores)
    ts = checks.beside(logs, ts)[:, :, np.newaxis]
    return checks.namespace(logs).take_along_axis(logs, ts, axis=2)[:, :, 0]


class Remembered:
    """The contents of the caches of N samples: hidden states, and the word that followed each.

    The arrays grow to room for twice the size and a batch. So the last states are moved to their
    beginning rarely, and never over themselves.
    """

    _hs: Any = None  # (N, room, H)
    _words: Any  # (N, room)
    _end = 0  # of what is in them

    def __init__(self, settings: NeuralCache) -> None:
        self._settings = settings

    def loss(self, hs: Any, logs: Any, ts: Any) -> Any:
        """The mean of -log p(ts); then hs and ts are remembered.

        hs (N, T, H); logs (N, T), log p_model(ts); ts (N, T).
        """
        ts = checks.beside(hs, ts)
        self._append(hs, ts)
        first = int(self._end == ts.shape[1])  # nothing is known at the first step of a text
        if first < ts.shape[1]:
            logs[:, first:] = self._mixed(hs[:, first:], logs[:, first:], ts[:, first:])
        return -logs.mean()

    def _append(self, hs: Any, ts: Any) -> None:
        """Write hs and ts behind what is remembered."""
        T, size = ts.shape[1], self._settings.size
        if self._hs is None:
            self._hs, self._words = hs[:, :0], ts[:, :0]
        room, most = self._words.shape[1], 2 * size + T
        if self._end + T > room and room < most:
            room = min(most, 2 * (self._end + T))
            self._hs = _longer(self._hs, self._end, room)
            self._words = _longer(self._words, self._end, room)
        if self._end + T > room:
            for array in (self._hs, self._words):
                array[:, :size] = array[:, self._end - size : self._end]
            self._end = size
        for array, new in ((self._hs, hs), (self._words, ts)):
            array[:, self._end : self._end + T] = new
        self._end += T

    def _mixed(self, hs: Any, logs: Any, ts: Any) -> Any:
        """log p(ts) for hs, logs and ts, which are the last that were appended."""
        xp, size, T = checks.namespace(hs), self._settings.size, ts.shape[1]
        start, end = max(self._end - T - size, 0), self._end - 1  # of all that these steps know
        steps = xp.arange(self._end - T, self._end)[:, np.newaxis]
        at = xp.arange(start, end)
        known = (at < steps) & (at >= steps - size)
        likeness = (hs @ self._hs[:, start:end].swapaxes(1, 2)).astype(np.float64)
        likeness = xp.where(known, self._settings.theta * likeness, -np.inf)
        likeness -= likeness.max(axis=2, keepdims=True)
        weights = xp.exp(likeness)
        same = self._words[:, np.newaxis, start:end] == ts[:, :, np.newaxis]
        share, ratio = (weights * same).sum(axis=2) / weights.sum(axis=2), self._settings.ratio
        with np.errstate(divide="ignore"):  # the log of 0 is -inf: the cache does not know the word
            return xp.logaddexp(math.log1p(-ratio) + logs, xp.log(ratio * share))


def _longer(array: Any, end: int, room: int) -> Any:
    """An array with room for so many steps, which begins with the first `end` of this one."""
    longer = checks.namespace(array).empty((len(array), room, *array.shape[2:]), array.dtype)
    longer[:, :end] = array[:, :end]
    return longer
