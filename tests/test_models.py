"""Rnnlm as a whole, its state, and sampling from it."""

from itertools import islice

import numpy as np
import pytest

from rnnfast.models import Rnnlm
from rnnfast.sampling import generate, stream

V, D, H, N, T = 7, 3, 5, 2, 4


@pytest.fixture
def model():
    return Rnnlm(V, D, H, rng=3, dtype=np.float64)


def batch(seed, shape=(N, T)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, shape), rng.integers(0, V, shape)


def by_hand(model, xs, state=None):
    """Scores step by step with the chapter's formulas, and the final (h, c)."""
    embed_W, Wx, Wh, b, affine_W, affine_b = model.params
    zeros = np.zeros((len(xs), Wh.shape[0]), Wh.dtype)
    h, c = state or (zeros, zeros)
    scores = []
    for t in range(xs.shape[1]):
        f, g, i, o = np.split(embed_W[xs[:, t]] @ Wx + h @ Wh + b, 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        scores.append(h @ affine_W + affine_b)
    return np.stack(scores, axis=1), (h, c)


def cross_entropy(scores, ts):
    log_sum = np.log(np.exp(scores).sum(axis=2))
    picked = np.take_along_axis(scores, ts[..., np.newaxis], axis=2)[..., 0]
    return float((log_sum - picked).mean())


def test_weights_are_the_books_for_the_same_seed():
    np.random.seed(5)
    expected = [np.random.randn(V, D) / 100, np.random.randn(D, 4 * H) / np.sqrt(D)]
    expected += [np.random.randn(H, 4 * H) / np.sqrt(H), np.zeros(4 * H)]
    expected += [np.random.randn(H, V) / np.sqrt(H), np.zeros(V)]
    np.random.seed(5)
    model = Rnnlm(V, D, H)
    for param, wanted in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(param, wanted.astype("f"))
        assert param.dtype == np.float32
    assert [grad.shape for grad in model.grads] == [param.shape for param in model.params]


def test_seed_makes_weights_reproducible():
    first, second, other = Rnnlm(V, D, H, rng=1), Rnnlm(V, D, H, rng=1), Rnnlm(V, D, H, rng=2)
    assert [p.tobytes() for p in first.params] == [p.tobytes() for p in second.params]
    assert first.params[0].tobytes() != other.params[0].tobytes()


def test_forward_against_the_formulas_and_state_carried(model):
    """Two halves, one after the other, are the whole sequence."""
    xs, ts = batch(0, (N, 2 * T))
    scores, (h, c) = by_hand(model, xs)
    first = model.forward(xs[:, :T], ts[:, :T])
    second = model.forward(xs[:, T:], ts[:, T:])
    assert isinstance(first, float)
    assert first == pytest.approx(cross_entropy(scores[:, :T], ts[:, :T]), rel=1e-12)
    assert second == pytest.approx(cross_entropy(scores[:, T:], ts[:, T:]), rel=1e-12)
    np.testing.assert_allclose(model.lstm_layer.h, h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.lstm_layer.c, c, rtol=0, atol=1e-12)
    model.reset_state()
    np.testing.assert_allclose(model.predict(xs), scores, rtol=0, atol=1e-12)


def test_gradient_is_cut_between_batches(model):
    """After a second batch the gradients are those with the first one's final state held fixed."""
    xs, ts = batch(1, (N, 2 * T))
    model.forward(xs[:, :T], ts[:, :T])
    model.backward()
    state = model.get_state()[0]
    model.forward(xs[:, T:], ts[:, T:])
    model.backward()

    def truncated():
        return cross_entropy(by_hand(model, xs[:, T:], state)[0], ts[:, T:])

    def full():
        return cross_entropy(by_hand(model, xs)[0][:, T:], ts[:, T:])

    for name, param, grad in zip(model.param_names, model.params, model.grads, strict=True):
        np.testing.assert_allclose(
            grad, numeric_grad(truncated, param), rtol=0, atol=1e-8, err_msg=name
        )
    lstm_Wh, grad = model.params[2], model.grads[2]
    assert np.abs(grad - numeric_grad(full, lstm_Wh)).max() > 1e-5  # it could have told


def numeric_grad(loss, array, step=1e-5):
    grad = np.empty_like(array)
    for k in np.ndindex(array.shape):
        value = array[k]
        array[k] = value + step
        above = loss()
        array[k] = value - step
        below = loss()
        array[k] = value
        grad[k] = (above - below) / (2 * step)
    return grad


def test_gradients_keep_their_arrays(model):
    identities = [id(grad) for grad in model.grads]
    model.forward(*batch(0))
    model.backward()
    assert [id(grad) for layer in model.layers for grad in layer.grads] == identities


def test_inference_keeps_nothing(model):
    xs, ts = batch(0)
    loss = model.forward(xs, ts, train_flg=False)
    with pytest.raises(RuntimeError):
        model.backward()
    model.reset_state()
    assert model.forward(xs, ts) == loss


def test_state_out_and_in(model):
    xs, _ = batch(0)
    model.predict(xs)
    state = model.get_state()
    expected = model.predict(xs)
    model.predict(xs)
    model.set_state(state)
    np.testing.assert_array_equal(model.predict(xs), expected)


# Sampling


def probabilities(model, ids):
    scores = by_hand(model, np.array([ids]))[0][0, -1]
    return np.exp(scores) / np.exp(scores).sum()


def test_most_probable_id_at_temperature_zero(model):
    expected, ids = [], [1, 4]
    for _ in range(6):
        expected.append(int(probabilities(model, ids).argmax()))
        ids.append(expected[-1])
    assert generate(model, [1, 4], 6, temperature=0) == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_drawn_by_temperature(model, temperature):
    p = probabilities(model, [2]) ** (1 / temperature)
    p /= p.sum()
    rng = np.random.default_rng(0)
    drawn = [generate(model, [2], 1, temperature=temperature, rng=rng)[0] for _ in range(4000)]
    frequencies = np.bincount(drawn, minlength=V) / 4000
    assert np.abs(frequencies - p).max() < 0.03  # four standard deviations


def test_generate_is_the_books_with_np_random(model):
    """Same draws as np.random.choice; the state goes on from where it was."""
    model.predict(np.array([[3, 3]]))
    (state,) = model.get_state()
    np.random.seed(2)
    expected, x = [1], 1
    while len(expected) < 8:
        scores, state = by_hand(model, np.array([[x]]), state)
        p = np.exp(scores.ravel())
        x = int(np.random.choice(V, p=p / p.sum()))
        expected.append(x)
    np.random.seed(2)
    assert model.generate(1, sample_size=8) == expected


def test_seeds_and_state(model):
    xs, _ = batch(0)
    model.predict(xs)
    (before,) = model.get_state()
    first = generate(model, [0], 30, rng=1)
    assert first == generate(model, [0], 30, rng=1)
    assert first != generate(model, [0], 30, rng=2)
    (after,) = model.get_state()
    for array, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(array, old)
    model.reset_state()
    assert first == generate(model, [0], 30, rng=1)
    assert model.get_state()[0][0] is None


def test_skipped_ids_are_never_drawn(model):
    drawn = generate(model, [0], 200, skip_ids=[0, 2, 5], rng=0)
    assert set(drawn) == {1, 3, 4, 6}
    with pytest.raises(ValueError, match="no id to draw"):
        generate(model, [0], 1, skip_ids=range(V))


def test_sampling_errors(model):
    with pytest.raises(ValueError, match="at least one integer id"):
        generate(model, [], 1)
    with pytest.raises(ValueError, match="at least one integer id"):
        stream(model, ["a"])
    for temperature in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="temperature must be finite"):
            stream(model, [0], temperature=temperature)
    with pytest.raises(ValueError, match="7"):
        generate(model, [7], 1)
    assert len(list(islice(stream(model, [0], rng=0), 5))) == 5
