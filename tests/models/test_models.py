"""The language models as a whole, their state, their files."""

import copy

import numpy as np
import pytest
from cases import numeric_grad

from rnnfast import time_layers
from rnnfast.models import BetterRnnlm, LanguageModel, Rnnlm, SimpleRnnlm, load_model
from rnnfast.optim import remove_duplicate
from rnnfast.reference import ops

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
    seed = model.drop_layers[0]._key[0]
    layers = [
        L.TimeEmbedding(embed_W),
        L.TimeDropout(ratio, (seed, 0)),
        L.TimeLSTM(Wx1, Wh1, b1, stateful=True),
        L.TimeDropout(ratio, (seed, 1)),
        L.TimeLSTM(Wx2, Wh2, b2, stateful=True),
        L.TimeDropout(ratio, (seed, 2)),
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
    """Losses, masks and every gradient, over two batches."""
    model = BetterRnnlm(V, H, H, 0.4, dtype=dtype)
    layers, loss_layer = separate_layers(model)
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    for seed in range(2):
        xs, ts = batch(seed)
        loss = model.forward(xs, ts)
        assert model.backward() is None
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
    with pytest.raises(ValueError, match="hidden_size must be wordvec_size = 3, tied, got 5"):
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


# LanguageModel


GENERAL = {
    "rnn": {"cell": "rnn"},
    "gru": {"cell": "gru", "layers": 2, "tie_weights": True},
    "lstm, dropout": {"cell": "lstm", "layers": 3, "dropout": 0.3},
    "rnn, variational": {"cell": "rnn", "dropout": 0.4, "variational_dropout": True},
    "lstm, variational": {
        "cell": "lstm",
        "layers": 2,
        "dropout": 0.4,
        "variational_dropout": True,
        "tie_weights": True,
    },
    "gru, variational": {"cell": "gru", "layers": 2, "dropout": 0.4, "variational_dropout": True},
    "lstm, weights": {"cell": "lstm", "layers": 2, "weight_drop": 0.4},
    "mogrifier": {"cell": "mogrifier", "layers": 2, "rounds": 3, "tie_weights": True},
    "mogrifier, factorised": {
        "cell": "mogrifier",
        "rank": 2,
        "dropout": 0.3,
        "variational_dropout": True,
        "weight_drop": 0.4,
    },
    "lstmp": {"cell": "lstmp", "layers": 3, "proj_size": 2, "dropout": 0.3},
    "lstmp, tied": {"cell": "lstmp", "layers": 2, "proj_size": 2, "tie_weights": True},
    "lstmp, masks": {
        "cell": "lstmp",
        "proj_size": 3,
        "dropout": 0.3,
        "variational_dropout": True,
        "weight_drop": 0.4,
    },
    "lnlstm": {"cell": "lnlstm", "layers": 2, "tie_weights": True},
    "lngru, masks": {
        "cell": "lngru",
        "layers": 2,
        "dropout": 0.3,
        "variational_dropout": True,
        "weight_drop": 0.4,
    },
    "slstm": {"cell": "slstm", "layers": 2, "tie_weights": True},
    "slstm, masks": {
        "cell": "slstm",
        "dropout": 0.3,
        "variational_dropout": True,
        "weight_drop": 0.4,
    },
    "slstm, heads": {"cell": "slstm", "layers": 2, "heads": 5, "weight_drop": 0.4},
    "gru, everything": {
        "cell": "gru",
        "layers": 2,
        "dropout": 0.3,
        "variational_dropout": True,
        "weight_drop": 0.4,
    },
}
general = pytest.mark.parametrize("options", GENERAL.values(), ids=GENERAL.keys())


def language_model(options, **more):
    wordvec_size = H if options.get("tie_weights") else D
    return LanguageModel(V, wordvec_size, H, **options, **more)


@general
def test_gradients_by_differences(options):
    """For fixed masks, from a state that is not zero."""
    model = language_model(options, rng=1, dtype=np.float64)
    rng, (xs, ts) = np.random.default_rng(2), batch(1)
    state = [
        tuple(
            rng.normal(size=(N, width)) for width in (len(layer.Wh), H, H, H)[: len(layer.states)]
        )
        for layer in model.recurrent_layers
    ]
    state = [s if len(s) < 4 else (*s[:2], 0.5 + abs(s[2]), s[3]) for s in state]  # n is positive

    def loss():
        model.set_state(state)
        for layer in model.drop_layers:
            layer.step = 0
        return model.forward(xs, ts)

    loss()
    model.backward()
    params, grads = remove_duplicate(model.params, model.grads)
    assert len(params) == len(model.params) - options.get("tie_weights", False)
    normed = options["cell"].startswith("ln")  # the small embeddings are where this is steep
    step, most = (1e-7, 3e-8) if normed else (1e-5, 1e-8)
    for name, param, grad in zip(model.param_names, params, grads, strict=False):
        numeric = numeric_grad(loss, param, step)
        np.testing.assert_allclose(grad, numeric, rtol=0, atol=most, err_msg=name)


@general
def test_the_masks_are_the_seeds(options):
    """The model is its layers, with masks drawn from (seed, layer) and the step."""
    model = language_model(options, rng=6, dtype=np.float64)
    n, ratio = model.sizes["layers"], model.sizes["dropout"]
    variational = model.sizes["variational_dropout"]
    weight_drop = model.sizes["weight_drop"]
    count = (n + 1 + n * variational if ratio else 0) + (n if weight_drop else 0)
    assert len(model.drop_layers) == count
    layers = [layer for layer in copy.deepcopy(model.layers) if hasattr(layer, "params")]
    layers = [layer for layer in layers if not isinstance(layer, time_layers.TimeDropout)]
    loss_layer = time_layers.TimeSoftmaxWithLoss()

    def mask(shape, key, step, ratio=ratio):
        return ops.dropout_mask(shape, ratio, (6, key), step, np.float64)

    for step in range(2):
        xs, ts = batch(step)
        loss = model.forward(xs, ts)
        h = layers[0].forward(xs)
        for k, layer in enumerate(layers[1:-1]):
            if ratio:
                h = h * mask((N, 1, h.shape[2]) if variational else h.shape, k, step)
            h_mask = mask((N, len(layer.Wh)), n + 1 + k, step) if variational else None
            Wh_mask = None
            if weight_drop:
                Wh_mask = mask(layer.Wh.shape, 2 * n + 1 + k, step, weight_drop)
            h = layer.forward(h, h_mask=h_mask, Wh_mask=Wh_mask)
        if ratio:
            h = h * mask((N, 1, h.shape[2]) if variational else h.shape, n, step)
        assert loss == pytest.approx(loss_layer.forward(layers[-1].forward(h), ts), rel=1e-13)
        assert [layer.step for layer in model.drop_layers] == [step + 1] * len(model.drop_layers)
    plain = model.forward(*batch(3), train_flg=False)
    assert np.isfinite(plain)
    assert all(layer.step == 2 for layer in model.drop_layers)  # inference draws nothing


@general
def test_language_model_on_every_device_and_from_every_seed(options):
    def losses(**how):
        model = language_model(options, **how)
        found = []
        for step in range(3):
            found.append(model.forward(*batch(step)))
            model.backward()
            for param, grad in zip(model.params, model.grads, strict=True):
                param -= grad
        return found

    expected = losses(rng=4)
    assert losses(rng=4) == expected
    assert losses(rng=5) != expected
    np.testing.assert_allclose(losses(rng=4, device="reference"), expected, rtol=1e-5)
    assert losses(rng=np.random.default_rng(4)) == losses(rng=np.random.default_rng(4))
    np.random.seed(4)
    expected = losses()
    np.random.seed(4)
    assert losses() == expected  # masks and all


@general
def test_language_model_in_a_file(options, tmp_path):
    model, path = language_model(options, rng=1), tmp_path / "model.safetensors"
    model.forward(*batch(0))
    model.save_params(path)
    loaded, _ = load_model(path)
    assert type(loaded) is LanguageModel
    assert loaded.sizes == model.sizes
    assert loaded.param_names == model.param_names
    for param, wanted in zip(loaded.params, model.params, strict=True):
        np.testing.assert_array_equal(param, wanted)
    tied = np.shares_memory(loaded.params[0], loaded.params[-2])
    assert tied == model.sizes["tie_weights"]
    xs, _ = batch(1)
    model.reset_state()
    np.testing.assert_array_equal(loaded.predict(xs), model.predict(xs))


def test_dropout_that_is_switched_off():
    """As the book does it; then the model is the one without dropout."""
    model = language_model(GENERAL["lstm, variational"], rng=1, dtype=np.float64)
    plain = language_model({"layers": 2, "tie_weights": True}, rng=1, dtype=np.float64)
    expected = plain.forward(*batch(0))
    assert model.forward(*batch(0)) != expected
    model.reset_state()
    for layer in model.drop_layers:
        layer.train_flg = False
    assert model.forward(*batch(0)) == expected
    assert all(layer.step == 1 for layer in model.drop_layers)


def test_states_for_another_number_of_layers(model):
    with pytest.raises(ValueError, match="set_state: states must be one a layer, 1, got 2"):
        model.set_state([(None, None)] * 2)


def test_next_scores_are_the_last_of_predict(model):
    xs, _ = batch(0)
    expected = model.predict(xs)
    model.reset_state()
    np.testing.assert_allclose(model.next_scores(xs), expected[:, -1], rtol=1e-14)
    assert model.vocab_size == V


def test_simple_rnnlm_draws_the_books_weights_and_nothing_more():
    np.random.seed(5)
    expected = [np.random.randn(V, D) / 100, np.random.randn(D, H) / np.sqrt(D)]
    expected += [np.random.randn(H, H) / np.sqrt(H), np.zeros(H)]
    expected += [np.random.randn(H, V) / np.sqrt(H), np.zeros(V)]
    after = np.random.rand()
    np.random.seed(5)
    model = SimpleRnnlm(V, D, H)
    assert np.random.rand() == after
    for param, wanted in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(param, wanted.astype("f"))
    assert model.rnn_layer is model.layers[1]
    assert model.param_names[1:4] == ["rnn_Wx", "rnn_Wh", "rnn_b"]
    assert model.sizes == {"vocab_size": V, "wordvec_size": D, "hidden_size": H}


def test_simple_rnnlm_by_hand():
    model = SimpleRnnlm(V, D, H, rng=2, dtype=np.float64)
    embed_W, Wx, Wh, b, affine_W, affine_b = model.params
    xs, ts = batch(0)
    h, scores = np.zeros((N, H)), []
    for t in range(T):
        h = np.tanh(embed_W[xs[:, t]] @ Wx + h @ Wh + b)
        scores.append(h @ affine_W + affine_b)
    assert model.forward(xs, ts) == pytest.approx(cross_entropy(np.stack(scores, 1), ts), rel=1e-12)
    np.testing.assert_allclose(model.rnn_layer.h, h, rtol=1e-12)


def test_the_books_models_are_language_models():
    """The same weights from the same seed, whichever way they are asked for."""
    for made, options in (
        (SimpleRnnlm(V, D, H, rng=1), {"cell": "rnn"}),
        (Rnnlm(V, D, H, rng=1), {}),
        (BetterRnnlm(V, H, H, rng=1), {"layers": 2, "dropout": 0.5, "tie_weights": True}),
    ):
        general = language_model(options, rng=1)
        assert made.forward(*batch(0)) == general.forward(*batch(0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size must be from 1 up, got 0"),
        ({"wordvec_size": 2.0}, TypeError, "wordvec_size must be an integer, got float"),
        ({"hidden_size": True}, TypeError, "hidden_size must be an integer, got bool"),
        ({"cell": "peephole"}, ValueError, "cell must be one of .*, got 'peephole'"),
        ({"cell": None}, ValueError, "cell must be one of .*, got None"),
        ({"layers": 0}, ValueError, "layers must be from 1 up, got 0"),
        ({"layers": "2"}, TypeError, "layers must be an integer, got str"),
        ({"dropout": 1}, ValueError, r"dropout must be in \[0, 1\), got 1"),
        ({"dropout": None}, TypeError, "dropout must be a number, got NoneType"),
        ({"variational_dropout": 1}, TypeError, "variational_dropout must be a bool, got int"),
        ({"tie_weights": "no"}, TypeError, "tie_weights must be a bool, got str"),
        ({"tie_weights": True}, ValueError, "hidden_size must be wordvec_size = 3, tied, got 5"),
        ({"proj_size": 2}, ValueError, "proj_size must be None with cell 'lstm', got 2"),
        ({"cell": "lstmp", "proj_size": 0}, ValueError, "proj_size must be from 1 up, got 0"),
        (
            {"cell": "lstmp", "proj_size": 2, "tie_weights": True},
            ValueError,
            "proj_size must be wordvec_size = 3, tied, got 2",
        ),
        (
            {"cell": "lstmp", "proj_size": 2, "last_hidden_size": 3},
            ValueError,
            "last_hidden_size must be proj_size = 2, got 3",
        ),
        ({"heads": 2}, ValueError, "heads must be None with cell 'lstm', got 2"),
        ({"cell": "slstm", "heads": 0}, ValueError, "heads must be from 1 up, got 0"),
        ({"cell": "slstm", "heads": 2}, ValueError, "heads must divide hidden_size = 5, got 2"),
        (
            {"cell": "slstm", "heads": 5, "layers": 2, "last_hidden_size": 4},
            ValueError,
            "heads must divide the width of the last layer = 4, got 5",
        ),
        ({"rng": "seed"}, TypeError, "rng must be None, a seed from 0 up or a Generator, got"),
        ({"rng": -1}, ValueError, "rng must be None, a seed from 0 up or a Generator, got -1"),
        ({"dtype": "f2"}, TypeError, "dtype must be float32 or float64, got float16"),
    ],
)
def test_arguments_of_language_model(change, error, message):
    sizes = {"vocab_size": V, "wordvec_size": D, "hidden_size": H}
    before = np.random.get_state()[1].tobytes()
    with pytest.raises(error, match=f"^LanguageModel: {message}"):
        LanguageModel(**(sizes | change))
    assert np.random.get_state()[1].tobytes() == before


@pytest.mark.parametrize(
    "change",
    [{"layers": 10**9}, {"vocab_size": 10**9}, {"hidden_size": 10**6}, {"cell": "no"}, {"x": 1}],
    ids=str,
)
def test_a_damaged_header_makes_no_large_model(change, tmp_path):
    model, path = language_model(GENERAL["gru"], rng=1), tmp_path / "model.safetensors"
    model.sizes.update(change)
    model.save_params(path)
    with pytest.raises(ValueError, match=r"model.safetensors: sizes .* do not fit"):
        load_model(path)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 2, "dropout": 0.5, "variational_dropout": True, "weight_drop": 0.5},
        {"tie_weights": True, "alpha": 1.0, "beta": 1.0, "embedding_dropout": 0.5},
        {"past_decode": 0.5, "adversarial": 0.5, "output_dropout": 0.3, "frage": 0.5},
        {"layers": 2, "mixtures": 2, "mixtures_below": 1, "latent_dropout": 0.5, "balance": 1.0},
        {"mixtures": 2, "past_decode": 0.5, "adversarial": 0.5, "balance": 1.0},
    ],
)
def test_a_copy_without_regularisation(options):
    """Its training is that of a model without these options."""
    kept = ("layers", "tie_weights", "mixtures", "mixtures_below")
    sizes = {"rng": 0, "dtype": np.float64}
    model = LanguageModel(9, 5, 5, **options, **sizes)
    plain = LanguageModel(9, 5, 5, **{k: v for k, v in options.items() if k in kept}, **sizes)
    copied = model.unregularized()
    ids = np.random.default_rng(1).integers(0, 9, (2, 3, 4))
    for net in (copied, plain):
        net.forward(*ids)
        net.backward()
    assert copied.param_names == plain.param_names
    for a, b in zip(copied.params + copied.grads, plain.params + plain.grads, strict=True):
        np.testing.assert_array_equal(a, b)
    assert copied.penalty == 0
    shares = np.shares_memory(copied.params[0], copied.layers[-1].params[0])
    assert shares == options.get("tie_weights", False)
    assert not any(np.shares_memory(a, b) for a in copied.params for b in model.params)
    assert model.get_state()[0][0] is None  # it was not touched
    for net in (copied, plain):
        net.reset_state()
    hidden = copied.hidden(ids[0])
    np.testing.assert_array_equal(copied.scores(hidden), plain.predict(ids[0]))
    assert copied.top_states(hidden).shape == (3, 4, 5)


@pytest.mark.parametrize("wrong", ["xs", "ts"])
def test_a_forward_that_fails_changes_nothing(wrong):
    options = {"embedding_dropout": 0.2, "dropout": 0.3, "weight_drop": 0.2, "h_zoneout": 0.1}
    model = LanguageModel(11, 4, 5, layers=2, rng=0, **options)
    xs = np.arange(12).reshape(3, 4) % 11
    model.forward(xs, xs)
    steps = [drop.step for drop in model.drop_layers]
    states = [array.copy() for state in model.get_state() for array in state]
    given = {"xs": xs, "ts": xs} | {wrong: xs + 5}
    with pytest.raises(ValueError, match=rf"{wrong} must be in \[0, 11\)"):
        model.forward(**given)
    assert [drop.step for drop in model.drop_layers] == steps
    now = [array for state in model.get_state() for array in state]
    assert all(np.array_equal(a, b) for a, b in zip(now, states, strict=True))
