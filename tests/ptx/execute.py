"""run/run.c, compiled, and launches of encoded kernels; files that are kept."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rnnfast.io import cache_folder

try:
    import fcntl
except ImportError:  # Windows: why_missing says so
    fcntl = None

NEEDED = {"numba_cuda": "numba-cuda", "cuda.core": "cuda-core"}
RUN = Path(__file__).parent / "run"
CC = os.environ.get("CC", "gcc")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fwrapv", "-fno-math-errno")
FLAGS += ("-fno-strict-aliasing", "-shared", "-fPIC")


class Fault(RuntimeError):
    """What a kernel did wrong."""


class Array(ctypes.Structure):
    _fields_ = (
        ("host", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("first", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
    )


class Launch(ctypes.Structure):
    """As in run/state.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ops", "code", "common")),
        *((name, ctypes.c_uint64) for name in ("common_bytes", "register_bytes", "local_bytes")),
        *((name, ctypes.c_uint32) for name in ("grid", "threads", "shared", "dynamic")),
        *((name, ctypes.c_uint32) for name in ("cooperative", "races", "stats")),
        *((name, ctypes.c_uint64) for name in ("seed", "tick")),
        ("params", ctypes.c_void_p),
        ("arrays", ctypes.POINTER(Array)),
        ("n_arrays", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("executed", "requests", "moved", "needed")),
        ("message", ctypes.c_char * 800),
    )


def why_missing():
    """Why no kernel can be compiled and run here, or None."""
    if fcntl is None:
        return "needs Linux or macOS"
    missing = [package for module, package in NEEDED.items() if not _found(module)]
    if missing:
        return f"{', '.join(missing)} not installed: pip install 'rnnfast[cuda-compile]'"
    return None if shutil.which(CC) else f"{CC} is not installed, which compiles what PTX becomes"


def _found(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def folder():
    """Where compiled kernels are kept: in RNNFAST_CACHE or the user's cache folder."""
    path = Path(cache_folder()) / "ptx"
    path.mkdir(parents=True, exist_ok=True)
    return path


def kept(key, suffix, make):
    """The file of what `key` says, made by make(a temporary path) where there is none."""
    path = folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}{suffix}"
    if not path.exists():
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
            if not path.exists():
                temporary = path.with_name(f"{path.stem}.{os.getpid()}{suffix}")
                make(temporary)
                os.replace(temporary, path)
    return path


@cache
def library():
    """run/run.c, compiled."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(RUN.glob("*"))]
    key = CC, FLAGS, platform.node(), platform.machine(), sources

    def make(path):
        command = [CC, *FLAGS, "-o", str(path), str(RUN / "run.c"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[:2000]}")

    found = ctypes.CDLL(str(kept(key, ".so", make)))
    found.name_of_operation.restype = ctypes.c_char_p
    return found


@cache
def operations():
    """The numbers of the operations that run/run.c has, by name."""
    names = iter(lambda: library().name_of_operation(len(found)), None)
    found = {}
    for name in names:
        found[name.decode()] = len(found)
    return found


class Arrays:
    """The host's arrays as a launch sees them; what overlaps is one array, with one history."""

    def __init__(self, named):
        """named: (name, array) of each argument that is one."""
        spans = sorted((_start(a), a.nbytes, name, a) for name, a in named)
        self.found, self.kept = [], [a for *_, a in spans]
        for start, size, name, array in spans:
            if self.found and start < self.found[-1][0] + self.found[-1][1]:
                begin, length, names, first = self.found.pop()
                length = max(length, start + size - begin)
                self.found.append((begin, length, f"{names} and {name}", first))
            else:
                self.found.append((start, size, name, _within(array)))
        self.table = (Array * len(self.found))(
            *(Array(start, size, first, name.encode()) for start, size, name, first in self.found)
        )

    def address(self, array):
        """Of its first byte, for the kernel."""
        at = _start(array)
        k = max(k for k, (start, *_) in enumerate(self.found) if start <= at)
        start, *_, first = self.found[k]
        return (k + 1 << 40) + first + at - start


def _start(array):
    return array.ctypes.data


def _within(array):
    """How far into a GPU's allocation, whose alignment is 256 bytes, this array begins."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return (_start(array) - _start(whole)) % 256


def run(launch):
    """Raises a Fault."""
    if library().run_launch(ctypes.byref(launch)):
        raise Fault(launch.message.decode())
