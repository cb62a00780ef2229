"""An H100 that is not there: whatever a suite asks for is compiled into the cache, nothing runs.

    python -m benchmarks.cuda.runner SUITE --on benchmarks.cuda.record --out FILE.json

How its items end says nothing, since nothing computes; see carry.py.
"""

import sys

import numpy as np

from benchmarks.cuda import exact, language, machine
from benchmarks.cuda.carry import ROOT
from rnnfast import cuda

sys.path.insert(0, str(ROOT / "tests"))

import compiled


class Recorder(compiled.Probe):
    """Compiles every kernel for the cache and launches none."""

    def launcher(self, function, signature, threads, shared, cooperative):
        self.cubin(function, signature, threads)
        return lambda grid, *args: None


class Recorded(Exception):
    """In the place of results that have nothing to be compared with."""


class Once:
    """A clock's place: one call asks for all the kernels there are."""

    def time(self, run, calls):
        run()
        return 1.0, 1.0


def end(case):
    raise Recorded(f"the kernels of {case} are compiled")


def some_words(part, dry):
    return np.arange(20 * 35 * (language.WARM + 2) + 1) % 10_000


def install():
    """From now on the GPU is a Recorder, for tests that put it back too."""
    recorder, use = Recorder("H100"), cuda.use
    cuda.use = lambda runtime: use(runtime or recorder)
    cuda.use(None)
    machine.this_gpu = lambda: machine.Gpu(np, None)
    machine.Events = Once
    exact.results, language.corpus = end, some_words
    np.seterr(all="ignore")
