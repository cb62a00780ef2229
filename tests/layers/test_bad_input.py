"""Bad input to layers: the exception names argument, expectation and value; nothing is changed."""

import copy

import numpy as np
import pytest

import rnnfast
from rnnfast.layers import (
    FrequencyDiscriminator,
    PastDecode,
    TimeAffineSoftmaxWithLoss,
    TimeMixtureSoftmaxWithLoss,
    TimeRegularizedMixtureSoftmaxWithLoss,
    TimeRegularizedSoftmaxWithLoss,
)

N, T, D, H, V = 2, 3, 4, 5, 6
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
TIME = ["TimeRNN", "TimeLSTM", "TimeGRU"]
BI = ["TimeBiRNN", "TimeBiLSTM", "TimeBiGRU"]


pytestmark = pytest.mark.usefixtures("device")


def randn(*shape, dtype="f4"):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def weights(name, dtype="f4"):
    G = GATES[name.removeprefix("Time").removeprefix("Bi")]
    one = [randn(D, G * H, dtype=dtype), randn(H, G * H, dtype=dtype), randn(G * H, dtype=dtype)]
    return one + [w.copy() for w in one] if "Bi" in name else one


def recurrent(name, **keywords):
    return getattr(rnnfast, name)(*weights(name), stateful=True, **keywords)


def huge(*shape, dtype="i1"):
    """A view with more elements than results of it could have bytes; it takes one byte itself."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def snapshot(layer):
    """Everything a caller can see of a layer."""
    parts = [layer, *(v for k, v in vars(layer).items() if k.startswith(("forward_", "backward_")))]
    seen = [a.copy() for part in parts for a in (*part.params, *part.grads)]
    for part in parts:
        for name in ("h", "c", "dh", "dc", "step", "ignore_label"):
            seen.append(copy.deepcopy(getattr(part, name, None)))
    return seen


def assert_rejected(error, message, method, *args, **keywords):
    """method(...), of a layer, raises just this error, and the layer stays what it was."""
    layer = method.__self__
    before = snapshot(layer)
    with pytest.raises(error, match=message) as caught:
        method(*args, **keywords)
    assert type(caught.value) is error
    for a, b in zip(snapshot(layer), before, strict=True):
        np.testing.assert_array_equal(a, b)


NOT_REAL = [
    (np.zeros((N, T, D), complex), "must be real numbers, got complex128"),
    (np.zeros((N, T, D), object), "must be real numbers, got object"),
    (np.full((N, T, D), "1"), "must be real numbers, got <U1"),
    (np.zeros((N, T, D), "M8[s]"), r"must be real numbers, got datetime64\[s\]"),
    ([[[1.0] * D] * T] * N, "must be a NumPy array, got list"),
    (None, "must be a NumPy array, got NoneType"),
]
IDS = [str(getattr(x, "dtype", type(x).__name__)) for x, _ in NOT_REAL]


# Making a layer


@pytest.mark.parametrize(
    "index, shape, message",
    [
        (0, (D, 4 * H - 1), r"Wx must be \(D, 4H\) = \(4, 20\), got \(4, 19\)"),
        (0, (4 * H,), r"Wx must be \(D, 4H\), sizes from 1 up, got \(20,\)"),
        (0, (0, 4 * H), r"Wx must be \(D, 4H\), sizes from 1 up, got \(0, 20\)"),
        (1, (H, 3 * H), r"Wh must be \(H, 4H\) = \(5, 20\), got \(5, 15\)"),
        (1, (H + 1, 4 * H), r"W[xh] must be .*H\) = .*, got"),
        (2, (H,), r"b must be \(4H,\) = \(20,\), got \(5,\)"),
        (2, (1, 4 * H), r"b must be \(4H,\) = \(20,\), got \(1, 20\)"),
    ],
)
def test_shapes_of_weights(index, shape, message):
    for name in "LSTM", "TimeLSTM":
        bad = weights("LSTM")
        bad[index] = np.zeros(shape, "f4")
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            getattr(rnnfast, name)(*bad)
    with pytest.raises(ValueError, match=r"^TimeBiLSTM: (Wx|Wh|b)2 must be \(.* got \("):
        rnnfast.TimeBiLSTM(*weights("LSTM"), *bad)


def test_shapes_of_other_weights():
    Wx, Wh, b = weights("RNN")
    with pytest.raises(ValueError, match=r"^RNN: Wx must be \(D, H\) = \(5, 5\), got \(5, 4\)"):
        rnnfast.RNN(np.zeros((H, D), "f4"), Wh, b)
    with pytest.raises(ValueError, match=r"^TimeGRU: Wx must be \(D, 3H\) = \(4, 15\), got \(4, 5"):
        rnnfast.TimeGRU(Wx, Wh)
    with pytest.raises(ValueError, match=r"^TimeAffine: b must be \(M,\) = \(3,\), got \(4,\)"):
        rnnfast.TimeAffine(randn(D, 3), randn(4))
    with pytest.raises(ValueError, match=r"^MatMul: W must be \(D, M\).*got \(3,\)"):
        rnnfast.MatMul(randn(3))
    with pytest.raises(ValueError, match=r"^TimeEmbedding: W must be \(V, D\).*got \(0, 4\)"):
        rnnfast.TimeEmbedding(randn(0, 4))


@pytest.mark.parametrize("name", ["LSTM", *TIME, *BI])
def test_dtypes_of_weights(name):
    make = getattr(rnnfast, name)
    for k, w in enumerate(weights(name)):
        argument = ("Wx", "Wh", "b")[k % 3] + str(k // 3 + 1) * ("Bi" in name)
        for wrong in w.astype("f2"), w.astype("c8"), w.astype(int), w.tolist():
            bad = weights(name)
            bad[k] = wrong
            with pytest.raises(TypeError, match=rf"^{name}: \w+ must be a .*float.* array, got"):
                make(*bad)
        with pytest.raises(TypeError, match=f"^{name}: {argument} must be .* got object"):
            make(*weights(name)[:k], w.astype(object), *weights(name)[k + 1 :])


@pytest.mark.parametrize("name", ["LSTM", *TIME, *BI, "Affine", "TimeAffine"])
def test_weights_of_two_dtypes(name):
    """A script of the book's runs that has forgotten astype at one weight."""
    affine = (np.ones((3, 2), "f"), np.ones(2, "f"))
    given = list(affine) if "Affine" in name else weights(name)
    for k in range(1, len(given)):
        mixed = [w.astype("f8") if i == k else w for i, w in enumerate(given)]
        says = (
            rf"^{name}: \w+ is float64 and the first weight float32: params has a copy in float32"
        )
        with pytest.warns(UserWarning, match=says) as said:
            layer = getattr(rnnfast, name)(*mixed)
        assert said[0].filename == __file__
        assert len(said) == 1 and all(p.dtype == "float32" for p in layer.params)
        assert all(map(np.array_equal, layer.params, given))
        assert [p is w for p, w in zip(layer.params, mixed, strict=True)].count(False) == 1
    first = [w.astype("f8") if i == 0 else w for i, w in enumerate(given)]
    with pytest.warns(UserWarning, match="is float32 and the first weight float64"):
        assert getattr(rnnfast, name)(*first).params[-1].dtype == "float64"


def test_other_arguments():
    with pytest.raises(ValueError, match=r"^TimeRNN: nonlinearity must be .* got 'sigmoid'"):
        rnnfast.TimeRNN(*weights("RNN"), nonlinearity="sigmoid")
    with pytest.raises(TypeError, match=r"^TimeGRU: b must be an array or None, got bool"):
        rnnfast.TimeGRU(*weights("GRU")[:2], True, True)
    with pytest.raises(TypeError, match=r"^TimeBiGRU: b1 must be a float32 array, got bool"):
        rnnfast.TimeBiGRU(*weights("GRU")[:2], True, *weights("GRU"))
    with pytest.raises(TypeError, match=r"^TimeBiGRU: b2 must be None as b1 is, got ndarray"):
        rnnfast.TimeBiGRU(*weights("GRU")[:2], None, *weights("GRU"))
    narrow = [w[:, : -GATES["GRU"]] if w.ndim == 2 else w for w in weights("GRU")]
    with pytest.raises(ValueError, match=r"^TimeBiGRU: Wx2 must be|^TimeBiGRU: Wh2 must be"):
        rnnfast.TimeBiGRU(*weights("GRU"), *narrow)


@pytest.mark.parametrize("make", [recurrent, lambda _, **k: rnnfast.TimeSoftmaxWithLoss(**k)])
def test_device(make):
    with pytest.raises(ValueError, match=r"device must be one of .* got 'tpu'"):
        make("TimeLSTM", device="tpu")
    with pytest.raises(TypeError, match=r"device must be a str, got int"):
        make("TimeLSTM", device=0)
    if "cuda" not in rnnfast.devices():
        with pytest.raises(RuntimeError, match=r"device 'cuda' is not usable: "):
            make("TimeLSTM", device="cuda")


@pytest.mark.parametrize("layer_class", [rnnfast.Dropout, rnnfast.TimeDropout])
def test_dropout_ratio(layer_class):
    name = layer_class.__name__
    for wrong in 1, 1.0, -0.1, 2, np.nan, np.inf, np.float32(-1):
        with pytest.raises(ValueError, match=rf"^{name}: dropout_ratio must be in \[0, 1\), got"):
            layer_class(wrong)
    for wrong in "0.5", None, 0.5j, True, [0.5], np.array([0.5]):
        with pytest.raises(TypeError, match=f"^{name}: dropout_ratio must be a number, got"):
            layer_class(wrong)
    layer = layer_class(0.5)
    layer.dropout_ratio = 1.5
    drawn = np.random.get_state()[2]
    assert_rejected(ValueError, "got 1.5", layer.forward, randn(N, T, D))
    assert np.random.get_state()[2] == drawn


def test_seed_of_dropout():
    for wrong in 0.5, "seed", True, (1, 2.0), np.random.default_rng(1):
        with pytest.raises(TypeError, match=r"^TimeDropout: rng must be an integer, got"):
            rnnfast.TimeDropout(0.5, rng=wrong)
    for wrong in -1, 2**64, (1, -1), (), (1, 2, 3):
        with pytest.raises(ValueError, match=r"^TimeDropout: rng must be"):
            rnnfast.TimeDropout(0.5, rng=wrong)


def test_variational_dropout():
    for wrong in None, 1, "yes", [True]:
        with pytest.raises(TypeError, match=r"^TimeDropout: variational must be a bool, got"):
            rnnfast.TimeDropout(0.5, variational=wrong)
    layer = rnnfast.TimeDropout(0.5, 1, variational=True)
    for shape in (N, D), (D,), (N, T, D, 1):
        match = r"^TimeDropout: xs must be \(N, T, D\), variational, got \("
        assert_rejected(ValueError, match, layer.forward, randn(*shape))
    assert_rejected(TypeError, "shape must be a tuple of sizes", layer.draw, randn(N, T, D), 3)
    assert_rejected(TypeError, "shape must be an integer", layer.draw, randn(N, T, D), (1.0,))
    assert_rejected(ValueError, "shape must not be negative", layer.draw, randn(N, T, D), (1, -1))
    assert_rejected(TypeError, "xs must be a NumPy array", layer.draw, [1.0], (1, 1))
    assert layer.step == 0


# Recurrent layers


@pytest.mark.parametrize("name", [*TIME, *BI])
def test_input_of_forward(name):
    layer = recurrent(name)
    layer.forward(randn(N, T, D))
    for xs, message in NOT_REAL:
        match = f"^{name}: xs {message}"
        assert_rejected(TypeError, match, layer.forward, xs)
    for shape in (N, T), (N, T, D + 1), (N, T, D, 1), (D,), (), (N, T, 0):
        xs = randn(*shape) if shape else np.array(1.0)
        match = rf"^{name}: xs must be \(N, T, D\) = \(N, T, 4\), got \({str(shape)[1:-1]}\)"
        assert_rejected(ValueError, match, layer.forward, xs)
    for xs in huge(2**30, 2**29, D), huge(2**59, 1, D), huge(0, 2**60, D):
        match = f"^{name}: an array .* too large to address"
        assert_rejected(ValueError, match, layer.forward, xs)


@pytest.mark.parametrize("name", TIME)
def test_mask_of_forward(name):
    layer = recurrent(name)
    xs = randn(N, T, D)
    for mask, message in NOT_REAL[:-1]:  # None is no mask
        match = f"^{name}: h_mask {message}"
        assert_rejected(TypeError, match, layer.forward, xs, h_mask=mask)
    for shape in (N, H + 1), (N + 1, H), (H,), (1, H), (N, 1, H):
        match = rf"^{name}: h_mask must be \(N, H\) = \(2, 5\), got \("
        assert_rejected(ValueError, match, layer.forward, xs, h_mask=randn(*shape))


@pytest.mark.parametrize("name", TIME)
def test_state(name):
    layer = recurrent(name)
    states = ("h", "c") if name == "TimeLSTM" else ("h",)
    zeros = np.zeros((N, H), "f4")
    layer.set_state(*[zeros] * len(states))
    for k, which in enumerate(states):
        for wrong, error, message in (
            (zeros[:, 1:], ValueError, r"must be \(N, H\) = \(N, 5\), got \(2, 4\)"),
            (zeros[0], ValueError, r"must be \(N, H\) = \(N, 5\), got \(5,\)"),
            (zeros.astype(complex), TypeError, "must be real numbers, got complex128"),
            (0.0, TypeError, "must be a NumPy array, got float"),
        ):
            state = [zeros + 1] * len(states)
            state[k] = wrong
            match = f"^{name}: {which} {message}"
            assert_rejected(error, match, layer.set_state, *state)
        # the batch is known when xs comes, and h or c may have been assigned
        for wrong, error, message in (
            (np.zeros((N + 1, H)), ValueError, r"must be \(N, H\) = \(2, 5\), got \(3, 5\)"),
            (np.zeros((1, H)), ValueError, r"must be \(N, H\) = \(2, 5\), got \(1, 5\)"),
            ("state", TypeError, "must be a NumPy array, got str"),
        ):
            layer.reset_state()
            setattr(layer, which, wrong)
            match = f"^{name}: {which} {message}"
            assert_rejected(error, match, layer.forward, randn(N, T, D))
        layer.reset_state()


def test_state_of_both_directions_is_checked_before_either_runs():
    layer = recurrent("TimeBiLSTM")
    layer.forward(randn(N, T, D))
    layer.backward_lstm.h = np.zeros((N + 1, H), "f4")
    match = r"^TimeBiLSTM: h must be \(N, H\) = \(2, 5\), got \(3, 5\)"
    assert_rejected(ValueError, match, layer.forward, randn(N, T, D))


@pytest.mark.parametrize("name", [*TIME, *BI])
def test_gradient_of_backward(name):
    layer, wide = recurrent(name), 2 * H if "Bi" in name else H
    for g in layer.grads:
        g.fill(7)
    layer.forward(randn(N, T, D))
    label = "2H" if "Bi" in name else "H"
    for wrong in randn(N, T, wide + 1), randn(N + 1, T, wide), randn(N, 1, wide), randn(T, wide):
        match = rf"^{name}: dhs must be \(N, T, {label}\) = \(2, 3, {wide}\), got"
        assert_rejected(ValueError, match, layer.backward, wrong)
    for wrong, message in NOT_REAL:
        if wrong is None:  # zeros
            continue
        match = f"^{name}: dhs {message}"
        assert_rejected(TypeError, match, layer.backward, wrong)
    dhs = randn(N, T, wide)
    if "Bi" not in name:
        match = rf"^{name}: dh must be \(N, H\) = \(2, 5\), got \(1, 5\)"
        assert_rejected(ValueError, match, layer.backward, dhs, np.zeros((1, H)))
        assert_rejected(TypeError, "dh must be a NumPy", layer.backward, dhs, 1.0)
    if name == "TimeLSTM":
        match = rf"^{name}: dc must be \(N, H\) = \(2, 5\), got \(5,\)"
        assert_rejected(ValueError, match, layer.backward, dhs, None, np.zeros(H))
    layer.backward(dhs)  # the refused calls have left the cache as it was
    assert not np.any(layer.grads[-1] == 7)


@pytest.mark.parametrize("name", [*TIME, *BI])
def test_backward_without_its_forward(name):
    layer, wide = recurrent(name), 2 * H if "Bi" in name else H
    dhs = randn(N, T, wide)
    match = f"^{name}: backward needs the forward"
    assert_rejected(RuntimeError, match, layer.backward, dhs)
    layer.forward(randn(N, T, D))
    layer.backward(dhs)
    assert_rejected(RuntimeError, match, layer.backward, dhs)
    layer.forward(randn(N, T, D))
    layer.forward(randn(N, T, D), train=False)
    assert_rejected(RuntimeError, match, layer.backward, dhs)


@pytest.mark.parametrize("name", TIME)
def test_params_and_grads_put_in_by_the_caller(name):
    layer, other = recurrent(name), recurrent(name)
    G = GATES[name.removeprefix("Time")]
    label = r"\(D, H\)" if G == 1 else rf"\(D, {G}H\)"
    xs, dhs = randn(N, T, D), randn(N, T, H)
    layer.forward(xs)
    for which, call in (
        ("params", lambda: layer.forward(xs)),
        ("grads", lambda: layer.backward(dhs)),
    ):
        arrays, argument = getattr(layer, which), "Wx" if which == "params" else r"grads \(dWx\)"
        kept = arrays[0]
        for wrong, error, message in (
            (kept[:, 1:], ValueError, rf"{argument} must be {label} = \(4, {G * H}\), got"),
            (kept.astype("f8"), TypeError, f"{argument} must be a float32 array, got float64"),
            (kept.tolist(), TypeError, f"{argument} must be a float32 array, got list"),
        ):
            arrays[0] = wrong
            with pytest.raises(error, match=f"^{name}: {message}"):
                call()
        arrays[0] = kept
        last = arrays.pop()
        with pytest.raises(ValueError, match=f"^{name}: {which} must hold Wx, Wh, b, got 2 arrays"):
            call()
        arrays.append(last)
    with pytest.raises(ValueError, match=f"^{name}: Wh must be"):
        layer.Wh = layer.Wh[:-1]
    for g in layer.grads:
        g.flags.writeable = False
        match = rf"^{name}: grads \(d\w+\) must be writeable, got read-only"
        assert_rejected(ValueError, match, layer.backward, dhs)
        g.flags.writeable = True
    layer.backward(dhs)
    other.forward(xs)
    other.backward(dhs)
    for a, b in zip(layer.grads, other.grads, strict=True):
        np.testing.assert_array_equal(a, b)


def test_read_only_grads_of_the_second_direction():
    layer = recurrent("TimeBiGRU")
    layer.forward(randn(N, T, D))
    layer.grads[4].flags.writeable = False
    match = r"^TimeBiGRU: grads \(dWh\) must be writeable"
    assert_rejected(ValueError, match, layer.backward, randn(N, T, 2 * H))


def test_one_step():
    x, h, c = randn(N, D), randn(N, H), randn(N, H)
    layer = rnnfast.LSTM(*weights("LSTM"))
    assert_rejected(RuntimeError, "^LSTM: backward needs", layer.backward, h, c)
    layer.forward(x, h, c)
    assert_rejected(ValueError, r"x must be \(N, D\) = \(N, 4\), got", layer.forward, h, h, c)
    assert_rejected(TypeError, "x must be real", layer.forward, x.astype("c8"), h, c)
    assert_rejected(ValueError, r"h_prev must be \(N, H\) = \(2, 5\)", layer.forward, x, x, c)
    assert_rejected(ValueError, r"c_prev must be \(N, H\) = \(2, 5\)", layer.forward, x, h, c[:1])
    assert_rejected(ValueError, r"dh_next must be \(N, H\) = \(2, 5\)", layer.backward, x, c)
    assert_rejected(ValueError, r"dc_next must be \(N, H\) = \(2, 5\)", layer.backward, h, c[0])
    assert_rejected(ValueError, "too large", layer.forward, huge(2**60, D), h, c)
    layer.backward(h, c)
    assert_rejected(RuntimeError, "^LSTM: backward needs", layer.backward, h, c)


# Affine, embedding, dropout, activations


def test_affine():
    for layer, name in (
        (rnnfast.TimeAffine(randn(D, 3), randn(3)), "TimeAffine"),
        (rnnfast.Affine(randn(D, 3), randn(3)), "Affine"),
        (rnnfast.MatMul(randn(D, 3)), "MatMul"),
    ):
        match = f"^{name}: backward needs the forward"
        assert_rejected(RuntimeError, match, layer.backward, randn(N, T, 3))
        layer.forward(randn(N, T, D))
        for xs, message in NOT_REAL:
            assert_rejected(TypeError, f"^{name}: x {message}", layer.forward, xs)
        wrong = randn(N, T, D + 1)
        assert_rejected(ValueError, rf"^{name}: x must be .* 4\), got", layer.forward, wrong)
        big = huge(2**30, 2**30, D)
        assert_rejected(ValueError, f"^{name}: an array .* too large", layer.forward, big)
        wrong = randn(N, 1, 3)
        assert_rejected(ValueError, rf"^{name}: dout .*\(2, 3, 3\), got", layer.backward, wrong)
        layer.grads[0].flags.writeable = False
        match = rf"^{name}: grads \(dW\) must be writeable"
        assert_rejected(ValueError, match, layer.backward, randn(N, T, 3))
    layer = rnnfast.TimeAffine(randn(D, 3), randn(3))
    match = r"^TimeAffine: x must be \(N, T, D\)"
    assert_rejected(ValueError, match, layer.forward, randn(N, D))


@pytest.mark.parametrize("name, argument", [("TimeEmbedding", "xs"), ("Embedding", "idx")])
def test_embedding(name, argument):
    layer = getattr(rnnfast, name)(randn(V, D))
    layer.grads[0].fill(7)
    ids = np.zeros((N, T), int)
    match = f"^{name}: backward needs the forward"
    assert_rejected(RuntimeError, match, layer.backward, randn(N, T, D))
    layer.forward(ids)
    for dtype in (float, bool, complex, object, str):
        match = f"^{name}: {argument} must be integers, got"
        wrong = ids.astype(dtype)
        assert_rejected(TypeError, match, layer.forward, wrong)
    for value in -1, V, 2**40, -(2**40):
        wrong = ids.astype(np.int64)
        wrong[1, 2] = value
        match = rf"^{name}: {argument} must be in \[0, 6\), got {value}"
        assert_rejected(ValueError, match, layer.forward, wrong)
    wrong = np.full((N, T), 2**64 - 1, "u8")
    assert_rejected(ValueError, f"got {2**64 - 1}", layer.forward, wrong)
    big = huge(2**31, 2**31)
    assert_rejected(ValueError, f"^{name}: an array .* large", layer.forward, big)
    match = rf"^{name}: dout must be .*\(2, 3, 4\), got \(2, 3, 5\)"
    assert_rejected(ValueError, match, layer.backward, randn(N, T, D + 1))
    layer.grads[0].flags.writeable = False
    assert_rejected(ValueError, "writeable", layer.backward, randn(N, T, D))
    if name == "TimeEmbedding":
        match = r"^TimeEmbedding: xs must be \(N, T\), got \(3,\)"
        assert_rejected(ValueError, match, layer.forward, ids[0])


def test_dropout():
    for layer in rnnfast.TimeDropout(0.5), rnnfast.TimeDropout(0.5, rng=1), rnnfast.Dropout():
        name = type(layer).__name__
        for xs, message in NOT_REAL:
            match = f"^{name}: xs? {message}"
            assert_rejected(TypeError, match, layer.forward, xs)
        match = f"^{name}: backward needs the forward of a training step"
        assert_rejected(RuntimeError, match, layer.backward, randn(N, T, D))
        layer.forward(randn(N, T, D))
        match = f"^{name}: dout must be .* got"
        assert_rejected(ValueError, match, layer.backward, randn(N, 1, D))
        layer.train_flg = False
        layer.forward(randn(N, T, D), **({"train_flg": False} if name == "Dropout" else {}))
        match = f"^{name}: backward needs the forward of a training step"
        assert_rejected(RuntimeError, match, layer.backward, randn(N, T, D))


@pytest.mark.parametrize("name", ["Softmax", "Sigmoid"])
def test_activations(name):
    layer = getattr(rnnfast, name)()
    assert_rejected(RuntimeError, "backward needs", layer.backward, randn(N, D))
    for x, message in NOT_REAL:
        match = f"^{name}: x {message}"
        assert_rejected(TypeError, match, layer.forward, x)
    layer.forward(randn(N, D))
    assert_rejected(ValueError, "dout must", layer.backward, randn(N, 1))


# Losses

SOFTMAX = {"SoftmaxWithLoss": (N, V), "TimeSoftmaxWithLoss": (N, T, V)}
SOFTMAX["Simple_TimeSoftmaxWithLoss"] = (N, T, V)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_loss(name):
    layer, shape = getattr(rnnfast, name)(), SOFTMAX[name]
    x, t = ("x", "t") if name == "SoftmaxWithLoss" else ("xs", "ts")
    scores, targets = randn(*shape), np.zeros(shape[:-1], int)

    def reject(error, message, *args):
        assert_rejected(error, f"^{name}: {message}", layer.forward, *args)

    match = f"^{name}: backward needs the forward"
    assert_rejected(RuntimeError, match, layer.backward)
    for wrong, message in NOT_REAL:
        reject(TypeError, f"{x} {message}", wrong, targets)
        reject(TypeError, f"{t} {message}", scores, wrong)
    reject(ValueError, rf"{x} must be \(N, .*V\), V from 1 up, got", scores[0], targets[0])
    reject(ValueError, f"{x} must be .* got", scores[..., :0], targets)
    reject(ValueError, rf"{t} must be ids .* or one-hot \(N, .* got", scores, targets[:1])
    reject(ValueError, f"{t} must be ids", scores, np.zeros((*shape[:-1], V + 1)))
    reject(TypeError, f"{t} must be integers, got float64", scores, targets.astype(float))
    reject(TypeError, f"{t} must be integers, got bool", scores, targets.astype(bool))
    wrong_ids = [V, -2, 2**40] + ([] if name == "TimeSoftmaxWithLoss" else [-1])
    for value in wrong_ids:
        wrong = targets.astype(np.int64)
        wrong.flat[-1] = value
        reject(ValueError, rf"{t} must be in \[0, 6\), got {value}$", scores, wrong)
    if name == "TimeSoftmaxWithLoss":
        layer.ignore_label = 99
        reject(ValueError, r"ts must be in \[0, 6\), got -1$", scores, targets - 1)
        layer.ignore_label = None
        reject(TypeError, "ignore_label must be an integer, got NoneType", scores, targets)
        layer.ignore_label = -1
    layer.forward(scores, targets)
    match = f"^{name}: dout must be a real number, got"
    for wrong in "1", 1j, None, np.ones((2, 2)):
        assert_rejected(TypeError, match, layer.backward, wrong)
    layer.backward(1)


@pytest.mark.parametrize("name", ["SigmoidWithLoss", "TimeSigmoidWithLoss"])
def test_sigmoid_loss(name):
    layer = getattr(rnnfast, name)()
    scores, targets = randn(N, T), np.ones((N, T), int)

    def reject(error, message, *args):
        assert_rejected(error, f"^{name}: {message}", layer.forward, *args)

    assert_rejected(RuntimeError, "backward needs", layer.backward)
    reject(TypeError, "ts? must be integers, got float64", scores, targets.astype(float))
    reject(TypeError, "xs? must be real numbers", scores.astype(complex), targets)
    reject(ValueError, r"ts? must be \(2, 3\), got \(2, 1\)", scores, targets[:, :1])
    for value in -1, 2:
        reject(ValueError, rf"ts? must be in \[0, 2\), got {value}", scores, targets * value)
    if name == "TimeSigmoidWithLoss":
        reject(ValueError, r"xs must be \(N, T\), got \(2,\)", scores[:, 0], targets[:, 0])


def test_squared_loss():
    layer = rnnfast.TimeSquaredLoss()
    xs = randn(N, T, D)

    def reject(error, message, *args):
        assert_rejected(error, f"^TimeSquaredLoss: {message}", layer.forward, *args)

    assert_rejected(RuntimeError, "backward needs", layer.backward)
    for wrong, message in NOT_REAL:
        reject(TypeError, f"xs {message}", wrong, xs)
        reject(TypeError, f"ts {message}", xs, wrong)
    reject(ValueError, r"xs must be \(N, T, D\) or \(N, T\), got \(4,\)", xs[0, 0], xs[0, 0])
    reject(ValueError, r"ts must be like xs, \(2, 3, 4\), got \(2, 3\)", xs, xs[:, :, 0])


def test_cross_entropy_error():
    y = np.array([[0.25, 0.75], [0.5, 0.5]])
    for t, error in (
        (np.array([0, 2]), ValueError),
        (np.array([0, -1]), ValueError),
        (np.array([0, 1, 1]), ValueError),
        (np.array([0.0, 1.0]), TypeError),
        ([0, 1], TypeError),
    ):
        with pytest.raises(error, match=r"^cross_entropy_error: t must be"):
            rnnfast.cross_entropy_error(y, t)


@pytest.mark.parametrize("wrong", ["i8", "f2", "O", "f8", None])
def test_weights_beside_another_layer_have_its_dtype(wrong):
    words, affine = rnnfast.Embedding(randn(V, D)), rnnfast.TimeAffine(randn(D, V), randn(V))
    W, b = (np.zeros((D, 1)), np.zeros(1)) if wrong is None else (randn(D, 1), randn(1))
    W = W.tolist() if wrong is None else W.astype(wrong)
    with pytest.raises(TypeError, match=r"^FrequencyDiscriminator: W must be a float32 array, got"):
        FrequencyDiscriminator(words, W, b)
    W = randn(D, D).tolist() if wrong is None else randn(D, D).astype(wrong)
    with pytest.raises(TypeError, match=r"^PastDecode: W must be a float32 array, got"):
        PastDecode(affine, W, randn(D), randn(V))


def test_layers_that_belong_to_others():
    W, b = randn(D, D), randn(D)
    with pytest.raises(TypeError, match=r"^PastDecode: affine must be a TimeAffine or .* got No"):
        PastDecode(None, W, b, randn(V))
    with pytest.raises(TypeError, match=r"^FrequencyDiscriminator: embedding must be .* got NoneT"):
        FrequencyDiscriminator(None, randn(D, 1), randn(1))
    for loss in TimeAffineSoftmaxWithLoss, TimeRegularizedSoftmaxWithLoss:
        with pytest.raises(TypeError, match=r"affine must be a TimeAffine or Affine, got None"):
            loss(None)
    for loss in TimeMixtureSoftmaxWithLoss, TimeRegularizedMixtureSoftmaxWithLoss:
        with pytest.raises(TypeError, match=r"mixture must be a TimeMix.* got None"):
            loss(None)


def test_a_discriminator_that_cannot_learn():
    words = rnnfast.Embedding(randn(V, D))
    layer = FrequencyDiscriminator(words, randn(D, 1), randn(1))
    layer.count_words(np.arange(V))
    layer.W.flags.writeable = False
    with pytest.raises(ValueError, match=r"^FrequencyDiscriminator: W must be writeable, got read"):
        layer.forward()
