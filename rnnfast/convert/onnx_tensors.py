"""What is known of a tensor of an ONNX model that is not run.

It is a `Constant`, or `Running`: then its axes are known as far as they are only moved. Sizes that
only a run tells are `Size`.
"""

import math
from dataclasses import dataclass

import numpy as np

SMALL = 1024  # elements of an array that is looked at one by one


class Unknown(Exception):
    """Not to be told without running the model."""


class Size:
    """A size that only a run tells, or a product of such: 2 * N * T. names: pairs of strings."""

    __slots__ = ("count", "names")

    def __init__(self, names, count=1):
        self.names, self.count = tuple(sorted(names)), count
        if len(self.names) > 8:
            raise Unknown

    def __mul__(self, other):
        if isinstance(other, Size):
            return Size(self.names + other.names, self.count * other.count)
        return Size(self.names, self.count * other) if other else 0

    __rmul__ = __mul__

    def __eq__(self, other):
        same = isinstance(other, Size)
        return same and (self.names, self.count) == (other.names, other.count)

    def __hash__(self):
        return hash((self.names, self.count))

    def __repr__(self):
        names = [name if not where else f"{where}[{name}]" for where, name in self.names]
        return " * ".join([*([str(self.count)] if self.count != 1 else []), *names])


@dataclass(frozen=True)
class Constant:
    """data has the axes of shape, of the size 1 where it is the same all along one.

    Integers are Python's and `Size` in an object array where one of them is a Size.
    """

    data: np.ndarray
    shape: tuple

    def __post_init__(self):
        if any(not isinstance(size, Size) and not 0 <= size < 2**48 for size in self.shape):
            raise Unknown

    def full(self, graph):
        """The array itself. Unknown where its size is."""
        if any(isinstance(size, Size) for size in self.shape):
            raise Unknown
        if self.data.shape != self.shape:
            graph.spend(math.prod(self.shape) * self.data.itemsize)
        return np.broadcast_to(self.data, self.shape)


@dataclass(frozen=True)
class Atom:
    """What an axis, or a part of one, was in the tensor where it comes from."""

    name: object  # which axis
    size: object
    start: int = 0  # it begins here, in that axis


@dataclass(frozen=True)
class Running:
    """A tensor of a run: that called `origin`, moved. axes: a tuple of Atoms each; None: unknown.

    picked: Atoms of the size 1 that are no axes any more, since one index was taken of them.
    """

    origin: str
    axes: tuple | None = None
    picked: tuple = ()

    @property
    def shape(self):
        if self.axes is None:
            raise Unknown
        return tuple(math.prod([atom.size for atom in axis]) for axis in self.axes)


@dataclass(frozen=True)
class ShapeOf:
    """The shape of a tensor of which not even the number of axes is known."""

    tensor: str


def running(origin, shape):
    """A tensor that begins here; shape may be None."""
    if shape is None:
        return Running(origin)
    return Running(origin, tuple((Atom(k, size),) for k, size in enumerate(shape)))


def numbers(tensor):
    """A Constant of integers as a list, Sizes among them."""
    if not isinstance(tensor, Constant) or tensor.data.dtype.kind not in "iubO":
        raise Unknown
    (size,) = tensor.shape or (1,)
    if isinstance(size, Size) or size > SMALL:
        raise Unknown
    return np.broadcast_to(tensor.data, tensor.shape).reshape(-1).tolist()


def integers(tensor):
    found = numbers(tensor)
    if any(isinstance(value, Size) for value in found):
        raise Unknown
    return found


def of_numbers(values):
    """The Constant of a list of integers and Sizes."""
    plain = not any(isinstance(value, Size) for value in values)
    data = np.array(values, np.int64) if plain else np.empty(len(values), object)
    data[:] = values
    return Constant(data, data.shape)
