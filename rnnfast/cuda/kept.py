"""Compiled kernels on disk, in RNNFAST_CACHE or the user's cache folder; which is which."""

import functools
import hashlib
import os
import threading
import types
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from rnnfast.io.files import cache_folder, write_atomically


def fingerprint(value, inside=()):
    """What a kernel's code depends on beside the sources: all that its functions hold.

    A function, Numba's device functions and intrinsics among them, is told apart by its name and
    by what its closure and its defaults hold; a TypeError where a value cannot be told from another
    of its kind.
    """
    if id(value) in inside:  # a function that calls itself
        return "itself"
    inside = (*inside, id(value))

    def of(*values):
        return [fingerprint(v, inside) for v in values]

    # Numba's wrappers: a dispatcher with its options, an intrinsic
    for function, options in (("py_func", "targetoptions"), ("_defn", "_ctor_kwargs")):
        if hasattr(value, function):
            return of(getattr(value, function), getattr(value, options))
    if isinstance(value, types.FunctionType):
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        defaults = value.__defaults__, value.__kwdefaults__
        return value.__module__, value.__qualname__, of(*cells), of(*defaults)
    if isinstance(value, types.MethodType):
        return of(value.__func__, value.__self__)
    if isinstance(value, functools.partial):
        return of(value.func, value.args, value.keywords)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, (tuple, list, set, frozenset)):
        values = value if isinstance(value, (tuple, list)) else sorted(value, key=repr)
        return type(value).__qualname__, of(*values)
    if isinstance(value, dict):
        return "dict", [of(*item) for item in value.items()]
    if isinstance(value, np.ndarray):
        return "array", str(value.dtype), value.shape, value.tobytes()
    text = repr(value)
    if " at 0x" in text:  # an object whose text is its address
        if not hasattr(value, "__dict__"):
            raise TypeError(f"fingerprint: {text} cannot be told from others of its kind")
        return type(value).__qualname__, of(vars(value))
    return type(value).__qualname__, text


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@cache
def sources():
    """A digest of this column's sources: a change of one compiles every kernel afresh.

    But not of cost.py, by which plans are chosen: a kernel's plan is in its fingerprint.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name != "cost.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def toolchain():
    """The versions of what compiles here; not Python's, whose functions mean the same."""
    return ", ".join(f"{name} {version(name)}" for name in ("numba-cuda", "cuda-core"))


def made_by():
    """The toolchain of the kernels on disk; a folder that was filled elsewhere names it."""
    try:
        return Path(cache_folder(), "toolchain").read_text("ascii")
    except OSError:
        return toolchain()


class Kept:
    """The code of kernels by a key, made once by one thread, whoever asks.

    A kernel is one file, which has its name, too: another process may write its own over it, whose
    kernel has another name. Files are read from disk and written there; where that cannot be done,
    a warning says so once and they live as long as the process.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self._in_memory = {}
        self._warned = False

    def get(self, key, make):
        """What an earlier process or call has made for `key`, else make()."""
        stem = hashlib.sha256(repr((key, sources(), made_by())).encode()).hexdigest()[:32]
        with self.lock:
            found = self._in_memory.get(stem) or self._read(stem)
            if found is None:
                found = make()
                self._write(stem, found)
            return found

    def _read(self, stem):
        """The code on disk, or None."""
        try:
            return Path(cache_folder(), f"{stem}.cubin").read_bytes()
        except OSError:
            return None

    def _write(self, stem, code):
        folder = cache_folder()
        try:
            os.makedirs(folder, exist_ok=True)
            write_atomically(os.path.join(folder, f"{stem}.cubin"), code)
        except OSError as error:
            self._in_memory[stem] = code
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"compiled CUDA kernels cannot be kept, so that each process compiles them: "
                    f"{error} (RNNFAST_CACHE names another folder)",
                    RuntimeWarning,
                    stacklevel=2,
                )


KEPT = Kept()
