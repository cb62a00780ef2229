"""The GPU, its clock and its description; without one everything here is skipped."""

import time

import numpy as np
import pytest

import rnnfast
from benchmarks.cuda import machine

DEADLINE = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("rnnfast")
    group.addoption("--seconds", type=float, help="what is not measured by then is skipped")


def pytest_configure(config):
    seconds = config.getoption("seconds")
    config.stash[DEADLINE] = None if seconds is None else time.monotonic() + seconds


@pytest.fixture(scope="module")
def in_time(request):
    """Skips the case for which no time is left; results are written when the run ends."""

    def check():
        deadline = request.config.stash[DEADLINE]
        if deadline is not None and time.monotonic() > deadline:
            pytest.skip("no time was left (--seconds)")

    return check


@pytest.fixture(scope="session")
def gpu():
    """Where the contenders' arrays are."""
    if reason := machine.why_missing():
        pytest.skip(reason)
    yield machine.this_gpu()
    rnnfast.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def clock(gpu):
    return machine.Events()


@pytest.fixture(scope="session")
def about(gpu):
    """What every row of the results says about where it was measured, clocks of the start."""
    return {"device": "cuda", "numpy": np.__version__, **machine.describe()}
