"""A stand-in for an H100: it compiles all kernels of a suite into the cache and runs none.

    python -m benchmarks.cuda.runner SUITE --on benchmarks.cuda.record --out FILE.json

Nothing is computed, so the results of the items have no meaning; see carry.py.
"""

import sys

import numpy as np

from benchmarks.cuda import exact, language, machine, worker
from benchmarks.cuda.carry import ROOT
from rnnfast import cuda

sys.path.insert(0, str(ROOT / "tests"))

import compiled


class Recorder(compiled.Probe):
    """Compiles all kernels into the cache and launches none."""

    def launcher(self, function, signature, threads, shared, cooperative):
        self.cubin(function, signature, threads)
        return lambda grid, *args: None


class Recorded(Exception):
    """Ends an item before its results are compared."""


class Once:
    """Instead of a clock: one call is enough, because it needs all kernels."""

    def time(self, run, calls):
        run()
        return 1.0, 1.0


def end(case):
    raise Recorded(f"the kernels of {case} are compiled")


def some_words(part, dry):
    return np.arange(20 * 35 * (language.WARM + 2) + 1) % 10_000


def install():
    """Makes a Recorder the GPU, also for tests, which reset the GPU at their end."""
    recorder, use = Recorder("H100"), cuda.use
    cuda.use = lambda runtime: use(runtime or recorder)
    cuda.use(None)
    machine.this_gpu = lambda: machine.Gpu(np, None)
    machine.Events = Once
    worker.is_broken = lambda: False  # CuPy may be there without a GPU
    exact.results, language.corpus = end, some_words
    np.seterr(all="ignore")
