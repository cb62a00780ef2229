"""Fixtures: the columns that a test of one square of the grid runs on, and devices of layers."""

import math
from dataclasses import dataclass

import pytest
from simulator import Simulator

import rnnfast
from rnnfast import cuda, kernels
from rnnfast.cpu import _runtime

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

SIMULATED_WORK = 40_000  # multiply-adds of each gate, or elements, that a simulated GPU is given
SIMULATED_ROWS = 100


def pytest_collection_modifyitems(config, items):
    """A simulated GPU takes a microsecond for what a real one does in a nanosecond."""
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
    work = math.prod((*shape, *shape[-1:]) if "cell" in params else shape)
    rows = 0 if "cell" in params else max(shape, default=0)
    return work > SIMULATED_WORK or rows > SIMULATED_ROWS or "large" in item.keywords


def _use(column):
    """Picks the column's instruction set or simulator; afterwards all is as it was."""
    simd = _runtime.simd()
    if column.simd:
        _runtime.set_simd(column.simd)
        assert _runtime.simd() == column.simd
    if column.simulated:
        cuda.use(Simulator(seed=0))
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
