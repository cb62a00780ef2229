"""The GPU of the benchmarks: its arrays, its clock, its description for the results.

    python -m benchmarks.cuda.machine [versions.json]

This prints the GPU and all versions, and writes them into a JSON file. If the cuda column cannot be
used, it prints the reason on one line, and the exit code is 1.
"""

import importlib
import importlib.util
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import rnnfast
from rnnfast import cuda
from rnnfast.checks import is_numpy

PACKAGES = ("numpy", "numba-cuda", "cuda-core", "cupy-cuda13x", "torch")
ASKED = (  # of nvidia-smi
    *("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem"),
    *("power.limit", "temperature.gpu", "utilization.gpu"),
)


@dataclass(frozen=True)
class Gpu:
    """The libraries of the contenders' arrays. Tests have their own CuPy here, and "cpu"."""

    xp: ModuleType  # cupy
    torch_device: str | None  # None if PyTorch has no CUDA

    def put(self, x):
        """Copies a NumPy array to the GPU."""
        return self.xp.array(x)

    def fetch(self, x):
        """Copies an array of the GPU to a NumPy array."""
        return x if is_numpy(x) else x.get()


def why_missing():
    """The reason why nothing can be measured here, on one line, or None."""
    reason = cuda.available()
    return None if reason is None else f"no GPU: {reason}"


def this_gpu():
    import cupy

    return Gpu(cupy, "cuda" if torch_has_cuda() else None)


def torch_has_cuda():
    if not importlib.util.find_spec("torch"):
        return False
    return importlib.import_module("torch").cuda.is_available()


class Events:
    """Times blocks of calls by CUDA events on the default stream, which PyTorch uses, too."""

    def __init__(self):
        import cupy

        self.cupy = cupy
        self.start, self.end = cupy.cuda.Event(), cupy.cuda.Event()

    def time(self, run, calls):
        """Seconds for a call, as the GPU and as the host take them for a block of calls."""
        self.cupy.cuda.runtime.deviceSynchronize()
        begin = time.perf_counter()
        self.start.record()
        for _ in range(calls):
            run()
        self.end.record()
        host = time.perf_counter() - begin
        self.end.synchronize()
        milliseconds = self.cupy.cuda.get_elapsed_time(self.start, self.end)
        return milliseconds / 1e3 / calls, host / calls


def installed():
    """{package: version} of those of PACKAGES that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def nvidia_smi():
    """The answers of nvidia-smi for the first GPU: {name in ASKED: text}; {} without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(ASKED, map(str.strip, said.stdout.strip().split(",")), strict=False))


def describe():
    """The description of the machine in all results. Needs a GPU."""
    import cupy

    runtime = cuda.what_runs()
    smi = nvidia_smi()
    driver, toolkit = (
        cupy.cuda.runtime.driverGetVersion(),
        cupy.cuda.runtime.runtimeGetVersion(),
    )
    about = {
        "gpu": runtime.name,
        "compute_capability": ".".join(map(str, runtime.compute_capability)),
        "multiprocessors": runtime.multiprocessors,
        "driver": smi.get("driver_version", "unknown"),
        "cuda_driver": _cuda_version(driver),
        "cuda_runtime": _cuda_version(toolkit),
        "clocks": {name: value for name, value in smi.items() if name.startswith("clocks.")},
        "power_limit": smi.get("power.limit", "unknown"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "rnnfast": rnnfast.__version__,
        "packages": installed(),
    }
    if torch_has_cuda():
        torch = importlib.import_module("torch")
        about["cudnn"] = torch.backends.cudnn.version()
        about["torch_cuda"] = torch.version.cuda
    return about


def _cuda_version(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def main():
    if reason := why_missing():
        raise SystemExit(reason)
    about = describe()
    for name, value in about.items():
        print(f"{name:<20} {value}")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(about, file, indent=1)


if __name__ == "__main__":
    main()
