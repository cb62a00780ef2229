"""PyTorch: state dicts of nn.RNN, nn.LSTM and nn.GRU.

https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html. Layer k has the weights below, a
bidirectional one also those with the suffix _reverse.

    weight_ih_lk (G*H, D)    weight_hh_lk (G*H, H)    bias_ih_lk, bias_hh_lk (G*H,)

With proj_size P, weight_hh_lk is (4H, P), and there is weight_hr_lk (P, H).
"""

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.convert.common import (
    TORCH,
    cell_options,
    floats,
    kind_of,
    levels,
    make,
    one_bias,
    take_apart,
)
from rnnfast.layers.stacks import TimeStack

LABELS = {
    "weight_ih": "(G*H, D)",
    "weight_hh": "(G*H, H)",
    "bias_ih": "(G*H,)",
    "bias_hh": "(G*H,)",
    "weight_hr": "(P, H)",
}
MODES = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "LSTM": None, "GRU": None}  # of modules


def from_torch(
    source: Any,
    *,
    prefix: str = "",
    nonlinearity: str | None = None,
    dropout_ratio: float | None = None,
    rng: Any = None,
    stateful: bool = False,
    device: str | None = None,
) -> Any:
    """Make a layer from an nn.RNN, nn.LSTM or nn.GRU, or from its state dict.

    Parameters
    ----------
    source : module or mapping
        A module, or a mapping from names to tensors or NumPy arrays (for example from
        safetensors). Names and shapes determine the layer.
    prefix : str
        Beginning of the names: "rnn." for the part `rnn` of a larger model's state dict. Other
        names are ignored.
    nonlinearity : {"tanh", "relu"}, optional
        That of an RNN. A state dict does not have it: by default the module's, else "tanh".
    dropout_ratio : float, optional
        Dropout between layers. By default the module's, else 0.
    rng
        As in TimeStack.
    stateful, device
        As in TimeLSTM.

    Returns
    -------
    TimeRNN, TimeLSTM, TimeGRU, TimeLSTMP, TimeBi* or, for several layers, TimeStack
        It takes xs (N, T, D), like a module with batch_first=True. A TimeLSTMP is made from an
        nn.LSTM with a proj_size.

    Raises
    ------
    ValueError
        Missing or unknown names, wrong shapes.
    TypeError
        Other modules; dtypes other than float32 and float64, or a mixture of them.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import convert
    >>> state = {"rnn.weight_ih_l0": np.ones((8, 3)), "rnn.weight_hh_l0": np.ones((8, 2))}
    >>> lstm = convert.from_torch(state, prefix="rnn.")
    >>> lstm.forward(np.ones((1, 5, 3))).shape
    (1, 5, 2)
    """
    source = getattr(source, "_orig_mod", source)  # of torch.compile
    state: Any = source
    mode = None
    if hasattr(source, "state_dict"):
        state, mode = source.state_dict(), getattr(source, "mode", "")
    if not isinstance(state, Mapping) or mode not in (None, *MODES):
        raise TypeError(
            "from_torch: source must be an nn.RNN, nn.LSTM, nn.GRU or a state dict, got "
            f"{type(source).__name__}"
        )
    named = _names([name for name in state if name.startswith(prefix)], prefix)
    weights = {n: floats("from_torch", n, state[n]) for k in named for way in k for n in way}

    first_x, first_h, *_ = named[0][0]
    projected = f"{prefix}weight_hr_l0" in named[0][0]
    _, D = checks.matrix("from_torch", first_x, weights[first_x], "(G*H, D)")
    GH, H = checks.matrix("from_torch", first_h, weights[first_h], "(G*H, H)")
    P, kind = H, "lstmp"  # P: the width of h
    if not projected:
        kind = kind_of("from_torch", first_h, weights[first_h], GH, H)
    elif GH % 4:
        found = weights[first_h]
        raise checks.shape_error("from_torch", first_h, "(4H, P), as of an LSTM", found)
    else:
        H = GH // 4
    dtype = weights[first_h].dtype
    if nonlinearity is None:
        nonlinearity = MODES.get(mode or "")
    options = cell_options("from_torch", kind, nonlinearity, reset_after=True)

    layers: list[Any] = []
    for level in named:
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (GH, D),
            "weight_hh": (GH, P),
            **dict.fromkeys(("bias_ih", "bias_hh"), (GH,)),
            "weight_hr": (P, H),
        }
        directions: list[tuple[Any, Any, Any, Any]] = []
        for names in level:
            for name in names:
                what = name.removeprefix(prefix).rpartition("_l")[0]
                W, label = weights[name], LABELS[what]
                checks.exactly("from_torch", name, W, dtype, shapes[what], label)
            W_ih, W_hh, *rest = (weights[name] for name in names)
            Wproj = rest.pop().T if projected else None
            b = one_bias(rest[0], rest[1], kind == "gru") if rest else None
            directions.append((W_ih.T, W_hh.T, b, Wproj))
        layers.append(make(kind, TORCH, directions, stateful=stateful, device=device, **options))
        D = len(level) * P  # the input of the next level
    if len(layers) == 1:
        return layers[0]
    usual = source.dropout if mode else 0.0
    return TimeStack(layers, usual if dropout_ratio is None else dropout_ratio, rng=rng)


def to_torch(layer: Any, *, prefix: str = "", grads: bool = False) -> dict[str, NDArray[Any]]:
    """State dict of a layer for a PyTorch module.

    Parameters
    ----------
    layer : TimeRNN, TimeLSTM, TimeGRU, TimeLSTMP, TimeBi* or TimeStack
        A GRU without z_keeps is converted to one with it.
    prefix : str
        Beginning of the names.
    grads : bool
        True gives the gradients under the same names, to compare with ``parameter.grad``.

    Returns
    -------
    dict
        Name -> NumPy array. The module must have the layer's sizes, bias, nonlinearity and
        dropout.

    Raises
    ------
    ValueError
        PyTorch cannot express it: peepholes, cell_clip, a GRU without reset_after, a TimeReverse, a
        TimeStack of different layers, a projection that is not narrower than H.
    TypeError
        Another layer.

    Notes
    -----
    bias_hh is zeros if the layer has one bias. To load the weights::

        state = to_torch(layer)
        module.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()})

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeRNN, convert
    >>> rnn = TimeRNN(np.ones((3, 2)), np.ones((2, 2)), np.zeros(2))
    >>> list(convert.to_torch(rnn))
    ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    """
    state: dict[str, NDArray[Any]] = {}
    first: Any = None
    for k, (direction, parts) in enumerate(levels("to_torch", layer, TORCH)):
        if direction == "reverse":
            raise ValueError("to_torch: PyTorch has no layer that only reads backwards")
        for way, part in zip(("", "_reverse"), parts, strict=False):
            if part._options.get("reset_after") is False:
                raise ValueError("to_torch: a GRU with reset_after=False cannot be expressed")
            W_ih, W_hh, b, Wproj = take_apart("to_torch", part, TORCH, grads=grads)
            if Wproj is not None and Wproj.shape[1] >= Wproj.shape[0]:
                expected = f"below hidden_size = {Wproj.shape[0]}"
                raise ValueError(f"to_torch: proj_size must be {expected}, got {Wproj.shape[1]}")
            options = {n: v for n, v in part._options.items() if n != "z_keeps"}
            found = (part.column, len(parts), W_hh.shape, W_hh.dtype, b is None, options)
            first = first or found
            if found != first:
                raise ValueError(
                    "to_torch: PyTorch stacks layers of one kind, H, dtype and bias, all of one or "
                    f"of both directions; level {k} is not as the first one is"
                )
            arrays = {"weight_ih": W_ih.T, "weight_hh": W_hh.T}
            if b is not None:
                arrays |= {"bias_ih": b[0], "bias_hh": b[1]}
            if Wproj is not None:
                arrays["weight_hr"] = Wproj.T
            for name, array in arrays.items():
                state[f"{prefix}{name}_l{k}{way}"] = np.ascontiguousarray(array)
    return state


def _names(found: list[str], prefix: str) -> list[list[list[str]]]:
    """Names of the weights by level and direction; ValueError for missing or unknown names."""
    there = set(found)
    depth = len(list(takewhile(lambda k: f"{prefix}weight_ih_l{k}" in there, count())))
    ways = ("", "_reverse") if f"{prefix}weight_ih_l0_reverse" in there else ("",)
    more: tuple[str, ...] = ("bias_ih", "bias_hh") if f"{prefix}bias_ih_l0" in there else ()
    more += ("weight_hr",) if f"{prefix}weight_hr_l0" in there else ()
    named = [
        [
            [f"{prefix}{what}_l{k}{way}" for what in ("weight_ih", "weight_hh", *more)]
            for way in ways
        ]
        for k in range(max(depth, 1))
    ]
    expected = {name for level in named for names in level for name in names}
    if there != expected:
        missing, unknown = sorted(expected - there)[:5], sorted(there - expected)[:5]
        first = "weight_ih_l0"
        ends = {name.removesuffix(first) for name in found if name.endswith(first)} - {prefix}
        hint = f"prefix may be {' or '.join(map(repr, sorted(ends)))}" if ends else "see prefix"
        raise ValueError(
            f"from_torch: expected the weights of one nn.RNN, nn.LSTM or nn.GRU ({hint}); "
            f"missing {missing}, unknown {unknown}"
        )
    return named
