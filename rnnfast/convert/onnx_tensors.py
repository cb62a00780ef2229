"""Static knowledge about the tensors of an ONNX model, which is not run.

A tensor is a `Constant` or `Running`; the axes of the latter are known as long as they are only
moved. Sizes that are known only at run time are `Size`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL = 1024  # elements of an array that are inspected one by one


class Unknown(Exception):
    """The answer is known only at run time."""


class Size:
    """A size that is known only at run time, or a product such as 2 * N * T.

    names: pairs of strings.
    """

    __slots__ = ("count", "names")

    def __init__(self, names: Iterable[tuple[str, str]], count: int = 1) -> None:
        self.names, self.count = tuple(sorted(names)), count
        if len(self.names) > 8:
            raise Unknown

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Size):
            return Size(self.names + other.names, self.count * other.count)
        return Size(self.names, self.count * other) if other else 0

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and (self.names, self.count) == (other.names, other.count)

    def __hash__(self) -> int:
        return hash((self.names, self.count))

    def __repr__(self) -> str:
        names = [name if not where else f"{where}[{name}]" for where, name in self.names]
        return " * ".join([*([str(self.count)] if self.count != 1 else []), *names])


@dataclass(frozen=True)
class Constant:
    """A tensor with the same value in every run.

    data has the axes of shape; an axis along which it is constant may have the size 1 there.
    If an integer is a Size, data is an object array of Python integers and Sizes.
    """

    data: NDArray[Any]
    shape: tuple[Any, ...]  # of int and Size

    def __post_init__(self) -> None:
        if any(not isinstance(size, Size) and not 0 <= size < 2**48 for size in self.shape):
            raise Unknown

    def full(self, graph: Any) -> NDArray[Any]:
        """The array in its whole shape; Unknown if a size is unknown."""
        if any(isinstance(size, Size) for size in self.shape):
            raise Unknown
        if self.data.shape != self.shape:
            graph.spend(math.prod(self.shape) * self.data.itemsize)
        return np.broadcast_to(self.data, self.shape)


@dataclass(frozen=True)
class Atom:
    """An axis, or a part of an axis, of the tensor from which it originates."""

    name: Any  # of the axis
    size: Any  # int or Size
    start: int = 0  # of the part, in that axis


@dataclass(frozen=True)
class Running:
    """A tensor of a run: the tensor `origin` with moved axes.

    axes: a tuple of Atoms per axis; None if unknown. picked: Atoms of axes from which one index was
    taken, so that they are no axes any more.
    """

    origin: str
    axes: tuple[tuple[Atom, ...], ...] | None = None
    picked: tuple[Atom, ...] = ()

    @property
    def known_axes(self) -> tuple[tuple[Atom, ...], ...]:
        """The axes; Unknown if they are unknown."""
        if self.axes is None:
            raise Unknown
        return self.axes

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes, int or Size; Unknown if the axes are unknown."""
        return tuple(math.prod([atom.size for atom in axis]) for axis in self.known_axes)


@dataclass(frozen=True)
class ShapeOf:
    """The shape of a tensor whose number of axes is unknown."""

    tensor: str


def running(origin: str, shape: Sequence[Any] | None) -> Running:
    """A tensor that originates here; shape may be None."""
    if shape is None:
        return Running(origin)
    return Running(origin, tuple((Atom(k, size),) for k, size in enumerate(shape)))


def numbers(tensor: object) -> list[Any]:
    """A Constant of integers as a list of int and Size."""
    if not isinstance(tensor, Constant) or tensor.data.dtype.kind not in "iubO":
        raise Unknown
    (size,) = tensor.shape or (1,)
    if isinstance(size, Size) or size > SMALL:
        raise Unknown
    found: list[Any] = np.broadcast_to(tensor.data, tensor.shape).reshape(-1).tolist()
    return found


def integers(tensor: object) -> list[int]:
    """A Constant of integers as a list; Unknown if there is a Size."""
    found = numbers(tensor)
    if any(isinstance(value, Size) for value in found):
        raise Unknown
    return found


def of_numbers(values: Sequence[Any]) -> Constant:
    """The Constant of a list of int and Size."""
    plain = not any(isinstance(value, Size) for value in values)
    data: NDArray[Any] = np.array(values, np.int64) if plain else np.empty(len(values), object)
    data[:] = values
    return Constant(data, data.shape)
