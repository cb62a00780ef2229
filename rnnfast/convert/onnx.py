"""ONNX: the operators RNN, LSTM and GRU, https://onnx.ai/onnx/operators/onnx__LSTM.html.

    X (T, N, D)    W (ways, G*H, D)    R (ways, G*H, H)    B (ways, 2*G*H), of x, then of h
    P (ways, 3*H)  Y (T, ways, N, H)   initial_h, initial_c, Y_h, Y_c (ways, N, H)

ways is 1 or 2, the number of directions. With layout=1 N comes first in X, Y and the states.
"""

import os
from itertools import pairwise

import numpy as np

import rnnfast
from rnnfast import checks
from rnnfast.convert.common import ONNX, floats, levels, make, one_bias, take_apart
from rnnfast.io import write_atomically
from rnnfast.kernels import move
from rnnfast.stacks import TimeReverse, TimeStack

KINDS = {"RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
STATES = ("initial_h", "initial_c")
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}
ACTIVATIONS = {"rnn": ("tanh",), "lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh")}
OPSET, IR_VERSION = 14, 8  # what is written: of 2021, so that an ONNX Runtime of 2022 reads it


def from_onnx(source, *, weights=None, stateful=False, device=None):
    """The RNN, LSTM or GRU of a model -> a Time*, TimeBi* or TimeReverse; several -> a TimeStack.

    source: a path, a ModelProto or a single NodeProto. weights, name -> array, says what the model
    does not: values of its inputs, or all weights of a node. Nodes have to be on top of each
    other, Y to X with nothing between but what moves axes (or drops out, in training); what comes
    before the first one and after the last is left to you.

    The layer takes xs (N, T, D) whatever the layout, lengths where the node has sequence_lens. If
    initial_h or initial_c is a constant, and not zeros, the layer has to be stateful; it starts
    there. stateful and device as in TimeLSTM.

    ValueError, naming node and attribute or input, for what a layer cannot express: activations
    other than the default ones (and "Relu" of an RNN), activation_alpha, activation_beta, clip
    (of pre-activations: no cell_clip), input_forget=1, sequence_lens that are a constant; for
    wrong shapes, weights that are no constants, damaged files. TypeError for dtypes other than
    float32 and float64. ModuleNotFoundError without the onnx package.
    """
    onnx = _import_onnx("from_onnx")
    known = {}
    if isinstance(source, onnx.NodeProto):
        nodes = [source]
    else:
        model = source if isinstance(source, onnx.ModelProto) else _load(onnx, source)
        known = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    known[node.output[0]] = attribute.t
        nodes = _chain(onnx, model.graph)
    known |= weights or {}
    layers = [_read(_Node(onnx, node, known), stateful, device) for node in nodes]
    return layers[0] if len(layers) == 1 else TimeStack(layers)


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


# Reading


def _load(onnx, path):
    from google.protobuf.message import DecodeError

    try:
        path = os.fspath(path)
    except TypeError:
        kind = type(path).__name__
        raise TypeError(
            f"from_onnx: source must be a path, a ModelProto or a NodeProto, got {kind}"
        ) from None
    try:
        return onnx.load(path)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path}: not a complete ONNX model ({error})") from None


def _is_recurrent(node):
    return node.op_type in KINDS and node.domain in ("", "ai.onnx")


def _attributes(onnx, node):
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}


def _first(names):
    return names[0] if names else ""


def _chain(onnx, graph):
    """The recurrent nodes, each of which reads what the one before gives."""
    nodes = [node for node in graph.node if _is_recurrent(node)]  # in this order, by ONNX's rules
    if not nodes:
        raise ValueError("from_onnx: the model has no RNN, LSTM or GRU node")
    producers = {name: node for node in graph.node for name in node.output if name}
    for below, above in pairwise(nodes):
        between, name, end = [], _first(above.input), _first(below.output)
        for _ in graph.node:  # a damaged graph may run in circles
            if name == end or name not in producers:
                break
            between.append(producers[name])
            name = _first(producers[name].input)
        if name != end or not _only_moves(onnx, below, between[::-1], above):
            raise ValueError(
                f"from_onnx: {above.op_type} node {above.name!r} must read what {below.op_type} "
                f"node {below.name!r} gives, directions side by side and nothing in between; read "
                "the nodes one by one"
            )
    return nodes


def _only_moves(onnx, below, between, above):
    """Whether Y of one node becomes X of the other, both directions side by side.

    Followed are the names of the axes: T, N, d (the directions) and H.
    """
    start, end = (_attributes(onnx, node) for node in (below, above))
    one_way = WAYS.get(start.get("direction", "forward")) == 1
    axes = "NTdH" if start.get("layout") else "TdNH"
    for node in between:
        if node.op_type == "Transpose":
            perm = _attributes(onnx, node).get("perm") or range(len(axes))[::-1]
            if sorted(perm) != list(range(len(axes))):
                return False
            axes = "".join(axes[k] for k in perm)
        elif node.op_type == "Squeeze" and one_way and "d" in axes:
            axes = axes.replace("d", "")
        elif node.op_type == "Reshape" and (axes.endswith("dH") or (one_way and "d" in axes)):
            axes = axes.replace("d", "")  # it is a part of H now
        elif node.op_type not in ("Identity", "Dropout"):
            return False
    return axes == ("NTH" if end.get("layout") else "TNH")


class _Node:
    """An RNN, LSTM or GRU: its attributes, and its inputs where their values are known."""

    def __init__(self, onnx, node, known):
        if not _is_recurrent(node):
            raise ValueError(f"from_onnx: node must be an RNN, LSTM or GRU, got {node.op_type!r}")
        self.kind = KINDS[node.op_type]
        self.owner = f"from_onnx: {node.op_type} node {node.name!r}"
        self.attributes = _attributes(onnx, node)
        self.names = {given: name for given, name in zip(INPUTS, node.input, strict=False) if name}
        self._onnx, self._known = onnx, known

    def knows(self, given):
        return self.names.get(given) in self._known

    def constant(self, given):
        """The value of an input; None where that is known only when the model runs."""
        value = self._known.get(self.names.get(given))
        if isinstance(value, self._onnx.TensorProto):
            try:
                value = self._onnx.numpy_helper.to_array(value)
            except Exception as error:  # a damaged tensor has many
                raise ValueError(f"{self.owner}: {given} cannot be read ({error!r})") from None
        return None if value is None else floats(self.owner, given, value)

    def weight(self, given, ndim):
        """The same, required unless the node has no such input."""
        value = self.constant(given)
        if value is None and given in self.names:
            raise ValueError(
                f"{self.owner}: {given} must be a constant of the model or in weights, "
                f"got {self.names[given]!r}"
            )
        if value is not None and (value.ndim != ndim or 0 in value.shape):
            expected = f"of {ndim} dimensions, sizes from 1 up"
            raise checks.shape_error(self.owner, given, expected, value)
        return value

    def options(self, H):
        """The direction, and the keyword arguments of the layer."""
        rest, kind = dict(self.attributes), self.kind
        direction = rest.pop("direction", "forward")
        options = {}
        self._expect("direction", direction, *WAYS)
        self._expect("hidden_size", rest.pop("hidden_size", H), H)
        self._expect("layout", rest.pop("layout", 0), 0, 1)
        rest.pop("output_sequence", None)  # before opset 7: whether Y is wanted
        if kind == "lstm":
            self._expect("input_forget", rest.pop("input_forget", 0), 0)
        if kind == "gru":
            options = {"reset_after": bool(rest.pop("linear_before_reset", 0)), "z_keeps": True}
        usual = ACTIVATIONS[kind] * WAYS[direction]
        names = tuple(name.decode().lower() for name in rest.pop("activations", ())) or usual
        if kind == "rnn":
            options = {"nonlinearity": names[0]}
            self._expect("activations", names, usual, ("relu",) * len(usual))
        else:
            self._expect("activations", names, usual)
        for name, value in rest.items():
            raise ValueError(f"{self.owner}: {name} cannot be expressed, got {value}")
        return direction, options

    def _expect(self, name, value, *expected):
        if value not in expected:
            expected = " or ".join(map(repr, expected))
            raise ValueError(f"{self.owner}: {name} must be {expected}, got {value!r}")


def _read(node, stateful, device):
    """The layer of one node."""
    if node.knows("sequence_lens"):
        raise ValueError(
            f"{node.owner}: sequence_lens is a constant of the model; a layer is given its lengths "
            "at every call"
        )
    kind, G = node.kind, len(ONNX[node.kind])
    W, R, B, P = (node.weight(given, n) for given, n in (("W", 3), ("R", 3), ("B", 2), ("P", 2)))
    for given, value in (("W", W), ("R", R)):
        if value is None:
            raise ValueError(f"{node.owner}: {given} is missing")
    D, H = W.shape[2], R.shape[2]
    direction, options = node.options(H)
    ways = WAYS[direction]
    for given, value, shape, label in (
        ("W", W, (ways, G * H, D), f"(directions, {G}*H, D)"),
        ("R", R, (ways, G * H, H), f"(directions, {G}*H, H)"),
        ("B", B, (ways, 2 * G * H), f"(directions, 2*{G}*H)"),
        ("P", P, (ways, 3 * H), "(directions, 3*H)"),
    ):
        if value is not None:
            checks.exactly(node.owner, given, value, R.dtype, shape, label)
    directions = []
    for k in range(ways):
        b = None if B is None else one_bias(*np.split(B[k], 2), options.get("reset_after"))
        directions.append((W[k].T, R[k].T, b, None if P is None else P[k]))
    layer = make(kind, ONNX, directions, stateful=stateful, device=device, **options)
    _start(node, layer)
    return TimeReverse(layer) if direction == "reverse" else layer


def _start(node, layer):
    """Set the state that the model always starts from, if it is not zeros."""
    parts = getattr(layer, "parts", [layer])
    H = parts[0].Wh.shape[0]
    states = []
    for given in STATES[: len(parts[0].states)]:
        state = node.constant(given)
        if state is None or not state.any():
            states.append([None] * len(parts))
            continue
        if node.attributes.get("layout") and state.ndim == 3:
            state = state.swapaxes(0, 1)
        if state.ndim != 3 or state.shape[::2] != (len(parts), H):
            label = f"(directions, N, H) = ({len(parts)}, N, {H})"
            raise checks.shape_error(node.owner, given, label, state)
        if not layer.stateful:
            raise ValueError(
                f"{node.owner}: {given} is a constant other than zeros; only a layer with "
                "stateful=True can start there"
            )
        states.append([move(one.copy(), parts[0].device) for one in state])
    layer.set_state(*(state for part in zip(*states, strict=True) for state in part))


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
            producer_version=rnnfast.__version__,
        )


def _import_onnx(owner):
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{owner}: the onnx package is missing: pip install 'rnnfast[onnx]'"
        ) from None
    return onnx
