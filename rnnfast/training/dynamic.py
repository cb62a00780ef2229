"""Dynamic evaluation: a language model goes on learning from the text on which it is measured."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.text.sampling import vocab_size
from rnnfast.training.evaluation import Progress, mean_of_batches, perplexity, warn_if_blind
from rnnfast.training.gradients import remove_duplicate
from rnnfast.training.neural_cache import NeuralCache, Remembered, checked_cache, target_logs
from rnnfast.training.stopping import Diverged
from rnnfast.typing import Array, LanguageModel

SEGMENT = 20  # steps between two updates
BATCH = 20  # samples, for mean squares
EPSILON = 1e-4
# rule -> learning rate, decay
USUAL = {"sgd": (0.5, 0.003), "rms": (0.001, 0.003)}


def eval_dynamic(
    model: LanguageModel,
    corpus: Sequence[int] | Array,
    batch_size: int = 1,
    time_size: int = SEGMENT,
    *,
    lr: float | None = None,
    decay: float | None = None,
    mean_squares: Sequence[Any] | None = None,
    epsilon: float = EPSILON,
    cache: NeuralCache | None = None,
    prime: Sequence[int] | Array | None = None,
    progress: Progress | None = None,
) -> float:
    """Perplexity of a language model that learns from every segment after it was measured.

    Parameters
    ----------
    model : LanguageModel
        One of rnnfast.models. A copy learns; the model itself is not changed in any way.
    corpus : array of int (length,)
        Ids of the text.
    batch_size : int
        Number of samples that are read, and learned from, in parallel: N.
    time_size : int
        Length of a segment, T.
    lr : float, optional
        Learning rate, from 0 up. The gradient is that of the segment's mean loss. None is 0.5
        without, 0.001 with `mean_squares`.
    decay : float, optional
        Rate of the decay to the trained weights, lambda in the paper, in [0, 1]. None is 0.003.
    mean_squares : list of array, optional
        What `gradient_mean_squares` returns. None is the rule SGD, otherwise RMS.
    epsilon : float
        Of RMS, above 0: limits the step of weights with small gradients.
    cache : NeuralCache, optional
        Mixes the model with a neural cache, too. The model learns as without it.
    prime : array of int (n,), optional
        As in `eval_perplexity`. The model does not learn from it.
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
        The corpus is shorter than one segment, a number is out of its range, or `mean_squares` are
        not of this model.
    Diverged
        The perplexity is not finite.

    Notes
    -----
    Each segment is measured with the weights that the earlier ones left, then with g, the gradient
    of its loss, every weight p changes. p0 is its trained value. ::

        SGD:  p += -lr g                                   + decay (p0 - p)
        RMS:  p += -lr g / (sqrt(mean_squares) + epsilon)  + min(decay r, 1) (p0 - p)

    with r = sqrt(mean_squares), divided by its mean over all weights. There is no dropout and no
    penalty on activations; zoneout takes its probabilities. The gradient goes back to the beginning
    of the segment only; the state is carried on. Batches and their mean are those of
    `eval_perplexity`.

    References
    ----------
    B. Krause, E. Kahembwe, I. Murray, S. Renals, Dynamic evaluation of neural sequence models,
    2017, https://arxiv.org/abs/1709.07432.

    Examples
    --------
    >>> from rnnfast.models import Rnnlm
    >>> from rnnfast.trainer import eval_dynamic, eval_perplexity
    >>> model = Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> text = np.array([1, 2, 3] * 30)
    >>> round(eval_perplexity(model, text, 1, 5), 1), round(eval_dynamic(model, text, 1, 5), 1)
    (10.0, 5.1)
    """
    owner = "eval_dynamic"
    if cache is not None:
        cache = checked_cache(owner, cache)
    usual_lr, usual_decay = USUAL["sgd" if mean_squares is None else "rms"]
    lr = usual_lr if lr is None else checks.nonnegative(owner, "lr", lr)
    decay = usual_decay if decay is None else checks.number(owner, "decay", decay)
    if not 0 <= decay <= 1:
        raise ValueError(f"{owner}: decay must be in [0, 1], got {decay}")
    if not 0 < checks.number(owner, "epsilon", epsilon) < math.inf:
        raise ValueError(f"{owner}: epsilon must be finite, above 0, got {epsilon}")
    learner = _learner(owner, model)
    params, _ = remove_duplicate(learner.params, learner.grads)
    if mean_squares is None:
        rates: list[Any] = [lr] * len(params)
        kept: list[Any] = [1 - decay] * len(params)
    else:
        roots = _roots(owner, mean_squares, params)
        rates = [lr / (root + epsilon) for root in roots]
        mean = sum(float(root.sum(dtype=np.float64)) for root in roots)
        mean /= sum(root.size for root in roots)
        kept = [1 - (root * (decay / mean)).clip(None, 1) for root in roots]
    trained = [param.copy() for param in params]
    learned = [np.zeros_like(param) for param in params]
    remembered = None if cache is None else Remembered(cache)

    def loss(xs: Any, ts: Any) -> Any:
        hidden = learner.hidden(xs, True)
        value = learner.loss_layer.forward(hidden, ts)
        if remembered is not None:
            logs = target_logs(learner.scores(hidden), ts)
            value = remembered.loss(learner.top_states(hidden), logs, ts)
        learner.backward()
        # The difference to the trained weights is what is stored, so that it does not drown in
        # their rounding errors, and weights that learned nothing stay exactly as they were.
        _, grads = remove_duplicate(learner.params, learner.grads)
        for param, grad, old, change, rate, keep in zip(
            params, grads, trained, learned, rates, kept, strict=True
        ):
            grad *= rate
            change *= keep
            change -= grad
            checks.namespace(param).add(old, change, out=param)
        return value

    given = batch_size, time_size, loss, prime, None, progress
    mean_loss = mean_of_batches(owner, learner, corpus, *given)
    ppl = perplexity(float(mean_loss))
    if not math.isfinite(ppl):
        raise Diverged(f"{owner}: the perplexity is {ppl}; try a smaller lr, got {lr}")
    warn_if_blind(ppl, learner.vocab_size, prime is not None)
    return ppl


def gradient_mean_squares(
    model: LanguageModel,
    corpus: Sequence[int] | Array,
    batch_size: int = BATCH,
    time_size: int = SEGMENT,
    *,
    progress: Progress | None = None,
) -> list[Any]:
    """Mean squares of the gradients of a language model on its training text.

    Parameters
    ----------
    model : LanguageModel
        One of rnnfast.models. It is not changed in any way.
    corpus : array of int (length,)
        Ids of the training text.
    batch_size, time_size : int
        Size of a batch (N, T). The gradient of a batch is that of its mean loss, so the squares
        become smaller with larger batches.
    progress : callable, optional
        As in `eval_perplexity`.

    Returns
    -------
    list of array
        One array for each of the model's `params`, of the same shape and on the same device; shared
        parameters have one only. For `eval_dynamic`, as often as you like.

    Raises
    ------
    TypeError
        The model is not one of rnnfast.models.
    ValueError
        The corpus is shorter than one batch.

    Notes
    -----
    The mean of g**2 over all batches of the text, with the gradient g of each batch. The weights do
    not change, the state is carried on, and there is no dropout and no penalty on activations.

    References
    ----------
    B. Krause, E. Kahembwe, I. Murray, S. Renals, Dynamic evaluation of neural sequence models,
    2017, https://arxiv.org/abs/1709.07432.

    Examples
    --------
    >>> from rnnfast.models import Rnnlm
    >>> from rnnfast.trainer import eval_dynamic, gradient_mean_squares
    >>> model = Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> train, test = np.array([1, 2, 3] * 300), np.array([2, 3, 1] * 30)
    >>> squares = gradient_mean_squares(model, train)
    >>> [array.shape for array in squares]
    [(10, 4), (4, 16), (4, 16), (16,), (4, 10), (10,)]
    >>> round(eval_dynamic(model, test, 1, 5, lr=0.003, mean_squares=squares), 1)
    7.3
    """
    learner = _learner("gradient_mean_squares", model)
    params, _ = remove_duplicate(learner.params, learner.grads)
    totals = [np.zeros_like(param) for param in params]
    count = 0

    def add(xs: Any, ts: Any) -> Any:
        nonlocal count
        loss = learner.forward(xs, ts)
        learner.backward()
        _, grads = remove_duplicate(learner.params, learner.grads)
        for total, grad in zip(totals, grads, strict=True):
            grad *= grad
            total += grad
        count += 1
        return loss

    given = batch_size, time_size, add, None, None, progress
    mean_of_batches("gradient_mean_squares", learner, corpus, *given)
    for total in totals:
        total /= count
    return totals


def _learner(owner: str, model: Any) -> Any:
    """A copy of a model without dropout and penalties, which may learn."""
    vocab_size(owner, model)
    return model.unregularized()


def _roots(owner: str, mean_squares: Sequence[Any], params: list[Any]) -> list[Any]:
    """Square roots of mean_squares, which must have the shapes of params, with their dtype."""
    mean_squares = list(mean_squares)
    shapes = [getattr(array, "shape", None) for array in mean_squares]
    expected = [param.shape for param in params]
    if shapes != expected:
        raise ValueError(f"{owner}: mean_squares must be arrays {expected}, got {shapes}")
    squares = [checks.beside(p, a) for p, a in zip(params, mean_squares, strict=True)]
    # A sum is finite only if all numbers are.
    if not all(bool((a >= 0).all()) and math.isfinite(float(a.sum())) for a in squares):
        raise ValueError(f"{owner}: mean_squares must be finite, from 0 up")
    if not any(bool(a.any()) for a in squares):
        raise ValueError(f"{owner}: mean_squares must not be all 0")
    return [np.sqrt(a).astype(p.dtype, copy=False) for p, a in zip(params, squares, strict=True)]
