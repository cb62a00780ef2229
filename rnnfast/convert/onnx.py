"""ONNX: the operators RNN, LSTM and GRU, https://onnx.ai/onnx/operators/onnx__LSTM.html.

    X (T, N, D)    W (ways, G*H, D)    R (ways, G*H, H)    B (ways, 2*G*H), of x, then of h
    P (ways, 3*H)  Y (T, ways, N, H)   initial_h, initial_c, Y_h, Y_c (ways, N, H)

ways is 1 or 2, the number of directions. With layout=1 N comes first in X, Y and the states.
"""

import os

import numpy as np

from rnnfast import checks
from rnnfast.convert.common import ONNX, levels, take_apart
from rnnfast.convert.onnx_file import Known, load
from rnnfast.convert.onnx_read import INPUTS, STATES, is_recurrent, read
from rnnfast.io.files import write_atomically
from rnnfast.version import __version__

OPSET, IR_VERSION = 14, 8  # what is written: of 2021, so that an ONNX Runtime of 2022 reads it


def from_onnx(source, *, weights=None, stateful=False, device=None, batch_size=None):
    """The RNN, LSTM or GRU of a model -> a Time*, TimeBi* or TimeReverse; several -> a TimeStack.

    source: a path, a ModelProto or a single NodeProto. weights, name -> array, says what the model
    does not: values of its inputs, or all weights of a node. Nodes have to be on top of each
    other, Y to X with nothing between but what moves axes and keeps N, T and H apart; what comes
    before the first one and after the last is left to you.

    Constant is what follows from the model's constants and from sizes. The layer takes xs (N, T, D)
    whatever the layout, lengths where the nodes have sequence_lens. If initial_h or initial_c is a
    constant, and not zeros, the layer has to be stateful; it starts there. batch_size: N of such
    states, where the model leaves that open. If they are inputs of the model, or rows of one, the
    layer has to be stateful, too, and is given them by set_state. stateful and device as in
    TimeLSTM.

    ValueError, naming node and attribute or input, for what a layer cannot express: activations
    other than the default ones (and "Relu" of an RNN), activation_alpha, activation_beta, clip
    (of pre-activations: no cell_clip), input_forget=1, sequence_lens that are a constant, initial
    states that are computed when the model runs, nodes in subgraphs (If, Loop, functions); for
    wrong shapes, attributes of a wrong type, weights that are no constants, damaged files.
    TypeError for dtypes other than float32 and float64. ModuleNotFoundError without the onnx
    package.
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


def _path(source):
    try:
        return os.fspath(source)
    except TypeError:
        kind = type(source).__name__
        raise TypeError(
            f"from_onnx: source must be a path, a ModelProto or a NodeProto, got {kind}"
        ) from None


def to_onnx(layer, path=None, *, lengths=False, states=False):
    """A layer -> a ModelProto, also written to `path`; ONNX Runtime runs it.

    Input xs (N, T, D), output hs (N, T, H), as those of layer.forward(xs, train=False): the model
    has the Transpose nodes. Then the final states in the order of layer.state, each (N, H): h_n
    and c_n, of more than one direction or level numbered, h_n_0, c_n_0, h_n_1 ...

    lengths=True: a second input, lengths (N,), int64. states=True: inputs h_0 and c_0 (h_0_0,
    c_0_0, ...) that say where to start from, else it is zeros. N and T are free.

    The model is in the layer's dtype; ONNX Runtime (1.32) has these operators in float32 alone.
    ValueError for what ONNX cannot express: full peepholes, cell_clip; TypeError for another
    layer. ModuleNotFoundError without the onnx package.
    """
    onnx = _import_onnx("to_onnx")
    found = levels("to_onnx", layer)
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
        column = graph.add("Unsqueeze", lens, graph.constant(np.array([1])))
        empty = graph.add("Equal", column, graph.constant(np.int32(0)))

    X = graph.add("Transpose", xs, perm=(1, 0, 2))
    total, done = sum(len(parts) for _, parts in found), 0
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
                if start and lengths:  # ONNX Runtime ends in zeros where it has no step to make
                    one = graph.add("Where", empty, start, one)
                graph.output(f"{s}_n{suffix}", one, ("N", H))
        H *= len(parts)
        X = graph.add("Transpose", Y, perm=(0, 2, 1, 3))  # the directions side by side
        X = graph.add("Reshape", X, graph.constant(np.array((0, 0, H))))
    graph.output("hs", graph.add("Transpose", X, perm=(1, 0, 2)), ("N", "T", H), first=True)

    model = graph.model()
    if path is not None:
        write_atomically(path, model.SerializeToString())
    return model


# Writing


def _write(graph, X, lengths, direction, parts, starts):
    """The node of one level: the names of Y and of the final states.

    starts: the names of the states to start from, of each part, or "" for zeros.
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
    axis = graph.constant(np.array([0]))
    for given, names in zip(STATES, zip(*starts, strict=True), strict=False):
        if all(names):
            rows = [graph.add("Unsqueeze", name, axis) for name in names]
            inputs[given] = graph.add("Concat", *rows, axis=0)
    attributes = {"direction": direction, "hidden_size": parts[0].Wh.shape[0]}
    if kind == "rnn":
        attributes["activations"] = [options["nonlinearity"].capitalize()] * len(parts)
    if kind == "gru":
        attributes["linear_before_reset"] = int(options["reset_after"])
    given = INPUTS if kind == "lstm" else INPUTS[: INPUTS.index("initial_c")]
    inputs = [inputs.get(name, "") for name in given]
    return graph.many(kind.upper(), inputs, 1 + len(parts[0].states), **attributes)


class _Graph:
    """A model to be. Whatever is added gives the name of its output, or the names of many."""

    def __init__(self, onnx, dtype):
        self.onnx, self.helper, self.dtype = onnx, onnx.helper, dtype
        self.nodes, self.inputs, self.outputs, self.weights = [], [], [], []

    def many(self, op, inputs, count, **attributes):
        name = f"{op}_{len(self.nodes)}"
        outputs = [f"{name}_{k}" for k in range(count)]
        self.nodes.append(self.helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def add(self, op, *inputs, **attributes):
        return self.many(op, inputs, 1, **attributes)[0]

    def constant(self, array):
        name = f"constant_{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def input(self, name, shape, dtype=None):
        self.inputs.append(self._info(name, shape, dtype or self.dtype))
        return name

    def output(self, name, value, shape, first=False):
        self.nodes.append(self.helper.make_node("Identity", [value], [name]))
        self.outputs.insert(0 if first else len(self.outputs), self._info(name, shape, self.dtype))

    def _info(self, name, shape, dtype):
        dtype = self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.helper.make_tensor_value_info(name, dtype, shape)

    def model(self):
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


def _import_onnx(owner):
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{owner}: the onnx package is missing: pip install 'rnnfast[onnx]'"
        ) from None
    return onnx
