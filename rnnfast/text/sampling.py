"""Text from a language model, one id at a time (chapter 7).

Every function draws the same way. Of the scores of what comes next

    temperature  divides them; 0 takes the most probable id
    skip_ids     are never drawn; the others share their probability
    top_k        only the k most probable ids are drawn (Fan et al. 2018,
                 https://arxiv.org/abs/1805.04833)
    top_p        only the most probable ids are, as few as reach this probability together, at least
                 one (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751); after the others
    stop_ids     one of them that is drawn is the last id
    rng          a seed or a numpy.random.Generator; None draws from np.random, as the book does

Recurrent layers are frozen (TimeLSTM.freeze) while ids are drawn, and unfrozen afterwards unless
they were frozen before: a model cannot be trained while a stream of it is open. Wrong arguments are
a TypeError or a ValueError that names them, before anything is drawn.
"""

import reprlib

import numpy as np

from rnnfast import checks
from rnnfast.layers.freezing import frozen, own_state
from rnnfast.layers.initial import generator, seed


def generate(
    model,
    start_ids,
    sample_size,
    *,
    temperature=1.0,
    top_k=None,
    top_p=None,
    skip_ids=None,
    stop_ids=None,
    rng=None,
):
    """At most `sample_size` ids that continue start_ids, as a list; see rnnfast.sampling.

    A list of prompts, each of any length, gives a list of such lists, drawn side by side. rng is
    then a list with a seed or Generator for each of them, or one from which theirs are spawned;
    a prompt's ids are those that it would get alone, with its rng. (To the rounding of a product
    with more or fewer rows: a draw on the very edge between two ids may fall to the other side.)

    Every prompt starts from a zero state; the model's own state is put aside and is there again
    afterwards.
    """
    V = vocab_size("generate", model)
    choose = _chooser("generate", V, temperature, top_k, top_p, skip_ids)
    stop = _id_set("generate", "stop_ids", stop_ids, V)
    sample_size = check_size("generate", sample_size)
    if _is_batch(start_ids):
        prompts = [_ids("generate", f"start_ids[{k}]", ids, V) for k, ids in enumerate(start_ids)]
        rngs = _spawn("generate", rng, len(prompts))
    else:
        prompts = [_ids("generate", "start_ids", start_ids, V)]
        rngs = [generator("generate", rng)]
    with own_state(model), frozen(model):
        drawn = _draw_batch(model, prompts, sample_size, choose, stop, rngs)
    return drawn if _is_batch(start_ids) else drawn[0]


def stream(
    model,
    start_ids,
    *,
    temperature=1.0,
    top_k=None,
    top_p=None,
    skip_ids=None,
    stop_ids=None,
    rng=None,
):
    """An iterator over the ids that continue start_ids, each drawn when it is asked for.

    Without stop_ids it has no end. It goes on from the model's current state, which has then seen
    all ids but the last. Close it, or drop it, before training goes on; see rnnfast.sampling.
    """
    V = vocab_size("stream", model)
    choose = _chooser("stream", V, temperature, top_k, top_p, skip_ids)
    stop = _id_set("stream", "stop_ids", stop_ids, V)
    ids = _ids("stream", "start_ids", start_ids, V)
    return _draw(model, ids, choose, stop, generator("stream", rng))


def _draw(model, ids, choose, stop, rng):
    with frozen(model):
        while True:
            drawn = choose(model.next_scores(ids[np.newaxis])[0], rng)
            yield drawn
            if drawn in stop:
                return
            ids = np.array([drawn])


def _draw_batch(model, prompts, sample_size, choose, stop, rngs):
    """The prompts one by one, for they differ in length; then a step of all that go on."""
    results = [[] for _ in prompts]
    if not prompts or sample_size == 0:
        return results
    scores, states = [], []
    for ids in prompts:
        model.reset_state()
        scores.append(model.next_scores(ids[np.newaxis])[0])
        states.append(model.get_state())
    layers = zip(*states, strict=True)  # of each recurrent layer the states of all prompts
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


def _chooser(owner, V, temperature, top_k, top_p, skip_ids):
    """choose(scores (V,), rng) -> an id."""
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
    skip = sorted(_id_set(owner, "skip_ids", skip_ids, V))
    if len(skip) == V:
        raise ValueError(f"{owner}: skip_ids leaves no id to draw")

    def choose(scores, rng):
        scores = scores.astype(np.float64)
        if np.isnan(scores).any() or scores.max() == np.inf:
            raise ValueError(f"{owner}: the model's scores are not finite")
        scores[skip] = -np.inf
        best = int(scores.argmax())
        if scores[best] == -np.inf:
            raise ValueError(f"{owner}: skip_ids leaves no id to draw")
        if temperature == 0:
            return best
        with np.errstate(over="ignore"):  # a tiny temperature: all but the best become -inf
            weights = np.exp((scores - scores[best]) / temperature)
        if top_k is not None or top_p is not None:
            _cut(weights, top_k, top_p)
        cdf = np.cumsum(weights)
        return int(cdf.searchsorted(rng.random() * cdf[-1], side="right"))

    return choose


def _cut(weights, top_k, top_p):
    """Sets all but the greatest to 0; of equal ones the first are kept."""
    descending = -np.sort(-weights)
    kept = len(weights) if top_k is None else min(top_k, len(weights))
    if top_p is not None:
        cdf = np.cumsum(descending[:kept])
        kept = int(cdf.searchsorted(top_p * cdf[-1])) + 1
    last = descending[kept - 1]
    keep = weights > last
    keep[np.flatnonzero(weights == last)[: kept - int(keep.sum())]] = True
    weights[~keep] = 0


def vocab_size(owner, model):
    """How many ids there are for a language model."""
    if not hasattr(model, "next_scores") or not hasattr(model, "recurrent_layers"):
        kind = type(model).__name__
        raise TypeError(f"{owner}: model must be one of rnnfast.models, got {kind}")
    return model.vocab_size


def check_size(owner, sample_size):
    """sample_size as an int from 0 up."""
    sample_size = checks.integer(owner, "sample_size", sample_size)
    if sample_size < 0:
        raise ValueError(f"{owner}: sample_size must not be negative, got {sample_size}")
    return sample_size


def _spawn(owner, rng, count):
    """A generator for each of `count` prompts."""
    if isinstance(rng, (list, tuple)):
        if len(rng) != count:
            raise ValueError(
                f"{owner}: rng must be one for each of {count} prompts, got {len(rng)}"
            )
        return [generator(owner, one) for one in rng]
    source = generator(owner, rng)
    if source is np.random:
        source = np.random.default_rng(seed(None, source))
    return source.spawn(count)


def _is_batch(start_ids):
    if isinstance(start_ids, np.ndarray):
        return start_ids.ndim == 2
    first = start_ids[0] if isinstance(start_ids, (list, tuple)) and start_ids else None
    return isinstance(first, (list, tuple)) or (isinstance(first, np.ndarray) and first.ndim == 1)


def _ids(owner, name, ids, V):
    """A prompt as an array of ids."""
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of several lengths
        array = None
    if array is None or array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        what = f"{owner}: {name} must be at least one integer id"
        raise ValueError(f"{what}, got {reprlib.repr(ids)}")
    checks.in_range(owner, name, array, V)
    return array


def _id_set(owner, name, ids, V):
    """Ids to skip or to stop at; None is none."""
    if ids is None:
        return set()
    try:
        ids = {checks.integer(owner, name, k) for k in ids}
    except TypeError:
        got = reprlib.repr(ids)
        raise TypeError(f"{owner}: {name} must be integer ids or None, got {got}") from None
    for k in ids:
        if not 0 <= k < V:
            raise ValueError(f"{owner}: {name} must be in [0, {V}), got {k}")
    return ids
