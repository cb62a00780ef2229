"""Options, threads, memory and the description of the machine, the same for all benchmarks."""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import platform

import pytest
import threadpoolctl

import rnnfast
from benchmarks import race
from benchmarks.cases import GRIDS
from benchmarks.machine import describe


def pytest_addoption(parser):
    group = parser.getgroup("rnnfast")
    group.addoption("--grid", choices=sorted(GRIDS), default="default", help="shapes to measure")
    group.addoption("--rounds", type=int, default=race.ROUNDS, help="maximum rounds of a race")
    group.addoption(
        "--peers",
        type=lambda names: names.split(","),
        help="measure beside rnnfast: pytorch,onnxruntime,openvino,numpy (default: all)",
    )


@pytest.fixture(scope="session", autouse=True)
def same_threads():
    """All contenders get as many threads as rnnfast has (RNNFAST_NUM_THREADS)."""
    threads = rnnfast.get_num_threads()
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(threads)
    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def keep_freed_memory():
    """Make glibc keep freed memory, for all contenders alike.

    By default it returns large freed arrays to the system or not, depending on their neighbours
    in memory. The page faults that follow can double the time of the NumPy layers, which allocate
    the most, and then the ratio would be accidental.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


@pytest.fixture(scope="session")
def machine(same_threads):
    """The machine of the measurement, which all rows of the results name."""
    return describe()


def pytest_benchmark_update_machine_info(machine_info):
    """Remove host name, CPU flags and the like: the rows have all that a reader needs."""
    for name in ("node", "release", "cpu", "python_build", "python_compiler"):
        machine_info.pop(name, None)
