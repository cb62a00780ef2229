"""What a function does on the GPU, captured as a CUDA graph: doing it again is one launch.

While it is captured nothing is computed. What the kernels are handed then, addresses and numbers,
is what they get whenever the graph is launched. So the arrays of the captured function stay where
they are, in a memory pool of the graph's own, and a number that differs from launch to launch has
to be read from the GPU: that of launches before, `launches`, is one.
"""

import contextlib
import threading

import numpy as np

_now = threading.local()  # .launches: of the graph that this thread captures


def launches(gpu):
    """uint64 (1,): how often what is being captured has run before; 0 where nothing is."""
    found = getattr(_now, "launches", None)
    return gpu.kept_zeros((1,), np.uint64) if found is None else found


def refuse_host(x):
    """RuntimeError where a NumPy array is copied to the GPU while a graph is captured.

    A launch would read its memory again, whatever is there by then.
    """
    if getattr(_now, "launches", None) is not None:
        raise RuntimeError(f"a CUDA graph cannot have a NumPy array in it, got {x.dtype} {x.shape}")


class Graph:
    """A CUDA graph of the current device, for one thread at a time.

    First `rehearse`, which compiles kernels and makes what is made once, then `capture`, then any
    number of `launch`. result: what the captured function returned; its arrays are those that each
    launch writes.
    """

    def __init__(self, cupy):
        self._cupy, self._pool = cupy, cupy.cuda.MemoryPool()
        self._graph, self.result = None, None

    @contextlib.contextmanager
    def memory(self):
        """Arrays that are made meanwhile lie in the graph's memory."""
        with self._cupy.cuda.using_allocator(self._pool.malloc):
            yield

    def rehearse(self, function):
        """function(), computed, with arrays in the graph's memory.

        What idles in the pools is given back first: there it is of no use to the graph's own.
        """
        self._cupy.get_default_memory_pool().free_all_blocks()
        with self.memory():
            found = function()
        self._cupy.cuda.get_current_stream().synchronize()
        self._pool.free_all_blocks()  # the capture has another stream, to which they do not belong
        return found

    def capture(self, function):
        """Takes down what function() does. RuntimeError, or what it raises, if that cannot be."""
        cupy = self._cupy
        stream = cupy.cuda.Stream(non_blocking=True)
        with self.memory(), stream:
            self._launches = cupy.zeros(1, np.uint64)
            stream.synchronize()
            stream.begin_capture()
            _now.launches = self._launches
            try:
                self.result = function()
                self._launches += np.uint64(1)
            except BaseException:
                with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()  # the capture may be invalid by now
                raise
            finally:
                _now.launches = None
            self._graph = stream.end_capture()

    def launch(self):
        """Runs it on the current stream."""
        self._graph.launch(self._cupy.cuda.get_current_stream())
