"""What an iteration on a GPU depends on, and what of it lies on the host: see `TrainingStep`."""

from collections.abc import Iterator
from functools import cache
from itertools import compress
from threading import current_thread
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.kernels import get_float32_matmul_precision
from rnnfast.training.optimizers import Adam

SETTINGS = bool, int, float, str, np.generic  # types of attributes that say what is computed
RESULTS = frozenset(("step", "loss", "penalty"))  # attributes of these types that do not
METHODS = "forward", "backward", "update", "draw"
OF_LANGUAGE_MODELS = (
    "layers",
    "aside",
    "recurrent_layers",
    "drop_layers",
    "loss_layer",
    "vocab_size",
)


def key_of(model: Any, optimizer: Any, xs: Any, ts: Any) -> Any:
    """All that an iteration depends on beside numbers in arrays, or None: do not record it.

    Iterations with equal keys launch the same kernels with the same arguments, if the arrays that
    lie in the key are kept.
    """
    if not (model.params and checks.is_cupy(model.params[0])):
        return None
    if not all(hasattr(model, name) for name in OF_LANGUAGE_MODELS):
        return None
    if getattr(model, "adversary", None) is not None:
        return None  # FRAGE's array of popular words may be replaced
    parts = list(_parts(model))
    if not all(map(_is_ours, (optimizer, *parts))):
        return None  # code of the caller's may do anything
    if not all(map(checks.is_array, (xs, ts))) or not _are_ids(model, xs, ts):
        return None
    return (
        [(type(x), x.shape, x.dtype) for x in (xs, ts)],
        [id(array) for array in arrays_of(model, optimizer)],
        [getattr(optimizer, name) for name in optimizer.numbers if name != counter_of(optimizer)],
        [id(part) for part in parts],
        [
            x
            for part in parts
            for name, x in part.__dict__.items()
            if isinstance(x, SETTINGS) and name not in RESULTS
        ],
        [drop.mask_state()[1] for drop in model.drop_layers],
        [layer.frozen for layer in model.recurrent_layers],
        (get_float32_matmul_precision(), current_thread()),  # each has its own handle of cuBLAS
    )


def counter_of(optimizer: Any) -> str:
    """The number of an optimiser that its kernels count on in a graph; "" if there is none."""
    return "iter" if type(optimizer) is Adam else ""


def arrays_of(model: Any, optimizer: Any) -> list[Any]:
    """What an iteration writes and the next one reads, beside states."""
    lists = [getattr(optimizer, name) or () for name in optimizer.arrays]
    for part in _parts(model):  # of which a caller may have replaced one
        lists += [getattr(part, "params", ()), getattr(part, "grads", ())]
    return [x for arrays in lists for x in arrays]


def _parts(model: Any) -> Iterator[Any]:
    """All layers whose attributes say what the model computes."""
    yield from (model, *model.layers, *model.aside, *model.drop_layers, model.loss_layer)


def _is_ours(part: Any) -> bool:
    """Whether it is an object of this package's, with no method of the caller's put into it."""
    cls: Any = type(part)
    return _is_our_class(cls) and not any(name in part.__dict__ for name in METHODS)


@cache
def _is_our_class(cls: Any) -> bool:
    methods = (getattr(cls, name, None) for name in METHODS)
    found = (cls, *(method for method in methods if method is not None))
    return all((x.__module__ or "").startswith("rnnfast.") for x in found)


def _are_ids(model: Any, xs: Any, ts: Any) -> bool:
    """Whether NumPy arrays are of ids that a model has, or of targets to ignore.

    Those of CuPy are not looked at, as in the layers.
    """
    V, ignored = model.vocab_size, model.loss_layer.ignore_label
    for ids, but in ((xs, None), (ts, ignored)):
        if ids.dtype.kind not in "iu" or ids.ndim != 2 or not ids.size:
            return False
        if checks.is_numpy(ids) and not (ids.min() >= 0 and ids.max() < V):
            wrong = ids[(ids < 0) | (ids >= V)]
            if but is None or not np.all(wrong == but):
                return False
    return True


class Captured:
    """The inputs, states and counters of a recorded iteration of a model.

    The graph reads ids and states where they lay when it was captured, and writes the new states
    there. Of masks it knows how many were drawn then and how often it has run since.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        self._model = model
        self._kept = arrays_of(model, optimizer)  # their addresses are in the graph
        self._layers = [layer for layer in model.recurrent_layers if layer.stateful]
        self._inputs: list[Any] = []
        self._states: list[list[Any]] = []
        counters = [(drop, "step") for drop in model.drop_layers]
        counters += [(optimizer, name) for name in (counter_of(optimizer),) if name]
        self._counters: list[tuple[Any, str]] = counters
        self._before = [getattr(*counter) for counter in counters]
        self._states_before = [layer.state for layer in self._layers]

    def take(self, *inputs: Any) -> list[Any]:
        """Copies of the ids and, in the layers, of the states: what the iteration reads."""
        xp = checks.namespace(self._model.params[0])
        self._inputs = [xp.array(x) for x in inputs]
        for layer in self._layers:
            own = [state.copy() for state in layer.state]
            self._states.append(own)
            layer._keep(*own)
        return self._inputs

    def carry(self) -> None:
        """At the end of the iteration: the states go to where the next one reads them."""
        for layer, own in zip(self._layers, self._states, strict=True):
            for state, new in zip(own, layer.state, strict=True):
                state[...] = new

    def give_back(self) -> bool:
        """Undoes what the capture did on the host. False unless each counter grew by 1 or not.

        The graph adds the number of its launches to those that grew.
        """
        for layer, state in zip(self._layers, self._states_before, strict=True):
            layer._keep(*state)
        now = [getattr(*counter) for counter in self._counters]
        grown = [new - old for new, old in zip(now, self._before, strict=True)]
        self._set(self._before)
        kept = [count > 0 for count in grown]
        self._counters = list(compress(self._counters, kept))
        self._next = list(compress(self._before, kept))
        return set(grown) <= {0, 1}

    def _set(self, values: list[int]) -> None:
        for (owner, name), value in zip(self._counters, values, strict=True):
            setattr(owner, name, value)

    def begin(self, *inputs: Any) -> bool:
        """Brings ids and states to where the graph reads them. False if it cannot run."""
        if [getattr(*counter) for counter in self._counters] != self._next:
            return False  # masks were drawn beside the graph
        for layer, own in zip(self._layers, self._states, strict=True):
            for mine, state in zip(own, layer.state, strict=True):
                if state is None:
                    mine.fill(0)
                elif state is not mine:
                    mine[...] = state
        for mine, x in zip(self._inputs, inputs, strict=True):
            if checks.is_numpy(x):
                mine.set(np.ascontiguousarray(x))
            else:
                mine[...] = x
        return True

    def end(self) -> None:
        """After a launch."""
        self._next = [value + 1 for value in self._next]
        self._set(self._next)
        for layer, own in zip(self._layers, self._states, strict=True):
            layer._keep(*own)
