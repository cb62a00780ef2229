"""Attributes of an ONNX node, with checks of their types."""

import reprlib
from collections.abc import Callable
from typing import Any


def title(node: Any) -> str:
    """The name of a node in errors; not every exporter names its nodes."""
    if node.name:
        return f"{node.op_type} node {node.name!r}"
    return f"{node.op_type} node that gives {', '.join(map(repr, filter(None, node.output)))}"


class Attributes:
    """Access by name and type: `int`, `ints`, `string`, `strings`, `tensor`, or `any` of them.

    ValueError, with the names of node and attribute, for another type and for duplicates.
    """

    def __init__(self, onnx: Any, node: Any) -> None:
        self.owner = f"from_onnx: {title(node)}"
        self._kinds = onnx.AttributeProto.AttributeType
        self._value = onnx.helper.get_attribute_value
        self._there: dict[str, Any] = {}
        for attribute in node.attribute:
            if attribute.name in self._there:
                raise ValueError(f"{self.owner}: {attribute.name} is given twice")
            self._there[attribute.name] = attribute

    @property
    def names(self) -> list[str]:
        """The names of all attributes."""
        return list(self._there)

    def any(self, name: str) -> Any:
        """The value of any type."""
        attribute = self._there[name]
        if attribute.ref_attr_name:
            raise ValueError(f"{self.owner}: {name} refers to a function's attribute")
        try:
            return self._value(attribute)
        except ValueError as error:
            raise ValueError(f"{self.owner}: {name} cannot be read ({error})") from None

    def shown(self, name: str) -> str:
        """The value in a message, shortened."""
        value = self.any(name)
        if isinstance(value, bytes):
            return repr(value[:50])
        return reprlib.repr(value) if isinstance(value, (int, float, list)) else "other"

    # The name of a type is a method's from here on, so values are Any.

    def int(self, name: str, default: Any) -> Any:
        """The value of an INT, or default."""
        return self._get(name, "INT", default)

    def ints(self, name: str, default: Any) -> list[Any] | None:
        """The values of INTS, or default."""
        found = self._get(name, "INTS", default)
        return None if found is None else list(found)

    def string(self, name: str, default: Any) -> Any:
        """The text of a STRING, or default."""
        return self._get(name, "STRING", default, self._text)

    def strings(self, name: str, default: Any) -> Any:
        """The texts of STRINGS, or default."""
        return self._get(name, "STRINGS", default, lambda n, v: [self._text(n, one) for one in v])

    def tensor(self, name: str, default: Any) -> Any:
        """The TensorProto of a TENSOR, or default."""
        return self._get(name, "TENSOR", default)

    def _get(
        self, name: str, kind: str, default: Any, read: Callable[[str, Any], Any] | None = None
    ) -> Any:
        """The value of an attribute of a kind, or default."""
        if name not in self._there:
            return default
        found = self._there[name].type
        if found != self._kinds.Value(kind):
            names = {number: one for one, number in self._kinds.items()}
            raise ValueError(f"{self.owner}: {name} must be of type {kind}, got {names.get(found)}")
        value = self.any(name)
        return value if read is None else read(name, value)

    def _text(self, name: str, value: bytes) -> str:
        """UTF-8 text; ValueError for other bytes."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(
                f"{self.owner}: {name} must be UTF-8 text, got {value[:50]!r}"
            ) from None
