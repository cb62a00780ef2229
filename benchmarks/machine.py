"""The machine of a result."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys

import numpy as np
import threadpoolctl

import rnnfast


def describe():
    """Processor, threads, instruction set and versions."""
    blas = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    runtime = importlib.import_module("rnnfast.cpu._runtime")
    info = {
        "machine": cpu_name(),
        "cores": os.cpu_count(),
        "threads": rnnfast.get_num_threads(),
        "simd": runtime.simd(),
        "extensions": list(runtime.extensions()),  # instructions for 16 and 8 bits
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "rnnfast": rnnfast.__version__,
        "numpy": np.__version__,
        "blas": ", ".join(f"{b['internal_api']} {b['version']} {b['architecture']}" for b in blas),
    }
    if torch := sys.modules.get("torch"):
        info["torch"] = importlib.metadata.version("torch")
        info["torch_simd"] = torch.backends.cpu.get_cpu_capability()
    for name in ("onnxruntime", "openvino"):
        if importlib.util.find_spec(name):
            info[name] = importlib.metadata.version(name)
    return info


def cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
