"""Keras: the lists of get_weights() and set_weights() of SimpleRNN, LSTM and GRU.

https://keras.io/api/layers/recurrent_layers/. A layer has

    kernel (D, G*H)    recurrent_kernel (H, G*H)    bias (G*H,), of a GRU with reset_after (2, 3H)

and Bidirectional those of the forward layer, followed by those of the backward layer.
"""

from typing import Any

from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.convert.common import KERAS, cell_options, floats, kind_of, levels, make, take_apart


def from_keras(
    weights: Any,
    *,
    nonlinearity: str | None = None,
    reset_after: bool | None = None,
    stateful: bool = False,
    device: str | None = None,
) -> Any:
    """Make a layer from a Keras layer or its weights.

    Parameters
    ----------
    weights : Keras layer, or list of array
        SimpleRNN, LSTM, GRU, or a Bidirectional of one of them, built; or what its
        ``get_weights()`` returns: then their count and shapes determine the layer, and only you
        know the rest.
    nonlinearity : {"tanh", "relu"}, optional
        Activation of a SimpleRNN; that of the layer, or "tanh" for a list.
    reset_after : bool, optional
        That of a GRU; that of the layer, or True for a list.
    stateful, device
        As in TimeLSTM.

    Returns
    -------
    TimeRNN, TimeLSTM, TimeGRU, or TimeBi* for a Bidirectional
        The layer.

    Raises
    ------
    ValueError
        Wrong count or wrong shapes, or a layer whose activations, `merge_mode`, `go_backwards` or
        `time_major` cannot be expressed.
    TypeError
        Dtypes other than float32 and float64, or a mixture of them.

    Notes
    -----
    The other options of a layer must be Keras' defaults: activations, merge_mode="concat",
    go_backwards=False (for True use rnnfast.TimeReverse). Of a list of weights nobody can see that.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import convert
    >>> D, H = 3, 2
    >>> weights = [np.ones((D, 4 * H)), np.ones((H, 4 * H)), np.zeros(4 * H)]
    >>> lstm = convert.from_keras(weights)
    >>> lstm.forward(np.ones((1, 5, D))).shape
    (1, 5, 2)
    """
    if hasattr(weights, "get_weights"):
        weights, found = _opened(weights)
        nonlinearity = found.get("activation") if nonlinearity is None else nonlinearity
        reset_after = found.get("reset_after") if reset_after is None else reset_after
    reset_after = True if reset_after is None else reset_after
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
    bias: tuple[tuple[int, ...], str] = (GH,), "(G*H,)"
    if kind == "gru":
        sides, sizes = ("(2, 3H)", (2, GH)) if reset_after else ("(3H,)", (GH,))
        bias = sizes, f"with reset_after={reset_after} {sides}"
    shapes: list[tuple[tuple[int, ...], str]]
    shapes = [((D, GH), "(D, G*H)"), ((H, GH), "(H, G*H)"), bias][:size] * len(ways)
    for name, W, (shape, label) in zip(names, weights, shapes, strict=True):
        checks.exactly("from_keras", name, W, weights[1].dtype, shape, label)

    directions: list[tuple[Any, Any, Any, Any]] = []
    for k in range(len(ways)):
        kernel, recurrent_kernel, *b = weights[k * size : (k + 1) * size]
        directions.append((kernel, recurrent_kernel, b[0] if b else None, None))
    return make(kind, KERAS, directions, stateful=stateful, device=device, **options)


def _opened(layer: Any) -> tuple[list[Any], dict[str, Any]]:
    """The weights of a Keras layer, and what of its options matters; checked."""
    parts = {"": layer}
    if type(layer).__name__ == "Bidirectional":
        if layer.merge_mode != "concat":
            raise ValueError(f"from_keras: merge_mode must be 'concat', got {layer.merge_mode!r}")
        parts = {"forward ": layer.forward_layer, "backward ": layer.backward_layer}
    configs = []
    for way, part in parts.items():
        kind, config = type(part).__name__, part.get_config()
        if kind not in ("SimpleRNN", "LSTM", "GRU"):
            raise TypeError(
                f"from_keras: weights must be a SimpleRNN, LSTM or GRU of Keras, got {way}{kind}"
            )
        usual: dict[str, Any] = {"time_major": False, "go_backwards": way == "backward "}
        if kind != "SimpleRNN":
            usual |= {"activation": "tanh", "recurrent_activation": "sigmoid"}
        for name, value in usual.items():
            if config.get(name, value) != value:
                got = f"got {config[name]!r}"
                raise ValueError(f"from_keras: {way}{name} must be {value!r}, {got}")
        configs.append(config)
    weights = layer.get_weights()
    if not weights:
        raise ValueError("from_keras: the layer must be built, got one without weights")
    wanted = "reset_after" if "recurrent_activation" in configs[0] else "activation"
    found = [config.get(wanted) for config in configs]
    if found[0] != found[-1]:
        raise ValueError(f"from_keras: {wanted} must be the same in both directions, got {found}")
    return weights, {wanted: found[0]}


def to_keras(layer: Any) -> list[NDArray[Any]]:
    """Weights of a layer for a Keras layer.

    Parameters
    ----------
    layer : TimeRNN, TimeLSTM, TimeGRU, TimeBi* or TimeReverse
        A TimeReverse gives the weights for go_backwards=True. A GRU without z_keeps is converted to
        one with it.

    Returns
    -------
    list of array
        The argument of ``keras_layer.set_weights``.

    Raises
    ------
    ValueError
        Keras cannot express it: peepholes, cell_clip, a TimeStack (Keras has one layer each:
        ``to_keras(part) for part in stack.layers``).
    TypeError
        Another layer.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeRNN, convert
    >>> rnn = TimeRNN(np.ones((3, 2)), np.ones((2, 2)), np.zeros(2))
    >>> [W.shape for W in convert.to_keras(rnn)]
    [(3, 2), (2, 2), (2,)]
    """
    found = levels("to_keras", layer, KERAS)
    if len(found) > 1:
        raise ValueError(
            "to_keras: layer must be one of TimeStack.layers, as Keras has a layer each, "
            f"got {type(layer).__name__}"
        )
    weights: list[NDArray[Any]] = []
    for part in found[0][1]:
        kernel, recurrent_kernel, b, _ = take_apart("to_keras", part, KERAS)
        weights += [kernel, recurrent_kernel]
        if b is not None:
            weights.append(b if part._options.get("reset_after") else b[0])
    return weights
