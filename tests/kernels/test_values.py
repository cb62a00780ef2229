"""Infinite and NaN states, and floating-point modes: what a column makes of them."""

import ctypes
import platform
from dataclasses import replace

import numpy as np
import pytest
from cases import CELLS, beside_of, make_problem, variants

import rnnfast
from rnnfast import kernels
from rnnfast.cpu import _runtime, ops

SHAPE = (4, 3, 5, 9)


def finite_as(expected, got, name):
    """Finite wherever it is for the reference, whose sigmoid of -inf is exactly 0."""
    got = np.asarray(got.get() if hasattr(got, "get") else got)
    assert np.isfinite(got[np.isfinite(expected)]).all(), name


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", ["h", "c", "xs"])
@pytest.mark.parametrize("lengths", [False, True])
@variants
@pytest.mark.one_in(27, rest=4)
def test_what_is_finite_in_the_reference(fast, cell, options, lengths, place, value):
    """Forward; of a sample, the others stay finite in everything but the sums over all of them."""
    if place == "c" and cell.states == 1:
        pytest.skip("the cell has no c")
    p = make_problem(cell, (*SHAPE[:3], fast.width(9)), fast.dtype, lengths=lengths, **options)
    array = p.xs[2] if place == "xs" else p.state["hc".index(place)][2]
    array.flat[1] = value
    module, reference = fast.load(cell.name), kernels.load(cell.name, "reference")
    q = p.astype("float64")
    with np.errstate(all="ignore"):
        got = module.forward(p.xs, p.state, p.params, **p.keywords)
        expected = reference.forward(q.xs, q.state, q.params, **q.keywords)
    finite_as(expected[0], got[0], "hs")
    for a, b in zip(got[1], expected[1], strict=True):
        finite_as(b, a, "state")


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("reverse", [False, True])
@variants
def test_idle_steps_give_no_gradient_whatever_the_state(device, cell, options, reverse):
    p = make_problem(cell, (4, 5, 5, 9), lengths=True, **options)
    p.state[0][...] = np.nan
    p = replace(p, keywords=p.keywords | {"reverse": reverse})
    with np.errstate(all="ignore"):
        result = p.run(kernels.load(cell.name, device))
    for n, length in enumerate(p.keywords["lengths"]):
        assert not result.dxs[n, length:].any()


def test_an_infinite_cell_with_a_bound(device):
    """f c is infinite, its bound is not; without peepholes nothing else sees c."""
    p = make_problem(CELLS[1], SHAPE, cell_clip=2.0)
    p.state[1][...] = np.inf
    layer = rnnfast.TimeLSTM(*p.params, stateful=True, cell_clip=2.0)
    layer.set_state(*p.state)
    assert np.isfinite(layer.forward(p.xs)).all()


# Modes of arithmetic

glibc = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="fegetenv's structure is known for glibc on x86-64",
)
FLUSH, ZERO, DOWN = 1 << 15, 1 << 6, 1 << 13  # of MXCSR: results, operands; rounding


class Mode:
    """The calling thread computes in another mode; `now` is what it has."""

    def __init__(self, bits):
        self.libm, self.bits, self.before = ctypes.CDLL("libm.so.6"), bits, (ctypes.c_uint32 * 8)()

    def __enter__(self):
        self.libm.fegetenv(self.before)
        changed = (ctypes.c_uint32 * 8)(*self.before)
        changed[7] |= self.bits
        self.libm.fesetenv(changed)
        return self

    def now(self):
        found = (ctypes.c_uint32 * 8)()
        self.libm.fegetenv(found)
        return found[7] & 0xFFC0

    def __exit__(self, *error):
        self.libm.fesetenv(self.before)


def tiny(*shape):
    """Denormal numbers, and such whose products are."""
    rng = np.random.default_rng(shape)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-40, -18, shape)).astype("f")


@glibc
@pytest.mark.parametrize("bits", [FLUSH, ZERO, FLUSH | ZERO, DOWN])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_threads_compute_in_the_callers_mode(cell, bits):
    """Set before the pool was made or after, and gone again in the next call."""
    module, G = kernels.load(cell.name, "cpu"), cell.gates
    xs, dy = tiny(16, 8, 64), tiny(16 * 8, 64)
    params = tiny(64, G * 64), tiny(64, G * 64) * np.float32(1e18), tiny(G * 64)
    params += tuple(tiny(*shape) for shape in beside_of(cell, 64, 64))
    dhs, results = tiny(16, 8, 64), {}

    def run(threads):
        _runtime.set_num_threads(threads)
        hs, state, cache = module.forward(xs, None, params)
        grads = tuple(np.zeros_like(p) for p in params)
        dxs, dstate = module.backward(dhs, None, params, cache, grads)
        flat = ops.affine_forward(dy, params[1][:, :64], None)
        return [a.tobytes() for a in (hs, *state, dxs, *dstate, *grads, flat)]

    try:
        plain = run(2)
        for threads in 1, 2, 2:
            with Mode(bits) as mode:
                before = mode.now()
                results[threads] = run(threads)
                assert mode.now() == before
            assert results[threads] == results[1]
        assert results[1] != plain
        assert run(2) == plain == run(1)
    finally:
        _runtime.set_num_threads(0)
