"""ONNX models -> layers: the nodes that are recurrent, and what the graph says of their inputs."""

import reprlib
from itertools import pairwise

import numpy as np

from rnnfast import checks
from rnnfast.convert.common import ONNX, floats, make, one_bias
from rnnfast.convert.onnx_attributes import Attributes, title
from rnnfast.convert.onnx_graph import DOMAINS, Graph
from rnnfast.convert.onnx_tensors import Atom, Constant, Running, Size, Unknown
from rnnfast.kernels import move
from rnnfast.layers.stacks import TimeReverse, TimeStack

KINDS = {"RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
STATES = ("initial_h", "initial_c")
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}
ACTIVATIONS = {"rnn": ("tanh",), "lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh")}


def read(onnx, model, known, *, stateful, device, batch_size):
    """The layer of a ModelProto; known: onnx_file.Known. The rest as from_onnx."""
    protos = _recurrent_nodes(model)
    graph = Graph(onnx, model, known, is_recurrent, _outputs)
    read_somewhere = {name for node in model.graph.node for name in node.input}
    for name in known.given:
        if name not in read_somewhere:
            raise ValueError(f"from_onnx: weights has {name!r}, which no node of the model reads")
    nodes = [_Node(onnx, proto, graph, known) for proto in protos]
    for below, above in pairwise(nodes):
        _check_between(graph, below, above)
    _check_lengths(graph, nodes)
    starts = [node.starts() for node in nodes]
    _check_order(nodes, starts)
    layers = []
    for node, start in zip(nodes, starts, strict=True):
        layer = node.layer(stateful, device)
        node.set_start(layer, start, batch_size)
        layers.append(TimeReverse(layer) if node.direction == "reverse" else layer)
    return layers[0] if len(layers) == 1 else TimeStack(layers)


# Which nodes


def is_recurrent(node):
    return node.op_type in KINDS and node.domain in DOMAINS


def _recurrent_nodes(model):
    """Those of the graph, in its order. ValueError where there is none, or one elsewhere."""
    places = [(model.graph.node, "")]
    places += [(f.node, f"the function {f.name!r}") for f in model.functions]
    for nodes, place in places:
        for node, inner in _inside(nodes, place):
            raise ValueError(
                f"from_onnx: {title(node)} is in {inner}, which a layer cannot express: export the "
                "model without that, or give from_onnx the node alone, with its weights"
            )
    found = [node for node in model.graph.node if is_recurrent(node)]
    if found:
        return found
    for node in model.graph.node:
        if any(kind in node.op_type for kind in KINDS):
            raise ValueError(
                f"from_onnx: {title(node)} of the domain {node.domain!r} cannot be read; it must "
                "be ONNX's own RNN, LSTM or GRU"
            )
    others = sorted({node.op_type for node in model.graph.node})
    message = "from_onnx: the model has no RNN, LSTM or GRU node"
    if others:
        message += f", but {', '.join(others[:12])}"
    steps = [n for n in model.graph.node if n.op_type in ("Tanh", "Relu", "Sigmoid")]
    if {"MatMul", "Gemm"} & set(others) and steps:
        message += (
            f". {title(steps[0])} may be a step of one: some exporters write each by itself, as "
            "torch.onnx.export does with an RNN unless dynamo=False; from_torch takes the module"
        )
    raise ValueError(message)


def _inside(nodes, place):
    """(node, where it is) of recurrent nodes in subgraphs, and in `place` if that has a name."""
    for node in nodes:
        if place and is_recurrent(node):
            yield node, place
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                behind = f" in {place}" if place else ""
                yield from _inside(graph.node, f"{attribute.name} of {title(node)}{behind}")


# What is between them


def _outputs(graph, proto):
    """Y, whose axes T, d (the directions), N and H can be followed."""
    x, R = (graph.tensor(proto.input[k]) for k in (0, 2))
    shape = x.shape if getattr(x, "axes", None) is not None else (None,) * 3
    sizes = [graph.fresh(proto.output[0], k) if s is None else s for k, s in enumerate(shape[:2])]
    d, H = Atom("d", R.shape[0]), Atom("H", R.shape[2])
    if R.data.dtype == np.float32:
        graph.types[proto.output[0]] = graph.onnx.TensorProto.FLOAT
    if Attributes(graph.onnx, proto).int("layout", 0):
        axes = Atom("N", sizes[0]), Atom("T", sizes[1]), d, H
    else:
        axes = Atom("T", sizes[0]), d, Atom("N", sizes[1]), H
    return [Running(proto.output[0], tuple((atom,) for atom in axes))]


def _check_between(graph, below, above):
    """Y of one node has to become X of the other, both directions side by side."""
    Y = below.proto.output[0] if below.proto.output else ""
    y, x = graph.tensors.get(Y), graph.tensor(above.names.get("X", ""))
    if isinstance(y, Running) and isinstance(x, Running) and x.origin == Y and x.axes is not None:
        atoms = {atom.name: atom for (atom,) in y.axes}
        last = [atoms[name] for name in ("dH" if below.ways == 2 else "H")]
        wanted = [[atoms["T"]], [atoms["N"]], last]
        if above.layout:
            wanted[:2] = wanted[1::-1]
        if [[a for a in axis if (a.name, a.size) != ("d", 1)] for axis in x.axes] == wanted:
            return
    raise ValueError(
        f"{above.owner} must read what {title(below.proto)} gives, directions side by side and "
        f"nothing in between{_culprit(graph, above, Y)}; read the nodes one by one"
    )


def _culprit(graph, above, Y):
    """What stands in between, for the message: the first node that reads a moved Y."""

    def is_moved(name):
        found = graph.tensors.get(name)
        return isinstance(found, Running) and found.origin == Y

    names, seen = [above.names.get("X", "")], set()
    if is_moved(names[0]):
        return " (the axes are not in place)"
    while names:
        node = graph.producers.get(names.pop())
        if node is None or seen.issuperset(node.output):  # a damaged graph may run in circles
            continue
        seen.update(node.output)
        if any(map(is_moved, node.input)):
            return f" ({title(node)} is)"
        if not is_recurrent(node):
            names += node.input
    return ""


def _check_lengths(graph, nodes):
    """One sequence_lens for all nodes, known when the model runs, or none."""
    first = None
    for node in nodes:
        name = node.names.get("sequence_lens", "")
        found = graph.tensor(name)
        if isinstance(found, Constant):
            if not node.reads_all(found):
                raise ValueError(
                    f"{node.owner}: sequence_lens is a constant of the model; a layer is given its "
                    "lengths at every call"
                )
            name = ""
        for _ in range(len(graph.producers)):
            producer = graph.producers.get(name)
            if producer is None or producer.op_type not in ("Identity", "Cast"):
                break
            name = _first(producer.input)
        if node is nodes[0]:
            first = name
        elif name != first:
            raise ValueError(
                f"{node.owner}: sequence_lens must be that of {title(nodes[0].proto)}, "
                f"{first or None!r}, got {name or None!r}; read the nodes one by one"
            )


def _first(names):
    return names[0] if names else ""


def _check_order(nodes, starts):
    """States that are given have to be in one order in their input and in the layer, each once."""
    taken = set()
    for k, given in enumerate(STATES):
        last = {}
        for node, start in zip(nodes, starts, strict=True):
            rows = start[k] if k < len(start) and isinstance(start[k], list) else ()
            for row in rows:
                name, axis, index = row
                if row in taken or index < last.get((name, axis), 0):
                    raise ValueError(
                        f"{node.owner}: {given} must be rows of an input in the order of the "
                        f"layers, each once, got row {index} of {name!r}; give it in weights"
                    )
                taken.add(row)
                last[name, axis] = index


# A node


class _Node:
    """An RNN, LSTM or GRU: its weights, its options, and where it starts."""

    def __init__(self, onnx, proto, graph, known):
        self.kind = KINDS[proto.op_type]
        self.proto, self.graph, self._known = proto, graph, known
        self.attributes = Attributes(onnx, proto)
        self.owner = self.attributes.owner
        allowed = INPUTS if self.kind == "lstm" else INPUTS[: INPUTS.index("initial_c")]
        if len(proto.input) > len(allowed):
            raise ValueError(
                f"{self.owner}: inputs must be at most {len(allowed)}, got {len(proto.input)}"
            )
        self.names = {
            given: name for given, name in zip(allowed, proto.input, strict=False) if name
        }
        weights = {
            given: self._weight(given, n) for given, n in zip("WRBP", (3, 3, 2, 2), strict=True)
        }
        for given in "WR":
            if weights[given] is None:
                raise ValueError(f"{self.owner}: {given} is missing")
        W, R, B, P = weights.values()
        G, D, H = len(ONNX[self.kind]), W.shape[2], R.shape[2]
        self.direction, self.options, self.layout = self._options(H)
        self.ways = WAYS[self.direction]
        for given, value, shape, label in (
            ("W", W, (self.ways, G * H, D), f"(directions, {G}*H, D)"),
            ("R", R, (self.ways, G * H, H), f"(directions, {G}*H, H)"),
            ("B", B, (self.ways, 2 * G * H), f"(directions, 2*{G}*H)"),
            ("P", P, (self.ways, 3 * H), "(directions, 3*H)"),
        ):
            if value is not None:
                checks.exactly(self.owner, given, value, R.dtype, shape, label)
        self.H, self._weights = H, weights

    def _weight(self, given, ndim):
        """The array, required unless the node has no such input."""
        name = self.names.get(given)
        if name is None:
            return None
        known = self._known
        if name in known.given:
            value = known.given[name]
        else:
            value = self.graph.constant(name)
            if name in known.errors:
                raise ValueError(f"{self.owner}: {given} cannot be read ({known.errors[name]})")
        if value is None:
            sparse = ", which is sparse" if name in known.sparse else self._maker(name)
            raise ValueError(
                f"{self.owner}: {given} must be a constant of the model or in weights, "
                f"got {name!r}{sparse}"
            )
        value = floats(self.owner, given, value)
        if value.ndim != ndim or 0 in value.shape:
            expected = f"of {ndim} dimensions, sizes from 1 up"
            raise checks.shape_error(self.owner, given, expected, value)
        return value

    def _maker(self, name):
        producer = self.graph.producers.get(name)
        return "" if producer is None else f", what {title(producer)} makes"

    def _options(self, H):
        """The direction, the keyword arguments of the layer, and the layout."""
        read, rest, kind = self.attributes, set(self.attributes.names), self.kind
        options = {}
        direction = self._one_of("direction", read.string("direction", "forward"), *WAYS)
        self._one_of("hidden_size", read.int("hidden_size", H), H)
        layout = self._one_of("layout", read.int("layout", 0), 0, 1)
        read.int("output_sequence", 0)  # before opset 7: whether Y is wanted
        rest -= {"direction", "hidden_size", "layout", "output_sequence", "activations"}
        if kind == "lstm":
            self._one_of("input_forget", read.int("input_forget", 0), 0)
            rest.discard("input_forget")
        if kind == "gru":
            after = self._one_of("linear_before_reset", read.int("linear_before_reset", 0), 0, 1)
            options = {"reset_after": bool(after), "z_keeps": True}
            rest.discard("linear_before_reset")
        usual = ACTIVATIONS[kind] * WAYS[direction]
        names = tuple(name.lower() for name in read.strings("activations", ())) or usual
        if kind == "rnn":
            self._one_of("activations", names, usual, ("relu",) * len(usual))
            options = {"nonlinearity": names[0]}
        else:
            self._one_of("activations", names, usual)
        for name in sorted(rest):
            raise ValueError(f"{self.owner}: {name} cannot be expressed, got {read.shown(name)}")
        return direction, options, layout

    def _one_of(self, name, value, *expected):
        if value not in expected:
            expected = " or ".join(map(repr, expected))
            raise ValueError(f"{self.owner}: {name} must be {expected}, got {reprlib.repr(value)}")
        return value

    def layer(self, stateful, device):
        W, R, B, P = self._weights.values()
        directions = []
        for k in range(self.ways):
            b = None
            if B is not None:
                b = one_bias(*np.split(B[k], 2), self.options.get("reset_after"))
            directions.append((W[k].T, R[k].T, b, None if P is None else P[k]))
        return make(self.kind, ONNX, directions, stateful=stateful, device=device, **self.options)

    def reads_all(self, lengths):
        """Whether sequence_lens, a Constant, is of as many steps as X has, whatever is in that."""
        x = self.graph.tensor(self.names.get("X", ""))
        try:
            T = x.shape[1 if self.layout else 0]
        except (Unknown, AttributeError, IndexError):
            return False
        return lengths.data.dtype.kind in "iuO" and all(n == T for n in set(lengths.data.flat))

    # Where it starts

    def starts(self):
        """Of h, and c: None (zeros), a Constant, or a list of which rows of inputs it is given."""
        names = STATES if self.kind == "lstm" else STATES[:1]
        return [self._start(given) if given in self.names else None for given in names]

    def _start(self, given):
        name = self.names[given]
        if name in self._known.given:
            value = floats(self.owner, given, self._known.given[name])
            found = Constant(value, value.shape)
        else:
            found = self.graph.tensor(name)
            if name in self._known.errors:
                reason = self._known.errors[name]
                raise ValueError(f"{self.owner}: {given} cannot be read ({reason})")
        if not isinstance(found, Constant):
            rows = self._rows(name)
            if rows is None or len(rows) != self.ways:
                raise ValueError(
                    f"{self.owner}: {given} must be a constant, or an input of the model or rows "
                    f"of one, got {name!r}{self._maker(name)}; give it in weights, as zeros where "
                    "that is what the layer is to start from"
                )
            return rows
        data = floats(self.owner, given, found.data)
        if not data.any():
            return None
        shape = found.shape
        if self.layout and len(shape) == 3:
            data, shape = data.swapaxes(0, 1), (shape[1], shape[0], shape[2])
        if len(shape) != 3 or shape[::2] != (self.ways, self.H):
            label = f"(directions, N, H) = ({self.ways}, N, {self.H})"
            raise ValueError(f"{self.owner}: {given} must be {label}, got {shape}")
        return Constant(data, shape)

    def _rows(self, name):
        """(input, axis, index) of each direction's state, an input of the model; None if it isn't.

        The axes are (directions, N, H) or, of a single direction's state, (N, H).
        """
        producer = self.graph.producers.get(name)
        if producer is not None and producer.op_type == "Concat" and not self.layout:
            if Attributes(self.graph.onnx, producer).int("axis", None) != 0:
                return None
            parts = [self._rows_of(part) for part in producer.input]
            return None if None in parts else [row for part in parts for row in part]
        return self._rows_of(name)

    def _rows_of(self, name):
        found = self.graph.tensor(name)
        if not isinstance(found, Running) or found.origin not in self.graph.inputs:
            return None
        if found.axes is None:  # an input of which no shape is known, as it is
            return [(name, 0, k) for k in range(self.ways)] if found.origin == name else None
        axes, whole = found.axes, self.graph.tensor(found.origin).axes
        if self.layout and len(axes) == 3:
            axes = axes[1], axes[0], axes[2]
        if len(axes) != 3 or len(axes[0] + found.picked) > 1:
            return None
        for axis in axes[1:]:
            if len(axis) != 1 or axis != whole[axis[0].name]:
                return None
        (atom,) = axes[0] + found.picked or (Atom(None, 1),)
        H = axes[2][0]
        if H.name != len(whole) - 1 or (H.size != self.H and not isinstance(H.size, Size)):
            return None
        count = self.ways if isinstance(atom.size, Size) else atom.size
        return [(found.origin, atom.name, atom.start + k) for k in range(min(count, 3))]

    def set_start(self, layer, starts, batch_size):
        """Set the states that the model always starts from, if they are not zeros."""
        parts = getattr(layer, "parts", [layer])
        states = []
        for given, start in zip(STATES, starts, strict=False):
            if start is None:
                states.append([None] * len(parts))
                continue
            if not layer.stateful:
                name = self.names[given]
                if isinstance(start, Constant):
                    what = "is a constant other than zeros"
                    can = "start there"
                else:
                    what = f"is an input of the model, {name!r}"
                    can = f"be given one, by set_state (weights={{{name!r}: zeros}} starts there)"
                raise ValueError(
                    f"{self.owner}: {given} {what}; only a layer with stateful=True can {can}"
                )
            if isinstance(start, list):
                states.append([None] * len(parts))
                continue
            rows = self._of_batch(given, start, batch_size)
            states.append([move(np.array(one), parts[0].device) for one in rows])
        layer.set_state(*(state for part in zip(*states, strict=True) for state in part))

    def _of_batch(self, given, start, batch_size):
        """The state (directions, N, H) of as many samples as there are."""
        N = start.shape[1]
        if batch_size is not None and start.data.shape[1] in (1, batch_size):
            N = batch_size
        elif isinstance(N, Size):
            raise ValueError(
                f"{self.owner}: {given} is a constant for any number of samples; batch_size must "
                "say how many the layer is to start with"
            )
        elif batch_size is not None:
            raise ValueError(
                f"{self.owner}: batch_size must be {N}, of which {given} is, got {batch_size}"
            )
        elif start.data.shape[1] != N and N * self.H * self.ways > 2**22:
            raise ValueError(f"{self.owner}: {given} is of {N} samples, too many to keep")
        return np.broadcast_to(start.data, (self.ways, N, self.H))
