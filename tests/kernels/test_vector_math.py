"""exp, sigmoid and tanh of the kernels, on every instruction set, against float64.

The bounds are those that src/kernels/vec.h states. The float32 grids take every 997th value of all
floats within the range, so every exponent is met many times.
"""

import numpy as np
import pytest

from rnnfast.cpu import _runtime

EXP_ULP = 2
ABSOLUTE = 2e-7


@pytest.fixture(params=_runtime.simds())
def simd(request):
    before = _runtime.simd()
    _runtime.set_simd(request.param)
    yield request.param
    _runtime.set_simd(before)


def floats_up_to(limit):
    """Every 997th float32 in [-limit, limit], with both ends, both zeros, the smallest values."""
    top = int(np.float32(limit).view(np.uint32))
    positive = np.arange(0, top, 997, dtype=np.uint32).view(np.float32)
    positive = np.concatenate((positive, np.float32([1e-45, 1.1754944e-38, limit])))
    return np.concatenate((-positive, positive))


def test_exp_float32(simd):
    x = floats_up_to(87)
    exact = np.exp(x.astype(np.float64))
    got = _runtime.apply("exp", x).astype(np.float64)
    ulp = np.abs(got - exact) / np.spacing(exact.astype(np.float32))
    assert ulp.max() <= EXP_ULP, f"exp({x[ulp.argmax()]!r}) is off by {ulp.max():.2f} ULP"


@pytest.mark.parametrize(
    ("function", "exact"),
    [("sigmoid", lambda x: 0.5 * (1 + np.tanh(0.5 * x))), ("tanh", np.tanh)],
)
def test_absolute_error_float32(simd, function, exact):
    x = floats_up_to(1e4)
    error = np.abs(_runtime.apply(function, x) - exact(x.astype(np.float64)))
    assert error.max() <= ABSOLUTE, f"{function}({x[error.argmax()]!r}) is off by {error.max():.3g}"


def test_tanh_keeps_its_relative_precision_near_zero(simd):
    x = floats_up_to(0.1)
    x = x[np.abs(x) > 1e-30]
    exact = np.tanh(x.astype(np.float64))
    relative = np.abs(_runtime.apply("tanh", x) - exact) / np.abs(exact)
    assert relative.max() <= 4e-7


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "exp"])
def test_float64_is_libm(simd, function):
    x = np.linspace(-20, 20, 1001)
    exact = {"sigmoid": lambda v: 1 / (1 + np.exp(-v)), "tanh": np.tanh, "exp": np.exp}[function](x)
    np.testing.assert_allclose(_runtime.apply(function, x), exact, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(simd, dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0] * 5, dtype)  # past one vector, with a rest
    sigmoid, tanh = _runtime.apply("sigmoid", x), _runtime.apply("tanh", x)
    np.testing.assert_allclose(sigmoid[:4], [1, 0, np.nan, 0.5], atol=1e-30)
    np.testing.assert_array_equal(tanh[:4], np.array([1, -1, np.nan, 0], dtype))
    np.testing.assert_array_equal(_runtime.apply("exp", x)[1:4], np.array([0, np.nan, 1], dtype))
    np.testing.assert_array_equal(np.isnan(sigmoid), np.isnan(x))
    np.testing.assert_array_equal(tanh.reshape(5, 4), np.tile(tanh[:4], (5, 1)))
