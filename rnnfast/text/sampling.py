"""Sampling text from a language model. What its functions share is said in rnnfast.sampling."""

import reprlib
from collections.abc import Collection, Generator, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.layers.alone import lock_of
from rnnfast.layers.freezing import frozen, own_state
from rnnfast.layers.initial import generator, seed
from rnnfast.text.choosing import Choose, chooser, id_set
from rnnfast.typing import TextModel


def generate(
    model: TextModel,
    start_ids: Any,
    sample_size: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    skip_ids: Iterable[int] | None = None,
    stop_ids: Iterable[int] | None = None,
    rng: Any = None,
) -> Any:
    """Sample ids that continue one prompt or a batch of prompts.

    Every prompt starts from a zero state. The model's own state is saved before and restored
    afterwards.

    Parameters
    ----------
    model : language model
        One of rnnfast.models.
    start_ids : array_like of int, (T,), or a list of them
        The prompt, or the prompts. Prompts may differ in length.
    sample_size : int
        Maximum number of ids to sample; fewer after one of `stop_ids`.
    temperature, top_k, top_p, skip_ids, stop_ids
        See rnnfast.sampling.
    rng : seed, Generator, list of them, or None
        A batch takes one per prompt, or one from which the generators of the prompts are spawned.

    Returns
    -------
    list of int, or list of such lists for a batch
        The ids without the prompt.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, and for scores that are not finite.

    Notes
    -----
    With its own rng, a prompt of a batch gets the same ids as in a call without the other prompts,
    up to rounding: products with more or fewer rows may round differently, and then a draw exactly
    between two ids may give the other one.

    Examples
    --------
    >>> from rnnfast.models import Rnnlm
    >>> model = Rnnlm(vocab_size=5, wordvec_size=4, hidden_size=4, rng=0)
    >>> len(generate(model, [0, 1], 10, rng=0))
    10
    >>> [len(ids) for ids in generate(model, [[0, 1], [2]], 10, rng=0)]
    [10, 10]
    """
    V = vocab_size("generate", model)
    choose = chooser("generate", V, temperature, top_k, top_p, skip_ids)
    stop = id_set("generate", "stop_ids", stop_ids, V)
    sample_size = check_size("generate", sample_size)
    if _is_batch(start_ids):
        prompts = [_ids("generate", f"start_ids[{k}]", ids, V) for k, ids in enumerate(start_ids)]
        rngs = _spawn("generate", rng, len(prompts))
    else:
        prompts = [_ids("generate", "start_ids", start_ids, V)]
        rngs = [generator("generate", rng)]
    with lock_of(model), own_state(model), frozen(model):
        drawn = _draw_batch(model, prompts, sample_size, choose, stop, rngs)
    return drawn if _is_batch(start_ids) else drawn[0]


def stream(
    model: TextModel,
    start_ids: Any,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    skip_ids: Iterable[int] | None = None,
    stop_ids: Iterable[int] | None = None,
    rng: Any = None,
) -> Generator[int, None, None]:
    """Sample ids that continue a prompt, lazily and, without `stop_ids`, endlessly.

    It starts from the model's current state and updates it: the state has seen all ids except the
    last. Close or delete the iterator before training continues.

    Parameters
    ----------
    model : language model
        One of rnnfast.models.
    start_ids : array_like of int, (T,)
        The prompt.
    temperature, top_k, top_p, skip_ids, stop_ids, rng
        See rnnfast.sampling.

    Returns
    -------
    generator of int

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, at once; during iteration for scores that are not finite.

    Examples
    --------
    >>> from itertools import islice
    >>> from rnnfast.models import Rnnlm
    >>> model = Rnnlm(vocab_size=5, wordvec_size=4, hidden_size=4, rng=0)
    >>> ids = stream(model, [0, 1], rng=0)
    >>> len(list(islice(ids, 3)))
    3
    >>> ids.close()
    """
    V = vocab_size("stream", model)
    choose = chooser("stream", V, temperature, top_k, top_p, skip_ids)
    stop = id_set("stream", "stop_ids", stop_ids, V)
    ids = _ids("stream", "start_ids", start_ids, V)
    return _draw(model, ids, choose, stop, generator("stream", rng))


def _draw(
    model: TextModel, ids: NDArray[Any], choose: Choose, stop: Collection[int], rng: Any
) -> Generator[int, None, None]:
    """The iterator of `stream`."""
    with frozen(model):
        while True:
            drawn = choose(model.next_scores(ids[np.newaxis])[0], rng)
            yield drawn
            if drawn in stop:
                return
            ids = np.array([drawn])


def _draw_batch(
    model: TextModel,
    prompts: Sequence[NDArray[Any]],
    sample_size: int,
    choose: Choose,
    stop: Collection[int],
    rngs: Sequence[Any],
) -> list[list[int]]:
    """Read the prompts one by one, since their lengths differ; then step all of them at once."""
    results: list[list[int]] = [[] for _ in prompts]
    if not prompts or sample_size == 0:
        return results
    scores, states = [], []
    for ids in prompts:
        model.reset_state()
        scores.append(model.next_scores(ids[np.newaxis])[0])
        states.append(model.get_state())
    layers = zip(*states, strict=True)  # per recurrent layer, the states of all prompts
    model.set_state([tuple(map(np.concatenate, zip(*layer, strict=True))) for layer in layers])
    running = list(range(len(prompts)))
    while True:
        rows = []
        for row, k in enumerate(running):
            results[k].append(choose(scores[row], rngs[k]))
            if results[k][-1] not in stop and len(results[k]) < sample_size:
                rows.append(row)
        if not rows:
            return results
        if len(rows) < len(running):
            running = [running[row] for row in rows]
            model.set_state([tuple(a[rows] for a in state) for state in model.get_state()])
        scores = model.next_scores(np.array([results[k][-1:] for k in running]))


def vocab_size(owner: str, model: TextModel) -> int:
    """The vocabulary size of a language model.

    Parameters
    ----------
    owner : str
        The calling function, for error messages.
    model : object

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If `model` is not a language model of rnnfast.models.
    """
    if not hasattr(model, "next_scores") or not hasattr(model, "recurrent_layers"):
        kind = type(model).__name__
        raise TypeError(f"{owner}: model must be one of rnnfast.models, got {kind}")
    return model.vocab_size


def check_size(owner: str, sample_size: Any) -> int:
    """Check a number of ids to sample.

    Parameters
    ----------
    owner : str
        The calling function, for error messages.
    sample_size : int

    Returns
    -------
    int
        At least 0.

    Raises
    ------
    TypeError, ValueError
    """
    size: int = checks.integer(owner, "sample_size", sample_size)
    if size < 0:
        raise ValueError(f"{owner}: sample_size must not be negative, got {size}")
    return size


def _spawn(owner: str, rng: Any, count: int) -> list[Any]:
    """One generator per prompt."""
    if isinstance(rng, (list, tuple)):
        if len(rng) != count:
            raise ValueError(
                f"{owner}: rng must be one for each of {count} prompts, got {len(rng)}"
            )
        return [generator(owner, one) for one in rng]
    source: Any = generator(owner, rng)
    if source is np.random:
        source = np.random.default_rng(seed(None, source))
    try:
        spawned: list[Any] = source.spawn(count)
    except TypeError as error:
        raise TypeError(f"{owner}: rng must be able to spawn generators ({error})") from None
    return spawned


def _is_batch(start_ids: Any) -> bool:
    """Whether start_ids is a batch of prompts."""
    if isinstance(start_ids, np.ndarray):
        return start_ids.ndim == 2
    first = start_ids[0] if isinstance(start_ids, (list, tuple)) and start_ids else None
    return isinstance(first, (list, tuple)) or (isinstance(first, np.ndarray) and first.ndim == 1)


def _ids(owner: str, name: str, ids: Any, V: int) -> NDArray[Any]:
    """A prompt as an array of ids."""
    array: NDArray[Any] | None
    try:
        array = np.asarray(checks.plain(owner, name, ids))
    except ValueError:  # lists of several lengths
        array = None
    if array is None or array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        what = f"{owner}: {name} must be at least one integer id"
        raise ValueError(f"{what}, got {reprlib.repr(ids)}")
    checks.in_range(owner, name, array, V)
    return array
