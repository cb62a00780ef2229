"""The GPU as the kernels and their callers see it: names for kernels, compilation, arrays.

Numba compiles (no GPU needed), CuPy owns memory, streams and launches. A kernel is written as a
plain function inside a factory that takes the names it uses from a runtime (`cuda = gpu.cuda`),
so that a test can run the same function in a simulator. Compiled kernels are kept on disk, in
RNNFAST_CACHE or the user's cache folder.
"""

import contextlib
import hashlib
import math
import os
import re
import sys
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from rnnfast.io import cache_folder, write_atomically
from rnnfast.kernels import get_float32_matmul_precision

KERNEL_NAME = re.compile(r"\.entry (\w+)\(")
TOKEN = re.compile(r"(\d*)(\*?[fdiqQ])")


def tokens(signature):
    """[(how many, letter)] of "3*f *i i": 3 pointers in a tuple, one alone (0), a number (0)."""
    found = [TOKEN.fullmatch(token) for token in signature.split()]
    return [(int(match[1] or 0), match[2]) for match in found]


def flat_letters(signature):
    """The letter of each parameter that the compiled kernel has: tuples come one by one."""
    return [letter for count, letter in tokens(signature) for _ in range(count or 1)]


def flat_arguments(args):
    """The arguments of a kernel one by one, those of its tuples too."""
    return [x for arg in args for x in (arg if isinstance(arg, tuple) else (arg,))]


def fingerprint(value):
    """What a kernel's code depends on beside the sources: the constants that its closures hold."""
    function = getattr(value, "py_func", value)
    if hasattr(function, "__code__"):
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        return function.__qualname__, [fingerprint(v) for v in held]
    return repr(value)


@cache
def sources():
    """A digest of this column's sources: a change of one compiles every kernel afresh."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Compiler:
    """What kernels are made with. Needs numba-cuda, not a GPU."""

    zero = np.float32(0)
    exp, log, sqrt, tanh = math.exp, math.log, math.sqrt, math.tanh

    def __init__(self, compute_capability):
        from rnnfast.cuda import numba_cuda, ptx

        self.compute_capability = compute_capability
        self._numba = numba_cuda
        self.cuda = numba_cuda.cuda
        self.float32, self.float64 = numba_cuda.types.float32, numba_cuda.types.float64
        for name in (
            "load4",
            "fetch4",
            "publish",
            "arrive",
            "arrived",
            "exp2",
            "reciprocal",
            "to_tf32",
            "umulhi",
            "mma",
        ):
            setattr(self, name, getattr(ptx, name))

    def device(self, function):
        return self.cuda.jit(device=True)(function)

    def types(self, signature):
        """Numba's types for "2*f *i q", in NumPy's letters.

        A tuple of two pointers to float32, a pointer to int32 and an int64.
        """
        types = self._numba.types
        scalars = {
            "f": types.float32,
            "d": types.float64,
            "i": types.int32,
            "q": types.int64,
            "Q": types.uint64,
        }

        def of(count, letter):
            kind = types.CPointer(scalars[letter[1]]) if letter[0] == "*" else scalars[letter]
            return types.UniTuple(kind, count) if count else kind

        return tuple(of(*token) for token in tokens(signature))

    def compile(self, function, signature, threads):
        """-> (name, cubin, the linker's log)."""
        numba = self._numba
        cc = self.compute_capability
        with self._device_of_the_compiler():
            library, _ = numba.compile_function(
                function,
                self.types(signature),
                device=False,
                abi="numba",
                cc=cc,
                launch_bounds=(threads, 1),
            )
            name = KERNEL_NAME.search(library.get_asm_str(cc=cc)).group(1)
            code = numba.ObjectCode.from_ltoir(library.get_ltoir(cc=cc), name=function.__name__)
        options = numba.LinkerOptions(
            arch=f"sm_{cc[0]}{cc[1]}", link_time_optimization=True, ptxas_options=["-v"]
        )
        linker = numba.Linker(code, options=options)
        return name, bytes(linker.link("cubin").code), linker.get_info_log()

    def cubin(self, function, signature, threads):
        """The file of a compiled kernel, which an earlier process may have made, and its name."""
        key = (
            fingerprint(function),
            signature,
            threads,
            self.compute_capability,
            sources(),
            self._versions,
        )
        folder = cache_folder()
        stem = os.path.join(folder, hashlib.sha256(repr(key).encode()).hexdigest()[:32])
        path, name_path = f"{stem}.cubin", f"{stem}.name"
        try:
            with open(name_path, encoding="ascii") as file:
                name = file.read()
            if os.path.exists(path):
                return path, name
        except OSError:
            pass
        name, cubin, _ = self.compile(function, signature, threads)
        os.makedirs(folder, exist_ok=True)
        write_atomically(path, cubin)
        write_atomically(name_path, name.encode("ascii"))
        return path, name

    @cached_property
    def _versions(self):
        from importlib.metadata import version

        return sys.version, version("numba-cuda"), version("cuda-core")

    @contextlib.contextmanager
    def _device_of_the_compiler(self):
        """Numba asks the driver what to compile device functions for; here it asks us."""
        dispatcher, cc = self._numba.dispatcher, self.compute_capability
        asked = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: type("Device", (), {"compute_capability": cc})
        try:
            yield
        finally:
            dispatcher.get_current_device = asked


class Gpu(Compiler):
    """The current CUDA device: a Compiler for it, CuPy's arrays, launches on CuPy's stream."""

    def __init__(self):
        import cupy

        self.xp = cupy
        device = cupy.cuda.Device()
        attributes = device.attributes  # which hold no compute capability
        version = device.compute_capability  # "90", "120": the last digit is the minor one
        super().__init__((int(version[:-1]), int(version[-1])))
        self.multiprocessors = attributes["MultiProcessorCount"]
        self.shared_memory = attributes["MaxSharedMemoryPerBlockOptin"]
        self.name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()

    def kernel(self, function, signature, threads, shared=0, cooperative=False):
        """A compiled kernel: call it with the number of blocks and the arguments.

        shared: floats of dynamic shared memory. cooperative: all blocks have to run at once.
        """
        path, name = self.cubin(function, signature, threads)
        module = self.xp.RawModule(path=path, enable_cooperative_groups=cooperative)
        kernel = module.get_function(name)
        if shared * 4 > 48 * 1024:
            kernel.max_dynamic_shared_size_bytes = shared * 4
        scalars = [
            None if t[0] == "*" else np.dtype(t).type for t in flat_letters(signature)
        ]  # a Python int would go as 8 bytes

        def launch(grid, *args):
            flat = flat_arguments(args)
            values = tuple(
                a if scalar is None else scalar(a) for a, scalar in zip(flat, scalars, strict=True)
            )
            kernel((grid,), (threads,), values, shared_mem=shared * 4)

        return launch

    @contextlib.contextmanager
    def _precision(self):
        """cuBLAS in TF32 where set_float32_matmul_precision says so; CuPy's setting is global."""
        if get_float32_matmul_precision() == "highest":
            yield
            return
        linalg = self.xp._core._routines_linalg
        before = linalg.get_compute_type(np.float32)
        linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_TF32)
        try:
            yield
        finally:
            linalg.set_compute_type(np.float32, before)

    # Arrays and products

    def is_array(self, x):
        return isinstance(x, self.xp.ndarray)

    def to_device(self, x):
        """x as a CuPy array: itself, the same memory (DLPack, CUDA array interface), or a copy."""
        if isinstance(x, (np.ndarray, self.xp.ndarray)) or hasattr(x, "__cuda_array_interface__"):
            return self.xp.asarray(x)
        return self.xp.from_dlpack(x)

    def to_host(self, x):
        return self.xp.asnumpy(x)

    def shares_memory(self, a, b):
        """Whether they may overlap, by the memory between their ends."""
        if isinstance(a, np.ndarray):
            return np.may_share_memory(a, b)
        return self.xp.may_share_memory(a, b)

    def matmul(self, a, b, out=None):
        """a b by cuBLAS; in TF32 where set_float32_matmul_precision says so."""
        with self._precision():
            return self.xp.matmul(a, b, out=out)
