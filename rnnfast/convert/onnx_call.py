"""The call of an ONNX operator: its node, beside the inputs."""

from dataclasses import dataclass
from typing import Any

from rnnfast.convert.onnx_attributes import Attributes
from rnnfast.convert.onnx_tensors import Unknown, numbers


@dataclass(frozen=True)
class Call:
    """The arguments of an operator beside its inputs."""

    graph: Any  # onnx_graph.Graph, which imports the operators
    node: Any
    attributes: Attributes

    def ints(self, name: str, tensor: Any = None) -> Any:
        """Numbers, an attribute in old opsets and an input in later ones; None without either."""
        if tensor is not None:
            return numbers(tensor)
        return self.attributes.ints(name, None)


def axis_index(axis: int, count: int) -> int:
    """An axis from 0 up, of `count`; Unknown if it is out of range."""
    if not -count <= axis < count:
        raise Unknown
    return axis % count
