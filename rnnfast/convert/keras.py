"""Keras: the lists that get_weights() gives and set_weights() takes, of SimpleRNN, LSTM and GRU.

https://keras.io/api/layers/recurrent_layers/. A layer has

    kernel (D, G*H)    recurrent_kernel (H, G*H)    bias (G*H,), of a GRU with reset_after (2, 3H)

and Bidirectional those of the forward, then those of the backward layer.
"""

from rnnfast import checks
from rnnfast.convert.common import KERAS, cell_options, floats, kind_of, levels, make, take_apart


def from_keras(weights, *, nonlinearity=None, reset_after=True, stateful=False, device=None):
    """keras_layer.get_weights() -> a TimeRNN, TimeLSTM or TimeGRU; of a Bidirectional a TimeBi*.

    Count and shapes tell what they are. nonlinearity, "tanh" (the default) or "relu", is the
    activation of a SimpleRNN, reset_after that of a GRU. All else about the layer is as Keras has
    it by default: activations, merge_mode="concat", go_backwards=False (rnnfast.TimeReverse).
    stateful and device as in TimeLSTM.

    ValueError for a wrong count or wrong shapes, TypeError for dtypes other than float32 or
    float64 and for a mixture of them.
    """
    weights = list(weights)
    if len(weights) not in (2, 3, 4, 6):
        raise ValueError(
            "from_keras: weights must be kernel, recurrent_kernel and maybe bias, "
            f"of one or of both directions, got {len(weights)} arrays"
        )
    ways = ("", "backward ") if len(weights) > 3 else ("",)
    size = len(weights) // len(ways)
    names = [w + n for w in ways for n in ("kernel", "recurrent_kernel", "bias")[:size]]
    weights = [floats("from_keras", name, W) for name, W in zip(names, weights, strict=True)]

    D, _ = checks.matrix("from_keras", names[0], weights[0], "(D, G*H)")
    H, GH = checks.matrix("from_keras", names[1], weights[1], "(H, G*H)")
    kind = kind_of("from_keras", names[1], weights[1], GH, H)
    reset_after = checks.flag("from_keras", "reset_after", reset_after)
    options = cell_options("from_keras", kind, nonlinearity, reset_after)
    bias = (GH,), "(G*H,)"
    if kind == "gru":
        shape, label = ((2, GH), "(2, 3H)") if reset_after else ((GH,), "(3H,)")
        bias = shape, f"with reset_after={reset_after} {label}"
    shapes = [((D, GH), "(D, G*H)"), ((H, GH), "(H, G*H)"), bias][:size] * len(ways)
    for name, W, (shape, label) in zip(names, weights, shapes, strict=True):
        checks.exactly("from_keras", name, W, weights[1].dtype, shape, label)

    directions = []
    for k in range(len(ways)):
        kernel, recurrent_kernel, *b = weights[k * size : (k + 1) * size]
        directions.append((kernel, recurrent_kernel, b[0] if b else None, None))
    return make(kind, KERAS, directions, stateful=stateful, device=device, **options)


def to_keras(layer):
    """A layer of one or of both directions -> the list that keras_layer.set_weights() takes.

    A TimeReverse gives the weights for go_backwards=True. A GRU without z_keeps is turned into one
    with it.

    ValueError for what Keras cannot express: peepholes, cell_clip, a TimeStack (Keras has a layer
    each: `to_keras(part) for part in stack.layers`); TypeError for another layer.
    """
    found = levels("to_keras", layer)
    if len(found) > 1:
        raise ValueError(
            "to_keras: layer must be one of TimeStack.layers, as Keras has a layer each, "
            f"got {type(layer).__name__}"
        )
    weights = []
    for part in found[0][1]:
        kernel, recurrent_kernel, b, _ = take_apart("to_keras", part, KERAS)
        weights += [kernel, recurrent_kernel]
        if b is not None:
            weights.append(b if part._options.get("reset_after") else b[0])
    return weights
