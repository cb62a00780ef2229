"""The GPU, all versions and tools; whether Numba can compile and carried kernels can be loaded."""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.cuda import machine
from rnnfast.cuda import what_runs
from rnnfast.cuda.runtime import name_of
from rnnfast.io import cache_folder

PACKAGES = (
    *("numba", "llvmlite", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "nvidia-nvvm"),
    *("nvidia-nvjitlink", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn-cu13", "pytest"),
)
TOOLS = ("nvcc", "ptxas", "nvdisasm", "cuobjdump", "compute-sanitizer", "ncu", "gcc")
LOADED = 20  # carried kernels, at most


def said(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout or done.stderr).strip()


def system():
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu": [x.strip() for x in said("lscpu").splitlines() if "Model name" in x],
        "packages": packages,
        "tools": {tool: shutil.which(tool) for tool in TOOLS},
        "CUDA_HOME": os.environ.get("CUDA_HOME"),
        "nvcc": said("nvcc", "--version").splitlines()[-1:],
        "nvidia-smi": said("nvidia-smi").splitlines(),
    }


def compiles():
    """Compiles, loads and launches a new kernel, which is in no cache."""
    gpu = what_runs()
    cuda = gpu.cuda

    def twice_kernel(x):
        i = cuda.threadIdx.x
        x[i] = x[i] + x[i]

    begin = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, RNNFAST_CACHE=folder),
    ):
        x = gpu.xp.array(np.arange(32, dtype=np.float32))
        gpu.kernel(twice_kernel, "*f", 32)(blocks=1, x=x)
    seconds = time.perf_counter() - begin
    got = machine.this_gpu().fetch(x)
    assert np.array_equal(got, 2 * np.arange(32)), f"twice 0 to 31 is {got}"
    return {"seconds": round(seconds, 2)}


def carried():
    """Loads kernels of the cache folder, which another machine may have compiled."""
    import cupy

    paths = sorted(Path(cache_folder()).glob("*.cubin"))
    for path in paths[:LOADED]:
        cupy.RawModule(path=str(path)).get_function(name_of(path.read_bytes()))
    return {"kernels": len(paths), "loaded": len(paths[:LOADED])}


def items(dry):
    return {"gpu": machine.describe, "system": system, "compiles": compiles, "carried": carried}
