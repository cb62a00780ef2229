"""A CUDA simulator that really runs several blocks at once: every thread is a greenlet.

The kernels of rnnfast.cuda are plain Python functions that get the names they use from a runtime.
This runtime gives them threads, barriers, shared memory, warp operations and the inline PTX of
rnnfast.cuda.ptx in Python. A thread runs until it has to wait (a barrier, a warp operation, a
counter that others raise), so blocks overlap as on a GPU. `seed` shuffles who runs next. Its
arrays are `DeviceArray`, which like CuPy's do not mix with NumPy's.

It also catches: an index out of bounds, shared memory or results that nobody wrote (NaN), threads
of a block that wait at different barriers, and a deadlock. It knows nothing of memory ordering and
of how many blocks a GPU holds at once: those need a GPU and compute-sanitizer.
"""

import contextvars
import random
import sys
from collections import deque

import numpy as np
from greenlet import getcurrent, greenlet

WARP = 32
PATIENCE = 1000  # times that every thread may look at a counter while nothing else happens


class Deadlock(RuntimeError):
    pass


class Memory:
    """A pointer: flat, and without Python's indices from the end."""

    def __init__(self, array):
        array = _plain(array)
        assert array.flags.c_contiguous, "a kernel gets a pointer, so its array must be contiguous"
        self.array = array.reshape(-1)

    def __getitem__(self, i):
        if i < 0:
            raise IndexError(f"index {i}")
        return self.array[i]

    def __setitem__(self, i, value):
        if i < 0:
            raise IndexError(f"index {i}")
        self.array[i] = value

    def four(self, i):
        assert i % 4 == 0, f"index {i} is not aligned to four floats"
        assert 0 <= i <= len(self.array) - 4, f"index {i}"
        return tuple(self.array[i : i + 4])


class Group:
    """Threads that wait for each other: a block or a warp."""

    def __init__(self, size):
        self.size = size
        self.waiting = []
        self.values = [None] * size
        self.place = None
        self.result = None


class Thread(greenlet):
    pass


class Place:
    """threadIdx, blockIdx, blockDim, gridDim: one-dimensional."""

    def __init__(self, name):
        self.name = name

    @property
    def x(self):
        return getattr(getcurrent(), self.name)


class Launch:
    """One grid, until all its threads have ended."""

    def __init__(self, function, grid, threads, shared, args, seed):
        self.ready = deque()
        self.looks = 0
        self.alive = grid * threads
        self.looking = 0
        self.random = random.Random(seed) if seed is not None else None
        for b in range(grid):
            block = Group(threads)
            memory = Memory(np.full(shared, np.nan, np.float32))
            warps = [Group(min(WARP, threads - w)) for w in range(0, threads, WARP)]
            static = {}
            for t in range(threads):
                thread = Thread(lambda: function(*args))
                thread.gr_context = contextvars.copy_context()
                thread.blockIdx, thread.threadIdx, thread.blockDim, thread.gridDim = (
                    b,
                    t,
                    threads,
                    grid,
                )
                thread.block, thread.warp, thread.lane = block, warps[t // WARP], t % WARP
                thread.dynamic, thread.static = memory, static
                thread.launch = self
                self.ready.append(thread)

    def run(self):
        if self.random:
            self.random.shuffle(self.ready)
        while self.alive:
            if not self.ready:
                raise Deadlock("every thread waits at a barrier that some thread never reaches")
            thread = self.ready.popleft()
            thread.parent = getcurrent()
            thread.switch()
            if thread.dead:
                self.alive -= 1
                self.looks = 0

    def wait(self, group, me, value=None, combine=None):
        """Park `me` until the whole group is here; the last one lets everybody go on."""
        frame = sys._getframe(2)
        place = (frame.f_code, frame.f_lineno)
        if group.place is None:
            group.place = place
        assert group.place == place, f"threads wait at different places: {group.place}, {place}"
        self.looks = 0
        group.values[me] = value
        group.waiting.append(getcurrent())
        if len(group.waiting) == group.size:
            group.result = combine(group.values) if combine else None
            waiting, group.waiting, group.place = group.waiting, [], None
            if self.random:
                self.random.shuffle(waiting)
            self.ready.extend(waiting)
        getcurrent().parent.switch()
        return group.result

    def look(self):
        """A thread looks at a counter: let the others run."""
        self.looks += 1
        if self.looks > PATIENCE * self.alive:
            raise Deadlock("threads look at a counter that nobody raises any more")
        self.ready.append(getcurrent())
        getcurrent().parent.switch()


class Shared:
    def array(self, size, dtype):
        thread = getcurrent()
        if size == 0:
            return thread.dynamic
        place = sys._getframe(1).f_lineno
        if place not in thread.static:
            thread.static[place] = Memory(np.full(size, np.nan, dtype))
        return thread.static[place]


class Local:
    def array(self, size, dtype):
        return Memory(np.full(size, np.nan, dtype))


def shuffle(pick):
    def function(mask, value, argument):
        thread = getcurrent()
        launch = thread.launch
        values = launch.wait(thread.warp, thread.lane, value, combine=list)
        source = pick(thread.lane, argument)
        return values[source] if source < len(values) else value

    return staticmethod(function)


class Cuda:
    threadIdx, blockIdx = Place("threadIdx"), Place("blockIdx")
    blockDim, gridDim = Place("blockDim"), Place("gridDim")
    shared, local = Shared(), Local()
    shfl_xor_sync = shuffle(lambda lane, mask: lane ^ mask)
    shfl_down_sync = shuffle(lambda lane, delta: lane + delta)

    @staticmethod
    def syncthreads():
        thread = getcurrent()
        thread.launch.wait(thread.block, thread.threadIdx)


class Flags:
    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous


class Counter:
    """What ran on the simulated GPU since it was set to 0: kernels, products, fills, copies."""

    launches = 0


class DeviceArray(np.ndarray):
    """Stands for cupy.ndarray, with what it refuses: NumPy arrays beside it, and to become one."""

    __module__ = "cupy"  # which is how rnnfast knows one

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        for x in (*inputs, *(out or ())):
            if type(x) is np.ndarray and x.ndim:
                raise TypeError(f"Unsupported type {type(x)}")
        inputs = [_plain(x) for x in inputs]
        if out is not None:
            keywords["out"] = tuple(_plain(x) for x in out)
        Counter.launches += 1
        with np.errstate(all="ignore"):  # a GPU warns of nothing
            result = getattr(ufunc, method)(*inputs, **keywords)
        return out[0] if out is not None else _device(result)

    def __array_function__(self, function, types, args, keywords):
        if np.ndarray in types and function is not np.shares_memory:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        args = [[_plain(x) for x in a] if isinstance(a, (list, tuple)) else _plain(a) for a in args]
        result = function(*args, **{k: _plain(v) for k, v in keywords.items()})
        return result if isinstance(result, bool) else _device(result)

    def __setitem__(self, key, value):
        if type(value) is np.ndarray and value.ndim:
            raise TypeError("non-scalar numpy.ndarray cannot be used for fill")
        Counter.launches += 1
        _plain(self)[key] = _plain(value)

    def copy(self):
        Counter.launches += 1
        return _device(_plain(self).copy())

    def sum(self, **keywords):
        Counter.launches += 1
        return _device(_plain(self).sum(**{k: _plain(v) for k, v in keywords.items()}))

    def argmax(self, axis=None):
        return _device(_plain(self).argmax(axis=axis))

    def get(self):
        return np.array(_plain(self))

    def set(self, array):
        _plain(self)[...] = array

    @property
    def flags(self):
        return Flags(_plain(self).flags)

    @property
    def __array_interface__(self):
        raise AttributeError("__array_interface__")

    @property
    def __cuda_array_interface__(self):
        return _plain(self).__array_interface__


def _plain(x):
    return np.ndarray.view(x, np.ndarray) if isinstance(x, DeviceArray) else x


def _device(x):
    return np.asarray(x).view(DeviceArray)


class Namespace:
    """numpy's functions, giving DeviceArrays; stands for the module cupy."""

    def __getattr__(self, name):
        function = getattr(np, name)
        if name not in ("empty", "empty_like", "ascontiguousarray", "asarray"):
            Counter.launches += 1

        def call(*args, **keywords):
            plain = [[_plain(y) for y in x] if isinstance(x, list) else _plain(x) for x in args]
            return _device(function(*plain, **{k: _plain(v) for k, v in keywords.items()}))

        return call


def rounded_to_tf32(x):
    bits = int(np.float32(x).view(np.uint32))
    if bits & 0x7F800000 != 0x7F800000:
        bits = (bits + 0x1000) & 0xFFFFE000
    return np.uint32(bits).view(np.float32)


def _product(values):
    """D = A B + C from the ten registers of each of 32 lanes; PTX ISA, m16n8k8."""
    A, B, C = np.zeros((16, 8)), np.zeros((8, 8)), np.zeros((16, 8))
    for lane, (a0, a1, a2, a3, b0, b1, c0, c1, c2, c3) in enumerate(values):
        g, j = lane // 4, lane % 4
        A[g, j], A[g + 8, j], A[g, j + 4], A[g + 8, j + 4] = a0, a1, a2, a3
        B[j, g], B[j + 4, g] = b0, b1
        C[g, 2 * j], C[g, 2 * j + 1], C[g + 8, 2 * j], C[g + 8, 2 * j + 1] = c0, c1, c2, c3
    for operand in (A, B):  # what the hardware would cut off has to be gone already
        kept = operand.astype(np.float32).view(np.uint32) & 0x1FFF
        assert not kept[np.isfinite(operand)].any(), "mma: an operand is not rounded to TF32"
    D = (A @ B + C).astype(np.float32)
    return [
        (D[g, 2 * j], D[g, 2 * j + 1], D[g + 8, 2 * j], D[g + 8, 2 * j + 1])
        for g in range(8)
        for j in range(4)
    ]


class Simulator:
    """A runtime for rnnfast.cuda; see rnnfast.cuda.runtime."""

    xp = Namespace()
    name = "simulated GPU"
    multiprocessors = 7
    shared_memory = 227 * 1024
    compute_capability = (9, 0)

    cuda = Cuda()
    float32, float64 = np.float32, np.float64
    zero = np.float32(0)
    load4 = fetch4 = staticmethod(lambda p, i: p.four(i))
    to_tf32 = staticmethod(rounded_to_tf32)
    exp2, reciprocal = staticmethod(np.exp2), staticmethod(lambda x: np.float32(1) / x)
    exp, tanh = staticmethod(np.exp), staticmethod(np.tanh)
    log, sqrt = staticmethod(np.log), staticmethod(np.sqrt)

    def __init__(self, seed=None):
        self.seed = seed
        self.copies = 0  # to the GPU and back

    @staticmethod
    def device(function):
        return function

    @staticmethod
    def publish(p, i, x):
        p[i] = x

    @staticmethod
    def arrive(p, i):
        p[i] += 1

    @staticmethod
    def arrived(p, i):
        getcurrent().launch.look()
        return p[i]

    @staticmethod
    def mma(*registers):
        thread = getcurrent()
        return thread.launch.wait(thread.warp, thread.lane, registers, combine=_product)[
            thread.lane
        ]

    @staticmethod
    def umulhi(a, b):
        return np.uint64(int(a) * int(b) >> 64)

    def kernel(self, function, signature, threads, shared=0, cooperative=False):
        letters = signature.split()

        def launch(grid, *args):
            assert len(args) == len(letters), f"{function.__name__}: {len(args)} arguments"
            values = []
            for letter, arg in zip(letters, args, strict=True):
                dtype = np.dtype(letter[-1])
                if letter[0] == "*":
                    assert isinstance(arg, DeviceArray), f"{function.__name__}: {type(arg)}"
                    assert arg.dtype == dtype, f"{function.__name__}: {arg.dtype} for {letter}"
                    values.append(Memory(arg))
                else:
                    values.append(int(arg) if dtype.kind == "i" else dtype.type(arg))
            if cooperative:
                assert grid <= self.multiprocessors
            assert shared * 4 <= self.shared_memory
            Counter.launches += 1
            with np.errstate(all="ignore"):
                Launch(function, grid, threads, shared, values, self.seed).run()

        return launch

    # Arrays and products

    def to_device(self, x):
        if not isinstance(x, DeviceArray):
            self.copies += 1
            x = _device(np.array(x))
        return x

    def to_host(self, x):
        self.copies += 1
        return np.array(_plain(x))

    def is_array(self, x):
        return isinstance(x, DeviceArray)

    def shares_memory(self, a, b):
        return np.shares_memory(_plain(a), _plain(b))

    def matmul(self, a, b, out=None):
        Counter.launches += 1
        return _device(np.matmul(_plain(a), _plain(b), out=_plain(out)))
