"""A runtime for rnnfast.cuda that runs what the compiler makes of its kernels on the CPU.

    cuda.use(PtxGpu(seed=3))

Numba compiles a kernel as for a GPU, nvJitLink links it to PTX, and that is translated to C. So
what runs has the types, indices, inline PTX, alignment and layout that a GPU would get.

    seed        of the order of blocks, warps and lanes; None: one after the other
    races       watch for data races and for shared memory that nobody wrote (slow)
    stats       count what accesses of memory move
    tick        nanoseconds of %globaltimer in a round of the scheduler
    change_ptx  (name, PTX) -> PTX, of each kernel before it runs: a fault to plant, for tests

`loaded` are the kernels that were made, each with the counts of its launches.
"""

import re
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from rnnfast.cuda.kept import fingerprint, sources, toolchain
from rnnfast.cuda.runtime import Compiler
from rnnfast.cuda.signatures import flat_arguments, flat_letters

from . import execute
from .arrays import Counter, DeviceArray, Namespace, device_array, plain
from .encode import encode
from .parse import parse

# Encoded and parsed kernels are large, so few are kept.
parsed = lru_cache(8)(parse)


@lru_cache(128)
def program_of(ptx):
    return encode(parsed(ptx), execute.operations())


@cache
def text_of(path):
    """Of a file; the same object for all who ask."""
    return path.read_text(encoding="ascii")


class Loaded:
    """A kernel, and what its launches have counted."""

    def __init__(self, name, ptx, threads, shared):
        self.name, self.ptx = name, ptx
        self.threads, self.shared = threads, shared  # of a block; floats of dynamic memory
        self.grids = []  # blocks of each launch
        self.executed = np.zeros(len(self.program.code), np.uint64)
        self.requests, self.moved, self.needed = np.zeros((3, len(self.program.sites)), np.uint64)

    @property
    def program(self):
        return program_of(self.ptx)

    @property
    def kernel(self):
        """Its instructions."""
        return parsed(self.ptx)

    def times(self, name):
        """How often each instruction of this name, "red" or "bar.sync", was run by a warp."""
        blocks = zip(self.kernel.blocks, self.executed, strict=True)
        return [int(n) for block, n in blocks for i in block.code if i.is_a(name)]


class PtxGpu(Compiler):
    xp = Namespace()
    name = "PTX on a CPU"

    def __init__(
        self,
        seed=None,
        *,
        races=False,
        stats=False,
        multiprocessors=7,
        shared_memory=227 * 1024,
        compute_capability=(9, 0),
        tick=100,
        change_ptx=None,
    ):
        super().__init__(compute_capability)
        self.seed, self.tick, self.change_ptx = seed, tick, change_ptx
        self.races, self.stats = races, stats
        self.multiprocessors, self.shared_memory = multiprocessors, shared_memory
        self.copies = 0  # to the GPU and back
        self.loaded = []

    def ptx(self, function, signature, threads):
        """What is given to the assembler; kept on disk."""
        key = (
            fingerprint(function),
            Path(function.__code__.co_filename).read_bytes(),
            signature,
            threads,
            self.compute_capability,
            sources(),
            toolchain(),
        )

        def make(path):
            ptx, _ = self.link(function, signature, threads, "ptx", ptx=True)
            path.write_bytes(ptx.rstrip(b"\0"))

        return text_of(execute.kept(key, ".ptx", make))

    def launcher(self, function, signature, threads, shared, cooperative):
        ptx = self.ptx(function, signature, threads)
        if self.change_ptx:
            ptx = self.change_ptx(function.__name__, ptx)
        return self.load(function.__name__, ptx, signature, threads, shared, cooperative)

    def load(self, name, ptx, signature, threads, shared=0, cooperative=False):
        """The launcher of a kernel that is PTX already."""
        letters = flat_letters(signature)
        loaded = Loaded(name, ptx, threads, shared)
        self.loaded.append(loaded)
        room = loaded.program.shared + 4 * shared
        assert loaded.program.threads in (None, threads), (
            f"{name}: {loaded.program.threads} threads"
        )
        assert room <= self.shared_memory, f"{name}: {room} bytes of shared memory"

        def launch(grid, *args):
            assert not cooperative or grid <= self.multiprocessors, f"{name}: {grid} blocks at once"
            flat = zip(letters, flat_arguments(args), strict=True)
            values = [parameter(name, letter, arg) for letter, arg in flat]
            arrays = execute.Arrays([(f"argument {k}", x) for k, x in enumerate(values) if x.ndim])
            program = loaded.program
            params = np.zeros(sum(p.size for p in program.params) + 8, np.uint8)
            for param, x in zip(program.params, values, strict=True):
                number = np.uint64(arrays.address(x)) if x.ndim else x
                params[param.offset : param.offset + param.size] = number.reshape(1).view(np.uint8)
            Counter.launches += 1
            loaded.grids.append(grid)
            fields = {
                "common_bytes": program.common.nbytes,
                "register_bytes": program.register_bytes,
                "local_bytes": program.local,
                "grid": grid,
                "threads": threads,
                "shared": room,
                "dynamic": 4 * shared,
                "cooperative": cooperative,
                "races": self.races,
                "stats": self.stats,
                "seed": 0 if self.seed is None else (self.seed + 1) * 0x9E3779B97F4A7C15 % 2**64,
                "tick": self.tick,
                "params": params.ctypes.data,
                "arrays": arrays.table,
                "n_arrays": len(arrays.table),
            }
            for what in ("ops", "code", "common"):
                fields[what] = getattr(program, what).ctypes.data
            for what in ("executed", "requests", "moved", "needed"):
                fields[what] = getattr(loaded, what).ctypes.data
            try:
                execute.run(execute.Launch(**fields))
            except execute.Fault as fault:
                line = int(re.search(r"line (\d+)\)$", str(fault)).group(1))
                text = ptx.split("\n")[line - 1].strip()
                raise execute.Fault(f"{name}: {fault}: {text}") from None

        return launch

    # Arrays and products

    def to_device(self, x):
        if not isinstance(x, DeviceArray):
            self.copies += 1
            x = device_array(np.array(x))
        return x

    def to_host(self, x):
        self.copies += 1
        return np.array(plain(x))

    def is_array(self, x):
        return isinstance(x, DeviceArray)

    def shares_memory(self, a, b):
        return np.shares_memory(plain(a), plain(b))

    def matmul(self, a, b, out=None, of_a=None, of_b=None):
        Counter.launches += 1
        with np.errstate(all="ignore"):  # a GPU warns of nothing
            return device_array(np.matmul(plain(a), plain(b), out=plain(out)))


def parameter(name, letter, arg):
    """An argument as NumPy's: a flat array for a pointer, one without dimensions for a number."""
    if letter[0] != "*":
        return np.array(arg, np.dtype(letter))
    assert isinstance(arg, DeviceArray), f"{name}: {type(arg)}"
    assert arg.dtype == np.dtype(letter[1]), f"{name}: {arg.dtype} for {letter}"
    assert plain(arg).flags.c_contiguous, f"{name}: a pointer needs a contiguous array"
    return plain(arg).reshape(-1)
