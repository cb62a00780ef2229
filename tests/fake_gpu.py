"""A pytest plugin that runs benchmarks/cuda on the simulator, on tiny shapes, by the wall clock.

python -m pytest -p fake_gpu benchmarks/cuda, with this folder in PYTHONPATH; tests alone use it.
"""

import importlib.util
import time
from dataclasses import replace

import numpy as np
from simulator import Simulator

from benchmarks import cases, model_contenders, test_models
from benchmarks.cuda import contenders, machine
from rnnfast import cuda

TORCH = "cpu" if importlib.util.find_spec("torch") else None
ABOUT = ("gpu", "compute_capability", "driver", "cuda_driver", "cuda_runtime", "power_limit")


class Wall:
    """A clock; once is enough to have a time."""

    def time(self, run, calls):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        return seconds, seconds


cuda.use(Simulator(seed=0))
machine.why_missing = lambda: None
machine.this_gpu = lambda: machine.Gpu(np, TORCH)
machine.describe = lambda: {
    **dict.fromkeys((*ABOUT, "system", "python", "rnnfast"), "none"),
    **{"multiprocessors": 7, "clocks": {}, "packages": {}},
}
machine.Events = Wall
cases.GRIDS["default"] = ((2, 2, 3, 4),)
contenders.TRANSFERRED = ((2, 2, 3, 4),)
test_models.JOBS = tuple(replace(job, H=5) for job in test_models.JOBS)
model_contenders.V, model_contenders.N, model_contenders.T = 11, 2, 3
