"""The GPU as the kernels and their callers see it: names for kernels, compilation, arrays.

Numba compiles (no GPU needed), CuPy owns memory, streams and launches. A kernel is written as a
plain function inside a factory that takes the names it uses from a runtime (`cuda = gpu.cuda`),
so that a test can put a GPU in software in its place.
"""

import contextlib
import gc
import itertools
import math
import re
import threading
from functools import partial

import numpy as np

from rnnfast.checks import adopt
from rnnfast.cuda._bound import StepLaunch, StepProduct, overlap, run
from rnnfast.cuda.cublas import Products
from rnnfast.cuda.graph import Graph, refuse_host
from rnnfast.cuda.kept import KEPT, fingerprint
from rnnfast.cuda.launch import Launch, blame
from rnnfast.cuda.replays import Replays
from rnnfast.cuda.signatures import bind, by_name, tokens
from rnnfast.kernels import get_float32_matmul_precision

KERNEL_NAME = re.compile(rb"(?:\.text\.|\.entry )(\w+)")  # in a cubin, in PTX
COMPILING = threading.RLock()


def name_of(code):
    """The name of the kernel in a cubin or in PTX."""
    return KERNEL_NAME.search(code)[1].decode()


@contextlib.contextmanager
def no_collections():
    """Else Python looks through all objects of the process, several times for a kernel."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Compiler:
    """What kernels are made with. Needs numba-cuda, not a GPU."""

    zero = np.float32(0)
    exp, log, log1p, sqrt, tanh = math.exp, math.log, math.log1p, math.sqrt, math.tanh

    def __init__(self, compute_capability):
        from rnnfast.cuda import numba_cuda, ptx

        self.compute_capability = compute_capability
        self._numba = numba_cuda
        self.cuda = numba_cuda.cuda
        self.float32, self.float64 = numba_cuda.types.float32, numba_cuda.types.float64
        for name in ("exp2", "reciprocal", "to_tf32", "umulhi", "hold"):
            setattr(self, name, getattr(ptx, name))

    def device(self, function):
        return self.cuda.jit(device=True, forceinline=True)(function)

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

    def kernel(self, function, signature, threads, shared=0, cooperative=False):
        """A compiled kernel: a function of `blocks` and the kernel's arguments, all by name.

        function: the kernel; signature: the types of its arguments. shared: floats of dynamic
        shared memory. cooperative: all blocks have to run at once. See signatures.py.
        """
        launch = self.launcher(function, signature, threads, shared, cooperative)
        return by_name(launch, function)

    def launcher(self, function, signature, threads, shared, cooperative):
        """What launches a kernel: launch(blocks, *arguments), in the order of its parameters."""
        raise NotImplementedError

    def link(self, function, signature, threads, kind, **options):
        """What nvJitLink makes of a kernel, "cubin" or "ptx", and its log."""
        numba, cc = self._numba, self.compute_capability
        with self._device_of_the_compiler(), no_collections():
            numba.remember_operators()
            library, _ = numba.compile_function(
                function,
                self.types(signature),
                device=False,
                abi="numba",
                cc=cc,
                launch_bounds=(threads, 1),
            )
            code = numba.ObjectCode.from_ltoir(library.get_ltoir(cc=cc), name=function.__name__)
        arch = f"sm_{cc[0]}{cc[1]}"
        options = numba.LinkerOptions(arch=arch, link_time_optimization=True, **options)
        linker = numba.Linker(code, options=options)
        return bytes(linker.link(kind).code), linker.get_info_log()

    def compile(self, function, signature, threads):
        """-> (name, cubin, the linker's log)."""
        cubin, log = self.link(function, signature, threads, "cubin", ptxas_options=["-v"])
        return name_of(cubin), cubin, log

    def cubin(self, function, signature, threads):
        """(name, code) of a compiled kernel, which an earlier process may have made."""
        key = fingerprint(function), signature, threads, self.compute_capability
        code = KEPT.get(key, lambda: self.compile(function, signature, threads)[1])
        return name_of(code), code

    @contextlib.contextmanager
    def _device_of_the_compiler(self):
        """Numba asks the driver what to compile device functions for; here it asks us.

        One thread compiles at a time; others that ask Numba meanwhile get the driver's answer.
        """
        dispatcher, thread = self._numba.dispatcher, threading.get_ident()
        ours = type("Device", (), {"compute_capability": self.compute_capability})
        with COMPILING:
            asked = dispatcher.get_current_device
            dispatcher.get_current_device = lambda: (
                ours if threading.get_ident() == thread else asked()
            )
            try:
                yield
            finally:
                dispatcher.get_current_device = asked

    # What a runtime's own arrays may do faster

    def bind(self, a, b, out, over_rows=False, turned=False, columns=None):
        """multiply(a, b, out) for contiguous arrays that lie as these.

        over_rows: a^T b. turned: a b^T. columns: of b and out these alone.
        """
        part = ..., columns or slice(None)

        def multiply(a, b, out):
            if over_rows:
                a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
                a = a.T
            self.matmul(a, (b.T if turned else b)[part], out=out[part])

        return multiply

    def bind_sum(self, x, out):
        """(product, left), where product(left, x, out) is the sum of all rows of x into out.

        For contiguous arrays that lie as these.
        """
        return lambda _, x, out: x.reshape(-1, x.shape[-1]).sum(axis=0, out=out), None

    # The work of a step: functions of t for `run` of _bound, which does it for all steps

    def step_launch(self, kernel, **given):
        """A launch with all of the kernel's arguments but t."""
        launch = bind(kernel, **given)
        return lambda t: launch(t=t)

    def step_product(self, a, b, out, turned=False, add=False):
        """out = a b, or with `turned` a b^T; add: out += that.

        Of matrices whose rows or columns are contiguous. In the place of a or out (N, T, K) stands
        for what it has of step t.
        """
        b = b.T if turned else b

        def multiply(t):
            x, y = (m[:, t] if m.ndim == 3 else m for m in (a, out))
            if add:
                y += self.matmul(x, b)
            else:
                self.matmul(x, b, out=y)

        return multiply

    def overlap(self, writes, reads):
        """Whether one of the arrays `writes` lies over another one, or over one of `reads`."""
        pairs = (*itertools.combinations(writes, 2), *itertools.product(writes, reads))
        return any(self.shares_memory(a, b) for a, b in pairs)

    def run_steps(self, work, start, ahead, count):
        """The work of all steps, see _bound.run."""
        run(work, start, ahead, count)

    def parts(self, x, starts):
        """An array's parts from these on (the last is its end), as a kernel takes them."""
        return [x[a:b] for a, b in itertools.pairwise(starts)]

    def empty(self, shape, dtype):
        return self.xp.empty(shape, dtype)

    def zeros(self, shape, dtype):
        return self.xp.zeros(shape, dtype)

    def copy(self, x):
        """Of a contiguous array."""
        return x.copy()

    def kept_zeros(self, shape, dtype):
        """Zeros that nobody may write."""
        return self.xp.zeros(shape, dtype)

    def nothing(self, dtype):
        """Any array, as a kernel takes one that it does not read."""
        return self.xp.empty(1, dtype)

    def graph(self):
        """An empty CUDA graph, see graph.py, or None."""
        return None


class Gpu(Compiler):
    """The current CUDA device: a Compiler for it, CuPy's arrays, launches on CuPy's stream."""

    def __init__(self):
        import cupy

        self.xp, self._products, self.run_steps = cupy, Products(cupy), Replays(cupy)
        self.array_type = self.empty = cupy.ndarray
        device = cupy.cuda.Device()
        attributes = device.attributes  # which hold no compute capability
        version = device.compute_capability  # "90", "120": the last digit is the minor one
        super().__init__((int(version[:-1]), int(version[-1])))
        self.multiprocessors = attributes["MultiProcessorCount"]
        self.shared_memory = attributes["MaxSharedMemoryPerBlockOptin"]
        self.name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()

    def launcher(self, function, signature, threads, shared, cooperative):
        name, code = self.cubin(function, signature, threads)
        label, size = function.__name__, shared * 4
        return Launch(self.xp, name, label, code, tokens(signature), threads, size, cooperative)

    # Arrays and products

    def is_array(self, x):
        return isinstance(x, self.xp.ndarray)

    def to_device(self, x):
        """x as a CuPy array: itself, the same memory (DLPack, CUDA array interface), or a copy."""
        x = adopt("to_device", "x", x)
        if isinstance(x, self.xp.ndarray):
            return x
        refuse_host(x)
        return self.xp.asarray(x)

    def to_host(self, x):
        try:
            return self.xp.asnumpy(x)
        except RuntimeError as error:
            raise blame(error, "waiting for the GPU") from error

    def shares_memory(self, a, b):
        """Whether they may overlap, by the memory between their ends."""
        if isinstance(a, np.ndarray):
            return np.may_share_memory(a, b)
        return self.xp.may_share_memory(a, b)

    def overlap(self, writes, reads):
        return overlap(writes, reads)

    def matmul(self, a, b, out=None, of_a=None, of_b=None):
        """a b by cuBLAS; in TF32 where set_float32_matmul_precision says so.

        of_a, of_b: dicts for copies that the next product of a or b may use again, or None.
        """
        low = get_float32_matmul_precision() != "highest"
        return self._products(a, b, out, low, of_a, of_b)

    def bind(self, a, b, out, over_rows=False, turned=False, columns=None):
        low = get_float32_matmul_precision() != "highest"
        return self._products.fastest(a, b, out, low, over_rows, turned, columns)

    def bind_sum(self, x, out):
        return self._products.bind_sum(x, out)

    def step_launch(self, kernel, **given):
        of_t = kernel.names.index("t") - 1  # `blocks` is no parameter
        make = partial(StepLaunch, kernel.launch, of_t)
        return bind(kernel, make, **given)(t=0)

    def step_product(self, a, b, out, turned=False, add=False):
        low, arrays = get_float32_matmul_precision() != "highest", (a, b, out)
        firsts = [x[:, 0] if x.ndim == 3 else x for x in arrays]
        product = self._products.bind(*firsts, low, turned=turned, add=add)
        steps = tuple([x.strides[1] if x.ndim == 3 else 0 for x in arrays])
        return StepProduct(product, arrays, steps)

    def parts(self, x, starts):
        """Their addresses: a view takes CuPy longer than a launch."""
        first, size = x.data.ptr, x.itemsize
        return [first + size * start for start in starts[:-1]]

    def zeros(self, shape, dtype):
        """cupy.zeros, in two thirds of its time."""
        x = self.xp.ndarray(shape, dtype)
        x.data.memset_async(0, x.nbytes)
        return x

    def copy(self, x):
        """x.copy(), in a third of its time: that launches a kernel of CuPy's."""
        y = self.xp.ndarray(x.shape, x.dtype)
        y.data.copy_from_device_async(x.data, x.nbytes)
        return y

    def nothing(self, dtype):
        return 0

    def graph(self):
        return Graph(self.xp)

    def kept_zeros(self, shape, dtype):
        """The same memory for all calls."""
        count = math.prod(shape)
        return self._products.filled(0, max(count, 1), np.dtype(dtype))[:count].reshape(shape)
