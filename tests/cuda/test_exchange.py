"""Numbers that blocks send each other: what is left of them, and what is not sent."""

import numpy as np
import pytest
from on_cuda import frame, in_software, plan_as

from rnnfast import kernels

SIZES = {"float32": (5, 37), "tf32": (5, 40)}  # N, H: no whole rows, the last group not full


def one_step(monkeypatch, h0, precision):
    """What is left of h0 >= 0 after a step of h = relu(h I), whose blocks exchange h0."""
    units = 16 if precision == "tf32" else 13
    plan_as(monkeypatch, frame(units, 3, precision=precision))
    N, H = h0.shape
    params = np.zeros((1, H), "f4"), np.eye(H, dtype="f4"), np.zeros(H, "f4")
    with in_software():
        rnn = kernels.load("rnn", "cuda")
        return rnn.forward(np.zeros((N, 1, 1), "f4"), (h0,), params, nonlinearity="relu")[0][:, 0]


@pytest.mark.parametrize(("precision", "bits"), [("float32", 22), ("tf32", 11)])
def test_numbers_are_rounded(monkeypatch, precision, bits):
    """To the nearest, so that their mean stays."""
    h0 = np.random.default_rng(0).uniform(1, 2, SIZES[precision]).astype("f4")
    error = (one_step(monkeypatch, h0, precision) - h0) / 2.0 ** (1 - bits)
    assert 0.3 < np.abs(error).max() <= 1.01
    assert abs(error.mean()) < 0.15


@pytest.mark.parametrize("precision", SIZES)
def test_short_numbers_stay_as_they_are(monkeypatch, precision):
    h0 = np.zeros(SIZES[precision], "f4")
    h0[:, :6] = 0, 1, 1.5, 2.0**-100, 2.0**100, 1 + 2.0**-9
    np.testing.assert_array_equal(one_step(monkeypatch, h0, precision), h0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, np.float32(np.finfo("f4").max)])
@pytest.mark.parametrize("precision", SIZES)
def test_numbers_that_are_none_stay_in_their_sample(monkeypatch, precision, bad):
    h0 = np.ones(SIZES[precision], "f4")
    expected = h0.copy()
    h0[3, 8] = bad
    got = one_step(monkeypatch, h0, precision)
    np.testing.assert_array_equal(np.delete(got, 3, 0), np.delete(expected, 3, 0))
    assert np.isnan(got[3]).all() or got[3, 8] >= np.finfo("f4").max
