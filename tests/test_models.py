"""Rnnlm and BetterRnnlm as a whole, their state, and sampling."""

import copy
from itertools import islice

import numpy as np
import pytest

from rnnfast import time_layers
from rnnfast.models import BetterRnnlm, Rnnlm, load_model
from rnnfast.optim import remove_duplicate
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


# BetterRnnlm


def separate_layers(model):
    """The same weights in the book's stack of layers, with a loss of its own."""
    embed_W, Wx1, Wh1, b1, Wx2, Wh2, b2, tied, affine_b = [p.copy() for p in model.params]
    L, ratio = time_layers, model.sizes["dropout_ratio"]
    layers = [
        L.TimeEmbedding(embed_W),
        L.TimeDropout(ratio),
        L.TimeLSTM(Wx1, Wh1, b1, stateful=True),
        L.TimeDropout(ratio),
        L.TimeLSTM(Wx2, Wh2, b2, stateful=True),
        L.TimeDropout(ratio),
        L.TimeAffine(embed_W.T, affine_b),
    ]
    np.testing.assert_array_equal(tied, embed_W.T)
    return layers, L.TimeSoftmaxWithLoss()


def test_better_rnnlm_draws_the_books_weights():
    np.random.seed(5)
    expected = [np.random.randn(V, H) / 100]
    for _ in range(2):
        expected += [np.random.randn(H, 4 * H) / np.sqrt(H) for _ in range(2)]
        expected += [np.zeros(4 * H)]
    expected += [expected[0].T, np.zeros(V)]
    np.random.seed(5)
    model = BetterRnnlm(V, H, H)
    for param, wanted in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(param, wanted.astype("f"))
    assert model.params[7].base is model.params[0]
    assert model.lstm_layers == [model.layers[2], model.layers[4]]
    assert model.drop_layers == [model.layers[1], model.layers[3], model.layers[5]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_better_rnnlm_is_its_layers(dtype):
    """Losses, masks of np.random, and every gradient, over two batches."""
    model = BetterRnnlm(V, H, H, 0.4, dtype=dtype)
    layers, loss_layer = separate_layers(model)
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    for seed in range(2):
        xs, ts = batch(seed)
        np.random.seed(seed)
        loss = model.forward(xs, ts)
        assert model.backward() is None
        np.random.seed(seed)
        for layer in layers:
            xs = layer.forward(xs)
        assert loss == pytest.approx(loss_layer.forward(xs, ts), rel=tolerance)
        dout = loss_layer.backward()
        for layer in reversed(layers):
            dout = layer.backward(dout)
        expected = [grad for layer in layers for grad in layer.grads]
        for grad, wanted in zip(model.grads, expected, strict=True):
            np.testing.assert_allclose(grad, wanted, rtol=0, atol=tolerance)


def test_better_rnnlm_gradients_by_differences():
    """With the tied gradients added up, for fixed masks."""
    model = BetterRnnlm(V, H, H, 0.3, rng=1, dtype=np.float64)
    xs, ts = batch(0)

    def loss():
        model.reset_state()
        for layer in model.drop_layers:
            layer.step = 0
        return model.forward(xs, ts)

    loss()
    model.backward(2.0)
    params, grads = remove_duplicate(model.params, model.grads)
    assert len(params) == len(model.params) - 1
    for param, grad in zip(params, grads, strict=True):
        np.testing.assert_allclose(grad / 2, numeric_grad(loss, param), rtol=0, atol=1e-8)


def test_better_rnnlm_without_dropout():
    """predict and forward with train_flg False, and training afterwards."""
    model = BetterRnnlm(V, H, H, 0.4, rng=1, dtype=np.float64)
    xs, ts = batch(0)
    scores = model.predict(xs)
    model.reset_state()
    np.testing.assert_array_equal(model.predict(xs), scores)
    model.reset_state()
    loss = model.forward(xs, ts, train_flg=False)
    assert loss == pytest.approx(cross_entropy(scores, ts), rel=1e-12)
    with pytest.raises(RuntimeError):
        model.backward()
    model.reset_state()
    assert model.forward(xs, ts) != loss
    model.backward()


def test_better_rnnlm_is_reproducible_by_seed():
    xs, ts = batch(0)
    losses = [BetterRnnlm(V, H, H, rng=seed).forward(xs, ts) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    rng = [np.random.default_rng(3) for _ in range(2)]
    losses = [BetterRnnlm(V, H, H, rng=r).forward(xs, ts) for r in rng]
    assert losses[0] == losses[1]


def test_better_rnnlm_ends_must_fit():
    with pytest.raises(ValueError, match="hidden_size must be wordvec_size = 3, got 5"):
        BetterRnnlm(V, D, H)


def test_better_rnnlm_in_a_file(tmp_path):
    """The tied matrix is there once, and tied again after loading."""
    model, path = BetterRnnlm(V, H, H, 0.25, rng=1), tmp_path / "better.safetensors"
    model.save_params(path)
    loaded, vocabulary = load_model(path)
    assert vocabulary is None
    assert (type(loaded), loaded.sizes) == (BetterRnnlm, model.sizes)
    for param, wanted in zip(loaded.params, model.params, strict=True):
        np.testing.assert_array_equal(param, wanted)
    assert loaded.params[7].base is loaded.params[0]
    other = BetterRnnlm(V, H, H, 0.25, rng=2)
    other.load_params(path)
    np.testing.assert_array_equal(other.params[7], model.params[7])


def test_a_trained_model_can_be_copied(model):
    xs, ts = batch(0)
    model.forward(xs, ts)
    model.backward()
    other = copy.deepcopy(model)
    assert other.forward(xs, ts) == model.forward(xs, ts)
    other.backward()
    model.backward()
    for a, b in zip(other.grads, model.grads, strict=True):
        np.testing.assert_array_equal(a, b)


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
