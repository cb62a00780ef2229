"""The loss layers: values, gradients, targets that are one-hot, ignored or none."""

import numpy as np
import pytest
from cases import assert_close
from naive import numeric_gradient

import rnnfast
from rnnfast.layers import (
    PastDecode,
    TimeRegularizedMixtureSoftmaxWithLoss,
    TimeRegularizedSoftmaxWithLoss,
)

N, T, V, D = 4, 5, 6, 3


pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize(
    "name",
    [
        "SoftmaxWithLoss",
        "TimeSoftmaxWithLoss",
        "Simple_TimeSoftmaxWithLoss",
        "SigmoidWithLoss",
        "TimeSigmoidWithLoss",
        "TimeSquaredLoss",
    ],
)
def test_gradients_of_losses(name, rng):
    layer = getattr(rnnfast, name)()
    if "Softmax" in name:
        shape = (N, 5) if name == "SoftmaxWithLoss" else (N, 3, 5)
        ts = rng.integers(0, 5, shape[:-1])
    else:
        shape = (N,) if name == "SigmoidWithLoss" else (N, 3)
        ts = rng.integers(0, 2, shape)
    if name == "TimeSoftmaxWithLoss":
        ts[1, 1:] = -1
    xs = rng.normal(size=shape)
    loss = layer.forward(xs, ts)
    assert isinstance(loss, float)
    expected = numeric_gradient(lambda: layer.forward(xs, ts), xs)
    layer.forward(xs, ts)
    np.testing.assert_allclose(layer.backward(), expected, atol=1e-9)
    np.testing.assert_allclose(layer.backward(0.5), expected / 2, atol=1e-9)

    single = xs.astype("f4")
    assert layer.forward(single, ts) == pytest.approx(loss, rel=1e-6)
    assert layer.backward().dtype == np.float32
    np.testing.assert_allclose(layer.backward(np.float32(1)), expected, atol=1e-6)
    for empty in (0, *shape[1:]), (shape[0], 0, *shape[2:])[: len(shape)]:
        if "Time" not in name and 0 not in empty[:1]:
            continue
        assert layer.forward(np.zeros(empty), np.zeros(empty[: ts.ndim], int)) == 0.0
        assert layer.backward().shape == empty


def test_literal_softmax_loss():
    """Scores log 1, log 2, log 5 are probabilities 1/8, 2/8, 5/8."""
    xs = np.log([[[1.0, 2, 5], [1, 2, 5]], [[5, 1, 2], [2, 5, 1]]])
    ts = np.array([[2, 0], [-1, 1]])
    layer = rnnfast.TimeSoftmaxWithLoss()
    assert layer.forward(xs, ts) == pytest.approx(-np.log(5 / 8 * 1 / 8 * 5 / 8) / 3, rel=1e-14)
    expected = np.array([[[1, 2, -3], [-7, 2, 5]], [[0, 0, 0], [2, -3, 1]]]) / 24
    np.testing.assert_allclose(layer.backward(), expected, atol=1e-15)

    layer.ignore_label = 2
    ts = np.array([[2, 0], [0, 1]])
    assert layer.forward(xs, ts) == pytest.approx(-np.log(1 / 8 * 5 / 8 * 5 / 8) / 3, rel=1e-14)
    layer.ignore_label = 255  # no class
    ts[0, 0] = 255
    assert layer.forward(xs, ts.astype("u1")) == pytest.approx(-np.log(25 / 512) / 3, rel=1e-14)
    assert not layer.backward()[0, 0].any()

    plain = rnnfast.SoftmaxWithLoss()
    assert plain.forward(xs[0], np.array([2, 0])) == pytest.approx(-np.log(5 / 64) / 2)
    np.testing.assert_allclose(plain.backward(), np.array([[1, 2, -3], [-7, 2, 5]]) / 16)


@pytest.mark.parametrize("dtype", [int, bool, np.float32])
def test_one_hot_targets(dtype, rng):
    xs, ts = rng.normal(size=(N, T, 6)), rng.integers(0, 6, (N, T))
    one_hot = np.eye(6, dtype=dtype)[ts]
    for layer in rnnfast.TimeSoftmaxWithLoss(), rnnfast.Simple_TimeSoftmaxWithLoss():
        loss, dxs = layer.forward(xs, ts), layer.backward()
        assert layer.forward(xs, one_hot) == loss
        np.testing.assert_array_equal(layer.backward(), dxs)
    plain = rnnfast.SoftmaxWithLoss()
    assert plain.forward(xs[0], one_hot[0]) == plain.forward(xs[0], ts[0])


def test_a_batch_of_ignored_targets_has_no_loss(rng):
    layer = rnnfast.TimeSoftmaxWithLoss()
    assert layer.forward(rng.normal(size=(N, T, 6)), np.full((N, T), -1)) == 0.0
    assert layer.backward().tolist() == np.zeros((N, T, 6)).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_ignored_step_may_be_anything(bad, rng):
    """Whatever the scores are there: the loss and the other gradients are those without it."""
    xs, ts = rng.normal(size=(N, T, 6)), rng.integers(0, 6, (N, T))
    ts[0, 1:], ts[2] = -1, -1
    layer, results = rnnfast.TimeSoftmaxWithLoss(), []
    for value in 1.0, bad:
        xs[ts == -1] = value
        results.append((layer.forward(xs, ts), layer.backward()))
    assert results[0][0] == results[1][0] > 0
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert (results[1][1][ts == -1] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("adversarial", [0.0, 0.5])
@pytest.mark.parametrize("factor", [0.0, 0.7])
def test_an_ignored_step_does_not_reach_the_penalties(factor, adversarial, bad, rng):
    """Loss, penalty and gradients are those of the other steps alone, whatever is there."""
    affine = rnnfast.TimeAffine(rng.normal(size=(D, V)), rng.normal(size=V))
    weights = rng.normal(size=(D, D)), rng.normal(size=D), rng.normal(size=V)
    past = PastDecode(affine, *weights, factor=factor) if factor else None
    loss = TimeRegularizedSoftmaxWithLoss(affine, adversarial=adversarial, past=past)
    hs, ts, read = (
        rng.normal(size=(2, 3, D)),
        rng.integers(0, V, (2, 3)),
        rng.integers(0, V, (2, 3)),
    )
    ts[:, 1] = -1
    hs[:, 1] = bad
    others, results = [0, 2], []
    for own in slice(None), others:
        found = loss.forward(hs[:, own], ts[:, own], previous=read[:, own]), loss.penalty
        dhs = loss.backward(0.5)
        grads = [grad.copy() for grad in (*affine.grads, *(past.grads if factor else ()))]
        results.append([*found, dhs[:, others] if own != others else dhs, *grads])
        if own != others:
            assert (dhs[:, 1] == 0).all()
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)
    assert np.isfinite(results[0][0]) and (results[0][1] > 0) == bool(factor or adversarial)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_losses_of_large_scores(dtype):
    """Where a probability underflows: the book's 1e-7 would stop the loss at 16.1."""
    xs = np.array([[[0, 1000.0], [-2000, 0]]], dtype)
    layer = rnnfast.TimeSoftmaxWithLoss()
    assert layer.forward(xs, np.array([[0, 0]])) == 1500
    assert layer.backward().tolist() == [[[-0.5, 0.5], [-0.5, 0.5]]]
    sigmoid = rnnfast.TimeSigmoidWithLoss()
    assert sigmoid.forward(xs[0], np.array([[1, 0], [1, 1]])) == (np.log(2) + 1000 + 2000) / 4 + (
        np.log(2) / 4
    )
    assert sigmoid.backward().tolist() == [[-0.125, 0.25], [-0.25, -0.125]]


def test_loss_is_summed_in_float64(device):
    """A million terms, each log 4, on a GPU in float32: float32 sums would lose the sixth digit."""
    xs = np.zeros((1000, 250, 4), "f4")
    loss = rnnfast.TimeSoftmaxWithLoss().forward(xs, np.ones((1000, 250), int))
    term = np.log(4) if device != "cuda" else float(np.float32(np.log(4)))
    assert loss == pytest.approx(term, rel=1e-12)


def test_literal_squared_loss():
    xs, ts = np.array([[[1.0, 2.0], [3.0, 5.0]]]), np.array([[[0, 2], [3, 1]]])
    layer = rnnfast.TimeSquaredLoss()
    assert layer.forward(xs, ts) == (1 + 16) / 2 / 2
    assert layer.backward(2).tolist() == [[[1, 0], [0, 4]]]
    assert layer.forward(xs[0], ts[0]) == (1 + 16) / 2 / 4


def test_previous_ids_that_are_refused_change_nothing(rng):
    affine = rnnfast.TimeAffine(rng.normal(size=(D, V)), rng.normal(size=V))
    past = PastDecode(affine, rng.normal(size=(D, D)), rng.normal(size=D), rng.normal(size=V))
    mixture = rnnfast.TimeMixtureSoftmax.create(
        D, D, V, K=2, rng=0, dtype="f8", drop=rnnfast.TimeDropout(0.5, rng=0)
    )
    of_mixture = PastDecode(mixture, *past.params)
    hs, ts = rng.normal(size=(2, 3, D)), rng.integers(0, V, (2, 3))
    for loss in (
        TimeRegularizedSoftmaxWithLoss(affine, adversarial=0.5, past=past),
        TimeRegularizedMixtureSoftmaxWithLoss(mixture, adversarial=0.5, past=of_mixture),
    ):
        loss.forward(hs, ts, previous=ts)
        before = loss.penalty, mixture.drop.mask_state()
        for wrong, message in (ts + V, rf"in \[0, {V}\)"), (ts[:1], r"\(N, T\) = \(2, 3\)"):
            with pytest.raises(ValueError, match=f"^{loss._name}: previous must be {message}"):
                loss.forward(hs, ts, previous=wrong)
        assert (loss.penalty, mixture.drop.mask_state()) == before
        loss.past.grads[0].flags.writeable = False
        with pytest.raises(ValueError, match=r"^PastDecode: grads \(dW\) must be writeable"):
            loss.backward()
        loss.past.grads[0].flags.writeable = True
        assert not any(grad.any() for grad in loss.past.affine.grads)
        assert loss.backward().shape == hs.shape


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_missing_targets_do_not_count(shape):
    """As if their errors were 0, and steps without any target were not there."""
    rng = np.random.default_rng(0)
    xs, ts = rng.normal(size=(2, *shape))
    gone = rng.random(shape) < 0.3
    gone[1, 2] = gone[3] = True
    layer = rnnfast.TimeSquaredLoss(ignore_nan=True)
    assert repr(layer).startswith("TimeSquaredLoss(ignore_nan=True")
    whole = rnnfast.TimeSquaredLoss().forward(xs, ts)
    assert layer.forward(xs, ts) == whole
    counted = (~gone).sum() if len(shape) == 2 else (~gone).any(axis=2).sum()
    error = np.where(gone, 0, xs - ts)
    assert layer.forward(xs, np.where(gone, np.nan, ts)) == pytest.approx(
        (error**2).sum() / 2 / counted
    )
    assert_close(layer.backward(3.0), 3 * error / counted)
    assert layer.forward(xs.astype("f"), np.full(shape, np.nan)) == 0.0
    assert not layer.backward().any()
    layer.forward(xs.astype(int), ts.astype(int))  # which have no NaN
    layer.ignore_nan = False
    assert np.isnan(layer.forward(xs, np.where(gone, np.nan, ts)))
    with pytest.raises(TypeError, match="TimeSquaredLoss: ignore_nan must be a bool, got str"):
        rnnfast.TimeSquaredLoss(ignore_nan="no")
