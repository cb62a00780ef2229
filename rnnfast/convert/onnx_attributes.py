"""The attributes of an ONNX node, each of the type that it has to have."""

import reprlib


def title(node):
    """How errors name a node: exporters do not always give it a name of its own."""
    if node.name:
        return f"{node.op_type} node {node.name!r}"
    return f"{node.op_type} node that gives {', '.join(map(repr, filter(None, node.output)))}"


class Attributes:
    """Asked for by name and type: `int`, `ints`, `string`, `strings`, `tensor`, or `any` of them.

    ValueError, naming node and attribute, for one of another type, or given twice.
    """

    def __init__(self, onnx, node):
        self.owner = f"from_onnx: {title(node)}"
        self._kinds = onnx.AttributeProto.AttributeType
        self._value = onnx.helper.get_attribute_value
        self._there = {}
        for attribute in node.attribute:
            if attribute.name in self._there:
                raise ValueError(f"{self.owner}: {attribute.name} is given twice")
            self._there[attribute.name] = attribute

    @property
    def names(self):
        return list(self._there)

    def any(self, name):
        """The value, of whatever type."""
        attribute = self._there[name]
        if attribute.ref_attr_name:
            raise ValueError(f"{self.owner}: {name} refers to a function's attribute")
        try:
            return self._value(attribute)
        except ValueError as error:
            raise ValueError(f"{self.owner}: {name} cannot be read ({error})") from None

    def shown(self, name):
        """The value for a message, in short."""
        value = self.any(name)
        if isinstance(value, bytes):
            return repr(value[:50])
        return reprlib.repr(value) if isinstance(value, (int, float, list)) else "other"

    def int(self, name, default):
        return self._get(name, "INT", default)

    def ints(self, name, default):
        found = self._get(name, "INTS", default)
        return None if found is None else list(found)

    def string(self, name, default):
        return self._get(name, "STRING", default, self._text)

    def strings(self, name, default):
        return self._get(name, "STRINGS", default, lambda n, v: [self._text(n, one) for one in v])

    def tensor(self, name, default):
        return self._get(name, "TENSOR", default)

    def _get(self, name, kind, default, read=None):
        if name not in self._there:
            return default
        found = self._there[name].type
        if found != self._kinds.Value(kind):
            names = {number: one for one, number in self._kinds.items()}
            raise ValueError(f"{self.owner}: {name} must be of type {kind}, got {names.get(found)}")
        value = self.any(name)
        return value if read is None else read(name, value)

    def _text(self, name, value):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(
                f"{self.owner}: {name} must be UTF-8 text, got {value[:50]!r}"
            ) from None
