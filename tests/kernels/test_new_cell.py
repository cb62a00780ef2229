"""A cell that the library does not have: the places that CONTRIBUTING.md names are enough."""

import sys

import mgu
import numpy as np
import pytest
from cases import NUMERIC_TOLERANCE, Cell, assert_close, make_problem, numeric_grad

from rnnfast import TimeStack, kernels
from rnnfast.layers.sequence import _TimeOneState

MGU = Cell("mgu", gates=2, states=1)  # the row of tests/cases.py


class TimeMGU(_TimeOneState):
    """A minimal gated unit over a sequence. Wx (D, 2H), Wh (H, 2H), b (2H,) or None."""

    column = "mgu"
    gates = 2

    def __init__(self, Wx, Wh, b, stateful=False, *, device=None):
        super().__init__((Wx, Wh, b), stateful, device)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """As if the file were rnnfast/reference/mgu.py and its name among the cells."""
    monkeypatch.setitem(sys.modules, "rnnfast.reference.mgu", mgu)
    monkeypatch.setattr(kernels, "CELLS", (*kernels.CELLS, "mgu"))


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_the_numeric_ones(lengths, reverse, mask, bias):
    ways = {"lengths": lengths, "reverse": reverse, "mask": mask, "bias": bias}
    p = make_problem(MGU, (3, 3, 2, 4), "float64", **ways)
    module = kernels.load("mgu", "reference")

    def loss():
        hs, (h,), _ = module.forward(p.xs, p.state, p.params, train=False, **p.keywords)
        return (hs * p.dhs).sum() + (h * p.dstate[0]).sum()

    got = p.run(module)
    inputs = p.xs, p.state[0], *(W for W in p.params if W is not None)
    grads = got.dxs, got.dstate[0], *(g for _, g in got.named_grads())
    for grad, array in zip(grads, inputs, strict=True):
        assert_close(grad, numeric_grad(loss, array), tolerance=NUMERIC_TOLERANCE)


def test_one_unit_by_hand():
    """h' = 0.5, f = sigmoid(0.5 * 2) and ~h = tanh(0.5 f - 1)."""
    params = np.array([[0.0, 0.0]]), np.array([[2.0, 1.0]]), np.array([0.0, -1.0])
    hs, _, _ = mgu.forward(np.ones((1, 1, 1)), (np.array([[0.5]]),), params)
    f = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(hs.item(), (1 - f) * 0.5 + f * np.tanh(0.5 * f - 1), rtol=1e-14)


def test_layer_in_a_stack():
    """With all that layers can do: state, lengths, DropConnect, freezing, its place in a stack."""
    p, q = (make_problem(MGU, (3, 4, D, 5), "float64", seed=D) for D in (2, 5))
    below, above = (TimeMGU(*w.params, True, device="reference") for w in (p, q))
    stack, lengths = TimeStack([below, above]), np.array([4, 0, 2])
    hs = stack.forward(p.xs, lengths=lengths)
    between, (h1,), _ = mgu.forward(p.xs, None, p.params, lengths=lengths)
    expected, (h2,), _ = mgu.forward(between, None, q.params, lengths=lengths)
    assert_close(hs, expected)
    for got, state in zip(stack.state, (h1, h2), strict=True):
        assert_close(got, state)
    assert stack.backward(np.ones_like(hs)).shape == p.xs.shape
    assert all(np.any(g != 0) for g in stack.grads)
    stack.freeze()
    stack.reset_state()
    np.testing.assert_array_equal(stack.forward(p.xs, train=False, lengths=lengths), hs)
    below.unfreeze()
    below.reset_state()
    zeros = below.forward(p.xs, Wh_mask=np.zeros((5, 10)))
    below.reset_state()
    assert_close(zeros, mgu.forward(p.xs, None, (p.params[0], p.params[1] * 0, p.params[2]))[0])
    with pytest.raises(ValueError, match=r"^TimeMGU: Wx must be \(D, 2H\) = \(2, 10\), got"):
        TimeMGU(p.params[0][:, :9], *p.params[1:], device="reference")
