"""ONNX models: which nodes are recurrent, how they are connected, and the layer they make."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rnnfast.convert.onnx_attributes import Attributes, title
from rnnfast.convert.onnx_file import Known
from rnnfast.convert.onnx_graph import DOMAINS, Graph
from rnnfast.convert.onnx_node import KINDS, STATES, Node
from rnnfast.convert.onnx_tensors import Atom, Constant, Running
from rnnfast.layers.stacks import TimeReverse, TimeStack


def read(
    onnx: Any,
    model: Any,
    known: Known,
    *,
    stateful: bool,
    device: str | None,
    batch_size: int | None,
) -> Any:
    """The layer of a ModelProto; arguments as those of from_onnx."""
    protos = _recurrent_nodes(model)
    graph = Graph(onnx, model, known, is_recurrent, _outputs)
    read_somewhere = {name for node in model.graph.node for name in node.input}
    for name in known.given:
        if name not in read_somewhere:
            raise ValueError(f"from_onnx: weights has {name!r}, which no node of the model reads")
    nodes = [Node(onnx, proto, graph, known) for proto in protos]
    for below, above in pairwise(nodes):
        _check_between(graph, below, above)
    _check_lengths(graph, nodes)
    starts = [node.starts() for node in nodes]
    _check_order(nodes, starts)
    layers: list[Any] = []
    for node, start in zip(nodes, starts, strict=True):
        layer = node.layer(stateful, device)
        node.set_start(layer, start, batch_size)
        layers.append(TimeReverse(layer) if node.direction == "reverse" else layer)
    return layers[0] if len(layers) == 1 else TimeStack(layers)


# The recurrent nodes


def is_recurrent(node: Any) -> bool:
    """Whether a node is an RNN, LSTM or GRU of ONNX itself."""
    return node.op_type in KINDS and node.domain in DOMAINS


def _recurrent_nodes(model: Any) -> list[Any]:
    """The recurrent nodes of the graph, in order; ValueError for none, and for any elsewhere."""
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


def _inside(nodes: Any, place: str) -> Iterator[tuple[Any, str]]:
    """(node, its place) of recurrent nodes in subgraphs, and in `place` unless it is empty."""
    for node in nodes:
        if place and is_recurrent(node):
            yield node, place
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                behind = f" in {place}" if place else ""
                yield from _inside(graph.node, f"{attribute.name} of {title(node)}{behind}")


# Connections between the nodes


def _outputs(graph: Graph, proto: Any) -> list[Any]:
    """Y, with the axes T, d (the directions), N and H."""
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


def _check_between(graph: Graph, below: Node, above: Node) -> None:
    """ValueError unless Y of one node is X of the next, with both directions side by side."""
    Y = below.proto.output[0] if below.proto.output else ""
    y, x = graph.tensors.get(Y), graph.tensor(above.names.get("X", ""))
    if isinstance(y, Running) and isinstance(x, Running) and x.origin == Y and x.axes is not None:
        atoms = {atom.name: atom for (atom,) in y.known_axes}
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


def _culprit(graph: Graph, above: Node, Y: str) -> str:
    """The node in between, for the message: the first one that reads a moved Y."""

    def is_moved(name: str) -> bool:
        found = graph.tensors.get(name)
        return isinstance(found, Running) and found.origin == Y

    names: list[str] = [above.names.get("X", "")]
    seen: set[str] = set()
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


def _check_lengths(graph: Graph, nodes: Sequence[Node]) -> None:
    """ValueError unless all nodes have the same sequence_lens, an input of the model, or none."""
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


def _first(names: Sequence[str]) -> str:
    """The first name, or ""."""
    return names[0] if names else ""


def _check_order(nodes: Sequence[Node], starts: Sequence[list[Any]]) -> None:
    """ValueError unless rows of an input are in the order of the layers, each used once."""
    taken: set[Any] = set()
    for k, given in enumerate(STATES):
        last: dict[Any, Any] = {}
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
