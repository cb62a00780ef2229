"""ONNX: the operators RNN, LSTM and GRU, https://onnx.ai/onnx/operators/onnx__LSTM.html.

    X (T, N, D)    W (ways, G*H, D)    R (ways, G*H, H)    B (ways, 2*G*H), of x, then of h
    P (ways, 3*H)  Y (T, ways, N, H)   initial_h, initial_c, Y_h, Y_c (ways, N, H)

ways is the number of directions, 1 or 2. With layout=1, N is the first axis of X, Y and states.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.convert.common import ONNX, levels, take_apart
from rnnfast.convert.onnx_file import Known, load
from rnnfast.convert.onnx_node import INPUTS, STATES
from rnnfast.convert.onnx_read import is_recurrent, read
from rnnfast.io.files import write_atomically
from rnnfast.version import __version__

OPSET, IR_VERSION = 14, 8  # of 2021, so that an ONNX Runtime of 2022 reads the file


def from_onnx(
    source: Any,
    *,
    weights: Mapping[str, Any] | None = None,
    stateful: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
) -> Any:
    """Make a layer from the RNN, LSTM or GRU nodes of an ONNX model.

    Parameters
    ----------
    source : path-like, ModelProto or NodeProto
        A file, a model or a single node.
    weights : dict, optional
        Name -> array, for values that are not in the model: inputs, or all weights of a node.
    stateful, device
        As in TimeLSTM.
    batch_size : int, optional
        N of constant initial states, if the model leaves it open.

    Returns
    -------
    Time*, TimeBi* or TimeReverse, or a TimeStack of several nodes
        It takes xs (N, T, D) for every layout, and lengths if the nodes have sequence_lens.

    Raises
    ------
    ValueError
        A layer cannot express it; the error names the node and the attribute or input: activations
        other than the default ones (and "Relu" of an RNN), activation_alpha, activation_beta, clip
        (of pre-activations: not cell_clip), input_forget=1, constant sequence_lens, initial states
        that are computed at run time, nodes in subgraphs (If, Loop, functions). Also: wrong shapes,
        attributes of a wrong type, weights that are not constant, damaged files.
    TypeError
        Dtypes other than float32 and float64.
    ModuleNotFoundError
        The onnx package is missing.

    Notes
    -----
    The nodes must be stacked, Y to X. Operators in between may only move axes, and must keep N, T
    and H apart. Operators before the first and behind the last node are ignored. Everything that
    follows from constants of the model and from sizes is constant.

    If initial_h or initial_c is a constant other than zeros, the layer must be stateful and starts
    from there. If they are inputs of the model, or rows of one, the layer must be stateful, too;
    set them with set_state.

    Examples
    --------
    >>> from rnnfast import convert
    >>> layer = convert.from_onnx("lstm.onnx")  # doctest: +SKIP
    """
    onnx = _import_onnx("from_onnx")
    folder = None
    if isinstance(source, onnx.NodeProto):
        if not is_recurrent(source):
            raise ValueError(f"from_onnx: node must be an RNN, LSTM or GRU, got {source.op_type!r}")
        model = onnx.ModelProto()
        model.graph.node.append(source)
        for name in sorted({*filter(None, source.input)} - (weights or {}).keys()):
            model.graph.input.add(name=name)
    elif isinstance(source, onnx.ModelProto):
        model = source
    else:
        path = _path(source)
        model, folder = load(onnx, path), os.path.dirname(path) or "."
    if batch_size is not None and checks.integer("from_onnx", "batch_size", batch_size) < 1:
        raise ValueError(f"from_onnx: batch_size must be from 1 up, got {batch_size}")
    known = Known(onnx, model, weights, folder)
    return read(onnx, model, known, stateful=stateful, device=device, batch_size=batch_size)


def _path(source: Any) -> str:
    """A path as a str; TypeError for other sources."""
    try:
        path: str = os.fspath(source)
        return path
    except TypeError:
        kind = type(source).__name__
        raise TypeError(
            f"from_onnx: source must be a path, a ModelProto or a NodeProto, got {kind}"
        ) from None


def to_onnx(
    layer: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    lengths: bool = False,
    states: bool = False,
) -> Any:
    """Make an ONNX model from a layer.

    Parameters
    ----------
    layer : Time*, TimeBi*, TimeReverse or TimeStack
        The layer.
    path : path-like, optional
        A file to which the model is also written.
    lengths : bool
        True adds an input: lengths (N,), int64.
    states : bool
        True adds inputs for the initial states, h_0 and c_0 (h_0_0, c_0_0, ...), each (N, H);
        otherwise they are zeros.

    Returns
    -------
    ModelProto
        A model for ONNX Runtime, in the layer's dtype. N and T are free.

    Raises
    ------
    ValueError
        ONNX cannot express it: full peepholes, cell_clip, a mixture of dtypes.
    TypeError
        Another layer.
    ModuleNotFoundError
        The onnx package is missing.

    Notes
    -----
    The input is xs (N, T, D), the output hs (N, T, H), as in ``layer.forward(xs, train=False)``:
    the model has the Transpose nodes. The final states follow in the order of ``layer.state``, each
    (N, H): h_n and c_n; h_n_0, c_n_0, h_n_1, ... for more than one direction or level.

    ONNX Runtime (1.32) has these operators in float32 only.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeRNN, convert
    >>> rnn = TimeRNN(np.ones((3, 2), "f"), np.ones((2, 2), "f"), np.zeros(2, "f"))
    >>> model = convert.to_onnx(rnn)
    >>> [output.name for output in model.graph.output]
    ['hs', 'h_n']
    >>> convert.from_onnx(model).Wx.shape
    (3, 2)
    """
    onnx = _import_onnx("to_onnx")
    found = levels("to_onnx", layer, ONNX)
    bottom = found[0][1][0]
    dtypes = {str(parts[0].dtype) for _, parts in found}
    if len(dtypes) > 1:
        raise ValueError(f"to_onnx: all levels must have one dtype, got {' and '.join(dtypes)}")
    graph = _Graph(onnx, bottom.dtype)
    xs = graph.input("xs", ("N", "T", bottom.Wx.shape[0]))
    lens = empty = ""
    if lengths:
        lens = graph.input("lengths", ("N",), np.int64)
        lens = graph.add("Cast", lens, to=onnx.TensorProto.INT32)
        column = graph.add("Unsqueeze", lens, graph.constant(np.array([1], np.int64)))
        empty = graph.add("Equal", column, graph.constant(np.int32(0)))

    X = graph.add("Transpose", xs, perm=(1, 0, 2))
    total, done = sum(len(parts) for _, parts in found), 0
    H = 0  # the width of the last level
    for direction, parts in found:
        suffixes = [f"_{done + k}" if total > 1 else "" for k in range(len(parts))]
        done += len(parts)
        H = parts[0].Wh.shape[0]
        starts = [  # in the order of layer.state
            [graph.input(f"{s}_0{x}", ("N", H)) if states else "" for s in parts[0].states]
            for x in suffixes
        ]
        Y, *finals = _write(graph, X, lens, direction, parts, starts)
        for k, suffix in enumerate(suffixes):
            for s, final, start in zip(parts[0].states, finals, starts[k], strict=True):
                one = graph.add("Gather", final, graph.constant(np.int64(k)), axis=0)
                if start and lengths:  # for a length of 0 ONNX Runtime returns zeros
                    one = graph.add("Where", empty, start, one)
                graph.output(f"{s}_n{suffix}", one, ("N", H))
        H *= len(parts)
        X = graph.add("Transpose", Y, perm=(0, 2, 1, 3))  # the directions side by side
        X = graph.add("Reshape", X, graph.constant(np.array((0, 0, H), np.int64)))
    graph.output("hs", graph.add("Transpose", X, perm=(1, 0, 2)), ("N", "T", H), first=True)

    model = graph.model()
    if path is not None:
        write_atomically(path, model.SerializeToString())
    return model


# Writing


def _write(
    graph: "_Graph",
    X: str,
    lengths: str,
    direction: str,
    parts: Sequence[Any],
    starts: Sequence[Sequence[str]],
) -> list[str]:
    """Add the node of one level; the names of Y and of the final states.

    starts: the names of the initial states of each part, "" for zeros.
    """
    kind, options = parts[0].column, parts[0]._options
    W, R, B, P = zip(*(take_apart("to_onnx", part, ONNX) for part in parts), strict=True)
    inputs = {
        "X": X,
        "W": graph.constant(np.stack([w.T for w in W])),
        "R": graph.constant(np.stack([r.T for r in R])),
        "sequence_lens": lengths,
    }
    if B[0] is not None:
        inputs["B"] = graph.constant(np.stack([b.reshape(-1) for b in B]))
    if P[0] is not None:
        inputs["P"] = graph.constant(np.stack(P))
    axis = graph.constant(np.array([0], np.int64))
    for state, names in zip(STATES, zip(*starts, strict=True), strict=False):
        if all(names):
            rows = [graph.add("Unsqueeze", name, axis) for name in names]
            inputs[state] = graph.add("Concat", *rows, axis=0)
    attributes: dict[str, Any] = {"direction": direction, "hidden_size": parts[0].Wh.shape[0]}
    if kind == "rnn":
        attributes["activations"] = [options["nonlinearity"].capitalize()] * len(parts)
    if kind == "gru":
        attributes["linear_before_reset"] = int(options["reset_after"])
    given = INPUTS if kind == "lstm" else INPUTS[: INPUTS.index("initial_c")]
    in_order = [inputs.get(name, "") for name in given]
    return graph.many(kind.upper(), in_order, 1 + len(parts[0].states), **attributes)


class _Graph:
    """A model under construction; methods return the names of tensors."""

    def __init__(self, onnx: Any, dtype: DTypeLike) -> None:
        self.onnx, self.helper, self.dtype = onnx, onnx.helper, dtype
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.weights: list[Any] = []

    def many(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs; their names."""
        name = f"{op}_{len(self.nodes)}"
        outputs = [f"{name}_{k}" for k in range(count)]
        self.nodes.append(self.helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.many(op, inputs, 1, **attributes)[0]

    def constant(self, array: Any) -> str:
        """Add a constant; its name."""
        name = f"constant_{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def input(self, name: str, shape: tuple[Any, ...], dtype: DTypeLike | None = None) -> str:
        """Add an input of the model; its name."""
        self.inputs.append(self._info(name, shape, dtype or self.dtype))
        return name

    def output(self, name: str, value: str, shape: tuple[Any, ...], first: bool = False) -> None:
        """Add an output of the model: the tensor `value` under another name."""
        self.nodes.append(self.helper.make_node("Identity", [value], [name]))
        self.outputs.insert(0 if first else len(self.outputs), self._info(name, shape, self.dtype))

    def _info(self, name: str, shape: tuple[Any, ...], dtype: DTypeLike) -> Any:
        """Name, element type and shape of a tensor."""
        element = self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.helper.make_tensor_value_info(name, element, shape)

    def model(self) -> Any:
        """The ModelProto."""
        graph = self.helper.make_graph(
            self.nodes, "rnnfast", self.inputs, self.outputs, self.weights
        )
        return self.helper.make_model(
            graph,
            opset_imports=[self.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rnnfast",
            producer_version=__version__,
        )


def _import_onnx(owner: str) -> Any:
    """The onnx package; ModuleNotFoundError, naming the extra, without it."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'{owner}: the onnx package is missing: pip install "rnnfast[onnx]"'
        ) from None
    return onnx
