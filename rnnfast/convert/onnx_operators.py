"""ONNX's operators on what is known of tensors: folding, and following axes that are moved.

Nothing that a node's numbers ask for is made larger than Graph.spend allows.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from rnnfast.convert.onnx_attributes import Attributes
from rnnfast.convert.onnx_tensors import (
    SMALL,
    Atom,
    Constant,
    Running,
    ShapeOf,
    Size,
    Unknown,
    integers,
    numbers,
    of_numbers,
    running,
)


@dataclass(frozen=True)
class Call:
    """What an operator is told beside its inputs."""

    graph: object
    node: object
    attributes: Attributes

    def ints(self, name, tensor=None):
        """Numbers that are an attribute in old opsets, an input in later ones; None without."""
        if tensor is not None:
            return numbers(tensor)
        return self.attributes.ints(name, None)


# Operators: a Call and the inputs -> the output, or a list of outputs


def _axis(axis, count):
    if not -count <= axis < count:
        raise Unknown
    return axis % count


def _shape(call, x):
    start, end = call.attributes.int("start", 0), call.attributes.int("end", None)
    if isinstance(x, Running) and x.axes is None:
        found = ShapeOf(x.origin)
        return found if (start, end) == (0, None) else _sizes_of(call, found, start, end)
    return of_numbers(x.shape[slice(start, end)])


def _sizes_of(call, x, start, end):
    """Some sizes out of a ShapeOf: new ones, of which no more is known."""
    if end is None or not 0 <= start <= end <= 32:
        raise Unknown
    return of_numbers([call.graph.fresh(x.tensor, k) for k in range(start, end)])


def _identity(call, x, *rest):
    return x


def _dropout(call, x, ratio=None, training=None):
    """Where it drops nothing: always but if the model is one to be trained."""
    if call.graph.opset < 7 or (training is not None and any(integers(training))):
        raise Unknown
    return x


def _transpose(call, x):
    count = len(x.shape)
    perm = call.attributes.ints("perm", list(range(count))[::-1])
    if sorted(perm) != list(range(count)):
        raise Unknown
    if isinstance(x, Running):
        return replace(x, axes=tuple(x.axes[k] for k in perm))
    return Constant(x.data.transpose(perm), tuple(x.shape[k] for k in perm))


def _squeeze(call, x, axes=None):
    count = len(x.shape)
    axes = call.ints("axes", axes)
    if axes is None:
        if any(isinstance(size, Size) for size in x.shape):
            raise Unknown
        axes = [k for k, size in enumerate(x.shape) if size == 1]
    axes = {_axis(axis, count) for axis in axes}
    if any(x.shape[axis] != 1 for axis in axes):
        raise Unknown
    kept = [k for k in range(count) if k not in axes]
    if isinstance(x, Running):
        return replace(x, axes=tuple(x.axes[k] for k in kept))
    return Constant(
        x.data.reshape([x.data.shape[k] for k in kept]), tuple(x.shape[k] for k in kept)
    )


def _unsqueeze(call, x, axes=None):
    axes = call.ints("axes", axes)
    count = len(x.shape) + len(axes)
    axes = {_axis(axis, count) for axis in axes}
    if count != len(x.shape) + len(axes):
        raise Unknown

    def widened(values, filler):
        values = iter(values)
        return tuple(filler if k in axes else next(values) for k in range(count))

    if isinstance(x, Running):
        return replace(x, axes=widened(x.axes, ()))
    return Constant(x.data.reshape(widened(x.data.shape, 1)), widened(x.shape, 1))


def _reshape(call, x, target=None):
    target = call.ints("shape", target)
    keeps_zero = call.attributes.int("allowzero", 0)
    if 0 in target and keeps_zero:
        raise Unknown
    shape = x.shape
    target = [shape[k] if size == 0 else size for k, size in enumerate(target)]
    if isinstance(x, Running):
        return replace(x, axes=tuple(regroup(x.axes, target)))
    if not any(isinstance(size, Size) for size in (*shape, *target)):
        data = x.full(call.graph).reshape(target)
        return Constant(data, data.shape)
    axes = regroup([(Atom(k, size),) for k, size in enumerate(shape)], target)
    for axis in axes:  # an unknown size stays alone
        sizes = [atom.size for atom in axis if atom.size != 1]
        if len(sizes) > 1 and any(isinstance(size, Size) for size in sizes):
            raise Unknown
    known = [1 if isinstance(size, Size) else size for size in shape]
    call.graph.spend(math.prod(known) * x.data.itemsize)
    shape = tuple(math.prod([atom.size for atom in axis]) for axis in axes)
    data = np.broadcast_to(x.data, known)
    return Constant(data.reshape([1 if isinstance(size, Size) else size for size in shape]), shape)


def regroup(axes, target):
    """The atoms of axes, in their order, shared out to axes of the sizes `target` (-1: the rest).

    Unknown unless each gets whole ones.
    """
    atoms = [atom for axis in axes for atom in axis]
    if target.count(-1) > 1:
        raise Unknown
    if -1 not in target:
        found, rest = _share(atoms, target)
        if any(atom.size != 1 for atom in rest):
            raise Unknown
        if rest and found:
            found[-1] += tuple(rest)
        return found
    at = target.index(-1)
    found, rest = _share(atoms, target[:at])
    behind, rest = _share(rest[::-1], target[:at:-1])
    return [*found, tuple(rest[::-1]), *(axis[::-1] for axis in behind[::-1])]


def _share(atoms, sizes):
    """-> a tuple of atoms for each of the sizes, and the atoms that are left."""
    atoms, found = list(atoms), []
    for size in sizes:
        group, product = [], 1
        if size == 1 and atoms and atoms[0].size == 1:
            group.append(atoms.pop(0))
        while product != size:
            if not atoms:
                raise Unknown
            group.append(atoms.pop(0))
            product = product * group[-1].size
        found.append(tuple(group))
    return found, atoms


def _slice(call, x, starts=None, ends=None, axes=None, steps=None):
    starts, ends = call.ints("starts", starts), call.ints("ends", ends)
    axes, steps = call.ints("axes", axes), None if steps is None else integers(steps)
    if isinstance(x, ShapeOf) and steps in (None, [1]):
        (start,), (end,) = starts, ends
        return _sizes_of(call, x, start, end)
    axes = range(len(starts)) if axes is None else axes
    if len(starts) != len(ends):
        raise Unknown
    try:
        if any(step != 1 for step in steps or ()):
            raise Unknown
        return _cuts(x, starts, ends, axes)
    except Unknown:
        if isinstance(x, Constant):
            raise
    name, cut_axes = call.node.output[0], {_axis(axis, len(x.shape)) for axis in axes}
    sizes = enumerate(x.shape)
    return running(name, [call.graph.fresh(name, k) if k in cut_axes else s for k, s in sizes])


def _cuts(x, starts, ends, axes):
    for start, end, axis in zip(starts, ends, axes, strict=True):
        axis = _axis(axis, len(x.shape))
        size = x.shape[axis]
        if isinstance(size, Size) or isinstance(end, Size):
            whole = end == size or (not isinstance(end, Size) and end >= 2**31 - 1)
            if start != 0 or not whole:
                raise Unknown
            continue
        start, end = (min(max(k + size if k < 0 else k, 0), size) for k in (start, end))
        x = cut(x, axis, start, max(end, start))
    return x


def cut(x, axis, start, stop):
    """x[start:stop] along an axis of a known size."""
    size = x.shape[axis]
    if isinstance(size, Size) or not 0 <= start <= stop <= size:
        raise Unknown
    if (start, stop) == (0, size):
        return x
    if isinstance(x, Running):
        (atom,) = [atom for atom in x.axes[axis] if atom.size != 1]
        atom = Atom(atom.name, stop - start, atom.start + start)
        return replace(x, axes=(*x.axes[:axis], (atom,), *x.axes[axis + 1 :]))
    data = x.data
    if data.shape[axis] != 1:
        data = data[(slice(None),) * axis + (slice(start, stop),)]
    return Constant(data, (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))


def _split(call, x, sizes=None):
    axis = _axis(call.attributes.int("axis", 0), len(x.shape))
    sizes, count = call.ints("split", sizes), len(call.node.output)
    if sizes is None:
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - k * each) for k in range(count)]
    if len(sizes) != count or sum(sizes) != x.shape[axis]:
        raise Unknown
    ends = np.cumsum(sizes).tolist()
    return [cut(x, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _gather(call, x, places):
    axis = call.attributes.int("axis", 0)
    if isinstance(x, ShapeOf):
        (k,) = integers(places)
        found = _sizes_of(call, x, k, k + 1)
        return found if places.shape else Constant(found.data.squeeze(0), ())
    shape = x.shape
    axis = _axis(axis, len(shape))
    if isinstance(places, Running) or places.data.ndim > 1:
        sizes = (*shape[:axis], *places.shape, *shape[axis + 1 :])
        return running(call.node.output[0], sizes)  # of an embedding: no more than its shape
    chosen = [_axis(k, shape[axis]) for k in integers(places)]
    if len(chosen) == 1:
        x = cut(x, axis, chosen[0], chosen[0] + 1)
        if places.shape:
            return x
        if isinstance(x, Running):
            axes = x.axes[:axis] + x.axes[axis + 1 :]
            return replace(x, axes=axes, picked=x.picked + x.axes[axis])
        return Constant(x.data.squeeze(axis), x.shape[:axis] + x.shape[axis + 1 :])
    if isinstance(x, Running):
        raise Unknown
    shape = (*shape[:axis], len(chosen), *shape[axis + 1 :])
    data = x.data
    if data.shape[axis] != 1:
        call.graph.spend(data.nbytes // data.shape[axis] * len(chosen))
        data = data.take(chosen, axis)
    return Constant(data, shape)


def _concat(call, *parts):
    if len(parts) == 1:
        return parts[0]
    if not all(isinstance(part, Constant) for part in parts):
        raise Unknown
    axis = _axis(call.attributes.int("axis", None), len(parts[0].shape))
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


def _expand(call, x, target):
    if isinstance(x, Running):
        raise Unknown
    return _stretched(x, _broadcast(x.shape, tuple(numbers(target))))


def _stretched(x, shape):
    """x with the shape that it is broadcast to."""
    return Constant(x.data.reshape((1,) * (len(shape) - x.data.ndim) + x.data.shape), shape)


def _broadcast(a, b):
    count = max(len(a), len(b))
    a, b = ((1,) * (count - len(shape)) + shape for shape in (a, b))
    return tuple(map(_common, a, b))


def _common(p, q):
    if p == q or q == 1:
        return p
    if p == 1:
        return q
    if isinstance(p, Size) == isinstance(q, Size):
        raise Unknown
    return q if isinstance(p, Size) else p  # the model can only run where the other is that, or 1


def _tile(call, x, repeats):
    repeats = numbers(repeats)
    if isinstance(x, Running) or len(repeats) != len(x.shape):
        raise Unknown
    for size, times in zip(x.data.shape, repeats, strict=True):
        if times != 1 and size != 1:  # more than the same again and again
            raise Unknown
    return Constant(x.data, tuple(a * b for a, b in zip(x.shape, repeats, strict=True)))


def _constant_of_shape(call, shape):
    shape = tuple(numbers(shape))
    value = call.attributes.tensor("value", None)
    value = np.zeros(1, np.float32) if value is None else call.graph.known.array(value)
    if value.size != 1:
        raise Unknown
    return Constant(value.reshape((1,) * len(shape)), shape)


NUMBERS = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL")


def _constant(call):
    """A node of the kind Constant."""
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


def _cast(call, x):
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
        if name != "int64":  # a size that is too large for less is not told apart
            raise Unknown
        return x
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    call.graph.spend(x.data.size * dtype.itemsize)
    return Constant(x.data.astype(dtype), x.shape)


def _elementwise(function, exact):
    """function: of floats; exact: of two or three integers or Sizes, may raise Unknown."""

    def operator(call, *inputs):
        if not all(isinstance(x, Constant) for x in inputs):
            raise Unknown
        shape = ()
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


def _relu(x):
    return np.maximum(x, 0)


def _sigmoid(x):
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _matmul(call, a, b):
    a, b = a.full(call.graph), b.full(call.graph)
    if not a.dtype.kind == b.dtype.kind == "f" or not a.ndim or not b.ndim:
        raise Unknown
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    call.graph.spend(math.prod(batch) * (a.size // a.shape[-1]) * b.shape[-1] * a.itemsize)
    found = a @ b
    return Constant(found, found.shape)


def _gemm(call, a, b, c=None):
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


def _equal(a, b):
    if isinstance(a, Size) != isinstance(b, Size):
        plain = b if isinstance(a, Size) else a
        if plain < 0:
            return False
        raise Unknown
    if isinstance(a, Size) and a != b:
        raise Unknown
    return a == b


def _where(condition, a, b):
    return a if condition else b


def _only_known(function):
    def exact(*values):
        if any(isinstance(value, Size) for value in values):
            raise Unknown
        return function(*values)

    return exact


# op_type: its operator, the attributes that it looks at or that change no value
OPERATORS = {
    "Cast": (_cast, "to saturate"),
    "Concat": (_concat, "axis"),
    "Constant": (_constant, "value value_int value_ints value_float value_floats"),
    "ConstantOfShape": (_constant_of_shape, "value"),
    "Dropout": (_dropout, "ratio seed"),
    "Expand": (_expand, ""),
    "Gather": (_gather, "axis"),
    "Identity": (_identity, ""),
    "Reshape": (_reshape, "shape allowzero"),
    "Shape": (_shape, "start end"),
    "Slice": (_slice, "starts ends axes"),
    "Split": (_split, "axis split num_outputs"),
    "Squeeze": (_squeeze, "axes"),
    "Tile": (_tile, ""),
    "Transpose": (_transpose, "perm"),
    "Unsqueeze": (_unsqueeze, "axes"),
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
