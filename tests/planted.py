"""A suite of the GPU script whose items do what a broken GPU makes of them; tests alone use it.

python -m benchmarks.cuda.runner planted --on planted, with this folder in PYTHONPATH. Under every
other name too, so that whole stages run without a GPU.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parent.parent
SUITES = ("versions", "smoke", "micro", "cells", "column", "sanitized", "language", "sweep")


def environment(**variables):
    """Variables of a process that finds this repository and this suite."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}  # not a part of ours
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    return {**own, "PYTHONPATH": path, "PYTHON": sys.executable, **variables}


class Driver:
    """A CuPy whose context is broken."""

    @staticmethod
    def deviceSynchronize():
        raise RuntimeError("cudaErrorIllegalAddress")


def wrong():
    raise AssertionError("hs is off by 1")


def breaks():
    sys.modules["cupy"] = SimpleNamespace(cuda=SimpleNamespace(runtime=Driver))
    raise RuntimeError("an illegal memory access")


def unlucky():
    raise ValueError("this has nothing to do with CUDA")


def both():
    return {"us": 2.5, "wrong": "cudnn is off by 1"}


def begin(dry):
    """What comes before the first item: it takes a while, or fails, or hangs, once or always."""
    kind, marker = os.environ.get("BEGIN", ""), os.environ.get("BEGUN_ONCE")
    if marker and Path(marker).exists():
        return
    if marker:
        Path(marker).touch()
    if kind == "slow":
        time.sleep(2)
    elif kind == "fails":
        raise RuntimeError("no PyTorch")
    elif kind == "hangs":
        time.sleep(600)


def items(dry):
    if os.environ.get("PLANTED") == "good":
        return {"first": os.getpid, "second": os.getpid, "carried": os.getpid}
    return {
        "first": os.getpid,
        "wrong": wrong,
        "both": both,
        "unlucky": unlucky,
        "second": os.getpid,
        "breaks": breaks,
        "third": os.getpid,
        "hangs": lambda: time.sleep(600),
        "fourth": os.getpid,
        "dies": lambda: os._exit(11),
        "fifth": os.getpid,
    }


def install():
    for name in ("planted", *SUITES):
        sys.modules[f"benchmarks.cuda.{name}"] = sys.modules[__name__]
