"""ONNX operators on constants: arithmetic, conversion, broadcasting, joining.

An operator takes a Call and its inputs and returns the output. It raises Unknown, or any other
error for a damaged node, if the output is not a constant. Nothing is allocated that Graph.spend has
not allowed.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.convert.onnx_call import Call, axis_index
from rnnfast.convert.onnx_tensors import (
    SMALL,
    Constant,
    Running,
    Size,
    Unknown,
    numbers,
)


def _concat(call: Call, *parts: Any) -> Any:
    if len(parts) == 1:
        return parts[0]
    if not all(isinstance(part, Constant) for part in parts):
        raise Unknown
    axis = axis_index(call.attributes.int("axis", None), len(parts[0].shape))
    shapes = [part.shape for part in parts]
    others = [shape[:axis] + shape[axis + 1 :] for shape in shapes]
    sizes = [shape[axis] for shape in shapes]
    if len(set(others)) > 1 or any(isinstance(size, Size) for size in sizes):
        raise Unknown
    common = np.broadcast_shapes(*[p.data.shape[:axis] + p.data.shape[axis + 1 :] for p in parts])
    call.graph.spend(math.prod(common) * sum(sizes) * max(part.data.itemsize for part in parts))
    rows = [
        np.broadcast_to(part.data, (*common[:axis], size, *common[axis:]))
        for part, size in zip(parts, sizes, strict=True)
    ]
    return Constant(np.concatenate(rows, axis), (*others[0][:axis], sum(sizes), *others[0][axis:]))


def _expand(call: Call, x: Any, target: Any) -> Constant:
    if isinstance(x, Running):
        raise Unknown
    return _stretched(x, _broadcast(x.shape, tuple(numbers(target))))


def _stretched(x: Any, shape: tuple[Any, ...]) -> Constant:
    """x broadcast to a shape."""
    return Constant(x.data.reshape((1,) * (len(shape) - x.data.ndim) + x.data.shape), shape)


def _broadcast(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape to which two shapes are broadcast."""
    count = max(len(a), len(b))
    wide = [(1,) * (count - len(shape)) + shape for shape in (a, b)]
    return tuple(map(_common, *wide))


def _common(p: Any, q: Any) -> Any:
    """The size to which two sizes are broadcast."""
    if p == q or q == 1:
        return p
    if p == 1:
        return q
    if isinstance(p, Size) == isinstance(q, Size):
        raise Unknown
    return q if isinstance(p, Size) else p  # in a valid run the other one equals it, or is 1


def _tile(call: Call, x: Any, repeats: Any) -> Constant:
    repeats = numbers(repeats)
    if isinstance(x, Running) or len(repeats) != len(x.shape):
        raise Unknown
    for size, times in zip(x.data.shape, repeats, strict=True):
        if times != 1 and size != 1:  # only a constant axis repeats without copies
            raise Unknown
    return Constant(x.data, tuple(a * b for a, b in zip(x.shape, repeats, strict=True)))


def _constant_of_shape(call: Call, shape: Any) -> Constant:
    shape = tuple(numbers(shape))
    value = call.attributes.tensor("value", None)
    value = np.zeros(1, np.float32) if value is None else call.graph.known.array(value)
    if value.size != 1:
        raise Unknown
    return Constant(value.reshape((1,) * len(shape)), shape)


NUMBERS = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL")


def _constant(call: Call) -> Constant:
    """A Constant node."""
    attributes = call.attributes
    (name,) = attributes.names
    if name == "value":
        data = call.graph.known.array(attributes.tensor("value", None))
    elif name in ("value_int", "value_ints"):
        data = np.array(attributes.any(name), np.int64)
    elif name in ("value_float", "value_floats"):
        data = np.array(attributes.any(name), np.float32)
    else:
        raise Unknown
    return Constant(data, data.shape)


def _cast(call: Call, x: Any) -> Any:
    to = call.attributes.int("to", None)
    if isinstance(x, Running) and call.graph.types.get(x.origin) == to:
        return x
    if not isinstance(x, Constant):
        raise Unknown
    types = {getattr(call.graph.onnx.TensorProto, name): name.lower() for name in NUMBERS}
    name = types.get(to)
    if name is None:
        raise Unknown
    if x.data.dtype == object and any(isinstance(value, Size) for value in x.data.flat):
        if name != "int64":  # an unknown size may be too large for narrower types
            raise Unknown
        return x
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    call.graph.spend(x.data.size * dtype.itemsize)
    return Constant(x.data.astype(dtype), x.shape)


def _elementwise(
    function: Callable[..., Any], exact: Callable[..., Any] | None
) -> Callable[..., Constant]:
    """An operator from `function` of float arrays and `exact` of single integers or Sizes."""

    def operator(call: Call, *inputs: Any) -> Constant:
        if not all(isinstance(x, Constant) for x in inputs):
            raise Unknown
        shape: tuple[Any, ...] = ()
        for x in inputs:
            shape = _broadcast(shape, x.shape)
        arrays = [_stretched(x, shape).data for x in inputs]
        sizes = np.broadcast_shapes(*[array.shape for array in arrays])
        call.graph.spend(math.prod(sizes) * 8)
        kinds = {array.dtype.kind for array in arrays}
        if not kinds <= set("fiub") and not kinds <= set("iubO"):
            raise Unknown
        if "f" in kinds:
            return Constant(np.asarray(function(*arrays)), shape)
        if exact is None or math.prod(sizes) > SMALL:
            raise Unknown
        found = np.asarray(np.frompyfunc(exact, len(arrays), 1)(*arrays), object)
        for value in found.flat:
            if not isinstance(value, Size) and abs(value) >= 2**63:
                raise Unknown
        if not any(isinstance(value, Size) for value in found.flat):
            found = found.astype(bool if function is np.equal else np.int64)
        return Constant(found, shape)

    return operator


def _relu(x: NDArray[Any]) -> Any:
    return np.maximum(x, 0)


def _sigmoid(x: NDArray[Any]) -> Any:
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _matmul(call: Call, a: Any, b: Any) -> Constant:
    a, b = a.full(call.graph), b.full(call.graph)
    if not a.dtype.kind == b.dtype.kind == "f" or not a.ndim or not b.ndim:
        raise Unknown
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    call.graph.spend(math.prod(batch) * (a.size // a.shape[-1]) * b.shape[-1] * a.itemsize)
    found = a @ b
    return Constant(found, found.shape)


def _gemm(call: Call, a: Any, b: Any, c: Any = None) -> Constant:
    transposed = [call.attributes.int(name, 0) for name in ("transA", "transB")]
    a, b = (
        x.full(call.graph).T if turned else x.full(call.graph)
        for x, turned in zip((a, b), transposed, strict=True)
    )
    ab = _matmul(call, Constant(a, a.shape), Constant(b, b.shape)).data
    found = ab if c is None else ab + c.full(call.graph)
    if found.shape != ab.shape:
        raise Unknown
    return Constant(found, found.shape)


def _equal(a: Any, b: Any) -> bool:
    """Whether two sizes are equal in every run; Unknown if that depends on the run."""
    if isinstance(a, Size) != isinstance(b, Size):
        plain = b if isinstance(a, Size) else a
        if plain < 0:
            return False
        raise Unknown
    if isinstance(a, Size) and a != b:
        raise Unknown
    return bool(a == b)


def _where(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _only_known(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; Unknown if an argument is a Size."""

    def exact(*values: Any) -> Any:
        if any(isinstance(value, Size) for value in values):
            raise Unknown
        return function(*values)

    return exact


# op_type: its operator, and the attributes that it reads or that change no value
FOLDING: dict[str, tuple[Callable[..., Any], str]] = {
    "Cast": (_cast, "to saturate"),
    "Concat": (_concat, "axis"),
    "Constant": (_constant, "value value_int value_ints value_float value_floats"),
    "ConstantOfShape": (_constant_of_shape, "value"),
    "Expand": (_expand, ""),
    "Tile": (_tile, ""),
    "Add": (_elementwise(np.add, _only_known(lambda a, b: a + b)), ""),
    "Sub": (_elementwise(np.subtract, _only_known(lambda a, b: a - b)), ""),
    "Mul": (_elementwise(np.multiply, lambda a, b: a * b), ""),
    "Div": (_elementwise(np.divide, None), ""),
    "Neg": (_elementwise(np.negative, _only_known(lambda a: -a)), ""),
    "Tanh": (_elementwise(np.tanh, None), ""),
    "Sigmoid": (_elementwise(_sigmoid, None), ""),
    "Relu": (_elementwise(_relu, None), ""),
    "Exp": (_elementwise(np.exp, None), ""),
    "MatMul": (_matmul, ""),
    "Gemm": (_gemm, "transA transB"),
    "Equal": (_elementwise(np.equal, _equal), ""),
    "Where": (_elementwise(np.where, _where), ""),
}
