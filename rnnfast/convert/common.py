"""Common parts of the formats: gate orders, layers from weights, weights from layers.

N batch, D input, H hidden, G gates. Matrices here have rnnfast's shapes, (D, G*H) and (H, G*H), for
every format; only their blocks are in the order of the format.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.io.weights import to_numpy
from rnnfast.kernels import move, resolve
from rnnfast.layers.bidirectional import TimeBiGRU, TimeBiLSTM, TimeBiLSTMP, TimeBiRNN
from rnnfast.layers.projection import TimeLSTMP
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN
from rnnfast.layers.stacks import TimeReverse, TimeStack

# Order of the gates' blocks, by the letters of the equations (h is the only block of an RNN, n the
# candidate of a GRU), and order of the peepholes of an LSTM.
OURS = {"rnn": "h", "lstm": "fgio", "gru": "zrn", "lstmp": "fgio", "peepholes": "fio"}
TORCH = {"rnn": "h", "lstm": "ifgo", "gru": "rzn", "lstmp": "ifgo"}
KERAS = {"rnn": "h", "lstm": "ifgo", "gru": "zrn"}
ONNX = {"rnn": "h", "lstm": "iofg", "gru": "zrn", "peepholes": "iof"}

ONE_WAY: dict[str, type[Any]] = {
    "rnn": TimeRNN,
    "lstm": TimeLSTM,
    "gru": TimeGRU,
    "lstmp": TimeLSTMP,
}
BOTH_WAYS: dict[str, type[Any]] = {
    "rnn": TimeBiRNN,
    "lstm": TimeBiLSTM,
    "gru": TimeBiGRU,
    "lstmp": TimeBiLSTMP,
}


def reorder(W: NDArray[Any], have: str, want: str) -> NDArray[Any]:
    """A copy of W with the blocks of its last axis in the order `want` instead of `have`."""
    blocks = dict(zip(have, np.split(W, len(have), axis=-1), strict=True))
    return np.ascontiguousarray(np.concatenate([blocks[gate] for gate in want], axis=-1))


# From weights to a layer


def floats(owner: str, name: str, value: Any) -> NDArray[Any]:
    """value, also a tensor of another library, as a NumPy array of float32 or float64."""
    dtype = getattr(value, "dtype", type(value).__name__)
    if str(dtype).removeprefix("torch.") not in ("float32", "float64"):
        raise TypeError(
            f"{owner}: {name} must be an array of float32 or float64 "
            f"(convert other types before, as by module.float()), got {dtype}"
        )
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def kind_of(owner: str, name: str, W: NDArray[Any], GH: int, H: int) -> str:
    """The kind of layer of a recurrent matrix W, (G*H, H) or (H, G*H), without a projection."""
    for kind in ONE_WAY:
        if len(OURS[kind]) * H == GH:
            return kind
    raise ValueError(
        f"{owner}: {name} must be of the size H x H (RNN), H x 3H (GRU) or H x 4H (LSTM), "
        f"got {W.shape}"
    )


def cell_options(
    owner: str, kind: str, nonlinearity: str | None, reset_after: bool
) -> dict[str, Any]:
    """The keyword arguments of a layer; nonlinearity None is "tanh" for an RNN."""
    if kind == "rnn":
        return {"nonlinearity": "tanh" if nonlinearity is None else nonlinearity}
    if nonlinearity is not None:
        raise ValueError(f"{owner}: nonlinearity is for an RNN, got weights of kind {kind!r}")
    return {"reset_after": reset_after, "z_keeps": True} if kind == "gru" else {}


def one_bias(b_x: NDArray[Any], b_h: NDArray[Any], reset_after: bool) -> NDArray[Any]:
    """One bias from those of x and of h: stacked for a GRU with reset_after, else their sum."""
    return np.stack((b_x, b_h)) if reset_after else b_x + b_h


def make(
    kind: str,
    theirs: Mapping[str, str],
    directions: Sequence[tuple[Any, Any, Any, Any]],
    *,
    stateful: bool,
    device: str | None,
    **options: Any,
) -> Any:
    """A layer of one or of both directions.

    directions has a (Wx, Wh, b, Wp) each, b and Wp may be None; theirs is the order of the blocks.
    Of the kind "lstmp" the fourth is Wproj.
    """
    device = resolve(device, directions[0][0])
    ways = ("",) if len(directions) == 1 else ("1", "2")
    weights: list[Any] = []
    for way, (*matrices, Wp) in zip(ways, directions, strict=True):
        for W in matrices:
            if W is not None:
                W = move(reorder(W, theirs[kind], OURS[kind]), device)
            weights.append(W)
        if kind == "lstmp":
            options[f"Wproj{way}"] = move(np.ascontiguousarray(Wp), device)
        elif Wp is not None:
            Wp = reorder(Wp, theirs["peepholes"], OURS["peepholes"]).reshape(3, -1)
            options[f"Wp{way}"] = move(Wp, device)
    kinds = ONE_WAY if len(directions) == 1 else BOTH_WAYS
    return kinds[kind](*weights, stateful, device=device, **options)


# From a layer to weights


def levels(owner: str, layer: Any, theirs: Mapping[str, str]) -> list[tuple[str, Sequence[Any]]]:
    """The levels of a stack: the direction, as in ONNX, and the one or two layers of each.

    theirs: the orders of the blocks, by the kinds of layers that the format knows.
    """
    if isinstance(layer, TimeStack):
        return [level for part in layer.layers for level in levels(owner, part, theirs)]
    whole: Any = layer  # type checkers take what is in a tuple of classes for an object
    if isinstance(layer, tuple(BOTH_WAYS.values())):
        for part in whole.parts:
            levels(owner, part, theirs)
        return [("bidirectional", whole.parts)]
    way = "reverse" if isinstance(layer, TimeReverse) else "forward"
    if isinstance(layer, TimeReverse):
        layer = whole = layer.layer
    if isinstance(layer, TimeLSTMP) and "lstmp" not in theirs:
        shape = layer.params[-1].shape
        raise ValueError(f"{owner}: projections (Wproj) cannot be expressed, got {shape}")
    if isinstance(layer, tuple(ONE_WAY.values())):
        return [(way, [whole])]
    raise TypeError(
        f"{owner}: layer must be a TimeRNN, TimeLSTM, TimeGRU, TimeBi*, TimeReverse or TimeStack, "
        f"got {type(layer).__name__}"
    )


def take_apart(
    owner: str, layer: Any, theirs: Mapping[str, str], *, grads: bool = False
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Copies of Wx, Wh, b and Wp of a TimeRNN, TimeLSTM or TimeGRU, in the order `theirs`.

    Of a TimeLSTMP, Wproj is in the place of Wp.

    b is (2, G*H), for x and for h; the second row is zeros if the layer has one bias. b and Wp may
    be None. The z of a GRU is the share of the old state, as in all formats. grads=True takes the
    gradients; a layer's one bias then gives both rows.
    """
    kind, options = layer.column, layer._options
    if options.get("cell_clip") is not None:
        raise ValueError(f"{owner}: cell_clip cannot be expressed, got {options['cell_clip']}")
    arrays = layer.grads if grads else layer.params
    names = [name for name, *_ in layer._specs]
    weights = {n: np.array(to_numpy(a)) for n, a in zip(names, arrays, strict=True)}
    Wp, Wproj = weights.pop("Wp", None), weights.pop("Wproj", None)
    if Wp is not None:
        if "peepholes" not in theirs or Wp.ndim == 3:
            full = "full " if "peepholes" in theirs else ""
            raise ValueError(f"{owner}: {full}peepholes (Wp) cannot be expressed, got {Wp.shape}")
        Wp = reorder(Wp.reshape(-1), OURS["peepholes"], theirs["peepholes"])
    if kind == "gru" and not options["z_keeps"]:
        for W in weights.values():  # 1 - sigmoid(a) = sigmoid(-a)
            W[..., : layer.Wh.shape[0]] *= -1
    if "b" in weights and weights["b"].ndim == 1:
        b = weights["b"]
        weights["b"] = np.stack((b, b if grads else np.zeros_like(b)))
    ordered = {name: reorder(W, OURS[kind], theirs[kind]) for name, W in weights.items()}
    return ordered["Wx"], ordered["Wh"], ordered.get("b"), Wp if Wproj is None else Wproj
