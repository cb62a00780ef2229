"""A pytest plugin that runs benchmarks/cuda on a GPU in software, tiny shapes, by the wall clock.

python -m pytest -p fake_gpu benchmarks/cuda, with this folder in PYTHONPATH; tests alone use it.
"""

import importlib.util
import time
from dataclasses import replace

import numpy as np
from ptx.arrays import Namespace
from ptx.gpu import PtxGpu

from benchmarks import cases, model_contenders
from benchmarks.cuda import contenders, machine
from rnnfast import cuda

TORCH = "cpu" if importlib.util.find_spec("torch") else None
ABOUT = ("gpu", "compute_capability", "driver", "cuda_driver", "cuda_runtime", "power_limit")


class Cupy(Namespace):
    """What the book's layers need beside functions of arrays."""

    float32, newaxis = np.float32, None

    class add:
        @staticmethod
        def at(a, ids, values):
            np.add.at(*(np.ndarray.view(x, np.ndarray) for x in (a, ids, values)))

    class random:
        @staticmethod
        def rand(*shape):
            return Cupy().array(np.random.rand(*shape))


class Wall:
    """A clock; once is enough to have a time."""

    def time(self, run, calls):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        return seconds, seconds


def pytest_configure(config):
    install()


def install():
    """From now on benchmarks.cuda runs on a GPU in software."""
    cuda.use(PtxGpu(seed=0))
    machine.why_missing = lambda: None
    machine.this_gpu = lambda: machine.Gpu(Cupy(), TORCH)
    machine.describe = lambda: {
        **dict.fromkeys((*ABOUT, "system", "python", "rnnfast"), "none"),
        **{"multiprocessors": 7, "clocks": {}, "packages": {}},
    }
    machine.Events = Wall
    cases.GRIDS["default"] = ((2, 2, 3, 4),)
    contenders.TRANSFERRED = ((2, 2, 3, 4),)
    model_contenders.JOBS = tuple(replace(job, H=5) for job in model_contenders.JOBS)
    model_contenders.V, model_contenders.N, model_contenders.T = 11, 2, 3
