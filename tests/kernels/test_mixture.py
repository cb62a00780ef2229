"""Mixtures of softmaxes: numeric gradients, PyTorch, and every column against the reference."""

import numpy as np
import pytest
from cases import NUMERIC_TOLERANCE, assert_close, numeric_grad

from rnnfast.reference import ops

EXACT = 1e-10  # float64 against another implementation


def make(M, K, D, V, dtype="float64"):
    """hs, prior, W, b and ts, of which every third is ignored."""
    rng = np.random.default_rng([M, K, D, V])
    shapes = (M, K, D), (M, K), (D, V), (V,)
    hs, prior, W, b = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    ts = rng.integers(V, size=M)
    ts[1::3] = -1
    return [np.tanh(hs), prior, W, b], ts


def both_ways(ops, arrays, ts, dout=1.0):
    """The loss, and the gradients of hs, prior, W and b."""
    W, b = arrays[2:]
    loss, cache = ops.mixture_softmax_loss_forward(*arrays, ts)
    dW, db = np.full_like(W, np.nan), None if b is None else np.full_like(b, np.nan)
    dhs, dprior = ops.mixture_softmax_loss_backward(cache, dW, db, dout)
    return loss, (dhs, dprior, dW, db)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_the_numeric_ones(bias):
    arrays, ts = make(4, 3, 2, 5)
    arrays[3] = arrays[3] if bias else None

    def loss():
        return 2.5 * ops.mixture_softmax_loss_forward(*arrays, ts, train=False)[0]

    _, grads = both_ways(ops, arrays, ts, 2.5)
    for name, x, grad in zip(("dhs", "dprior", "dW", "db"), arrays, grads, strict=True):
        if x is not None:
            assert_close(grad, numeric_grad(loss, x), name, NUMERIC_TOLERANCE)


def test_it_is_what_pytorch_makes_of_the_equation():
    """p is summed before its logarithm is taken, as the paper writes it."""
    torch = pytest.importorskip("torch")
    arrays, ts = make(7, 3, 4, 9)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    hs, prior, W, b = tensors
    p = (prior.softmax(1)[:, :, None] * (hs @ W + b).softmax(2)).sum(1)
    expected = torch.nn.functional.nll_loss(p.log(), torch.tensor(ts), ignore_index=-1)
    (2.5 * expected).backward()
    loss, grads = both_ways(ops, arrays, ts, 2.5)
    assert loss == pytest.approx(float(expected.detach()), rel=EXACT)
    for name, grad, x in zip(("dhs", "dprior", "dW", "db"), grads, tensors, strict=True):
        assert_close(grad, x.grad.numpy(), name, EXACT)
    assert_close(ops.mixture_softmax(*arrays), p.log().detach().numpy(), "log p", EXACT)


def test_one_softmax_is_the_ordinary_loss():
    """With K = 1 it is affine_softmax_loss, whatever the prior."""
    (hs, prior, W, b), ts = make(7, 1, 4, 9)
    loss, (dhs, dprior, dW, db) = both_ways(ops, [hs, prior, W, b], ts)
    expected, cache = ops.affine_softmax_loss_forward(hs[:, 0], W, b, ts)
    dW0, db0 = np.empty_like(W), np.empty_like(b)
    dx = ops.affine_softmax_loss_backward(cache, dW0, db0)
    assert loss == pytest.approx(expected, rel=EXACT)
    for grad, other in ((dhs[:, 0], dx), (dW, dW0), (db, db0), (dprior, np.zeros_like(prior))):
        assert_close(grad, other, tolerance=EXACT)
