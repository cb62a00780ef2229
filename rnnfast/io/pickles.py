"""The book's pickles: lists of arrays that its save_params wrote with NumPy or CuPy.

Nothing is unpickled. The opcodes are read one by one, and a small stack machine interprets only
those that a list of arrays needs. It has no dicts and no sets, so that no object of a file is
hashed, and no classes or functions except the stand-ins in this module. The file bounds the memory:
an opcode makes an object of some hundred bytes, at most OPCODES opcodes are read, and all other
data are bytes of the file.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPCODES = 100_000  # a list of arrays needs about twenty per array


class Refused(ValueError):
    """The pickle is not a list of arrays. The message says why."""


class _DType:
    """numpy.dtype("f2", ...), whose state has the byte order."""

    __slots__ = ("code", "order")
    code: str
    order: str

    def __init__(self, code: Any, *ignored: Any) -> None:
        if not isinstance(code, str) or code not in ("f2", "f4", "f8"):
            what = code[:20] if isinstance(code, str) else type(code).__name__
            raise Refused(f"arrays must be of floating point numbers, got {what!r}")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        """The opcode BUILD."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "="):
            raise Refused("a dtype that is no number's")
        self.order = state[1]


class _Array:
    """An array, None until it gets its state: (version, shape, dtype, is_fortran, bytes)."""

    __slots__ = ("array",)
    array: NDArray[Any] | None

    def __init__(self, *ignored: Any) -> None:
        self.array = None

    @classmethod
    def of(cls, array: NDArray[Any]) -> "_Array":
        """One that has its state."""
        made = cls()
        made.array = array
        return made

    def build(self, state: Any) -> None:
        """The opcode BUILD."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array without a state")
        _, shape, dtype, fortran, content = state
        self.array = _array(content, dtype, shape, "F" if fortran is True else "C").array


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> _Array:
    """numpy.core.numeric._frombuffer (protocol 5)."""
    if not isinstance(dtype, _DType) or not isinstance(content, (bytes, bytearray)):
        raise Refused("an array that is not one of numbers")
    if not _is_sizes(shape) or len(shape) > 32:
        raise Refused("an array without a shape")
    dtype = np.dtype(dtype.order + dtype.code)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise Refused(f"an array of {len(content)} bytes, which do not fit its shape")
    array = np.ndarray(shape, dtype, content, order="F" if order == "F" else "C")
    if axes is not None:
        if not _is_sizes(axes):
            raise Refused("an array whose axes are no numbers")
        array = array.transpose(axes)
    return _Array.of(array)


def _is_sizes(value: Any) -> bool:
    """Whether value is a tuple of sizes."""
    return isinstance(value, tuple) and all(type(k) is int and 0 <= k < 2**63 for k in value)


def _same(made: Any, *ignored: Any) -> _Array | bytes:
    """A call around an array or around its bytes, which changes nothing."""
    if not isinstance(made, (_Array, bytes)):
        raise Refused("something else than arrays is in it")
    return made


def _latin1(text: Any, encoding: Any) -> bytes:
    """_codecs.encode, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes text")
    return text.encode("latin-1")


class _Name:
    """The stand-in for a name in a pickle. It can be called, and nothing else."""

    __slots__ = ("make",)
    make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


_STAND_INS = {
    ("numpy", "ndarray"): _Name(_Array),
    ("numpy", "dtype"): _Name(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy.core.numeric", "_frombuffer"): _Name(_array),
    ("cupy.core.core", "array"): _Name(_same),
    ("_codecs", "encode"): _Name(_latin1),
    ("builtins", "bytearray"): _Name(_same),
}


def find(module: Any, name: Any) -> _Name:
    """Find the stand-in for a name.

    Parameters
    ----------
    module, name : object
        Operands of the opcodes GLOBAL and STACK_GLOBAL.

    Returns
    -------
    _Name

    Raises
    ------
    Refused
        For a name without a stand-in.
    """
    if not isinstance(module, str) or not isinstance(name, str):
        raise Refused("a name that is no text")
    found = _STAND_INS.get((module.replace("_core", "core"), name))
    if found is None:
        raise Refused(f"it asks for {module[:50]}.{name[:50]}")
    return found


_MARK = object()
_IGNORED = {"PROTO", "FRAME"}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_FIXED: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memo of a pickle; `room`: how many bytes may be made of strings."""

    stack: list[Any]
    memo: dict[Any, Any]
    room: int

    def __init__(self, room: int) -> None:
        self.stack, self.memo, self.room = [], {}, room

    def step(self, name: str, argument: Any) -> None:
        """Interpret one opcode."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(self.top(count))]
        elif name == "TUPLE":
            stack.append(tuple(self.pop_mark()))
        elif name == "LIST":
            stack.append(self.pop_mark())
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPEND":
            value = self.pop()
            self.top_list().append(value)
        elif name == "APPENDS":
            values = self.pop_mark()
            self.top_list().extend(values)
        elif name == "GLOBAL":
            stack.append(find(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            stack.append(find(module, attribute))
        elif name == "REDUCE":
            arguments, made = self.pop(), self.pop()
            stack.append(self.call(made, arguments))
        elif name == "BUILD":
            state = self.pop()
            (made,) = self.top(1)
            if not isinstance(made, (_Array, _DType)):
                raise Refused("it changes something else than an array")
            made.build(state)
        elif name == "MEMOIZE":
            (self.memo[len(self.memo)],) = self.top(1)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            (self.memo[argument],) = self.top(1)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise Refused("it refers to something that is not there")
            stack.append(self.memo[argument])
        elif name not in _IGNORED:
            raise Refused(f"it has the opcode {name}")

    def call(self, made: Any, arguments: Any) -> Any:
        """The opcode REDUCE: call a stand-in."""
        if not isinstance(made, _Name) or not isinstance(arguments, tuple):
            raise Refused("it calls something")
        if made.make is _latin1 and arguments and isinstance(arguments[0], str):
            self.room -= len(arguments[0])
            if self.room < 0:
                raise Refused("its bytes are more than the file")
        try:
            return made.make(*arguments)
        except TypeError:
            raise Refused("it calls something with the wrong arguments") from None

    def top(self, count: int) -> list[Any]:
        """The last `count` values on the stack."""
        found = self.stack[-count:]
        if len(found) < count or any(value is _MARK for value in found):
            raise Refused("it takes more than is there")
        return found

    def top_list(self) -> list[Any]:
        """The last value on the stack, a list."""
        (found,) = self.top(1)
        if not isinstance(found, list):
            raise Refused("it appends to something else than a list")
        return found

    def pop(self) -> Any:
        """Take the last value from the stack."""
        self.top(1)
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        found: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return found[::-1]
            found.append(value)
        raise Refused("it takes more than is there")


def read(content: bytes) -> list[NDArray[Any]]:
    """Read a pickled list of arrays of floating-point numbers.

    Parameters
    ----------
    content : bytes
        The pickle.

    Returns
    -------
    list of ndarray
        They may share the memory of `content`.

    Raises
    ------
    ValueError
        For anything else; Refused is one.
    """
    machine = _Machine(len(content))
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count == OPCODES:
            raise Refused("it has too many parts")
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    arrays = machine.pop()
    if not isinstance(arrays, (list, tuple)):
        raise Refused("not a list")
    found = []
    for made in arrays:
        if not isinstance(made, _Array) or made.array is None:
            raise Refused("something else than arrays is in it")
        found.append(made.array)
    return found
