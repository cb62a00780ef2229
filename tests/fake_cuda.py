"""A CUDA device of which only the host's side is real: the reference computes.

For tests of what Python does around kernels, on a machine without a GPU. Its arrays are CuPy's by
name, and refuse NumPy's beside them as those do.
"""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from rnnfast import cuda
from rnnfast.kernels import CELLS


class Array(np.ndarray):
    __module__ = "cupy"  # which is how rnnfast knows one

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        if any(type(x) is np.ndarray and x.ndim for x in (*inputs, *(out or ()))):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        if out is not None:
            keywords["out"] = tuple(map(plain, out))
        return placed(getattr(ufunc, method)(*map(plain, inputs), **keywords))

    def __array_function__(self, function, types, args, keywords):
        if np.ndarray in types:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        return placed(function(*map(plain, args), **{k: plain(v) for k, v in keywords.items()}))

    @property
    def flags(self):  # without `writeable`
        flags = plain(self).flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    @property
    def __cuda_array_interface__(self):
        return plain(self).__array_interface__

    def get(self):
        return np.array(plain(self))

    def set(self, array):
        plain(self)[...] = array


def plain(x):
    """x with NumPy arrays, of the same memory, in the place of these."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(plain, x))
    return np.ndarray.view(x, np.ndarray) if isinstance(x, Array) else x


def placed(x):
    """x with these arrays in the place of NumPy's, and of numbers."""
    if isinstance(x, tuple):
        return tuple(map(placed, x))
    return np.asarray(x).view(Array) if isinstance(x, (np.ndarray, float)) else x


def in_its_place(function):
    """function of NumPy arrays as a function of these, wherever one of them is given."""

    def run(*args, **keywords):
        given = [*args, *keywords.values()]
        flat = [y for x in given for y in (x if isinstance(x, (tuple, list)) else (x,))]
        result = function(*map(plain, args), **{k: plain(v) for k, v in keywords.items()})
        return placed(result) if any(isinstance(x, Array) for x in flat) else result

    return run


class Module(ModuleType):
    """A module whose functions are those of another one, `in_its_place`."""

    def __init__(self, name, source, **more):
        super().__init__(name)
        self.__dict__.update(more)
        self._source = source

    def __getattr__(self, name):
        return in_its_place(getattr(self._source, name))


def making(name):
    return lambda *args, **keywords: placed(getattr(np, name)(*args, **keywords))


def asarray(x, *args, **keywords):
    return placed(np.array(plain(x), *args, **keywords))


def install(monkeypatch):
    """Until the test ends there is a device "cuda", made of the reference column."""
    makers = {name: making(name) for name in ("empty", "zeros", "ones", "arange")}
    makers |= {"array": asarray, "asarray": asarray}
    monkeypatch.setitem(sys.modules, "cupy", Module("cupy", np, ndarray=Array, **makers))
    for name in (*CELLS, "ops"):
        source = importlib.import_module(f"rnnfast.reference.{name}")
        more = {"to_device": asarray, "graph": lambda: None} if name == "ops" else {}
        module = Module(f"rnnfast.cuda.{name}", source, **more)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cuda, "_runtime", SimpleNamespace(xp=sys.modules["cupy"]))
