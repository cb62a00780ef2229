"""Launches: a kernel's configuration, made once, and what goes wrong with one."""

import ctypes
from collections import deque

from rnnfast.cuda._bound import Kernel

DRIVER = "libcuda.so.1"
DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
UNASKED = 48 * 1024  # bytes of dynamic shared memory that a kernel may have without asking

# What was launched last in this process: it runs in the background, and an error is told later.
launched = deque(maxlen=3)


def blame(error, what):
    """A RuntimeError for what the driver said during `what`, with the kernels that may be meant."""
    before = ", ".join(launched) or "none"
    return RuntimeError(
        f"{what}: {error}. Kernels run in the background, so that what failed may have been "
        f"launched before: rnnfast's last ones, the latest at the end, are {before}"
    )


def function(library, name):
    """Where a C function is, in a library that CuPy has loaded."""
    return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value


class Launch(Kernel):
    """A kernel of one device: call it with the number of blocks and its arguments.

    It runs on CuPy's current stream. An argument is a CuPy array or an address, a number, or a
    tuple of arrays where the kernel takes a tuple; as [(how many, letter)] in `tokens` says.
    """

    def __init__(self, cupy, name, label, code, tokens, threads, shared, cooperative):
        """code: the cubin, which calls the kernel `name`; errors call it `label`. shared: bytes."""
        self._driver = cupy.cuda.driver
        self._module = cupy.cuda.function.Module()  # unloads itself with this object
        self._module.load(code)
        kernel = self._module.get_function(name).ptr
        if shared > UNASKED:
            self._driver.funcSetAttribute(kernel, DYNAMIC_SHARED, shared)
        start = "cuLaunchCooperativeKernel" if cooperative else "cuLaunchKernel"
        super().__init__(
            *(function(DRIVER, start), kernel, cooperative, tokens, threads, shared),
            *(cupy.cuda.get_current_stream, launched.append, label),
        )
        if cooperative:
            self.most = self._possible(cupy, kernel)

    def _possible(self, cupy, kernel):
        """How many blocks run at once: those of a cooperative kernel wait for each other."""
        a_multiprocessor = self._driver.occupancyMaxActiveBlocksPerMultiprocessor(
            kernel, self.threads, self.shared
        )
        attributes = cupy.cuda.Device().attributes
        if not attributes["CooperativeLaunch"]:
            return 0
        return a_multiprocessor * attributes["MultiProcessorCount"]

    def refuse(self, blocks):
        raise RuntimeError(
            f"{self.label}: its {blocks} blocks of {self.threads} threads have to be on the GPU "
            f"at once, and {self.most} can be"
        )

    def fail(self, blocks, status):
        error = self._driver.CUDADriverError(status)
        raise blame(error, f"{self.label}, {blocks} blocks of {self.threads}") from error
