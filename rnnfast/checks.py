"""Checks of arguments, in one wording for all layers, and helpers for NumPy and CuPy arrays.

A check takes `owner` (the layer's name, for the message) and `name` (the argument's). It raises
before anything is written and allocates nothing: TypeError for the kind of an object or its dtype,
ValueError for a shape or a value. Every message names the argument, the expectation and the value
that came instead.

`x: Any` means that a caller may pass any object and the check decides.
"""

import math
import operator
import os
import sys
import threading
import warnings
import weakref
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

CUDA_MEMORY = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# id -> a read-only CuPy array: CuPy has no flag for that
_read_only: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
# id -> (weak reference to a frozen array, those to its owners by their ids, whether it was
# writeable before), and the ids of those that wait until the array is writeable of which they are
# views; the lock is for both
_frozen: dict[int, tuple[weakref.ref[Any], dict[int, weakref.ref[Any]], bool]] = {}
_waiting: set[int] = set()
_lock = threading.RLock()
_missed = False  # an owner was deleted while another thread had the lock
if hasattr(os, "register_at_fork"):  # a child has no other thread that could release it
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def is_cupy(x: object) -> bool:
    """Whether x is a CuPy array. Does not import CuPy."""
    return type(x) is not np.ndarray and type(x).__module__.partition(".")[0] == "cupy"


def is_numpy(x: object) -> bool:
    """Whether x is a NumPy array."""
    return isinstance(x, np.ndarray) and not is_cupy(x)


def is_array(x: object) -> bool:
    """Whether x is a NumPy or a CuPy array."""
    return isinstance(x, np.ndarray) or is_cupy(x)


def is_number(x: object) -> bool:
    """Whether x is a real number; bool does not count as one."""
    return isinstance(x, Real) and not isinstance(x, bool)


def plain(owner: str, name: str, x: Any) -> Any:
    """x as a plain NumPy array of the same memory if it is of a subclass, else x itself.

    Subclasses may redefine shapes and products (np.matrix does). A masked array hides some of its
    numbers and is a TypeError.
    """
    if type(x) is np.ndarray or not is_numpy(x):
        return x
    if hasattr(x, "mask") and hasattr(x, "filled"):
        kind = type(x).__name__
        raise TypeError(f"{owner}: {name} must not be masked, got a {kind}; give {name}.filled()")
    return np.asarray(x)


def adopt(owner: str, name: str, x: Any) -> Any:
    """x as an array to compute with: `plain`, or a CuPy array for another library's GPU array.

    No memory is copied. CuPy's current stream waits for the work that the other library has queued
    on its own stream. The CUDA array interface describes that stream only from version 3 on, so
    DLPack is tried first.
    """
    if is_array(x):
        return plain(owner, name, x)
    dlpack = hasattr(x, "__dlpack_device__")
    if dlpack and x.__dlpack_device__()[0] not in CUDA_MEMORY:
        return x
    if getattr(x, "requires_grad", False) is True:  # PyTorch would raise an error of its own
        kind = type(x).__name__
        raise TypeError(
            f"{owner}: {name} must not require grad, got a {kind} that does; give {name}.detach()"
        )
    if dlpack:
        import cupy

        return cupy.from_dlpack(x)
    if hasattr(x, "__cuda_array_interface__"):
        import cupy

        return cupy.asarray(x)
    return x


# Read-only and frozen arrays


def writeable(x: Any) -> bool:
    """Whether an array may be written. For a CuPy array `set_writeable` decides."""
    return bool(x.flags.writeable) if is_numpy(x) else id(x) not in _read_only


def set_writeable(x: Any, value: bool) -> None:
    """Set `x.flags.writeable`, for CuPy arrays too: code that writes weights asks `writeable`."""
    if is_numpy(x):
        x.flags.writeable = value
    elif value:
        _read_only.pop(id(x), None)
    else:
        _read_only[id(x)] = x


def freeze(x: Any, owner: object) -> None:
    """Make x read-only until every owner has thawed it or has been deleted."""
    key = id(x)
    reference = weakref.ref(owner, partial(_owner_is_gone, key))
    with _lock:
        _catch_up()
        entry = _frozen.get(key)
        if entry is not None and entry[0]() is x:
            entry[1][id(owner)] = reference
        else:
            _frozen[key] = weakref.ref(x), {id(owner): reference}, writeable(x)
        set_writeable(x, False)


def thaw(x: Any, owner: object) -> None:
    """Undo `freeze` for one owner. After the last one, x is writeable if it was so before.

    A view of a frozen array stays read-only as long as that array is frozen. If a signal interrupts
    this, it may be called again.
    """
    with _lock:
        _catch_up()
        entry = _frozen.get(id(x))
        if entry is not None:
            entry[1].pop(id(owner), None)
            _release(id(x))


def unlock(x: Any) -> None:
    """Make x writeable that pickle has made read-only, as it was frozen when it was written.

    That array is on top of a bytes object. It gets memory of its own and stays the same object, as
    a model has it in several lists.
    """
    entry = _frozen.get(id(x))
    if not writeable(x) and (entry is None or entry[0]() is not x):
        x.__setstate__(x.__reduce__()[2])


def _owner_is_gone(key: int, reference: object) -> None:
    """Release an array whose owner has been deleted. The garbage collector must not wait here."""
    global _missed
    if not _lock.acquire(blocking=False):
        _missed = True
        return
    try:
        _release(key)
    finally:
        _lock.release()


def _catch_up() -> None:
    """Release what could not be when its owner was deleted."""
    global _missed
    if _missed:
        _missed = False
        for key in list(_frozen):
            _release(key)


def _release(key: int) -> None:
    """Thaw an array if it has no owner any more, and then the views that have waited for it."""
    entry = _frozen.get(key)
    if entry is None or any(owner() is not None for owner in list(entry[1].values())):
        return
    x: Any = entry[0]()
    before = entry[2]
    if before and is_numpy(x) and is_numpy(x.base) and not writeable(x.base):
        _waiting.add(key)
        return
    if x is not None:
        set_writeable(x, before)
    _frozen.pop(key, None)
    _waiting.discard(key)
    for other in list(_waiting):
        _release(other)


def place(x: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The location of an array in memory: its address, shape and strides."""
    interface = getattr(x, "__cuda_array_interface__", None) or x.__array_interface__
    return interface["data"][0], x.shape, x.strides


# Checks


def shape_error(owner: str, name: str, expected: object, x: Any) -> ValueError:
    """The error for an array of a wrong shape."""
    return ValueError(f"{owner}: {name} must be {expected}, got {x.shape}")


def real(owner: str, name: str, x: Any) -> Any:
    """x (see `adopt`), an array of real numbers: floating point, integers or bool."""
    if type(x) is not np.ndarray:  # the usual type needs no more
        x = _array(owner, name, x)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{owner}: {name} must be real numbers, got {x.dtype}")
    return x


def integers(owner: str, name: str, x: Any) -> Any:
    """x (see `adopt`), an array of integers; bool does not count as one."""
    x = _array(owner, name, x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{owner}: {name} must be integers, got {x.dtype}")
    return x


def listed(owner: str, name: str, x: Any) -> Any:
    """x; a list, a tuple or a number as an array, without numbers one of integers."""
    if not isinstance(x, (list, tuple, int, np.integer)):
        return x
    found = on_host(owner, name, x)
    return found if found.size else found.astype(np.intp)


def in_range(owner: str, name: str, ids: Any, size: int) -> None:
    """Check that every id is in [0, size). Not done on a GPU: it would have to synchronize."""
    if is_cupy(ids):
        return
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        wrong = ids[(ids < 0) | (ids >= size)].flat[0]
        raise ValueError(f"{owner}: {name} must be in [0, {size}), got {wrong}")


def matrix(owner: str, name: str, W: Any, label: str) -> tuple[int, int]:
    """The shape of a weight matrix; see `weight`."""
    rows, columns = weight(owner, name, W, 2, label)
    return rows, columns


def weight(owner: str, name: str, W: Any, ndim: int, label: str) -> tuple[int, ...]:
    """The shape of a weight, float32 or float64 and not empty; `label` names its sides."""
    if not is_array(W) or W.dtype not in FLOATS:
        raise TypeError(f"{owner}: {name} must be a float32 or float64 array, got {_kind(W)}")
    if W.ndim != ndim or 0 in W.shape:
        raise shape_error(owner, name, f"{label}, sizes from 1 up", W)
    shape: tuple[int, ...] = W.shape
    return shape


def exactly(
    owner: str, name: str, x: Any, dtype: DTypeLike, shape: tuple[int, ...], label: str
) -> Any:
    """x (see `plain`), an array of exactly this dtype and shape: a weight or a gradient."""
    x = plain(owner, name, x)
    if not is_array(x) or x.dtype != dtype:
        raise TypeError(f"{owner}: {name} must be a {dtype} array, got {_kind(x)}")
    if x.shape != shape:
        raise shape_error(owner, name, f"{label} = {shape}", x)
    if is_numpy(x) and not x.flags.aligned:
        raise ValueError(f"{owner}: {name} must be an aligned array, got an unaligned one")
    return x


def in_dtype(owner: str, name: str, W: Any, dtype: DTypeLike) -> Any:
    """W, a weight, in the dtype of the layer's first one: scripts forget astype at a bias."""
    if not is_array(W) or W.dtype == dtype or W.dtype not in FLOATS:
        return W
    warn(
        f"{owner}: {name} is {W.dtype} and the first weight {dtype}: params has a copy in {dtype}, "
        "the given array does not change with it"
    )
    return W.astype(dtype)


def warn(message: str) -> None:
    """Warn at the line of the caller outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def of_kind(owner: str, name: str, value: Any, *kinds: type) -> Any:
    """value, an object of one of these classes."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{owner}: {name} must be a {expected}, got {type(value).__name__}")
    return value


def fits(owner: str, what: str, *sizes: int) -> None:
    """Check that an array of these sizes (`what`, "(N, T, 4H)") is small enough to address."""
    count = 8
    for size in sizes:
        count *= size or 1
    if count > sys.maxsize:
        raise ValueError(f"{owner}: an array {what} = {sizes} would be too large to address")


def shares(a: Any, b: Any) -> bool:
    """Whether two arrays have an element in common. On a GPU only their ends are compared."""
    if is_cupy(a) != is_cupy(b):
        return False
    if is_cupy(a):
        (start, end), (other_start, other_end) = map(_ends, (a, b))
        return start < other_end and other_start < end
    work: Any = 10**6  # NumPy's annotation allows only 0 and -1
    return np.may_share_memory(a, b, max_work=work)


def _ends(x: Any) -> tuple[int, int]:
    """The addresses of an array's first byte and of the byte after its last."""
    address, shape, strides = place(x)
    if 0 in shape:
        return address, address
    reach = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    low, high = (sum(r for r in reach if r < 0), sum(r for r in reach if r > 0))
    return address + low, address + high + x.dtype.itemsize


# Conversions


def own(x: Any, given: Any) -> Any:
    """x, or a copy if x shares memory with `given`, the caller's array, which may change."""
    return x.copy() if x is given or is_cupy(x) or np.may_share_memory(x, given) else x


def cast(x: Any, dtype: DTypeLike) -> Any:
    """x as the columns take it: of `dtype` and aligned, every element at a multiple of its size."""
    if x.dtype != dtype:
        return x.astype(dtype)
    return x if getattr(x.flags, "aligned", True) else x.copy()  # CuPy's always are


def floating(x: Any) -> Any:
    """x for a layer without weights: float32 and float64 stay, other types go to the nearest."""
    if x.dtype in FLOATS:
        return cast(x, x.dtype)
    return x.astype(np.float32 if np.can_cast(x.dtype, np.float32) else np.float64)


def ratio(owner: str, name: str, value: Any) -> float:
    """value as a float: a dropout ratio, in [0, 1)."""
    if not is_number(value):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not 0 <= value < 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1), got {value}")
    return float(value)


def nonnegative(owner: str, name: str, value: Any) -> float:
    """value as a float: the factor of a penalty, finite and from 0 up."""
    if not is_number(value):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite, from 0 up, got {value}")
    return float(value)


def integer(owner: str, name: str, value: Any) -> int:
    """value as an int."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name} must be an integer, got {kind}") from None


def count(owner: str, name: str, value: Any, least: int = 1) -> int:
    """value as an int, `least` or more."""
    found = integer(owner, name, value)
    if found < least:
        raise ValueError(f"{owner}: {name} must be from {least} up, got {found}")
    return found


def flag(owner: str, name: str, value: Any) -> bool:
    """value as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: {name} must be a bool, got {type(value).__name__}")
    return bool(value)


def number(owner: str, name: str, value: Any) -> float:
    """value as a float: the `dout` that a loss's backward takes."""
    try:
        if isinstance(value, str) or np.iscomplexobj(value):
            raise TypeError
        return float(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name} must be a real number, got {kind}") from None


def namespace(x: Any) -> Any:
    """The module with the functions for arrays like x: numpy or cupy."""
    return sys.modules["cupy"] if is_cupy(x) else np


def beside(x: Any, array: Any) -> Any:
    """array in the memory where x is: both NumPy arrays or both CuPy arrays."""
    if is_cupy(x) == is_cupy(array):
        return array
    return array.get() if is_cupy(array) else namespace(x).asarray(array)


def scalar(x: Any) -> Any:
    """A sum as a Python float. On a GPU it stays a 0-d array there and does not synchronize."""
    return x if is_cupy(x) else float(x)


def on_host(owner: str, name: str, x: Any) -> NDArray[Any]:
    """x, an array_like, as a NumPy array: a list, too, but no masked array."""
    try:
        return np.asarray(plain(owner, name, x))
    except ValueError:  # NumPy's error names no argument
        raise ValueError(f"{owner}: {name} must be one array, got a ragged list") from None


def _array(owner: str, name: str, x: Any) -> Any:
    """x (see `adopt`), an array."""
    x = adopt(owner, name, x)
    if not is_array(x):
        raise TypeError(f"{owner}: {name} must be a NumPy array, got {type(x).__name__}")
    return x


def _kind(x: Any) -> str:
    """The dtype of an array, the type of another object: for messages."""
    return f"{x.dtype}" if is_array(x) else type(x).__name__
