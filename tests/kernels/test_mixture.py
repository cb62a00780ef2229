"""Mixtures of softmaxes: numeric gradients, PyTorch, and every column against the reference."""

import subprocess
import sys

import numpy as np
import pytest
from cases import (
    LAYOUTS,
    NUMERIC_TOLERANCE,
    REJECTED,
    assert_close,
    bad_arrays,
    numeric_grad,
    read_only,
)

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


# Columns: M, K, D, V of one, off every width, of more than one chunk, of more rows than a block
SHAPES = [
    (1, 1, 1, 1),
    (3, 4, 5, 7),
    (33, 2, 17, 65),
    (2, 3, 0, 7),
    (300, 1, 2, 3),
    (7, 15, 9, 515),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_column_is_the_reference(column, shape, bias):
    arrays, ts = make(*shape, column.dtype)
    arrays[3] = arrays[3] if bias else None
    exact = [None if a is None else a.astype("f8") for a in arrays]
    expected, grads0 = both_ways(ops, exact, ts, 2.5)
    of_column = column.load("ops")
    loss, grads = both_ways(of_column, arrays, ts, 2.5)
    assert type(loss) is float
    assert loss == pytest.approx(expected, rel=1e-5 if column.dtype == "float32" else 1e-12)
    for name, grad, grad0 in zip(("dhs", "dprior", "dW", "db"), grads, grads0, strict=True):
        if grad is not None:
            assert grad.dtype == column.dtype
            assert_close(grad * len(ts), grad0 * len(ts), name)
    without = of_column.mixture_softmax_loss_forward(*arrays, ts, train=False)
    assert without == (loss, None)
    log_p = of_column.mixture_softmax(*arrays)
    assert log_p.dtype == column.dtype
    assert_close(log_p, ops.mixture_softmax(*exact), "log p")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(3)
def test_any_layout(column, layout):
    arrays, ts = make(4, 3, 5, 6, column.dtype)
    view, of_column = LAYOUTS[layout], column.load("ops")
    loss, grads = both_ways(of_column, arrays, ts)
    views = [view(a) for a in arrays]
    loss1, cache = of_column.mixture_softmax_loss_forward(*views, np.repeat(ts, 2)[::2])
    assert loss1 == pytest.approx(loss, rel=1e-6)
    dW, db = (np.full_like(a, np.nan) for a in arrays[2:])
    if layout != "read-only":
        dW, db = view(dW), view(db)
    dhs, dprior = of_column.mixture_softmax_loss_backward(cache, dW, db)
    for grad, other in zip((dhs, dprior, dW, db), grads, strict=True):
        assert_close(grad, other.astype("f8"))
    assert_close(of_column.mixture_softmax(*views), of_column.mixture_softmax(*arrays).astype("f8"))


def test_it_is_consumed(column):
    arrays, ts = make(4, 3, 5, 6, column.dtype)
    of_column = column.load("ops")
    _, cache = of_column.mixture_softmax_loss_forward(*arrays, ts)
    dW, db = np.empty_like(arrays[2]), np.empty_like(arrays[3])
    of_column.mixture_softmax_loss_backward(cache, dW, db)
    for consumed in (cache, None):
        with pytest.raises(RuntimeError, match="mixture_softmax_loss"):
            of_column.mixture_softmax_loss_backward(consumed, dW, db)


def test_unusual_scores(column):
    """A softmax that cannot make the target, NaN in one row, large scores, nothing that counts."""
    of_column, inf = column.load("ops"), np.inf
    arrays, ts = make(5, 2, 3, 4, column.dtype)
    hs, prior, W, b = arrays
    prior[:] = [[0, -inf], [5000, 0], [0, 5000], [0, 0], [0, 0]]
    ts = np.array([0, 3, 2, 1, -1])
    exact = [a.astype("f8") for a in arrays]
    loss, grads = both_ways(of_column, arrays, ts)
    expected, grads0 = both_ways(ops, exact, ts)
    assert loss == pytest.approx(expected, rel=1e-5)
    for grad, grad0 in zip(grads, grads0, strict=True):
        assert_close(grad, grad0)
    expected = ops.mixture_softmax(*exact)
    assert_close(of_column.mixture_softmax(*arrays), expected)
    hs[3, 1, 0] = np.nan
    log_p = of_column.mixture_softmax(*arrays)
    assert np.isnan(log_p[3]).all()
    assert_close(np.delete(log_p, 3, 0), np.delete(expected, 3, 0))
    loss, grads = both_ways(of_column, arrays, ts)
    assert np.isnan(loss)
    assert np.isnan(grads[0][3]).any()
    assert_close(grads[0][:3], grads0[0][:3])
    assert_close(grads[1][:3], grads0[1][:3])
    hs[3, 1, 0] = 0
    for rows in (5, 0):
        ignored = np.full(rows, -1)
        loss, grads = both_ways(of_column, [hs[:rows], prior[:rows], W, b], ignored)
        assert (loss, type(loss)) == (0.0, float)
        assert grads[0].shape == (rows, 2, 3)
        assert not any(np.any(grad) for grad in grads)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_ignored_row_does_not_reach_the_weights(column, bad):
    """Whatever hs and prior are there: their gradients are 0, and 0 times NaN would be NaN."""
    of_column = column.load("ops")
    arrays, ts = make(5, 2, 3, 4, column.dtype)
    results = []
    for value in 1.0, bad:
        for x in arrays[:2]:
            x[ts == -1] = value
        loss, grads = both_ways(of_column, arrays, ts)
        results.append((loss, *grads))
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
        assert np.isfinite(got).all()
    assert not any(np.any(grad[ts == -1]) for grad in results[1][1:3])


def test_bad_arguments_change_nothing(fast):
    of_column = fast.load("ops")
    arrays, ts = make(4, 3, 5, 6, fast.dtype)
    calls = (
        of_column.mixture_softmax,
        lambda *given: of_column.mixture_softmax_loss_forward(*given, ts),
    )
    for call in calls:
        for k, argument in enumerate(arrays):
            for what, a in bad_arrays(argument):
                if call is calls[0] and k == 0 and what[-6:] == "axis 0":
                    continue  # another M is caught by prior
                with pytest.raises(REJECTED):
                    call(*arrays[:k], a, *arrays[k + 1 :])
                    pytest.fail(f"accepted argument {k}: {what}")
        with pytest.raises(ValueError, match="K from 1 up"):
            call(arrays[0][:, :0], arrays[1][:, :0], *arrays[2:])
    for bad in (ts[:3], ts[None], ts.astype(float), ts + 6, None):
        with pytest.raises(REJECTED):
            of_column.mixture_softmax_loss_forward(*arrays, bad)
    _, cache = of_column.mixture_softmax_loss_forward(*arrays, ts)
    dW, db = (np.full_like(a, 7) for a in arrays[2:])
    for what, a in (*bad_arrays(dW), ("read-only", read_only(dW))):
        with pytest.raises(REJECTED):
            of_column.mixture_softmax_loss_backward(cache, a, db)
            pytest.fail(f"accepted dW: {what}")
    for what, a in (*bad_arrays(db), ("read-only", read_only(db))):
        with pytest.raises(REJECTED):
            of_column.mixture_softmax_loss_backward(cache, dW, a)
            pytest.fail(f"accepted db: {what}")
    for dout in (None, [1]):
        with pytest.raises(REJECTED):
            of_column.mixture_softmax_loss_backward(cache, dW, db, dout)
    assert (dW == 7).all()
    assert (db == 7).all()
    of_column.mixture_softmax_loss_backward(cache, dW, db)
    assert not (dW == 7).any()


MEMORY = """
import numpy as np
from pathlib import Path
from rnnfast import TimeMixtureSoftmax, TimeMixtureSoftmaxWithLoss
K, V, N, T, D, H = 15, 10_000, 20, 70, 32, 32
layer = TimeMixtureSoftmax.create(H, D, V, K=K, rng=0, device="cpu")
xs, ts = np.ones((N, T, H), "f"), np.arange(N * T).reshape(N, T) % V
loss = TimeMixtureSoftmaxWithLoss(layer)
loss.forward(xs, ts)
loss.backward()
layer.forward(xs)
status = Path("/proc/self/status").read_text().split()
print(status[status.index("VmHWM:") + 1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is Linux's")
def test_memory():
    """15 softmaxes of 10,000 words for 1,400 targets: their scores alone would take 840 MB.

    The log probabilities, which are asked for last, are 56 MB.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 400_000  # KB, with Python and NumPy


@pytest.mark.parametrize("offset", [1000, 8000])
def test_scores_with_a_common_offset(column, offset):
    """Probabilities do not depend on it, and are as exact with it."""
    rng, of_column = np.random.default_rng(0), column.load("ops")
    hs, W = (np.round(rng.standard_normal(shape) * 8) / 8 for shape in ((3, 2, 4), (4, 30)))
    prior, found = rng.standard_normal((3, 2)), []
    for shift in 0.0, offset:
        arrays = (a.astype(column.dtype) for a in (hs, prior, W, np.full(30, shift)))
        found.append(of_column.mixture_softmax(*arrays))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-6)
