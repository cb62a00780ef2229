"""Arrays between pages that nobody may touch: a read or a write beside one ends the process."""

import ctypes
import mmap
import sys
import weakref

import numpy as np

PAGE = mmap.PAGESIZE
pointer, size_t, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int

if sys.platform == "win32":
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.VirtualAlloc.restype = pointer
    _kernel32.VirtualAlloc.argtypes = [pointer, size_t, integer, integer]
    _kernel32.VirtualFree.argtypes = [pointer, size_t, integer]

    def _new(pages):
        """The address of pages, the first and the last of which nobody may touch."""
        reserve, commit, no_access, read_write = 0x2000, 0x1000, 0x01, 0x04
        base = _kernel32.VirtualAlloc(None, pages * PAGE, reserve, no_access)
        if not base or not _kernel32.VirtualAlloc(
            base + PAGE, (pages - 2) * PAGE, commit, read_write
        ):
            raise MemoryError("no pages")
        return base

    def _free(base, pages):
        release = 0x8000  # all of them
        _kernel32.VirtualFree(base, 0, release)
else:
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.mmap.restype = pointer
    _libc.mmap.argtypes = [pointer, size_t, integer, integer, integer, ctypes.c_long]
    _libc.munmap.argtypes = [pointer, size_t]
    _libc.mprotect.argtypes = [pointer, size_t, integer]

    def _new(pages):
        """The address of pages, the first and the last of which nobody may touch."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        base = _libc.mmap(None, pages * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if base in (None, pointer(-1).value):
            raise MemoryError("no pages")
        for wall in (base, base + (pages - 1) * PAGE):
            assert _libc.mprotect(wall, PAGE, 0) == 0
        return base

    def _free(base, pages):
        _libc.munmap(base, pages * PAGE)


def guarded(array, at_end=True):
    """A copy of array that ends where a page begins that cannot be read; else it begins behind one.

    Its memory lives as long as it and its views do.
    """
    pages = -(-max(array.nbytes, 1) // PAGE)
    base = _new(pages + 2)
    start = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    memory = (ctypes.c_char * array.nbytes).from_address(base + start)
    weakref.finalize(memory, _free, base, pages + 2)
    copy = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    copy[...] = array
    return copy
