"""What a caller may change between forward and backward."""

import numpy as np
import pytest

import rnnfast

pytestmark = pytest.mark.usefixtures("device")


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype("f")


LOSSES = {
    "SoftmaxWithLoss": (normal(6, 5), np.arange(6) % 5),
    "TimeSoftmaxWithLoss": (normal(2, 3, 5), np.arange(6).reshape(2, 3) % 5),
    "Simple_TimeSoftmaxWithLoss": (normal(2, 3, 5), np.arange(6).reshape(2, 3) % 5),
    "SigmoidWithLoss": (normal(6), np.arange(6) % 2),
    "TimeSigmoidWithLoss": (normal(2, 3), np.arange(6).reshape(2, 3) % 2),
    "TimeSquaredLoss": (normal(2, 3, 5), normal(2, 3, 5) + 1),
}


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@pytest.mark.parametrize("name", LOSSES)
def test_scores_and_targets_of_a_loss(name, dtype):
    layer = getattr(rnnfast, name)()
    scores, ts = LOSSES[name]
    scores = scores.astype(dtype)
    layer.forward(scores, ts)
    expected = layer.backward()
    for given, targets in (scores.copy(), ts.copy()), (scores[..., ::-1].copy()[..., ::-1], ts):
        targets = targets.copy()
        layer.forward(given, targets)
        given *= 3
        targets[...] = 0
        np.testing.assert_array_equal(layer.backward(), expected)
        layer.backward()[...] = 7
        np.testing.assert_array_equal(layer.backward(), expected)


def test_one_hot_targets():
    scores, ts = LOSSES["TimeSoftmaxWithLoss"]
    layer, one_hot = rnnfast.TimeSoftmaxWithLoss(), np.eye(5, dtype=int)[ts]
    layer.forward(scores, ts)
    expected = layer.backward()
    layer.forward(scores, one_hot)
    one_hot[...] = 0
    np.testing.assert_array_equal(layer.backward(), expected)


def test_targets_of_the_fused_loss():
    xs, ts = normal(2, 3, 4), np.arange(6).reshape(2, 3) % 5
    affine = rnnfast.TimeAffine(normal(4, 5), normal(5))
    layer = rnnfast.layers.TimeAffineSoftmaxWithLoss(affine)
    layer.forward(xs, ts)
    expected = layer.backward(), affine.grads[0].copy()
    layer.forward(xs, targets := ts.copy())
    targets[...] = 0
    np.testing.assert_array_equal(layer.backward(), expected[0])
    np.testing.assert_array_equal(affine.grads[0], expected[1])


@pytest.mark.parametrize("name", ["Sigmoid", "Softmax", "Dropout", "TimeDropout"])
def test_what_an_activation_returned(name):
    layer = getattr(rnnfast, name)()
    x, dout = normal(3, 5), normal(3, 5) + 1
    np.random.seed(1)
    layer.forward(x)
    expected = layer.backward(dout)
    np.random.seed(1)
    out = layer.forward(given := x.copy())
    out *= 3
    given *= 3
    np.testing.assert_array_equal(layer.backward(dout), expected)


@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeGRU"])
def test_what_a_recurrent_layer_returned(name):
    gates, dhs = {"TimeRNN": 1, "TimeLSTM": 4, "TimeGRU": 3}[name], normal(2, 3, 6)
    results = []
    for spoil in False, True:
        args = normal(4, gates * 6), normal(6, gates * 6), normal(gates * 6)
        layer = getattr(rnnfast, name)(*args, stateful=True)
        layer.forward(normal(2, 3, 4))
        hs = layer.forward(normal(2, 3, 4) + 1)
        for returned in (hs, *layer.state) if spoil else ():
            returned *= 3
        results.append([layer.backward(dhs), *layer.grads])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
