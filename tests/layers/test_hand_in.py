"""What callers hand in beside plain arrays, and what they put into layers."""

import numpy as np
import pytest

import rnnfast
from rnnfast import layers, time_layers
from rnnfast.kernels import load
from rnnfast.layers import PastDecode, TimeAffineSoftmaxWithLoss, TimeRegularizedSoftmaxWithLoss

X = np.random.default_rng(0).standard_normal((2, 3, 4))


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u8", "i2", "?", "f2"])
def test_functions_of_any_real_dtype(function, kind):
    x = np.array([[1, 0, 3], [100, 127, 1]]).astype(kind)
    if kind == "i1":
        x[1] = -128, 127, 0
    called = getattr(time_layers, function)
    expected = called(x.astype("f8"))
    atol, rtol = (1e-3, 1e-2) if kind == "f2" else (0, 1e-15)
    np.testing.assert_allclose(called(x), expected, rtol, atol)
    assert np.isfinite(called(x)).all()


def test_functions_of_lists_and_numbers():
    assert time_layers.sigmoid(0) == 0.5
    assert time_layers.softmax([0, 0]).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"softmax: x must have a last axis .*, got \(\)"):
        time_layers.softmax(3.0)
    y = np.full((1, 2, 2), 0.5)
    with pytest.raises(ValueError, match=r"y must be \(N, K\) or \(K,\), got \(1, 2, 2\)"):
        time_layers.cross_entropy_error(y, np.zeros((1, 2), int))


MATRIX = np.array([[1.0, 2.0], [3.0, 4.0]])


def activated(layer):
    layer.forward(np.array([[1.0, 2.0], [3.0, 5.0]]))
    return layer.backward


def looked_up(layer):
    layer.forward(np.array([1, 0]), word_mask=np.array([2.0, 3.0]))

    def backward(dout):
        layer.backward(dout)
        return layer.grads[0].copy()

    return backward


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(
    "backward",
    [
        activated(layers.Sigmoid()),
        activated(layers.Softmax()),
        activated(layers.Dropout(0.5)),
        activated(layers.TimeDropout(0.5, rng=0)),
        activated(layers.Affine(np.ones((2, 2)), np.zeros(2))),
        looked_up(layers.Embedding(np.ones((2, 2)))),
    ],
    ids=["Sigmoid", "Softmax", "Dropout", "TimeDropout", "Affine", "Embedding"],
)
def test_a_subclass_as_dout_is_an_array(backward):
    found = backward(MATRIX.view(np.matrix))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, backward(MATRIX))


def test_numbers_without_axes():
    np.random.seed(1)
    expected = np.random.random_sample() > 0.5
    np.random.seed(1)
    assert layers.Dropout(0.5).forward(np.array(3.0)) == 3 * expected
    for rng in (None, 0):
        assert layers.TimeDropout(0.5, rng).forward(np.array(1.0)) in (0.0, 2.0)
    embedding = layers.Embedding(np.arange(6.0).reshape(3, 2))
    assert embedding.forward(np.int64(2)).tolist() == [4.0, 5.0]


@pytest.mark.parametrize("kind", ["i8", "f2", "f4", "f8"])
def test_regularisation_of_any_dout(kind):
    for layer in (
        layers.ActivationRegularization(2.0),
        layers.TemporalActivationRegularization(2.0),
    ):
        layer.forward(X)
        dout = np.ones(X.shape)
        expected = layer.backward(dout)
        found = layer.backward(dout.astype(kind))
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)


def doubled(layer):
    return [2 * param for param in layer.params]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rnnfast.TimeReverse(rnnfast.TimeLSTM.create(4, 2, rng=0, dtype="f8")),
        lambda: rnnfast.TimeBiGRU.create(4, 2, rng=0, dtype="f8"),
        lambda: rnnfast.TimeStack([rnnfast.TimeBiGRU.create(4, 2, rng=0, dtype="f8")]),
        lambda: rnnfast.TimeLSTM.create(4, 2, rng=0, dtype="f8"),
    ],
    ids=["TimeReverse", "TimeBiGRU", "TimeStack", "TimeLSTM"],
)
@pytest.mark.parametrize("whole", [True, False])
def test_weights_put_into_params_compute_and_freeze(make, whole):
    layer, other = make(), make()
    for param in other.params:
        param *= 2
    if whole:
        layer.params = doubled(layer)
    else:
        for k, param in enumerate(doubled(layer)):
            layer.params[k] = param
    expected = other.forward(X, train=False)
    np.testing.assert_array_equal(layer.forward(X), expected)
    layer.params[0] = layer.params[0].copy()
    layer.freeze()
    assert not layer.params[0].flags.writeable
    np.testing.assert_array_equal(layer.forward(X, train=False), expected)
    layer.unfreeze()
    assert layer.params[0].flags.writeable


def test_gradients_of_weights_put_into_a_reversed_layer():
    layer = rnnfast.TimeReverse(rnnfast.TimeLSTM.create(4, 2, rng=0, dtype="f8"))
    layer.layer.params = doubled(layer)
    layer.grads = [np.ones_like(grad) for grad in layer.grads]
    layer.forward(X)
    layer.backward(np.ones((2, 3, 2)))
    assert layer.params is layer.layer.params and layer.grads is layer.layer.grads
    assert not any((grad == 1).all() for grad in layer.grads)


def test_lists_of_weights_must_be_lists():
    layer = layers.Affine(np.ones((2, 2)), np.zeros(2))
    layer.params = tuple(doubled(layer))
    with pytest.raises(TypeError, match="Affine: params must be a list of arrays, got tuple"):
        layer.forward(np.ones((1, 2)))


def test_a_layer_twice_in_a_stack():
    rnn = rnnfast.TimeRNN.create(3, 3, rng=0)
    for twice in ([rnn, rnn], [rnn, rnnfast.TimeStack([rnn])], [rnn, rnnfast.TimeReverse(rnn)]):
        with pytest.raises(ValueError, match="TimeStack: layers must be different ones"):
            rnnfast.TimeStack(twice)


@pytest.mark.parametrize("dropped", [True, False])
def test_a_stack_goes_back_as_it_went_forward(dropped):
    def run(change):
        parts = [rnnfast.TimeRNN.create(4, 4, rng=k, dtype="f8") for k in (0, 1)]
        stack = rnnfast.TimeStack(parts, dropout_ratio=0.5, rng=0)
        stack.drop_layers[0].train_flg = dropped
        stack.forward(X)
        if change:
            stack.drop_layers[0].train_flg = not dropped
        return stack.backward(np.ones((2, 3, 4)))

    np.testing.assert_array_equal(run(True), run(False))


TS = np.array([[0, 1, 2], [4, 3, -1]])


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_losses_of_an_affine_layer_without_bias(device):
    W = np.random.default_rng(1).standard_normal((4, 5))
    with_bias = layers.TimeAffine(W, np.zeros(5), device=device)
    without = layers.TimeAffine(W, None, device=device)
    for kind, options in (
        (TimeAffineSoftmaxWithLoss, {}),
        (TimeRegularizedSoftmaxWithLoss, {"adversarial": 0.1}),
    ):
        losses = [kind(affine, **options) for affine in (with_bias, without)]
        a, b = (loss.forward(X, TS) for loss in losses)
        assert a == b
        np.testing.assert_array_equal(*(loss.backward() for loss in losses))
        np.testing.assert_array_equal(with_bias.grads[0], without.grads[0])


def test_a_loss_computes_where_its_weights_are():
    affine = layers.TimeAffine(np.ones((4, 5)), np.zeros(5), device="cpu")
    mixture = layers.TimeMixtureSoftmax.create(4, 4, 5, K=2, rng=0, device="cpu")
    for kind, layer in (
        (layers.TimeAffineSoftmaxWithLoss, affine),
        (layers.TimeRegularizedSoftmaxWithLoss, affine),
        (layers.TimeMixtureSoftmaxWithLoss, mixture),
        (layers.TimeRegularizedMixtureSoftmaxWithLoss, mixture),
    ):
        message = f"{kind.__name__}: device must be the weights', 'cpu', got 'reference'"
        with pytest.raises(ValueError) as caught:
            kind(layer, device="reference")
        assert str(caught.value) == message
        with rnnfast.device("reference"):
            assert kind(layer).forward(X, TS) == kind(layer, device="cpu").forward(X, TS)


def test_penalties_without_training_are_zero():
    affine = layers.TimeAffine(np.ones((4, 5)), np.zeros(5), device="cpu")
    past = PastDecode(affine, np.eye(4), np.zeros(4), np.zeros(5), factor=0.5)
    mixture = layers.TimeMixtureSoftmax.create(4, 4, 5, K=2, rng=0, dtype="f8", device="cpu")
    for loss in (
        layers.TimeRegularizedSoftmaxWithLoss(affine, past=past),
        layers.TimeMixtureSoftmaxWithLoss(mixture, balance=0.1),
    ):
        more = {"previous": abs(TS)} if getattr(loss, "past", None) else {}
        loss.forward(X, TS, **more)
        assert loss.penalty > 0
        loss.forward(X, TS, train=False)
        assert loss.penalty == 0


@pytest.mark.parametrize("ids", [np.array(3), np.array([3, 0, 3]), np.zeros((2, 0), int)])
def test_rows_of_a_transpose(ids):
    W = np.arange(20.0).reshape(4, 5)
    found = load("ops", "cpu").embedding_forward(ids, W.T)
    np.testing.assert_array_equal(found, W.T[ids])
    assert not np.shares_memory(found, W)
