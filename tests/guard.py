"""Arrays between pages that nobody may touch: a read or a write beside one ends the process."""

import ctypes
import mmap
import weakref

import numpy as np

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(array, at_end=True):
    """A copy of array that ends where a page begins that cannot be read; else it begins behind one.

    Its memory lives as long as it and its views do.
    """
    size = max(array.nbytes, 1)
    pages = -(-size // PAGE)
    length = (pages + 2) * PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if base in (None, ctypes.c_void_p(-1).value):
        raise MemoryError("no pages")
    for wall in (base, base + (pages + 1) * PAGE):
        assert _libc.mprotect(wall, PAGE, 0) == 0
    start = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    memory = (ctypes.c_char * array.nbytes).from_address(base + start)
    weakref.finalize(memory, _libc.munmap, base, length)
    copy = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    copy[...] = array
    return copy
