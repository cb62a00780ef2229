"""PyTorch: state dicts of nn.RNN, nn.LSTM and nn.GRU.

https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html. Layer k has, and where both
directions are read again with the suffix _reverse,

    weight_ih_lk (G*H, D)    weight_hh_lk (G*H, H)    bias_ih_lk, bias_hh_lk (G*H,)
"""

from collections.abc import Mapping
from itertools import count, takewhile

import numpy as np

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

LABELS = "(G*H, D)", "(G*H, H)", "(G*H,)", "(G*H,)"
MODES = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "LSTM": None, "GRU": None}  # of modules


def from_torch(
    source,
    *,
    prefix="",
    nonlinearity=None,
    dropout_ratio=None,
    rng=None,
    stateful=False,
    device=None,
):
    """An nn.RNN, nn.LSTM or nn.GRU, or its state dict -> a Time* or TimeBi*, or a TimeStack.

    source: a module, or a mapping from names to tensors or NumPy arrays (of safetensors, say).
    Names and shapes tell what it is. prefix: what the names begin with, "rnn." for the part `rnn`
    of a larger model's state dict; names that begin otherwise do not matter.

    nonlinearity, "tanh" or "relu" of an RNN, and dropout_ratio, between layers, are not in a state
    dict; by default they are the module's, else "tanh" and 0. rng as in TimeStack, stateful and
    device as in TimeLSTM. The layer takes xs (N, T, D), as a module with batch_first=True.

    ValueError for names that are missing or unknown, wrong shapes and projections (proj_size),
    TypeError for other modules, for dtypes other than float32 or float64 and a mixture of them.
    """
    state, mode = source, None
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
    _, D = checks.matrix("from_torch", first_x, weights[first_x], "(G*H, D)")
    GH, H = checks.matrix("from_torch", first_h, weights[first_h], "(G*H, H)")
    kind = kind_of("from_torch", first_h, weights[first_h], GH, H)
    dtype = weights[first_h].dtype
    if nonlinearity is None:
        nonlinearity = MODES.get(mode)
    options = cell_options("from_torch", kind, nonlinearity, reset_after=True)

    layers = []
    for level in named:
        shapes = (GH, D), (GH, H), (GH,), (GH,)
        directions = []
        for names in level:
            for name, shape, label in zip(names, shapes, LABELS, strict=False):
                checks.exactly("from_torch", name, weights[name], dtype, shape, label)
            W_ih, W_hh, *biases = (weights[name] for name in names)
            b = one_bias(*biases, kind == "gru") if biases else None
            directions.append((W_ih.T, W_hh.T, b, None))
        layers.append(make(kind, TORCH, directions, stateful=stateful, device=device, **options))
        D = len(level) * H  # what the next one reads
    if len(layers) == 1:
        return layers[0]
    if dropout_ratio is None:
        dropout_ratio = source.dropout if mode else 0.0
    return TimeStack(layers, dropout_ratio, rng=rng)


def to_torch(layer, *, prefix="", grads=False):
    """A layer -> a state dict of NumPy arrays: from_torch the other way round.

    module.load_state_dict({name: torch.from_numpy(a) for name, a in to_torch(layer).items()})

    bias_hh is zeros where one bias holds all. grads=True gives the gradients by the same names, to
    compare with parameter.grad. The module has the layer's sizes, bias, nonlinearity and dropout;
    a GRU without z_keeps is turned into one with it.

    ValueError for what PyTorch cannot express: peepholes, cell_clip, a GRU without reset_after, a
    TimeReverse, a TimeStack of layers that are not alike; TypeError for another layer.
    """
    state, first = {}, None
    for k, (direction, parts) in enumerate(levels("to_torch", layer)):
        if direction == "reverse":
            raise ValueError("to_torch: PyTorch has no layer that only reads backwards")
        for way, part in zip(("", "_reverse"), parts, strict=False):
            if part._options.get("reset_after") is False:
                raise ValueError("to_torch: a GRU with reset_after=False cannot be expressed")
            W_ih, W_hh, b, _ = take_apart("to_torch", part, TORCH, grads=grads)
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
            for what, array in arrays.items():
                state[f"{prefix}{what}_l{k}{way}"] = np.ascontiguousarray(array)
    return state


def _names(found, prefix):
    """The weights' names, by level and direction; ValueError unless just these are there."""
    projection = next((name for name in found if name.startswith(f"{prefix}weight_hr_l")), None)
    if projection:
        raise ValueError(f"from_torch: projections (proj_size) are not supported, got {projection}")
    there = set(found)
    depth = len(list(takewhile(lambda k: f"{prefix}weight_ih_l{k}" in there, count())))
    ways = ("", "_reverse") if f"{prefix}weight_ih_l0_reverse" in there else ("",)
    biases = ("bias_ih", "bias_hh") if f"{prefix}bias_ih_l0" in there else ()
    named = [
        [
            [f"{prefix}{what}_l{k}{way}" for what in ("weight_ih", "weight_hh", *biases)]
            for way in ways
        ]
        for k in range(max(depth, 1))
    ]
    expected = {name for level in named for names in level for name in names}
    if there != expected:
        missing, unknown = sorted(expected - there)[:5], sorted(there - expected)[:5]
        raise ValueError(
            "from_torch: expected the weights of one nn.RNN, nn.LSTM or nn.GRU (see prefix); "
            f"missing {missing}, unknown {unknown}"
        )
    return named
