"""The time of each launch of the column's own kernels, by CUDA events.

The times do not contain the host's: another kernel keeps the GPU busy until the whole call is in
the queue. Call `watch` before the column makes its kernels.
"""

import statistics
import sys
from types import SimpleNamespace

import numpy as np

from benchmarks.cuda import micro
from rnnfast.cuda import runtime

HOLD = 4_000_000  # cycles, about 2 ms: longer than the host needs to queue a call
HOLD_STEPS = 4 * HOLD  # of a recurrence in steps, with hundreds of launches

_recorded = None  # while calls are timed: (name, start, end) of each launch


class Watched:
    """A launcher whose launches can be timed."""

    def __init__(self, launch, name):
        self.launch, self.name = launch, name

    def __call__(self, *args):
        if _recorded is None:
            return self.launch(*args)
        import cupy

        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        self.launch(*args)
        end.record()
        return _recorded.append((self.name, start, end))

    def __getattr__(self, name):
        return getattr(self.launch, name)


def watch():
    """Makes all kernels that are created later Watched."""
    make, make_step = runtime.Gpu.launcher, runtime.Gpu.step_launch
    if hasattr(make, "watched"):
        return

    def launcher(self, function, *args):
        return Watched(make(self, function, *args), function.__name__)

    def step_launch(self, kernel, **given):
        """A launch of each step runs in C, unless it is timed."""
        name, names = kernel.__name__, kernel.names
        launch = getattr(kernel.launch, "launch", kernel.launch)  # of a kernel made before, itself
        plain = SimpleNamespace(__name__=name, launch=launch, names=names)
        step = make_step(self, plain, **given)
        return step if _recorded is None else Watched(step, name)

    launcher.watched = True
    runtime.Gpu.launcher, runtime.Gpu.step_launch = launcher, step_launch


def times(call, repeats=5):
    """{kernel: us of all its launches in a call}, medians of `repeats` calls; {} without a GPU."""
    global _recorded
    found = {}
    for cupy in _held(repeats):
        _recorded = launches = []
        try:
            call()
        finally:
            _recorded = None
        cupy.cuda.runtime.deviceSynchronize()
        of_call = {}
        for name, start, end in launches:
            us = 1e3 * cupy.cuda.get_elapsed_time(start, end)
            of_call[name] = of_call.get(name, 0) + us
        for name, us in of_call.items():
            found.setdefault(name, []).append(us)
    return {name: round(statistics.median(us), 3) for name, us in found.items()}


def whole(call, repeats=5):
    """us of all work of a call on the GPU, also of cuBLAS and CuPy; None without a GPU."""
    found = []
    for cupy in _held(repeats, HOLD_STEPS):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(1e3 * cupy.cuda.get_elapsed_time(start, end))
    return round(statistics.median(found), 3) if found else None


def _held(repeats, cycles=HOLD):
    """Yields CuPy `repeats` times, each time with a GPU that is busy for so many cycles."""
    cupy = sys.modules.get("cupy")
    for _ in range(repeats if cupy else 0):
        micro.kernel("hold")((1,), (1,), (np.int64(cycles),))
        yield cupy
