"""Values of gates, against the equations and against the layers."""

import numpy as np
import pytest
from cases import assert_close

import rnnfast
from rnnfast.inspection import gates

LSTM, GRU = rnnfast.TimeLSTM, rnnfast.TimeGRU
N, T, D, H = 3, 5, 4, 6
XS = np.random.default_rng(0).normal(size=(N, T, D))
LENGTHS = [5, 2, 0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def make(name, seed=1, **options):
    return getattr(rnnfast, name).create(D, H, rng=seed, dtype="float64", **options)


@pytest.mark.parametrize("peepholes", [None, "diagonal", "full"])
def test_of_an_lstm(peepholes):
    layer = make("TimeLSTM", peepholes=peepholes)
    Wx, Wh, b, *Wp = layer.params
    P = Wp[0] if Wp else np.zeros((3, H))

    def see(c, k):
        return c @ P[k] if P.ndim == 3 else c * P[k]

    found = gates(layer, XS)
    assert list(found) == ["f", "g", "i", "o", "c", "h"]
    h = c = np.zeros((N, H))
    for t in range(T):
        f, g, i, o = np.split(XS[:, t] @ Wx + h @ Wh + b, 4, axis=1)
        f, g, i = sigmoid(f + see(c, 0)), np.tanh(g), sigmoid(i + see(c, 1))
        c = f * c + g * i
        o = sigmoid(o + see(c, 2))
        h = o * np.tanh(c)
        for name, value in zip("fgioch", (f, g, i, o, c, h), strict=True):
            assert_close(found[name][:, t], value, name)


@pytest.mark.parametrize("options", [{}, {"reset_after": True}, {"z_keeps": True}])
def test_of_a_gru(options):
    layer = make("TimeGRU", **options)
    found = gates(layer, XS)
    assert list(found) == ["z", "r", "h_hat", "h"]
    h = np.zeros((N, H))
    for t in range(T):
        z, h_hat = found["z"][:, t], found["h_hat"][:, t]
        assert ((z > 0) & (z < 1) & (found["r"][:, t] > 0) & (found["r"][:, t] < 1)).all()
        h = (1 - z) * h + z * h_hat
        assert_close(found["h"][:, t], h)
    if not options:
        Wx, _, b = layer.params
        A = XS[:, 0] @ Wx + b
        assert_close(found["r"][:, 0], sigmoid(A[:, H : 2 * H]))
        assert_close(found["z"][:, 0], sigmoid(A[:, :H]))


@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeGRU"])
def test_h_is_the_output_of_the_layer(device, name):
    layer = make(name, stateful=True)
    before = layer.forward(XS)  # a state
    state = tuple(array.copy() for array in layer.state)
    found = gates(layer, XS, state, LENGTHS)
    np.testing.assert_array_equal(layer.state[0], state[0])
    assert_close(found["h"], layer.forward(XS, lengths=LENGTHS))
    assert_close(gates(layer, XS)["h"], before)
    layer.freeze()
    assert_close(gates(layer, XS)["h"], before)
    assert gates(make(name), XS.astype("f"))["h"].dtype == "float64"


@pytest.mark.parametrize(
    ("layer", "arguments", "error", "message"),
    [
        (rnnfast.TimeBiLSTM, (XS,), TypeError, "layer must be a TimeRNN, TimeLSTM or TimeGRU, got"),
        (
            LSTM,
            (XS[0],),
            ValueError,
            r"xs must be \(N, T, D\) = \(N, T, 4\), got \(5, 4",
        ),
        (LSTM, (XS.astype(str),), TypeError, "xs must be real numbers, got <U"),
        (
            LSTM,
            (XS, (np.ones((N, H)),)),
            TypeError,
            r"state must be a tuple \(h, c,\), got 1",
        ),
        (
            GRU,
            (XS, np.ones((N, H))),
            TypeError,
            r"state must be a tuple \(h,\), got ndarray",
        ),
        (
            GRU,
            (XS, (np.ones((1, H)),)),
            ValueError,
            r"h must be \(N, H\) = \(3, 6\), got",
        ),
        (
            GRU,
            (XS, None, [1]),
            ValueError,
            r"lengths must be \(N,\) = \(3,\), got \(1,\)",
        ),
    ],
)
def test_bad_arguments(layer, arguments, error, message):
    with pytest.raises(error, match=f"^gates: {message}"):
        gates(layer.create(D, H, rng=0), *arguments)
