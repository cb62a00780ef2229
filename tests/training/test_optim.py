"""SGD, Adam and clipping against their formulas; shared parameters."""

import math

import numpy as np
import pytest

from rnnfast.optim import (
    ASGD,
    NTASGD,
    OPTIMIZERS,
    SGD,
    AdaGrad,
    Adam,
    Momentum,
    Nesterov,
    RMSprop,
    clip_grads,
    remove_duplicate,
)

everyone = pytest.mark.parametrize("optimizer", OPTIMIZERS.values())
TOLERANCES = [(np.float32, 1e-6), (np.float64, 1e-14)]


def arrays(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in [(3, 4), (4,), (2, 2)]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd(dtype):
    params, grads = arrays(0, dtype), arrays(1, dtype)
    before = [param.copy() for param in params]
    SGD(lr=0.5).update(params, grads)
    for param, old, grad in zip(params, before, grads, strict=True):
        np.testing.assert_array_equal(param, old - dtype(0.5) * grad)
        assert param.dtype == dtype


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("kind", [SGD, ASGD, NTASGD])
def test_weight_decay(kind, dtype, tolerance):
    """As the gradient of weight_decay |p|^2 / 2; gradients are only read."""
    params, optimizer = arrays(0, dtype), kind(lr=0.5, weight_decay=0.3)
    expected = [param.astype("f8") for param in params]
    for step in range(1, 5):
        grads = arrays(step, dtype)
        optimizer.update(params, grads)
        for p, grad, same in zip(expected, grads, arrays(step, dtype), strict=True):
            p -= 0.5 * (grad + 0.3 * p)
            np.testing.assert_array_equal(grad, same)
    for param, p in zip(params, expected, strict=True):
        np.testing.assert_allclose(param, p, rtol=0, atol=10 * tolerance)
    other = kind()
    other.load_state_dict(optimizer.state_dict())
    assert other.weight_decay == 0.3
    with pytest.raises(ValueError, match="weight_decay must be finite, from 0 up, got -1"):
        kind(weight_decay=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_adam_against_the_paper(dtype, tolerance):
    """Element by element, with the bias correction moved into the rate, epsilon 1e-7."""
    params, optimizer = arrays(0, dtype), Adam(lr=0.01, beta1=0.8, beta2=0.95)
    identities = [id(param) for param in params]
    expected = [param.astype(np.float64) for param in params]
    m = [np.zeros_like(param) for param in expected]
    v = [np.zeros_like(param) for param in expected]
    for step in range(1, 4):
        grads = arrays(step, dtype)
        optimizer.update(params, grads)
        for i, grad in enumerate(grads):
            for k in np.ndindex(grad.shape):
                g = float(grad[k])
                m[i][k] = 0.8 * m[i][k] + 0.2 * g
                v[i][k] = 0.95 * v[i][k] + 0.05 * g * g
                rate = 0.01 * math.sqrt(1 - 0.95**step) / (1 - 0.8**step)
                expected[i][k] -= rate * m[i][k] / (math.sqrt(v[i][k]) + 1e-7)
    assert [id(param) for param in params] == identities
    for param, wanted in zip(params, expected, strict=True):
        assert param.dtype == dtype
        np.testing.assert_allclose(param, wanted, rtol=0, atol=tolerance)
    assert all(moment.dtype == dtype for moment in optimizer.m + optimizer.v)


def scalars(value, momentum=0.9, decay_rate=0.99):
    """The books of one element under the simple rules, as generators of its value."""

    def momentum_(lr):
        p, v = value, 0.0
        while True:
            g = yield p
            v = momentum * v - lr * g
            p += v

    def nesterov(lr):
        p, v = value, 0.0
        while True:
            g = yield p
            v *= momentum
            v -= lr * g
            p += momentum * momentum * v
            p -= (1 + momentum) * lr * g

    def adagrad(lr):
        p, h = value, 0.0
        while True:
            g = yield p
            h += g * g
            p -= lr * g / (math.sqrt(h) + 1e-7)

    def rmsprop(lr):
        p, h = value, 0.0
        while True:
            g = yield p
            h = decay_rate * h + (1 - decay_rate) * g * g
            p -= lr * g / (math.sqrt(h) + 1e-7)

    return {Momentum: momentum_, Nesterov: nesterov, AdaGrad: adagrad, RMSprop: rmsprop}


@pytest.mark.parametrize("optimizer", [Momentum, Nesterov, AdaGrad, RMSprop])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_simple_rules_element_by_element(optimizer, dtype, tolerance):
    params, tested = arrays(0, dtype), optimizer(lr=0.05)
    identities = [id(param) for param in params]
    rules = {}
    for i, param in enumerate(params):
        for k in np.ndindex(param.shape):
            rules[i, k] = scalars(float(param[k]))[optimizer](0.05)
            next(rules[i, k])
    for step in range(1, 5):
        grads = arrays(step, dtype)
        tested.update(params, grads)
        for (i, k), rule in rules.items():
            assert params[i][k] == pytest.approx(rule.send(float(grads[i][k])), abs=tolerance)
    assert [id(param) for param in params] == identities
    assert [param.dtype for param in params] == [dtype] * 3


def test_defaults_are_the_books():
    assert Momentum().state_dict() == {"lr": 0.01, "momentum": 0.9, "v": None}
    assert AdaGrad().state_dict() == {"lr": 0.01, "h": None}
    assert RMSprop().state_dict() == {"lr": 0.01, "decay_rate": 0.99, "h": None}
    adam = {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "iter": 0, "m": None, "v": None}
    assert Adam().state_dict() == adam
    plain = {"lr": 0.01, "weight_decay": 0.0}
    assert SGD().state_dict() == plain
    assert ASGD().state_dict() == plain | {"iter": 0, "start": 0, "mean": None}
    trigger = {"iter": 0, "start": None, "interval": 5, "ppls": (), "mean": None}
    assert NTASGD().state_dict() == plain | trigger


@everyone
def test_a_restored_state_goes_on_exactly(optimizer):
    uninterrupted, first, second = (optimizer(0.05), optimizer(0.05), optimizer())
    expected, params = arrays(0, np.float32), arrays(0, np.float32)
    for step in range(1, 7):
        uninterrupted.update(expected, arrays(step, np.float32))
        if step == 4:
            state = first.state_dict()
            first.update(arrays(8, np.float32), arrays(9, np.float32))  # state holds copies
            second.load_state_dict(state)
            assert second.lr == 0.05
        (first if step < 4 else second).update(params, arrays(step, np.float32))
    for param, wanted in zip(params, expected, strict=True):
        np.testing.assert_array_equal(param, wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": "0.1"},
        {"iter": None},
        {"m": None},
        {"v": [np.zeros(2)]},
        {"v": [1, 2, 3]},
        {"extra": 1},
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change):
    optimizer = Adam()
    optimizer.update(arrays(0), arrays(1))
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"Adam: (state|lr|iter|m, v) must"):
        optimizer.load_state_dict({**before, **change})
    with pytest.raises(ValueError, match=r"Adam: state must have .*, got list"):
        optimizer.load_state_dict([])
    assert repr(optimizer.state_dict()) == repr(before)


@everyone
def test_other_parameters_are_refused(optimizer):
    tested, params = optimizer(), arrays(0)
    tested.update(params, arrays(1))
    there = any(getattr(tested, name) for name in tested.arrays)  # NTASGD has not begun
    if there:
        with pytest.raises(ValueError, match="not those of the first update"):
            tested.update(params[:2], arrays(1)[:2])
    if there and tested.dtype is None:  # else its arrays do not tell those of the params
        with pytest.raises(ValueError, match="not those of the first update"):
            tested.update(arrays(0, np.float32), arrays(1))


def test_clip_grads():
    grads = [np.array([3.0, 0.0]), np.array([[4.0]])]
    identities = [id(grad) for grad in grads]
    assert clip_grads(grads, 10.0) == 5.0
    assert grads[0].tolist() == [3.0, 0.0] and grads[1].tolist() == [[4.0]]  # below: untouched
    assert clip_grads(grads, 1.0) == 5.0
    np.testing.assert_allclose(grads[0], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(grads[1], [[0.8]], rtol=1e-6)
    assert [id(grad) for grad in grads] == identities


def test_clip_norm_is_summed_in_float64():
    grads = [np.full(4_000_000, 1e-3, np.float32), np.array([1e3], np.float32)]
    expected = math.sqrt(4_000_000 * float(np.float32(1e-3)) ** 2 + 1e6)
    assert clip_grads(grads, 1e9) == pytest.approx(expected, rel=1e-8)


def test_shared_parameters_are_found_by_memory_not_by_value():
    W = np.ones((2, 2))
    other = np.ones((2, 2))  # equal values, its own memory
    grads = [np.full((2, 2), g) for g in (1.0, 2.0, 4.0)] + [np.array([[0.0, 8.0], [0.0, 0.0]])]
    params, merged = remove_duplicate([W, other, W, W.T], grads)
    assert [id(param) for param in params] == [id(W), id(other)]
    assert [id(grad) for grad in merged] == [id(grads[0]), id(grads[1])]
    assert merged[0].tolist() == [[5.0, 5.0], [13.0, 5.0]]  # 1 + 4 + the tied one transposed
    assert merged[1].tolist() == [[2.0, 2.0], [2.0, 2.0]]


@everyone
def test_tied_weights_move_once(optimizer):
    """An update of W and W.T is one of W with the sum of both gradients."""
    rng = np.random.default_rng(0)
    W, dW, dW_tied = rng.standard_normal((3, 5, 4))
    dW_tied = dW_tied.T.copy()
    alone = W.copy()
    optimizer().update([alone], [dW + dW_tied.T])
    optimizer().update([W, W.T], [dW, dW_tied])
    np.testing.assert_array_equal(W, alone)


def test_parts_of_one_array_are_not_shared():
    block = np.zeros((4, 6))
    parts = [block[:, :3], block[:, 3:], block[:2]]
    params, _ = remove_duplicate(parts, [np.zeros_like(part) for part in parts])
    assert len(params) == 3
    with pytest.raises(ValueError, match="one gradient a parameter, got 1 for 2"):
        remove_duplicate(params[:2], [0])


@everyone
def test_views_are_updated_like_arrays(optimizer):
    rng = np.random.default_rng(0)
    W, dW = rng.standard_normal((2, 6, 8))
    expected, grad = W[::2, 1:7].copy(), dW[::2, 1:7].copy()
    optimizer().update([expected], [grad])
    optimizer().update([W[::2, 1:7]], [dW[::2, 1:7]])
    np.testing.assert_array_equal(W[::2, 1:7], expected)


def test_gradients_of_another_type_are_cast():
    param = np.ones(3, np.float32)
    SGD(0.5).update([param], [np.full(3, 0.5)])
    np.testing.assert_array_equal(param, np.full(3, 0.75, np.float32))


def test_other_types_are_left_to_numpy():
    param, grad = np.ones(3, np.float16), np.full(3, 2, np.float16)
    assert clip_grads([grad], 1e9) == pytest.approx(math.sqrt(12))
    SGD(0.25).update([param], [grad])
    np.testing.assert_array_equal(param, np.full(3, 0.5, np.float16))


def test_read_only_parameters_are_refused():
    param, grad = np.ones(3, np.float32), np.ones(3, np.float32)
    param.flags.writeable = False
    for optimizer in (cls() for cls in OPTIMIZERS.values()):
        other = np.ones(2, np.float32)
        with pytest.raises(ValueError, match="param must be writable, got a read-only"):
            optimizer.update([other, param], [other.copy(), grad])
        assert other.tolist() == [1, 1]
        assert optimizer.state_dict() == type(optimizer)().state_dict()


def test_clipping_tiny_and_huge_float32_norms():
    """The squares do not overflow in float64."""
    assert clip_grads([np.full(4, 1e30, np.float32)], 1e-3) == pytest.approx(2e30)
    assert clip_grads([np.full(4, 1e-30, np.float32)], 1.0) == pytest.approx(2e-30)
    bad = np.array([1, np.nan], np.float32)
    assert math.isnan(clip_grads([bad], 1.0))
    assert bad[0] == 1


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_params_that_are_no_arrays(kind):
    """They are refused before any gradient is added to another."""
    W, grads = np.ones((2, 2)), [np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2))]
    for wrong in None, 3.0, [[1.0]]:
        with pytest.raises(TypeError, match=r"update: params\[2\] must be a NumPy array, got"):
            kind().update([W, W.T, wrong], grads)
    assert (W == 1).all() and all((grad == 1).all() for grad in grads)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            np.ones(1),
            ValueError,
            r"grads\[1\] must be of the shape of params\[1\], \(3,\), got \(1,",
        ),
        (
            np.ones(()),
            ValueError,
            r"grads\[1\] must be of the shape of params\[1\], \(3,\), got \(\)",
        ),
        (
            np.ones(4),
            ValueError,
            r"grads\[1\] must be of the shape of params\[1\], \(3,\), got \(4,",
        ),
        (None, TypeError, r"grads\[1\] must be a NumPy array, got NoneType"),
        ([1.0, 1.0, 1.0], TypeError, r"grads\[1\] must be a NumPy array, got list"),
        (np.ma.masked_equal(np.ones(3), 2.0), TypeError, r"grads\[1\] must not be masked"),
    ],
)
@everyone
def test_a_wrong_gradient_changes_nothing(optimizer, wrong, error, message):
    params, rule = [np.ones(2), np.ones(3)], optimizer()
    before = rule.state_dict()
    with pytest.raises(error, match=f"update: {message}"):
        rule.update(params, [np.ones(2), wrong])
    assert all((param == 1).all() for param in params)
    assert rule.state_dict() == before


@everyone
def test_integers_are_no_parameters(optimizer):
    with pytest.raises(TypeError, match=r"params\[0\] must be of floating point, got int64"):
        optimizer().update([np.ones(2, np.int64)], [np.ones(2)])


def test_clipping_checks_all_gradients_first():
    fixed, whole = np.ones(2), np.ones(2, "i8")
    fixed.flags.writeable = False
    for wrong, error, message in [
        (fixed, ValueError, r"grads\[1\] must be writable, got a read-only array"),
        (whole, TypeError, r"grads\[1\] must be of floating point, got int64"),
        (None, TypeError, r"grads\[1\] must be a NumPy array, got NoneType"),
    ]:
        grads = [np.full(3, 7.0), wrong]
        with pytest.raises(error, match=f"clip_grads: {message}"):
            clip_grads(grads, 1.0)
        assert (grads[0] == 7).all()
