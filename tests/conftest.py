"""Fixtures: the columns that a test of one square of the grid runs on, and devices of layers."""

import gc
import math
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec

import on_cuda
import pytest
from ptx.execute import why_missing
from ptx.gpu import PtxGpu

import rnnfast
from rnnfast import cuda, kernels
from rnnfast.cpu import _runtime

# Tests interrupt themselves; a shell lets what it runs in the background ignore that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# numba-cuda has no wheels for macOS: there these tests cannot be imported
collect_ignore = [] if find_spec("numba_cuda") else ["cuda"]

DTYPES = ("float32", "float64")
SIMULATED_WIDTH = 15  # of cells on a GPU in software: each width has kernels of its own to compile


@dataclass(frozen=True)
class Column:
    device: str
    dtype: str
    simd: str | None = None  # of the cpu column
    simulated: bool = False  # the cuda column without a GPU

    def load(self, name):
        return kernels.load(name, self.device)

    def width(self, H):
        """H, or the one that a GPU in software has kernels for (test_cuda_frame.py has others)."""
        return SIMULATED_WIDTH if self.simulated else H

    def __str__(self):
        kind = self.simd or ("simulated" if self.simulated else None)
        return "-".join(filter(None, (self.device, kind, self.dtype)))


FAST = [Column("cpu", dtype, simd) for simd in _runtime.simds() for dtype in DTYPES]
FAST += [Column(name, dtype) for name in kernels.devices() for dtype in DTYPES]
FAST = [c for c in FAST if c.simd or c.device not in ("cpu", "reference")]
if "cuda" not in kernels.devices():
    FAST += [Column("cuda", dtype, simulated=True) for dtype in DTYPES]

REFERENCE = Column("reference", "float32")

# What a GPU in software is given: multiply-adds of each gate, or elements
SIMULATED_WORK = 40_000
SIMULATED_ROWS = 100


def pytest_report_header():
    return [f"tests/{folder} is left out: numba-cuda is not installed" for folder in collect_ignore]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks by which pytest's -m chooses: pyproject.toml leaves out `rest` and `large`.

    Of a test with one_in(n, rest) every n-th case is quick, `rest` more of n are rest, and what is
    left over is large; without `rest` all others are rest.
    """
    places = defaultdict(dict)
    for item in items:
        mark = item.get_closest_marker("one_in")
        if _too_large(item):
            item.add_marker("large")
        elif mark and (marker := _kept(_place(item, places), *mark.args, **mark.kwargs)):
            item.add_marker(marker)
        elif _in_steps_alone(item):
            item.add_marker("rest")


def pytest_collection():
    """The thousands of tests stay to the end: no collection of garbage needs to look at them."""
    gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def _kept(place, n, rest=None):
    """None for the quick case of n, else the name of its marker."""
    k, rest = place % n, n - 1 if rest is None else rest
    if k == 0:
        return None
    return "rest" if k in {i * n // (rest + 1) for i in range(1, rest + 1)} else "large"


def _place(item, places):
    """The places of its parameters among all of their test, added up.

    Every n-th of them has each value of each parameter; of three or more parameters, each pair.
    """
    total, params = 0, item.callspec.params
    marks = [mark.args[0] for mark in item.iter_markers("parametrize")]
    groups = [[name] if isinstance(name, str) else name for name in marks]
    alone = [[name] for name in params if not any(name in group for group in groups)]
    for group in (*groups, *alone):
        seen = places[item.function, *group]
        total += seen.setdefault(tuple(id(params[name]) for name in group), len(seen))
    return total


def _in_steps_alone(item):
    """Of a cell in float64 on a GPU in software: float32 has these kernels too, and the frame."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    column = params.get("column") or params.get("fast")
    return column and column.simulated and column.dtype == "float64" and "cell" in params


def _too_large(item):
    """Whether a GPU in software would take too long; a GPU does not."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    column = params.get("column") or params.get("fast")
    if not (column and column.simulated):
        return False
    shape = params.get("shape", ())
    if "cell" in params:
        work = math.prod((*shape, *shape[-1:]))
        large = work > SIMULATED_WORK or (shape and shape[-1] != SIMULATED_WIDTH)
    else:
        large = math.prod(shape) > SIMULATED_WORK or max(shape, default=0) > SIMULATED_ROWS
    return large or item.get_closest_marker("for_hardware") is not None


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """Columns vary fastest: one problem after the other is solved by the reference, and kept."""
    for name, columns in (("column", [*FAST, REFERENCE]), ("fast", FAST)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, columns, ids=str, indirect=True)


def _use(column):
    """Picks the column's instruction set or a GPU in software; afterwards all is as it was."""
    if column.simulated and (reason := why_missing()):
        pytest.skip(reason)
    simd = _runtime.simd()
    if column.simd:
        _runtime.set_simd(column.simd)
        assert _runtime.simd() == column.simd
    if column.simulated:
        cuda.use(on_cuda.gpu_in_software(seed=3))
    yield column
    if column.simulated:
        cuda.use(None)
    _runtime.set_simd(simd)
    _runtime.set_num_threads(0)


@pytest.fixture
def column(request):
    """Every column, instruction set and dtype, with the reference itself in float32."""
    yield from _use(request.param)


@pytest.fixture
def fast(request):
    """The same without the reference, for what is asked of native code alone."""
    yield from _use(request.param)


@pytest.fixture(params=kernels.devices())
def device(request):
    """Every layer that the test makes is bound to this device."""
    with rnnfast.device(request.param):
        yield request.param


@pytest.fixture
def gpu(monkeypatch):
    """The runtime of the cuda column: the GPU, or one in software."""
    if "cuda" in kernels.devices():
        yield cuda.what_runs()
        return
    monkeypatch.setitem(sys.modules, "cupy", PtxGpu.xp)
    with on_cuda.in_software(seed=3) as gpu:
        yield gpu


@pytest.fixture
def high():
    """TF32."""
    rnnfast.set_float32_matmul_precision("high")
    yield
    rnnfast.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def one_torch_thread():
    """PyTorch's threads spin after each call, which slows ours down."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
