"""What an ONNX graph says of its tensors without being run."""

import numpy as np

from rnnfast.convert.onnx_attributes import Attributes, title
from rnnfast.convert.onnx_operators import OPERATORS, Call
from rnnfast.convert.onnx_tensors import Constant, Running, Size, Unknown, running

DOMAINS = ("", "ai.onnx")
ROOM = 2**24  # bytes that folding may take beyond those of the constants


class Graph:
    """The tensors of a graph that the nodes that are `wanted` depend on.

    known: onnx_file.Known. wanted: a function of a node; outputs: one of this and of a wanted node,
    that gives its tensors.
    """

    def __init__(self, onnx, model, known, wanted, outputs):
        self.onnx, self.known, self.wanted, self.outputs = onnx, known, wanted, outputs
        self.opset = max([o.version for o in model.opset_import if o.domain in DOMAINS], default=1)
        self.tensors = {}
        self.producers = {}
        self.budget = ROOM + 2 * model.ByteSize()
        graph = model.graph
        for node in graph.node:
            for name in filter(None, node.output):
                if name in self.producers or name in known.initializers:
                    raise ValueError(f"from_onnx: {title(node)}: {name!r} is made twice")
                self.producers[name] = node
        self._declared = {
            info.name: info.type.tensor_type.shape
            for info in (*graph.input, *graph.value_info)
            if info.type.tensor_type.HasField("shape")
        }
        self.types = {  # of elements; only where a Cast may change nothing
            info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.value_info)
        }
        self.inputs = {info.name for info in graph.input}
        needed, names = set(), [name for node in graph.node if wanted(node) for name in node.input]
        while names:
            name = names.pop()
            if name in self.producers and name not in needed:
                needed.update(self.producers[name].output)
                names += self.producers[name].input
        with np.errstate(all="ignore"):
            for node in graph.node:
                if wanted(node) or not needed.isdisjoint(node.output):
                    self._pass(node)

    def spend(self, size):
        """Before `size` bytes are made; what comes out of a budget for the whole graph."""
        self.budget -= max(size, 0)
        if self.budget < 0:
            raise Unknown

    def tensor(self, name):
        """What is known of a tensor; None for an input that is not there."""
        if name == "":
            return None
        if name not in self.tensors:
            self.tensors[name] = self.known(name) or self._begin(name)
        return self.tensors[name]

    def constant(self, name):
        """The array of a tensor that is a constant, else None."""
        found = self.tensor(name)
        try:
            return found.full(self) if isinstance(found, Constant) else None
        except Unknown:
            return None

    def fresh(self, name, axis):
        return Size([(name, str(axis))])

    def _begin(self, name):
        """A tensor of a run of which no more is known than what the file says."""
        if name not in self._declared:
            return Running(name)
        sizes = []
        for k, dim in enumerate(self._declared[name].dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                sizes.append(dim.dim_value)
            else:
                sizes.append(Size([("", dim.dim_param)]) if dim.dim_param else self.fresh(name, k))
        return running(name, sizes)

    def _pass(self, node):
        """The tensors that a node gives."""
        found = ()
        try:
            if self.wanted(node):
                found = self.outputs(self, node)
            elif node.op_type in OPERATORS and node.domain in DOMAINS:
                operator, allowed = OPERATORS[node.op_type]
                attributes = Attributes(self.onnx, node)
                if not set(attributes.names) <= set(allowed.split()):
                    raise Unknown
                inputs = [self.tensor(name) for name in node.input]
                found = operator(Call(self, node, attributes), *inputs)
                found = found if isinstance(found, list) else [found]
        except Exception:  # Unknown, or one of the many of a damaged node
            pass
        found = dict(zip(node.output, found, strict=False))
        for name in filter(None, node.output):
            self.tensors[name] = self.known(name) or found.get(name) or self._begin(name)
