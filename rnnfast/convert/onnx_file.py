"""ONNX files: reading within bounds of memory, and the constants in them."""

import math
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.convert.onnx_tensors import Constant
from rnnfast.io import headers, open_regular

# Approximate memory of a parsed field, in bytes: a message, another field, and each byte of packed
# numbers (https://protobuf.dev/programming-guides/encoding). The file itself is 1 of 10.
MESSAGE, FIELD, PACKED = 300, 40, 20


def load(onnx: Any, path: str | os.PathLike[str]) -> Any:
    """The ModelProto of a file; ValueError if it is damaged or would fill the memory."""
    from google.protobuf.message import DecodeError

    with open_regular(path) as file:
        content = file.read()
    room = headers.room(len(content))
    if _weight(content, onnx.ModelProto.DESCRIPTOR, room) > room:
        raise ValueError(f"{path}: not a complete ONNX model (too many parts for its size)")
    try:
        return onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{path}: not a complete ONNX model ({error})") from None


@cache
def _fields(message: Any) -> dict[int, tuple[Any, bool]]:
    """number -> (the type of its messages or None, whether it may be packed numbers)."""
    return {
        field.number: (field.message_type, field.cpp_type not in (5, 6, 9, 10))
        for field in message.fields
    }


def _weight(data: bytes, message: Any, room: int) -> int:
    """Memory of a parsed message; counting stops at `room`, and where the rest is damaged."""
    total, stack = 0, [(0, len(data), message)]
    while stack and total <= room:
        at, end, message = stack.pop()
        fields = _fields(message)
        while at < end and total <= room:
            key, at = _varint(data, at, end)
            inner, packable = fields.get(key >> 3, (None, False))
            total += FIELD if inner is None else MESSAGE
            kind = key & 7
            if kind == 0:
                _, at = _varint(data, at, end)
            elif kind == 2:
                size, at = _varint(data, at, end)
                if size > end - at:
                    break
                if inner is not None:
                    stack.append((at, at + size, inner))
                elif packable:
                    total += PACKED * size
                at += size
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                break
    return total


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The integer at a place, and the place behind it."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            break
        shift += 7
    return value, at


class Known:
    """name -> Constant or None: the initializers of a model; `weights` takes precedence.

    folder: the folder of files with external data; None if it is unknown.
    """

    def __init__(self, onnx: Any, model: Any, weights: Any, folder: str | None = None) -> None:
        self.given: dict[str, Any] = dict(weights or {})
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sparse = {tensor.values.name for tensor in model.graph.sparse_initializer}
        self.errors: dict[str, str] = {}  # name -> why an initializer cannot be read
        self._onnx, self._folder = onnx, folder
        self._read: dict[str, Constant | None] = {}
        self._outside = 0
        self._sizes: dict[str, int] = {}

    def __call__(self, name: str) -> Constant | None:
        if name not in self._read:
            self._read[name] = self._find(name)
        return self._read[name]

    def _find(self, name: str) -> Constant | None:
        """Read a constant; the reason of a failure goes into `errors`."""
        if name in self.given:
            value = self.given[name]
            value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
            try:
                data = np.asarray(value)
            except (TypeError, ValueError):
                return None
        elif name in self.initializers:
            try:
                data = self.array(self.initializers[name])
            except Exception as error:  # a damaged tensor raises errors of many classes
                self.errors[name] = str(error) or repr(error)
                return None
        else:
            return None
        return Constant(data, data.shape)

    def array(self, tensor: Any) -> NDArray[Any]:
        """The array of a TensorProto; ValueError if it cannot be read."""
        onnx = self._onnx
        if tensor.data_type == onnx.TensorProto.STRING:
            raise ValueError("it is of strings")
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"its dims are {list(tensor.dims)[:8]}")
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        if self._folder is None:
            raise ValueError("its data is in another file; give the path of the model")
        places = {entry.key: entry.value for entry in tensor.external_data}
        file = os.path.join(self._folder, places.get("location", ""))
        self._sizes[file] = os.path.getsize(file)
        size = (
            math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
        if places.get("length", str(size)) != str(size):
            raise ValueError(f"it is of {size} bytes, its data of {places['length']}")
        if "length" not in places:  # up to the file's end
            size = self._sizes[file]
        self._outside += size
        if self._outside > 2 * sum(self._sizes.values()):
            raise ValueError("more is read of other files than they hold")
        return np.asarray(onnx.numpy_helper.to_array(tensor, self._folder))
