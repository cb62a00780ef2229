"""Fixtures: the columns that a test of one square of the grid runs on, and devices of layers."""

from dataclasses import dataclass

import pytest

import rnnfast
from rnnfast import kernels
from rnnfast.cpu import _runtime

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Column:
    device: str
    dtype: str
    simd: str | None = None  # of the cpu column

    def load(self, name):
        return kernels.load(name, self.device)

    def __str__(self):
        return "-".join(filter(None, (self.device, self.simd, self.dtype)))


FAST = [Column("cpu", dtype, simd) for simd in _runtime.simds() for dtype in DTYPES]
FAST += [Column(name, dtype) for name in kernels.devices() for dtype in DTYPES]
FAST = [c for c in FAST if c.simd or c.device not in ("cpu", "reference")]


def _use(column):
    """Picks the column's instruction set; afterwards that and the threads are as they were."""
    simd = _runtime.simd()
    if column.simd:
        _runtime.set_simd(column.simd)
        assert _runtime.simd() == column.simd
    yield column
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
