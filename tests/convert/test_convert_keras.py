"""Converted layers against Keras' own, which runs on PyTorch here; float32."""

import os

import numpy as np
import pytest
from cases import assert_close

import rnnfast
from rnnfast import convert

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

pytestmark = [
    pytest.mark.usefixtures("device", "one_torch_thread"),
    # Keras: np.array(tensor), with NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning"),
]

N, T, D, H = 4, 6, 3, 5
KINDS = {
    "rnn": (keras.layers.SimpleRNN, {}, {}),
    "relu": (keras.layers.SimpleRNN, {"activation": "relu"}, {"nonlinearity": "relu"}),
    "lstm": (keras.layers.LSTM, {}, {}),
    "gru": (keras.layers.GRU, {}, {}),
    "gru, reset before": (
        keras.layers.GRU,
        {"reset_after": False},
        {"reset_after": False},
    ),
}

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def run(layer, xs, **options):
    """hs, then the final states."""
    return [keras.ops.convert_to_numpy(y) for y in layer(xs, **options)]


def make(kind, rng, both=False, **options):
    """A layer of Keras with random weights, biases too."""
    cls, own, _ = KINDS[kind]
    options = {"return_sequences": True, "return_state": True, **own, **options}
    layer = cls(H, **options)
    if both:
        layer = keras.layers.Bidirectional(layer)
    run(layer, np.zeros((1, 1, D), "f4"))
    layer.set_weights([rng.normal(0, 0.5, w.shape).astype("f4") for w in layer.get_weights()])
    return layer


@each_kind
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_values(kind, both, bias, rng):
    theirs = make(kind, rng, both, use_bias=bias)
    weights = theirs.get_weights()
    ours = convert.from_keras(weights, **KINDS[kind][2])
    xs = rng.normal(size=(N, T, D)).astype("f4")
    for got, expected in zip((ours.forward(xs), *ours.state), run(theirs, xs), strict=True):
        assert_close(got, expected)
    for got, expected in zip(convert.to_keras(ours), weights, strict=True):
        assert got.tobytes() == expected.tobytes()


@each_kind
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_a_layer_tells_its_options(kind, both, rng):
    theirs = make(kind, rng, both)
    xs = rng.normal(size=(N, T, D)).astype("f4")
    assert_close(convert.from_keras(theirs).forward(xs), run(theirs, xs)[0])


def test_layers_that_cannot_be_expressed():
    layers = keras.layers
    for layer, message in (
        (layers.LSTM(H, activation="relu"), r"activation must be 'tanh', got 'relu'"),
        (
            layers.GRU(H, recurrent_activation="hard_sigmoid"),
            r"recurrent_activation must be 'sig",
        ),
        (layers.GRU(H, go_backwards=True), r"go_backwards must be False, got True"),
        (
            layers.Bidirectional(layers.LSTM(H), merge_mode="sum"),
            r"merge_mode must be 'concat'",
        ),
        (
            layers.Bidirectional(layers.LSTM(H, activation="relu")),
            r"forward activation must be",
        ),
        (layers.SimpleRNN(H, activation="selu"), r"nonlinearity must be"),
    ):
        layer.build((None, T, D))
        with pytest.raises(ValueError, match=rf"^(from_keras|TimeRNN): {message}"):
            convert.from_keras(layer)
    with pytest.raises(ValueError, match=r"^from_keras: the layer must be built"):
        convert.from_keras(layers.LSTM(H))
    with pytest.raises(TypeError, match=r"^from_keras: weights must be a SimpleRNN, .* got Dense"):
        convert.from_keras(layers.Dense(H))


@each_kind
def test_keras_takes_what_we_give(kind, rng):
    theirs = make(kind, rng, both=True)
    ours = convert.from_keras(theirs.get_weights(), **KINDS[kind][2])
    for param in ours.params:
        param *= 0.9
    theirs.set_weights(convert.to_keras(ours))
    xs = rng.normal(size=(N, T, D)).astype("f4")
    assert_close(ours.forward(xs), run(theirs, xs)[0])


@each_kind
def test_a_mask_at_the_end_is_lengths(kind, rng):
    """Keras repeats the last output there, but not where both directions are read."""
    theirs = make(kind, rng, both=True)
    ours = convert.from_keras(theirs.get_weights(), **KINDS[kind][2])
    xs, lengths = rng.normal(size=(N, T, D)).astype("f4"), np.array([6, 2, 1, 4])
    expected = run(theirs, xs, mask=np.arange(T) < lengths[:, None])
    for got, y in zip((ours.forward(xs, lengths=lengths), *ours.state), expected, strict=True):
        assert_close(got, y)


@each_kind
def test_backwards_alone(kind, rng):
    theirs = make(kind, rng, go_backwards=True)
    ours = rnnfast.TimeReverse(convert.from_keras(theirs.get_weights(), **KINDS[kind][2]))
    xs = rng.normal(size=(N, T, D)).astype("f4")
    hs, *states = run(theirs, xs)
    assert_close(ours.forward(xs), hs[:, ::-1])
    for got, expected in zip(ours.state, states, strict=True):
        assert_close(got, expected)
    for got, expected in zip(convert.to_keras(ours), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)
