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
    group.addoption("--rounds", type=int, default=race.ROUNDS, help="at most, of a race")
    group.addoption(
        "--peers",
        type=lambda names: names.split(","),
        help="whom to measure beside rnnfast, by name: pytorch,onnxruntime,numpy (all)",
    )


@pytest.fixture(scope="session", autouse=True)
def same_threads():
    """Everybody gets as many threads as rnnfast has (RNNFAST_NUM_THREADS)."""
    threads = rnnfast.get_num_threads()
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(threads)
    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def keep_freed_memory():
    """Makes glibc keep what is freed, for all contenders alike.

    Left alone it hands large freed arrays back to the system or not, depending on what happens to
    lie beside them. The page faults that follow can double the time of the NumPy layers, which
    allocate the most, and then our ratio would owe to luck.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


@pytest.fixture(scope="session")
def machine(same_threads):
    """What every row of the results says about where it was measured."""
    return describe()


def pytest_benchmark_update_machine_info(machine_info):
    """The rows say what matters; a results file needs no host name and no list of CPU flags."""
    for name in ("node", "release", "cpu", "python_build", "python_compiler"):
        machine_info.pop(name, None)
