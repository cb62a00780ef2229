"""What the formats share: gate orders, layers from weights, weights from layers.

N batch, D input, H hidden, G gates. Matrices are as ours here, (D, G*H) and (H, G*H), whatever
the format; only their blocks are in its order.
"""

import numpy as np

from rnnfast.io.weights import to_numpy
from rnnfast.kernels import move, resolve
from rnnfast.layers.bidirectional import TimeBiGRU, TimeBiLSTM, TimeBiRNN
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN
from rnnfast.layers.stacks import TimeReverse, TimeStack

# The order of the gates' blocks, by the letters of the equations: h all there is in an RNN, n the
# candidate of a GRU. And the order of an LSTM's peepholes.
OURS = {"rnn": "h", "lstm": "fgio", "gru": "zrn", "peepholes": "fio"}
TORCH = {"rnn": "h", "lstm": "ifgo", "gru": "rzn"}
KERAS = {"rnn": "h", "lstm": "ifgo", "gru": "zrn"}
ONNX = {"rnn": "h", "lstm": "iofg", "gru": "zrn", "peepholes": "iof"}

ONE_WAY = {"rnn": TimeRNN, "lstm": TimeLSTM, "gru": TimeGRU}
BOTH_WAYS = {"rnn": TimeBiRNN, "lstm": TimeBiLSTM, "gru": TimeBiGRU}


def reorder(W, have, want):
    """W with the blocks of its last axis, which are `have`, in the order `want`: a copy."""
    blocks = dict(zip(have, np.split(W, len(have), axis=-1), strict=True))
    return np.ascontiguousarray(np.concatenate([blocks[gate] for gate in want], axis=-1))


# From weights to a layer


def floats(owner, name, value):
    """value as a NumPy array of float32 or float64; it may be a tensor of another library."""
    dtype = getattr(value, "dtype", type(value).__name__)
    if str(dtype).removeprefix("torch.") not in ("float32", "float64"):
        raise TypeError(
            f"{owner}: {name} must be an array of float32 or float64 "
            f"(convert other types before), got {dtype}"
        )
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def kind_of(owner, name, W, GH, H):
    """What a recurrent matrix W, of the sizes G*H and H in either order, belongs to."""
    for kind in ONE_WAY:
        if len(OURS[kind]) * H == GH:
            return kind
    raise ValueError(
        f"{owner}: {name} must be of the size H x H (RNN), H x 3H (GRU) or H x 4H (LSTM), "
        f"got {W.shape}"
    )


def cell_options(owner, kind, nonlinearity, reset_after):
    """The keyword arguments of a layer; nonlinearity None is an RNN's "tanh"."""
    if kind == "rnn":
        return {"nonlinearity": "tanh" if nonlinearity is None else nonlinearity}
    if nonlinearity is not None:
        raise ValueError(f"{owner}: nonlinearity is for an RNN, got weights of kind {kind!r}")
    return {"reset_after": reset_after, "z_keeps": True} if kind == "gru" else {}


def one_bias(b_x, b_h, reset_after):
    """A GRU with reset_after keeps the biases of x and of h apart, all others add them up."""
    return np.stack((b_x, b_h)) if reset_after else b_x + b_h


def make(kind, theirs, directions, *, stateful, device, **options):
    """A layer of one direction, or of both.

    theirs: the order of the blocks in directions, a (Wx, Wh, b, Wp) each, b and Wp or None.
    """
    device = resolve(device, directions[0][0])
    ways = ("",) if len(directions) == 1 else ("1", "2")
    weights = []
    for way, (*matrices, Wp) in zip(ways, directions, strict=True):
        for W in matrices:
            if W is not None:
                W = move(reorder(W, theirs[kind], OURS[kind]), device)
            weights.append(W)
        if Wp is not None:
            Wp = reorder(Wp, theirs["peepholes"], OURS["peepholes"]).reshape(3, -1)
            options[f"Wp{way}"] = move(Wp, device)
    kinds = ONE_WAY if len(directions) == 1 else BOTH_WAYS
    return kinds[kind](*weights, stateful, device=device, **options)


# From a layer to weights


def levels(owner, layer):
    """What is on top of each other: a direction, as ONNX calls it, and its one or two layers."""
    if isinstance(layer, TimeStack):
        return [level for part in layer.layers for level in levels(owner, part)]
    if isinstance(layer, tuple(BOTH_WAYS.values())):
        return [("bidirectional", layer.parts)]
    if isinstance(layer, TimeReverse):
        return [("reverse", layer.parts)]
    if isinstance(layer, tuple(ONE_WAY.values())):
        return [("forward", [layer])]
    raise TypeError(
        f"{owner}: layer must be a TimeRNN, TimeLSTM, TimeGRU, TimeBi*, TimeReverse or TimeStack, "
        f"got {type(layer).__name__}"
    )


def take_apart(owner, layer, theirs, *, grads=False):
    """Wx, Wh, b and Wp of a TimeRNN, TimeLSTM or TimeGRU, in the order `theirs`; copies.

    b is (2, G*H), for x and for h, of which the second is zeros where the layer has one for both.
    Wp and b may be None. A GRU's z is the one that keeps the old state, which all formats have.
    grads: the gradients, where the layer's bias has that of both.
    """
    kind, options = layer.column, layer._options
    if options.get("cell_clip") is not None:
        raise ValueError(f"{owner}: cell_clip cannot be expressed, got {options['cell_clip']}")
    arrays = layer.grads if grads else layer.params
    names = [name for name, *_ in layer._specs]
    weights = {n: np.array(to_numpy(a)) for n, a in zip(names, arrays, strict=True)}
    Wp = weights.pop("Wp", None)
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
    Wx, Wh, b = (
        reorder(weights[name], OURS[kind], theirs[kind]) if name in weights else None
        for name in ("Wx", "Wh", "b")
    )
    return Wx, Wh, b, Wp
