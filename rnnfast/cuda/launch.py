"""Launches: a kernel's configuration and the room for its arguments, made once."""

import ctypes
import struct
import threading
from collections import deque

PLACE = 8  # bytes of an argument, the largest there is
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


def flattener(tokens):
    """A function of a kernel's arguments that gives addresses and numbers, tuples one by one.

    One expression, written for them: a loop over twenty arguments takes longer than the driver.
    """
    names, flat = [f"a{k}" for k in range(len(tokens))], []
    for name, (count, letter) in zip(names, tokens, strict=True):
        if count:
            flat.append(f"*[x.data.ptr for x in {name}]")
        elif letter[0] == "*":
            flat.append(f"{name}.data.ptr")
        else:  # a number beyond float32 is inf, as NumPy has it
            flat.append(f"float32({name}).value" if letter == "f" else name)
    source = f"lambda {', '.join(names)}: ({''.join(f'{x}, ' for x in flat)})"
    return eval(source, {"float32": ctypes.c_float})


class Launch:
    """A kernel of one device: call it with the number of blocks and its arguments.

    It runs on CuPy's current stream. An argument is a CuPy array, a number, or a tuple of arrays
    where the kernel takes a tuple; as [(how many, letter)] in `tokens` says.
    """

    def __init__(self, cupy, name, label, code, tokens, threads, shared, cooperative):
        """code: the cubin, which calls the kernel `name`; errors call it `label`. shared: bytes."""
        self._driver, self._stream = cupy.cuda.driver, cupy.cuda.get_current_stream
        self._module = cupy.cuda.function.Module()  # unloads itself with this object
        self._module.load(code)
        self._kernel = self._module.get_function(name).ptr
        self.label, self.threads, self.shared = label, threads, shared
        if shared > UNASKED:
            self._driver.funcSetAttribute(self._kernel, DYNAMIC_SHARED, shared)
        self._flat = flattener(tokens)
        self._room(tokens)
        self.most = self._possible(cupy) if cooperative else None

    def _room(self, tokens):
        """The arguments side by side, and what the driver takes, pointers to them."""
        letters = [letter for count, letter in tokens for _ in range(count or 1)]
        formats = {"i": "i4x", "f": "f4x"}
        self._pack = struct.Struct(
            "=" + "".join("Q" if t[0] == "*" else formats.get(t, t) for t in letters)
        ).pack_into
        self._values = ctypes.create_string_buffer(PLACE * len(letters))
        first = ctypes.addressof(self._values)
        self._places = (ctypes.c_void_p * len(letters))(
            *range(first, first + PLACE * len(letters), PLACE)
        )
        self._arguments = ctypes.addressof(self._places)
        self._lock = threading.Lock()  # of the room, until the driver has read it

    def _possible(self, cupy):
        """How many blocks run at once: those of a cooperative kernel wait for each other."""
        a_multiprocessor = self._driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self._kernel, self.threads, self.shared
        )
        attributes = cupy.cuda.Device().attributes
        if not attributes["CooperativeLaunch"]:
            return 0
        return a_multiprocessor * attributes["MultiProcessorCount"]

    def __call__(self, grid, *args):
        if self.most is not None and grid > self.most:
            raise RuntimeError(
                f"{self.label}: its {grid} blocks of {self.threads} threads have to be on the GPU "
                f"at once, and {self.most} can be"
            )
        flat, stream = self._flat(*args), self._stream().ptr
        with self._lock:
            self._pack(self._values, 0, *flat)
            try:
                self._start(grid, stream)
            except RuntimeError as error:
                raise blame(error, f"{self.label}, {grid} blocks of {self.threads}") from error
        launched.append(self.label)

    def _start(self, grid, stream):
        threads, shared = self.threads, self.shared
        if self.most is None:
            self._driver.launchKernel(
                self._kernel, grid, 1, 1, threads, 1, 1, shared, stream, self._arguments, 0
            )
        else:
            self._driver.launchCooperativeKernel(
                self._kernel, grid, 1, 1, threads, 1, 1, shared, stream, self._arguments
            )
