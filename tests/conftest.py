"""Fixtures: the columns that a test of one square of the grid runs on, and devices of layers."""

import math
import signal
import sys
from dataclasses import dataclass

import on_cuda
import pytest
from ptx.execute import why_missing
from ptx.gpu import PtxGpu

import rnnfast
from rnnfast import cuda, kernels
from rnnfast.cpu import _runtime

# Tests interrupt themselves; a shell lets what it runs in the background ignore that.
signal.signal(signal.SIGINT, signal.default_int_handler)

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Column:
    device: str
    dtype: str
    simd: str | None = None  # of the cpu column
    simulated: bool = False  # the cuda column without a GPU

    def load(self, name):
        return kernels.load(name, self.device)

    def __str__(self):
        kind = self.simd or ("simulated" if self.simulated else None)
        return "-".join(filter(None, (self.device, kind, self.dtype)))


FAST = [Column("cpu", dtype, simd) for simd in _runtime.simds() for dtype in DTYPES]
FAST += [Column(name, dtype) for name in kernels.devices() for dtype in DTYPES]
FAST = [c for c in FAST if c.simd or c.device not in ("cpu", "reference")]
if "cuda" not in kernels.devices():
    FAST += [Column("cuda", dtype, simulated=True) for dtype in DTYPES]

# What a GPU in software is given: multiply-adds of each gate, or elements; the width of cells, as
# each has kernels of its own to compile (tests/test_cuda_frame.py has others)
SIMULATED_WORK = 40_000
SIMULATED_ROWS = 100
SIMULATED_WIDTH = 15


def pytest_addoption(parser):
    parser.addoption(
        "--large",
        action="store_true",
        help="run on a GPU in software also what it takes long for, and all widths",
    )


def pytest_collection_modifyitems(config, items):
    """Each width of each cell has kernels of its own, which take a second or two to compile."""
    if config.getoption("large"):
        return
    large = [item for item in items if _too_large(item)]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in set(large)]


def _too_large(item):
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
    return large or "large" in item.keywords


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


@pytest.fixture(params=[*FAST, Column("reference", "float32")], ids=str)
def column(request):
    """Every column, instruction set and dtype, with the reference itself in float32."""
    yield from _use(request.param)


@pytest.fixture(params=FAST, ids=str)
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
