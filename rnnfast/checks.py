"""What every layer asks of its arguments, said once and in the same words.

Each function takes `owner` (the layer, for the message) and `name` (the argument), raises before
anything is written and allocates nothing: TypeError for a kind of object or a dtype, ValueError
for a shape or a value, always naming argument, expectation and what came instead.
"""

import operator
import sys
import weakref
from numbers import Real

import numpy as np

CUDA_MEMORY = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_read_only = weakref.WeakValueDictionary()  # id -> a CuPy array, which has no flag for that
_frozen = {}  # id -> (an array, weak, who froze it, whether it was writeable before)


def is_cupy(x):
    """Whether x is a CuPy array, without importing CuPy."""
    return type(x).__module__.partition(".")[0] == "cupy"


def is_numpy(x):
    return isinstance(x, np.ndarray) and not is_cupy(x)


def is_array(x):
    return isinstance(x, np.ndarray) or is_cupy(x)


def plain(owner, name, x):
    """x, or NumPy's own array of the same memory where x is of a subclass of it.

    What a subclass says of its shape and how it multiplies (np.matrix) is its own. One that hides
    some of its numbers is a TypeError.
    """
    if type(x) is np.ndarray or not is_numpy(x):
        return x
    if hasattr(x, "mask") and hasattr(x, "filled"):
        kind = type(x).__name__
        raise TypeError(f"{owner}: {name} must not be masked, got a {kind}; give {name}.filled()")
    return np.asarray(x)


def adopt(owner, name, x):
    """x as it is worked with: see `plain`; another library's array on a GPU as a CuPy array.

    That is the same memory.

    CuPy's current stream then waits for what the other library has queued on its own. The CUDA
    array interface knows of that stream from version 3 on alone, so DLPack goes before it.
    """
    if is_array(x):
        return plain(owner, name, x)
    dlpack = hasattr(x, "__dlpack_device__")
    if dlpack and x.__dlpack_device__()[0] not in CUDA_MEMORY:
        return x
    if getattr(x, "requires_grad", False) is True:  # its interfaces would raise an error of theirs
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


def writeable(x):
    """Whether an array may be written; what freezes one of CuPy's says so with set_writeable."""
    return x.flags.writeable if is_numpy(x) else id(x) not in _read_only


def set_writeable(x, value):
    """x.flags.writeable = value, for CuPy's arrays too: whoever writes weights asks `writeable`."""
    if is_numpy(x):
        x.flags.writeable = value
    elif value:
        _read_only.pop(id(x), None)
    else:
        _read_only[id(x)] = x


def freeze(x, owner):
    """Makes x read-only until all who froze it have thawed it, or are gone."""
    _release()
    if id(x) not in _frozen:
        _frozen[id(x)] = weakref.ref(x), weakref.WeakSet(), writeable(x)
        set_writeable(x, False)
    _frozen[id(x)][1].add(owner)


def thaw(x, owner):
    """Takes back a freeze. What was writeable before is so again, once it is nobody's any more.

    A view of an array that is frozen itself waits for that one.
    """
    if id(x) in _frozen:
        _frozen[id(x)][1].discard(owner)
    _release()


def _release():
    found = [(key, x(), before) for key, (x, owners, before) in _frozen.items() if not owners]
    for key, x, before in sorted(found, key=lambda entry: _depth(entry[1])):
        if before and is_numpy(x) and is_numpy(x.base) and not writeable(x.base):
            continue
        if x is not None:
            set_writeable(x, before)
        del _frozen[key]


def _depth(x):
    """How many arrays x is a view of, one of the next."""
    return 0 if x is None else 1 + _depth(getattr(x, "base", None))


def place(x):
    """Where an array lies: its address, shape and strides."""
    interface = getattr(x, "__cuda_array_interface__", None) or x.__array_interface__
    return interface["data"][0], x.shape, x.strides


def shape_error(owner, name, expected, x):
    return ValueError(f"{owner}: {name} must be {expected}, got {x.shape}")


def real(owner, name, x):
    """x (see adopt), an array of real numbers: floating point, integers or bool."""
    x = _array(owner, name, x)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{owner}: {name} must be real numbers, got {x.dtype}")
    return x


def integers(owner, name, x):
    """x (see adopt), an array of integers; bool does not count as one."""
    x = _array(owner, name, x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{owner}: {name} must be integers, got {x.dtype}")
    return x


def in_range(owner, name, ids, size):
    """Every id is in [0, size). On a GPU that is not looked at: it would have to be waited for."""
    if is_cupy(ids):
        return
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        wrong = ids[(ids < 0) | (ids >= size)].flat[0]
        raise ValueError(f"{owner}: {name} must be in [0, {size}), got {wrong}")


def matrix(owner, name, W, label):
    """The shape of a weight matrix, float32 or float64 and not empty; `label` names its sides."""
    if not is_array(W) or W.dtype not in FLOATS:
        raise TypeError(f"{owner}: {name} must be a float32 or float64 array, got {_kind(W)}")
    if W.ndim != 2 or 0 in W.shape:
        raise shape_error(owner, name, f"{label}, sizes from 1 up", W)
    return W.shape


def exactly(owner, name, x, dtype, shape, label):
    """x (see plain), an array of just this dtype and shape, as a weight or a gradient has to be."""
    x = plain(owner, name, x)
    if not is_array(x) or x.dtype != dtype:
        raise TypeError(f"{owner}: {name} must be a {dtype} array, got {_kind(x)}")
    if x.shape != shape:
        raise shape_error(owner, name, f"{label} = {shape}", x)
    if is_numpy(x) and not x.flags.aligned:
        raise ValueError(f"{owner}: {name} must be an aligned array, got an unaligned one")
    return x


def fits(owner, what, *sizes):
    """An array of these sizes (`what`, "(N, T, 4H)") can exist: its bytes can be counted."""
    count = 8
    for size in sizes:
        count *= size or 1
    if count > sys.maxsize:
        raise ValueError(f"{owner}: an array {what} = {sizes} would be too large to address")


def shares(a, b):
    """Whether two arrays have an element in common; on a GPU by their ends alone."""
    if is_cupy(a) != is_cupy(b):
        return False
    if is_cupy(a):
        (start, end), (other_start, other_end) = map(_ends, (a, b))
        return start < other_end and other_start < end
    return np.may_share_memory(a, b, max_work=10**6)


def _ends(x):
    """The addresses of an array's first byte and of the one after its last."""
    address, shape, strides = place(x)
    if 0 in shape:
        return address, address
    reach = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    low, high = (sum(r for r in reach if r < 0), sum(r for r in reach if r > 0))
    return address + low, address + high + x.dtype.itemsize


def own(x, given):
    """x, or a copy where x shares memory with what the caller gave, who may change that."""
    return x.copy() if x is given or is_cupy(x) or np.may_share_memory(x, given) else x


def cast(x, dtype):
    """x as the columns take it: `dtype`, every element at a multiple of its size."""
    if x.dtype != dtype:
        return x.astype(dtype)
    return x if is_cupy(x) or x.flags.aligned else x.copy()


def floating(x):
    """x for a layer without weights: float32 and float64 stay, other types go to the nearest."""
    if x.dtype in FLOATS:
        return cast(x, x.dtype)
    return x.astype(np.float32 if np.can_cast(x.dtype, np.float32) else np.float64)


def ratio(owner, name, value):
    """value as a float: a dropout ratio, in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not 0 <= value < 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1), got {value}")
    return float(value)


def integer(owner, name, value):
    """value as an int."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name} must be an integer, got {kind}") from None


def count(owner, name, value, least=1):
    """value as an int from `least` up."""
    value = integer(owner, name, value)
    if value < least:
        raise ValueError(f"{owner}: {name} must be from {least} up, got {value}")
    return value


def flag(owner, name, value):
    """value as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: {name} must be a bool, got {type(value).__name__}")
    return bool(value)


def number(owner, name, value):
    """value as a float, as a loss's backward takes its dout."""
    try:
        if isinstance(value, str) or np.iscomplexobj(value):
            raise TypeError
        return float(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name} must be a real number, got {kind}") from None


def namespace(x):
    """The module whose functions make arrays like x: numpy or cupy."""
    return sys.modules["cupy"] if is_cupy(x) else np


def beside(x, array):
    """array where x is: both NumPy's or both CuPy's."""
    if is_cupy(x) == is_cupy(array):
        return array
    return array.get() if is_cupy(array) else namespace(x).asarray(array)


def scalar(x):
    """A sum as a Python float; on a GPU it stays there, 0-d, so that nothing waits for it."""
    return x if is_cupy(x) else float(x)


def _array(owner, name, x):
    x = adopt(owner, name, x)
    if not is_array(x):
        raise TypeError(f"{owner}: {name} must be a NumPy array, got {type(x).__name__}")
    return x


def _kind(x):
    return f"{x.dtype}" if is_array(x) else type(x).__name__
