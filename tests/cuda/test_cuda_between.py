"""What a caller may change on the GPU between forward and backward: see rnnfast.kernels."""

import numpy as np
import pytest
from on_cuda import on_gpu

import rnnfast
from rnnfast import io


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype("f")


LOSSES = {
    "SoftmaxWithLoss": (normal(6, 5), np.arange(6) % 5),
    "TimeSoftmaxWithLoss": (normal(2, 3, 5), np.arange(6).reshape(2, 3) % 5),
    "SigmoidWithLoss": (normal(6), np.arange(6) % 2),
    "TimeSigmoidWithLoss": (normal(2, 3), np.arange(6).reshape(2, 3) % 2),
    "TimeSquaredLoss": (normal(2, 3, 5), normal(2, 3, 5) + 1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_scores_and_targets_of_a_loss(gpu, name):
    with rnnfast.device("cuda"):
        layer = getattr(rnnfast, name)()
    layer.forward(*on_gpu(gpu, *LOSSES[name]))
    expected = io.to_numpy(layer.backward())
    scores, ts = on_gpu(gpu, *LOSSES[name])
    layer.forward(scores, ts)
    scores[...] = 3
    ts[...] = 0
    np.testing.assert_array_equal(io.to_numpy(layer.backward()), expected)


@pytest.mark.parametrize("name", ["Sigmoid", "Softmax"])
def test_outputs_of_an_activation(gpu, name):
    x, dout = on_gpu(gpu, normal(4, 5), normal(5, 4).T)
    with rnnfast.device("cuda"):
        layer = getattr(rnnfast, name)()
    layer.forward(x)
    expected = io.to_numpy(layer.backward(dout))
    layer.forward(x)[...] = 7
    np.testing.assert_array_equal(io.to_numpy(layer.backward(dout)), expected)


@pytest.mark.parametrize("kind", [rnnfast.TimeRNN, rnnfast.TimeLSTM, rnnfast.TimeGRU])
def test_outputs_and_states_of_a_sequence(gpu, kind):
    weights = normal(3, 7 * kind.gates), normal(7, 7 * kind.gates), normal(7 * kind.gates)
    xs, dhs = on_gpu(gpu, normal(2, 4, 3), normal(2, 4, 7))
    layer = kind(*on_gpu(gpu, *weights))
    layer.forward(xs)
    expected = io.to_numpy(layer.backward(dhs))
    layer.forward(xs)[...] = 7
    for state in layer.state:
        state[...] = 7
    np.testing.assert_array_equal(io.to_numpy(layer.backward(dhs)), expected)
