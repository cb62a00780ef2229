"""What the operations check of their arguments, and how they hand results over."""

import sys

import numpy as np

from rnnfast.checks import FLOATS, is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.arguments import array
from rnnfast.cuda.steps import THREADS

WIDE = 1024  # blocks of a kernel that takes elements in turns


def matrix(owner, x, dtype, shape):
    array(owner, x, dtype, len(shape))
    if x.shape != shape:
        raise ValueError(f"{owner} must be {shape}, got {x.shape}")


def check_affine(x, W, b, owner="affine"):
    array(f"{owner}: W", W, None, 2)
    array(f"{owner}: x", x, W.dtype, 2)
    K, N = W.shape
    if x.shape[1] != K:
        raise ValueError(f"{owner}: x must be (M, K) with K = {K}, got {x.shape}")
    if b is not None:
        matrix(f"{owner}: b", b, W.dtype, (N,))
    if x.shape[0] * N > sys.maxsize // 16:
        raise ValueError(f"{owner}: ({x.shape[0]}, {N}) scores cannot be addressed")


def writable(owner, x, dtype, shape):
    matrix(owner, x, dtype, shape)
    if is_numpy(x) and not x.flags.writeable:
        raise ValueError(f"{owner} must be writeable, got read-only")


def real_of(owner, x):
    found = getattr(x, "dtype", None)
    if found not in FLOATS or not hasattr(x, "shape"):
        raise TypeError(f"{owner} must be float32 or float64, got {found or type(x).__name__}")
    return np.dtype(found)


def number(owner, x):
    try:
        if isinstance(x, str):
            raise TypeError
        return float(x)
    except TypeError:
        raise TypeError(f"{owner} must be a number, got {type(x).__name__}") from None


def whole_numbers(owner, ids, size):
    """ids as contiguous int64 where they are; NumPy's are checked and copied."""
    found = getattr(ids, "dtype", None)
    if found is None or not hasattr(ids, "shape") or np.dtype(found).kind not in "iu":
        raise TypeError(f"{owner} must be an integer array, got {found or type(ids).__name__}")
    if not is_numpy(ids):
        gpu = what_runs()
        return gpu.xp.ascontiguousarray(gpu.to_device(ids).astype(np.int64))
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        wrong = ids[(ids < 0) | (ids >= size)].flat[0]
        raise ValueError(f"{owner} must be in [0, {size}), got {wrong}")
    return np.array(ids, np.int64, order="C")


def targets(owner, ts, M, V, ignored):
    """ts as contiguous int64 where they are; NumPy's are checked and copied."""
    if is_numpy(ts) and ts.dtype.kind in "iu":
        whole_numbers(owner, ts[ts != ignored], V)
        own = np.array(ts, np.int64, order="C")
    else:
        own = whole_numbers(owner, ts, V)
    if own.shape != (M,):
        raise ValueError(f"{owner} must be (M,) = ({M},), got {ts.shape}")
    return own


def counted_rows(gpu, x, ts, ignored):
    """x on the GPU with zeros in the rows that do not count: 0 times a NaN there would reach dW."""
    counts = (ts != ignored).reshape(-1, *[1] * (x.ndim - 1))
    return gpu.xp.where(counts, x, x.dtype.type(0))


def blocks_of(size):
    return min(-(-size // THREADS), WIDE)


def give(gpu, x, *arguments):
    """A result, as NumPy's where all of the arguments were."""
    return gpu.to_host(x) if all(map(is_numpy, arguments)) else x


def target(gpu, grad, *read, turned=False):
    """Where to compute a gradient: in the caller's array, unless it lies over what is read.

    It is contiguous; turned: or its transpose is, as of tied weights.
    """
    own = gpu.is_array(grad) and (grad.flags.c_contiguous or (turned and grad.T.flags.c_contiguous))
    if own and not any(gpu.is_array(x) and gpu.shares_memory(grad, x) for x in read):
        return grad
    return gpu.xp.empty(grad.shape, grad.dtype)


def write(gpu, target, value):
    if target is not value:
        target[...] = gpu.to_host(value) if is_numpy(target) else value
