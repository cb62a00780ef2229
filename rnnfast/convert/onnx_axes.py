"""ONNX operators that move, cut and join axes: Transpose, Reshape, Slice, Gather and others.

An operator takes a Call and its inputs and returns the output, or a list of outputs. It raises
Unknown, or any other error for a damaged node, if nothing is known of the output. Nothing is
allocated that Graph.spend has not allowed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rnnfast.convert.onnx_call import Call, axis_index
from rnnfast.convert.onnx_tensors import (
    Atom,
    Constant,
    Running,
    ShapeOf,
    Size,
    Unknown,
    integers,
    of_numbers,
    running,
)


def _shape(call: Call, x: Any) -> Any:
    start, end = call.attributes.int("start", 0), call.attributes.int("end", None)
    if isinstance(x, Running) and x.axes is None:
        found = ShapeOf(x.origin)
        return found if (start, end) == (0, None) else _sizes_of(call, found, start, end)
    return of_numbers(x.shape[slice(start, end)])


def _sizes_of(call: Call, x: ShapeOf, start: int, end: int | None) -> Constant:
    """Some sizes of a ShapeOf: new unknown ones."""
    if end is None or not 0 <= start <= end <= 32:
        raise Unknown
    return of_numbers([call.graph.fresh(x.tensor, k) for k in range(start, end)])


def _identity(call: Call, x: Any, *rest: Any) -> Any:
    return x


def _dropout(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    """The identity; Unknown for a model in training mode, the only one that drops values."""
    if call.graph.opset < 7 or (training is not None and any(integers(training))):
        raise Unknown
    return x


def _transpose(call: Call, x: Any) -> Any:
    count = len(x.shape)
    perm: Any = call.attributes.ints("perm", list(range(count))[::-1])
    if sorted(perm) != list(range(count)):
        raise Unknown
    if isinstance(x, Running):
        return replace(x, axes=tuple(x.known_axes[k] for k in perm))
    return Constant(x.data.transpose(perm), tuple(x.shape[k] for k in perm))


def _squeeze(call: Call, x: Any, axes: Any = None) -> Any:
    count = len(x.shape)
    axes = call.ints("axes", axes)
    if axes is None:
        if any(isinstance(size, Size) for size in x.shape):
            raise Unknown
        axes = [k for k, size in enumerate(x.shape) if size == 1]
    axes = {axis_index(axis, count) for axis in axes}
    if any(x.shape[axis] != 1 for axis in axes):
        raise Unknown
    kept = [k for k in range(count) if k not in axes]
    if isinstance(x, Running):
        return replace(x, axes=tuple(x.known_axes[k] for k in kept))
    return Constant(
        x.data.reshape([x.data.shape[k] for k in kept]), tuple(x.shape[k] for k in kept)
    )


def _unsqueeze(call: Call, x: Any, axes: Any = None) -> Any:
    axes = call.ints("axes", axes)
    count = len(x.shape) + len(axes)
    axes = {axis_index(axis, count) for axis in axes}
    if count != len(x.shape) + len(axes):
        raise Unknown

    def widened(values: Iterable[Any], filler: Any) -> tuple[Any, ...]:
        rest = iter(values)
        return tuple(filler if k in axes else next(rest) for k in range(count))

    if isinstance(x, Running):
        return replace(x, axes=widened(x.known_axes, ()))
    return Constant(x.data.reshape(widened(x.data.shape, 1)), widened(x.shape, 1))


def _reshape(call: Call, x: Any, target: Any = None) -> Any:
    target = call.ints("shape", target)
    keeps_zero = call.attributes.int("allowzero", 0)
    if 0 in target and keeps_zero:
        raise Unknown
    shape = x.shape
    target = [shape[k] if size == 0 else size for k, size in enumerate(target)]
    if isinstance(x, Running):
        return replace(x, axes=tuple(regroup(x.known_axes, target)))
    if not any(isinstance(size, Size) for size in (*shape, *target)):
        data = x.full(call.graph).reshape(target)
        return Constant(data, data.shape)
    axes = regroup([(Atom(k, size),) for k, size in enumerate(shape)], target)
    for axis in axes:  # an unknown size is not merged with others
        sizes = [atom.size for atom in axis if atom.size != 1]
        if len(sizes) > 1 and any(isinstance(size, Size) for size in sizes):
            raise Unknown
    known = [1 if isinstance(size, Size) else size for size in shape]
    call.graph.spend(math.prod(known) * x.data.itemsize)
    shape = tuple(math.prod([atom.size for atom in axis]) for axis in axes)
    data = np.broadcast_to(x.data, known)
    return Constant(data.reshape([1 if isinstance(size, Size) else size for size in shape]), shape)


def regroup(axes: Iterable[Sequence[Atom]], target: Sequence[Any]) -> list[tuple[Atom, ...]]:
    """Distribute the atoms of axes, in order, to axes of the sizes `target` (-1: the rest).

    Unknown if an atom would have to be split.
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


def _share(
    atoms: Iterable[Atom], sizes: Iterable[Any]
) -> tuple[list[tuple[Atom, ...]], list[Atom]]:
    """A tuple of atoms for each size, and the remaining atoms."""
    atoms = list(atoms)
    found: list[tuple[Atom, ...]] = []
    for size in sizes:
        group: list[Atom] = []
        product: Any = 1
        if size == 1 and atoms and atoms[0].size == 1:
            group.append(atoms.pop(0))
        while product != size:
            if not atoms:
                raise Unknown
            group.append(atoms.pop(0))
            product = product * group[-1].size
        found.append(tuple(group))
    return found, atoms


def _slice(
    call: Call, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    starts, ends = call.ints("starts", starts), call.ints("ends", ends)
    axes, steps = call.ints("axes", axes), None if steps is None else integers(steps)
    if isinstance(x, ShapeOf):
        if steps not in (None, [1]):
            raise Unknown
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
    name, cut_axes = call.node.output[0], {axis_index(axis, len(x.shape)) for axis in axes}
    sizes = enumerate(x.shape)
    return running(name, [call.graph.fresh(name, k) if k in cut_axes else s for k, s in sizes])


def _cuts(x: Any, starts: Iterable[Any], ends: Iterable[Any], axes: Iterable[int]) -> Any:
    """x cut along several axes."""
    for start, end, axis in zip(starts, ends, axes, strict=True):
        axis = axis_index(axis, len(x.shape))
        size = x.shape[axis]
        if isinstance(size, Size) or isinstance(end, Size):
            whole = end == size or (not isinstance(end, Size) and end >= 2**31 - 1)
            if start != 0 or not whole:
                raise Unknown
            continue
        start, end = (min(max(k + size if k < 0 else k, 0), size) for k in (start, end))
        x = cut(x, axis, start, max(end, start))
    return x


def cut(x: Any, axis: int, start: int, stop: int) -> Any:
    """x[start:stop] along an axis of known size."""
    size = x.shape[axis]
    if isinstance(size, Size) or not 0 <= start <= stop <= size:
        raise Unknown
    if (start, stop) == (0, size):
        return x
    if isinstance(x, Running):
        (atom,) = [atom for atom in x.known_axes[axis] if atom.size != 1]
        atom = Atom(atom.name, stop - start, atom.start + start)
        return replace(x, axes=(*x.known_axes[:axis], (atom,), *x.known_axes[axis + 1 :]))
    data = x.data
    if data.shape[axis] != 1:
        data = data[(slice(None),) * axis + (slice(start, stop),)]
    return Constant(data, (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))


def _split(call: Call, x: Any, sizes: Any = None) -> list[Any]:
    axis = axis_index(call.attributes.int("axis", 0), len(x.shape))
    sizes, count = call.ints("split", sizes), len(call.node.output)
    if sizes is None:
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - k * each) for k in range(count)]
    if len(sizes) != count or sum(sizes) != x.shape[axis]:
        raise Unknown
    ends = np.cumsum(sizes).tolist()
    return [cut(x, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _gather(call: Call, x: Any, places: Any) -> Any:
    axis = call.attributes.int("axis", 0)
    if isinstance(x, ShapeOf):
        (k,) = integers(places)
        found = _sizes_of(call, x, k, k + 1)
        return found if places.shape else Constant(found.data.squeeze(0), ())
    shape = x.shape
    axis = axis_index(axis, len(shape))
    if isinstance(places, Running) or places.data.ndim > 1:
        sizes = (*shape[:axis], *places.shape, *shape[axis + 1 :])
        return running(call.node.output[0], sizes)  # an embedding: only its shape is known
    chosen = [axis_index(k, shape[axis]) for k in integers(places)]
    if len(chosen) == 1:
        x = cut(x, axis, chosen[0], chosen[0] + 1)
        if places.shape:
            return x
        if isinstance(x, Running):
            axes = x.known_axes[:axis] + x.known_axes[axis + 1 :]
            return replace(x, axes=axes, picked=x.picked + x.known_axes[axis])
        return Constant(x.data.squeeze(axis), x.shape[:axis] + x.shape[axis + 1 :])
    if isinstance(x, Running):
        raise Unknown
    shape = (*shape[:axis], len(chosen), *shape[axis + 1 :])
    data = x.data
    if data.shape[axis] != 1:
        call.graph.spend(data.nbytes // data.shape[axis] * len(chosen))
        data = data.take(chosen, axis)
    return Constant(data, shape)


# op_type: its operator, and the attributes that it reads or that change no value
MOVING: dict[str, tuple[Callable[..., Any], str]] = {
    "Dropout": (_dropout, "ratio seed"),
    "Gather": (_gather, "axis"),
    "Identity": (_identity, ""),
    "Reshape": (_reshape, "shape allowzero"),
    "Shape": (_shape, "start end"),
    "Slice": (_slice, "starts ends axes"),
    "Split": (_split, "axis split num_outputs"),
    "Squeeze": (_squeeze, "axes"),
    "Transpose": (_transpose, "perm"),
    "Unsqueeze": (_unsqueeze, "axes"),
}
