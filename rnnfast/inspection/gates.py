"""The values of gates and states at every step of a layer. Chapters 5 and 6, appendix C."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.inspection.arguments import here, kind
from rnnfast.io.weights import to_numpy
from rnnfast.kernels import load
from rnnfast.layers.recurrent import Lengths, checked_lengths
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN
from rnnfast.typing import Array

# What the reference keeps of a step, by its place: rnnfast/reference
KEPT = {
    "rnn": {},
    "lstm": {"f": 5, "g": 6, "i": 7, "o": 8, "c": 9},
    "gru": {"z": 5, "r": 6, "h_hat": 8},
}


def gates(
    layer: TimeRNN | TimeLSTM | TimeGRU,
    xs: Array,
    state: tuple[Array | None, ...] | None = None,
    lengths: Lengths = None,
) -> dict[str, NDArray[Any]]:
    """The values of the gates, the cell and h at every step, computed by the NumPy reference.

    Parameters
    ----------
    layer : TimeRNN, TimeLSTM or TimeGRU
        Its weights and its variant of the cell are used. The layer and its state do not change.
    xs : array (N, T, D)
        The input.
    state : tuple of array (N, H), optional
        The state before the first step, as `layer.state` has it. None is zeros.
    lengths : array_like of int (N,), optional
        As in the layer's forward. Values beyond a sample's length have no meaning.

    Returns
    -------
    dict of array (N, T, H)
        Of an LSTM ``f``, ``g``, ``i``, ``o``, ``c`` and ``h``: the forget gate, the new
        information, the input gate, the output gate, the cell and the output. Of a GRU ``z``, the
        share of the new state, whatever the layer's convention is, ``r``, ``h_hat`` and ``h``. Of
        an RNN ``h``.

    Raises
    ------
    TypeError
        For another layer, or an argument of a wrong kind.
    ValueError
        For a wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeLSTM, inspection
    >>> lstm = TimeLSTM.create(3, 4, rng=0, forget_bias=100.0)
    >>> values = inspection.gates(lstm, np.ones((2, 5, 3), "f"))
    >>> list(values)
    ['f', 'g', 'i', 'o', 'c', 'h']
    >>> values["f"].shape, float(values["f"].min()) > 0.99
    ((2, 5, 4), True)
    """
    if not isinstance(layer, (TimeRNN, TimeLSTM, TimeGRU)):
        raise TypeError(f"gates: layer must be a TimeRNN, TimeLSTM or TimeGRU, got {kind(layer)}")
    D, H = layer._D, layer._H
    given = checks.real("gates", "xs", here("gates", "xs", xs))
    if given.ndim != 3 or given.shape[2] != D:
        raise checks.shape_error("gates", "xs", f"(N, T, D) = (N, T, {D})", given)
    N, T, _ = given.shape
    if lengths is not None:
        lengths = checked_lengths("gates", lengths, N, T)
    params = iter([to_numpy(param) for param in layer.params])
    weights = tuple(next(params) if there else None for there in layer._there)
    before = _checked_state(layer, state, (N, H))
    hs, _, cache = load(layer.column, "reference").forward(
        checks.cast(given, layer.dtype), before, weights, lengths=lengths, **layer._options
    )
    found = {name: np.zeros_like(hs) for name in KEPT[layer.column]}
    for step in cache["steps"]:
        for name, place in KEPT[layer.column].items():
            found[name][:, step[0]] = step[place]
    return found | {"h": hs}


def _checked_state(layer: Any, state: Any, shape: tuple[int, int]) -> tuple[Any, ...] | None:
    """state as the reference takes it."""
    if state is None:
        return None
    names = layer.states
    if not isinstance(state, tuple) or len(state) != len(names):
        got = f"{len(state)} values" if isinstance(state, tuple) else kind(state)
        raise TypeError(f"gates: state must be a tuple ({', '.join(names)},), got {got}")
    found = []
    for name, value in zip(names, state, strict=True):
        value = np.zeros(shape) if value is None else here("gates", name, value)
        value = checks.real("gates", name, value)
        if value.shape != shape:
            raise checks.shape_error("gates", name, f"(N, H) = {shape}", value)
        found.append(checks.cast(value, layer.dtype))
    return tuple(found)
