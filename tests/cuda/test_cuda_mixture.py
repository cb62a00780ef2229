"""Mixtures of softmaxes on the GPU: chunks of rows, arrays that stay there, the layers."""

import numpy as np
import pytest
from cases import assert_close
from on_cuda import on_gpu

import rnnfast
from rnnfast import io, kernels
from rnnfast.cuda import mixture

M, K, D, V = 7, 3, 5, 9


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((M, K, D), (M, K), (D, V), (V,))]
    ts = rng.integers(V, size=M)
    ts[2] = -1
    return arrays, ts


def both_ways(ops, arrays, ts):
    loss, cache = ops.mixture_softmax_loss_forward(*arrays, ts)
    dW, db = arrays[2].copy(), arrays[3].copy()
    dhs, dprior = ops.mixture_softmax_loss_backward(cache, dW, db, 2.5)
    return loss, dhs, dprior, dW, db, ops.mixture_softmax(*arrays)


@pytest.mark.rest
def test_chunks_of_rows_and_arrays_on_the_gpu(gpu, monkeypatch, problem):
    """Two rows at a time, of 7; nothing waits for the GPU."""
    arrays, ts = problem
    expected = both_ways(kernels.load("ops", "reference"), arrays, ts)
    monkeypatch.setattr(mixture, "CHUNK", 2 * K * V)
    here = on_gpu(gpu, *arrays)
    found = both_ways(kernels.load("ops", "cuda"), here, *on_gpu(gpu, ts))
    assert all(map(gpu.is_array, found))
    assert float(found[0]) == pytest.approx(expected[0], rel=1e-12)
    for got, other in zip(found[1:], expected[1:], strict=True):
        assert_close(io.to_numpy(got), other)


def test_a_target_on_the_gpu_that_is_no_word(gpu, problem):
    """NaN for its row alone, as in the ordinary loss."""
    arrays, ts = problem
    expected = both_ways(kernels.load("ops", "reference"), arrays, ts)
    ts[4] = V
    loss, dhs, *_ = both_ways(kernels.load("ops", "cuda"), on_gpu(gpu, *arrays), *on_gpu(gpu, ts))
    assert np.isnan(float(loss))
    dhs = io.to_numpy(dhs)
    assert np.isnan(dhs[4]).all()
    assert_close(np.delete(dhs, 4, 0), np.delete(expected[1], 4, 0))


def test_the_layers(gpu):
    """Direct output connection of two inputs, with dropout and the penalty."""
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((2, 3, H)).astype("f") for H in (4, 6)]
    ts = rng.integers(V, size=(2, 3))
    ts[1, 1] = -1
    weights = [rng.standard_normal(s).astype("f") for s in ((D, V), (V,), (6, 3))]
    latents = [
        [rng.standard_normal(s).astype("f") for s in ((H, n * D), (n * D,))]
        for H, n in ((4, 1), (6, 2))
    ]
    results = []
    for take in (lambda *arrays: list(arrays), lambda *arrays: on_gpu(gpu, *arrays)):
        drop = rnnfast.TimeDropout(0.5, 1, variational=True)
        pairs = [take(*pair) for pair in latents]
        layer = rnnfast.TimeMixtureSoftmax(*take(*weights), pairs, drop=drop)
        loss = rnnfast.TimeMixtureSoftmaxWithLoss(layer, balance=0.5)
        value = loss.forward(take(*xs), take(ts)[0])
        dxs = loss.backward()
        arrays = [layer.forward(take(*xs)), *dxs, *layer.grads]
        results.append([np.array([float(value), float(loss.penalty)], "f"), *arrays])
    assert gpu.is_array(results[1][1])
    for here, there in zip(*results, strict=True):
        assert_close(io.to_numpy(there), here.astype("f8"))
