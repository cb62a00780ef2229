"""Static knowledge about the tensors of an ONNX graph, which is not run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.convert.onnx_attributes import Attributes, title
from rnnfast.convert.onnx_file import Known
from rnnfast.convert.onnx_operators import OPERATORS, Call
from rnnfast.convert.onnx_tensors import Constant, Running, Size, Unknown, running

DOMAINS = ("", "ai.onnx")
ROOM = 2**24  # bytes that folding may take beyond those of the constants


class Graph:
    """The tensors of a graph on which the wanted nodes depend.

    wanted(node) tells whether a node is wanted, outputs(graph, node) returns its tensors.
    """

    def __init__(
        self,
        onnx: Any,
        model: Any,
        known: Known,
        wanted: Callable[[Any], bool],
        outputs: Callable[["Graph", Any], list[Any]],
    ) -> None:
        self.onnx, self.known, self.wanted, self.outputs = onnx, known, wanted, outputs
        self.opset = max([o.version for o in model.opset_import if o.domain in DOMAINS], default=1)
        self.tensors: dict[str, Any] = {}
        self.producers: dict[str, Any] = {}
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
        needed: set[str] = set()
        names = [name for node in graph.node if wanted(node) for name in node.input]
        while names:
            name = names.pop()
            if name in self.producers and name not in needed:
                needed.update(self.producers[name].output)
                names += self.producers[name].input
        with np.errstate(all="ignore"):
            for node in graph.node:
                if wanted(node) or not needed.isdisjoint(node.output):
                    self._pass(node)

    def spend(self, size: int) -> None:
        """Take `size` bytes from the budget of the graph before they are allocated, or Unknown."""
        self.budget -= max(size, 0)
        if self.budget < 0:
            raise Unknown

    def tensor(self, name: str) -> Any:
        """A Constant, Running or ShapeOf; None for an omitted input."""
        if name == "":
            return None
        if name not in self.tensors:
            self.tensors[name] = self.known(name) or self._begin(name)
        return self.tensors[name]

    def constant(self, name: str) -> NDArray[Any] | None:
        """The array of a constant tensor, else None."""
        found = self.tensor(name)
        try:
            return found.full(self) if isinstance(found, Constant) else None
        except Unknown:
            return None

    def fresh(self, name: str, axis: Any) -> Size:
        """An unknown size that equals no other."""
        return Size([(name, str(axis))])

    def _begin(self, name: str) -> Running:
        """A tensor of a run with the shape that the file declares."""
        if name not in self._declared:
            return Running(name)
        sizes: list[Any] = []
        for k, dim in enumerate(self._declared[name].dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                sizes.append(dim.dim_value)
            else:
                sizes.append(Size([("", dim.dim_param)]) if dim.dim_param else self.fresh(name, k))
        return running(name, sizes)

    def _pass(self, node: Any) -> None:
        """Set the output tensors of a node."""
        found: Sequence[Any] = ()
        try:
            if self.wanted(node):
                found = self.outputs(self, node)
            elif node.op_type in OPERATORS and node.domain in DOMAINS:
                operator, allowed = OPERATORS[node.op_type]
                attributes = Attributes(self.onnx, node)
                if not set(attributes.names) <= set(allowed.split()):
                    raise Unknown
                inputs = [self.tensor(name) for name in node.input]
                result = operator(Call(self, node, attributes), *inputs)
                found = result if isinstance(result, list) else [result]
        except Exception:  # Unknown, or an error of any class from a damaged node
            pass
        named = dict(zip(node.output, found, strict=False))
        for name in filter(None, node.output):
            self.tensors[name] = self.known(name) or named.get(name) or self._begin(name)
