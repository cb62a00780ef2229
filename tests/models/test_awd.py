"""AWD-LSTM, and the regularisation of language models, against the papers' equations.

The second opinion is plain NumPy with gradients by complex steps, in float64 to 1e-10.
"""

import copy

import numpy as np
import pytest
from complex_step import cross_entropy, gradients, lstm

import rnnfast
from rnnfast.layers import TimeRegularizedSoftmaxWithLoss
from rnnfast.models import BetterRnnlm, LanguageModel, load_model
from rnnfast.optim import SGD, remove_duplicate
from rnnfast.reference import ops
from rnnfast.trainer import RnnlmTrainer

V, D, H, N, T, SEED = 7, 3, 4, 2, 3, 6
CLOSE = {"rtol": 0, "atol": 1e-10}
AWD = {
    "layers": 3,
    "variational_dropout": True,
    "input_dropout": 0.4,
    "between_dropout": 0.25,
    "output_dropout": 0.3,
    "embedding_dropout": 0.3,
    "weight_drop": 0.5,
    "alpha": 2.0,
    "beta": 1.5,
    "tie_weights": True,
}
CASES = {
    "awd": AWD,
    "awd, one step at a time": AWD | {"input_dropout": 0.0, "variational_dropout": False},
    "untied": AWD | {"tie_weights": False, "layers": 2, "weight_drop": 0.0},
    "h_mask": {"dropout": 0.3, "output_dropout": 0.5, "variational_dropout": True},
    "words": {"embedding_dropout": 0.5},
    "past decode": {"past_decode": 0.7, "tie_weights": True, "layers": 2},
    "past decode, untied": {"past_decode": 0.7, "output_dropout": 0.3},
    "noise": {"adversarial": 0.4, "tie_weights": True, "layers": 2},
    "all": AWD | {"past_decode": 0.5, "adversarial": 0.3, "layers": 2},
    "zoneout": {"h_zoneout": 0.4, "c_zoneout": 0.3, "layers": 2},
    "zoneout of c": {"c_zoneout": 0.5},
    "recurrent dropout": {"recurrent_dropout": 0.4, "layers": 2, "dropout": 0.2},
    "awd, zoneout": AWD | {"h_zoneout": 0.2, "c_zoneout": 0.5, "recurrent_dropout": 0.3},
    "penalties": {"alpha": 0.5, "beta": 2.0, "tie_weights": True, "layers": 2},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def batch(seed, T=T):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (N, T)), rng.integers(0, V, (N, T))


def made(options, **more):
    return LanguageModel(V, D, H, **{"rng": SEED, "dtype": np.float64} | options | more)


def by_hand(model, params, xs, ts, step, states):
    """The loss, the penalty and the final states, from the equations of the papers."""
    sizes = model.sizes
    layers, dropout = sizes["layers"], sizes["dropout"]
    variational, tied = sizes["variational_dropout"], sizes["tie_weights"]
    embed_W, cells, rest = params[0], params[1 : 3 * layers + 1], list(params[3 * layers + 1 :])
    affine_W = embed_W.T if tied else rest.pop(0)
    affine_b, *past = rest

    def mask(shape, ratio, key):
        return ops.dropout_mask(shape, ratio, (SEED, key), step, np.float64)

    def dropped(hs, place, key):
        n, T, width = hs.shape
        ratio = sizes.get(f"{place}_dropout", dropout)
        return hs * mask((n, 1 if variational else T, width), ratio, key)

    words = mask((V,), sizes.get("embedding_dropout", 0.0), 3 * layers + 1)
    hs = dropped((embed_W * words[:, None])[xs], "input", 0)
    final = []
    for k in range(layers):
        Wx, Wh, b = cells[3 * k : 3 * k + 3]
        h_mask = mask((N, len(Wh)), dropout if variational else 0.0, layers + 1 + k)
        Wh = Wh * mask(Wh.shape, sizes["weight_drop"], 2 * layers + 1 + k)
        steps, width = xs.shape[1], len(Wh)
        ratio = sizes.get("recurrent_dropout", 0.0)
        g_mask = mask((N, 1 if variational else steps, width), ratio, 3 * layers + 3 + k)
        kept = [
            mask((N, steps, width), sizes.get(name, 0.0), of * layers + 3 + k) == 0
            for of, name in ((4, "h_zoneout"), (5, "c_zoneout"))
        ]
        g_mask = np.broadcast_to(g_mask, (N, steps, width))
        raw, *state = lstm(hs, *states[k], Wx, Wh, b, h_mask, g_mask, *kept)
        final.append(state)
        hs = dropped(raw, "between" if k < layers - 1 else "output", k + 1)
    change = raw[:, 1:] - raw[:, :-1]
    penalty = sizes.get("alpha", 0) * (hs * hs).mean()
    if change.size:
        penalty = penalty + sizes.get("beta", 0) * (change * change).mean()
    scores = hs @ affine_W + affine_b
    loss = cross_entropy(scores, ts)
    if past:
        P = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
        W, b, c = past
        decoded = np.tanh(P @ affine_W.T @ W + b) @ affine_W + c
        penalty = penalty + sizes["past_decode"] * cross_entropy(decoded, xs)
    if size := sizes.get("adversarial"):
        noisy = scores.copy()
        for n, t in np.ndindex(ts.shape):
            h, w = hs[n, t].real, affine_W[:, ts[n, t]].real
            if h @ w > 0:
                noise = -size * np.sqrt(w @ w) * h / np.sqrt(h @ h)  # no derivative: it is real
                noisy[n, t, ts[n, t]] += hs[n, t] @ noise
        penalty = penalty + cross_entropy(noisy, ts) - loss
    return loss, penalty, final


@cases
@pytest.mark.one_in(5)
def test_outputs_and_gradients_are_those_of_the_equations(options):
    model = made(options)
    widths = [layer.Wh.shape[0] for layer in model.recurrent_layers]
    last = D if model.sizes["tie_weights"] else H
    assert widths == [*[H] * (model.sizes["layers"] - 1), last]
    states = [[np.zeros((N, width))] * 2 for width in widths]
    for step, steps in enumerate((T, 1, T)):
        xs, ts = batch(step, steps)
        params = remove_duplicate(model.params, model.grads)[0]
        loss, penalty, final = by_hand(model, params, xs, ts, step, states)
        assert model.forward(xs, ts) == pytest.approx(loss, abs=1e-12)
        assert model.penalty == pytest.approx(penalty, abs=1e-12)
        model.backward()
        params, grads = remove_duplicate(model.params, model.grads)
        wanted = gradients(
            lambda *params, args=(xs, ts, step, states): sum(by_hand(model, params, *args)[:2]),
            params,
        )
        for name, grad, expected in zip(model.param_names, grads, wanted, strict=False):
            np.testing.assert_allclose(grad, expected, err_msg=name, **CLOSE)
        for layer, state in zip(model.recurrent_layers, final, strict=True):
            np.testing.assert_allclose(layer.h, state[0], **CLOSE)
        states = final
        SGD(0.5).update(params, grads)
    plain = model.forward(*batch(3), train_flg=False)
    assert np.isfinite(plain) and model.penalty == 0
    assert all(layer.step == 3 for layer in model.drop_layers)  # inference draws nothing


@cases
def test_a_factor_of_the_gradient_is_one_of_the_penalty_too(options):
    model, other = made(options), made(options)
    for one, factor in (model, 1), (other, -2.5):
        one.forward(*batch(0))
        one.backward(factor)
    for grad, scaled in zip(model.grads, other.grads, strict=True):
        np.testing.assert_allclose(scaled, -2.5 * grad, rtol=1e-12, atol=1e-15)


@cases
def test_a_file_has_the_options_that_were_given(options, tmp_path):
    model, path = made(options), tmp_path / "model.safetensors"
    new = {"input_dropout", "between_dropout", "output_dropout", "embedding_dropout"}
    new |= {"alpha", "beta", "past_decode", "adversarial"}
    new |= {"h_zoneout", "c_zoneout", "recurrent_dropout"}
    assert new & model.sizes.keys() == new & options.keys()
    model.save_params(path)
    loaded, _ = load_model(path)
    assert loaded.sizes == model.sizes
    xs, _ = batch(0)
    np.testing.assert_array_equal(loaded.predict(xs), model.predict(xs))


@cases
def test_the_columns_agree(options):
    losses = {}
    for device in "reference", "cpu":
        model = made(options, device=device)
        model.forward(*batch(0))
        model.backward()
        losses[device] = [model.forward(*batch(1)), model.penalty, *model.grads]
    for a, b in zip(*losses.values(), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("name", ["awd", "awd, zoneout"])
def test_checkpoints_keep_the_masks(tmp_path, name):
    ids = np.random.default_rng(0).integers(0, V, 61)

    def trainer():
        return RnnlmTrainer(made(CASES[name]), SGD(0.5), write=lambda line: None)

    def fit(it, epochs):
        it.fit(ids[:-1], ids[1:], epochs, N, T, eval_interval=2)
        return it

    whole, first, second = fit(fit(trainer(), 1), 1), fit(trainer(), 1), trainer()
    first.save_checkpoint(tmp_path / "c.safetensors")
    second.load_checkpoint(tmp_path / "c.safetensors")
    fit(second, 1)
    for a, b in zip(whole.model.params, second.model.params, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mask_of_words():
    """Only rows that occur are multiplied; an id that occurs twice is dropped twice."""
    W = np.arange(12.0).reshape(4, 3)
    for name in "Embedding", "TimeEmbedding":
        layer = getattr(rnnfast, name)(W)
        ids, mask = np.array([[1, 1, 3]]), np.array([np.nan, 2.0, np.nan, 0.0])
        out = layer.forward(ids, word_mask=mask)
        np.testing.assert_array_equal(out, [[2 * W[1], 2 * W[1], 0 * W[3]]])
        layer.backward(np.ones_like(out))
        np.testing.assert_array_equal(layer.grads[0], np.array([[0.0], [4], [0], [0]]) * [1, 1, 1])
        for wrong, error, message in [
            (mask[:3], ValueError, r"word_mask must be \(V,\) = \(4,\), got \(3,\)"),
            ("no", TypeError, "word_mask must be a NumPy array, got str"),
        ]:
            with pytest.raises(error, match=f"^{name}: {message}"):
                layer.forward(ids, word_mask=wrong)


def test_dropout_of_words_is_switched_off_like_the_others():
    model, plain = made({"embedding_dropout": 0.5}), made({})
    for layer in model.drop_layers:
        layer.train_flg = False
    assert model.forward(*batch(0)) == plain.forward(*batch(0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input_dropout": 1.0}, ValueError, r"input_dropout must be in \[0, 1\), got 1.0"),
        ({"between_dropout": "x"}, TypeError, "between_dropout must be a number, got str"),
        ({"output_dropout": True}, TypeError, "output_dropout must be a number, got bool"),
        ({"recurrent_dropout": 1}, ValueError, r"recurrent_dropout must be in \[0, 1\), got 1"),
        ({"h_zoneout": "x"}, TypeError, "h_zoneout must be a number, got str"),
        ({"c_zoneout": -0.1}, ValueError, r"c_zoneout must be in \[0, 1\), got -0.1"),
        (
            {"c_zoneout": 0.1, "cell": "gru"},
            ValueError,
            "c_zoneout must be None with cell 'gru', got 0.1",
        ),
        (
            {"recurrent_dropout": 0.1, "cell": "rnn"},
            ValueError,
            "recurrent_dropout must be None with cell 'rnn', got 0.1",
        ),
        (
            {"h_zoneout": 0.1, "cell": "slstm"},
            ValueError,
            "h_zoneout must be None with cell 'slstm', got 0.1",
        ),
        ({"embedding_dropout": -1}, ValueError, r"embedding_dropout must be in \[0, 1\), got -1"),
        ({"alpha": -1.0}, ValueError, "alpha must be finite, from 0 up, got -1.0"),
        ({"beta": np.inf}, ValueError, "beta must be finite, from 0 up, got inf"),
        ({"beta": "2"}, TypeError, "beta must be a number, got str"),
        ({"past_decode": -1}, ValueError, "past_decode must be finite, from 0 up, got -1"),
        ({"adversarial": None, "beta": -2}, ValueError, "beta must be finite, from 0 up, got -2"),
    ],
)
def test_wrong_options(change, error, message):
    with pytest.raises(error, match=f"^LanguageModel: {message}"):
        made(change)


def test_the_books_model_still_needs_equal_sizes():
    with pytest.raises(ValueError, match=r"^BetterRnnlm: hidden_size must be wordvec_size = 3"):
        BetterRnnlm(V, D, H)


def test_wrong_activations():
    for layer in (
        rnnfast.ActivationRegularization(1.0),
        rnnfast.TemporalActivationRegularization(1.0),
    ):
        name = type(layer).__name__
        with pytest.raises(ValueError, match=rf"^{name}: xs must be \(N, T, H\), got \(2, 3\)"):
            layer.forward(np.zeros((2, 3)))
        with pytest.raises(RuntimeError, match=f"^{name}: backward needs the forward"):
            layer.backward(np.zeros((2, 3, 1)))
        layer.forward(np.zeros((2, 3, 1)))
        with pytest.raises(ValueError, match=rf"^{name}: dout must be like the output"):
            layer.backward(np.zeros((2, 3, 2)))


def test_the_noise_is_the_worst_of_its_length():
    """No other noise of this length on the target's vector has a higher cross entropy."""
    rng = np.random.default_rng(3)
    W, b, h = rng.normal(size=(D, V)), rng.normal(size=V), rng.normal(size=(1, 1, D))
    affine = rnnfast.TimeAffine(W, b)
    for t in range(V):
        ts = np.array([[t]])
        loss = TimeRegularizedSoftmaxWithLoss(affine, adversarial=0.3)
        found = loss.forward(h, ts) + loss.penalty
        if h[0, 0] @ W[:, t] <= 0:
            assert loss.penalty == 0
            continue
        directions = rng.normal(size=(200, D))
        for way in directions / np.linalg.norm(directions, axis=1, keepdims=True):
            moved = W.copy()
            moved[:, t] += 0.3 * np.linalg.norm(W[:, t]) * way
            assert cross_entropy(h @ moved + b, ts) <= found + 1e-12
    assert loss.forward(h, ts) == pytest.approx(loss.forward(h, ts, train=False), rel=1e-13)


def test_ignored_targets_have_no_noise():
    rng = np.random.default_rng(3)
    affine = rnnfast.TimeAffine(rng.normal(size=(D, V)), rng.normal(size=V))
    hs, ts = rng.normal(size=(1, 3, D)), np.array([[2, -1, 4]])
    loss, alone = (TimeRegularizedSoftmaxWithLoss(affine, adversarial=0.5) for _ in range(2))
    whole = loss.forward(hs, ts), loss.penalty
    dhs = loss.backward()
    parts = alone.forward(hs[:, ::2], ts[:, ::2]), alone.penalty
    np.testing.assert_allclose(whole, parts, rtol=1e-13)
    np.testing.assert_allclose(dhs[:, ::2], alone.backward(), rtol=1e-12)
    assert (dhs[:, 1] == 0).all()
    assert loss.forward(np.zeros((1, 1, D)), np.array([[1]])) > 0 and loss.penalty == 0


def test_parameters_of_the_loss_are_the_models():
    """They are copied, counted and saved with the others; predictions do not depend on them."""
    model, plain = made({"past_decode": 0.5}), made({})
    assert model.param_names[-3:] == ["past_W", "past_b", "past_c"]
    for a, b in zip(model.params, plain.params, strict=False):
        np.testing.assert_array_equal(a, b)
    xs, ts = batch(0)
    assert model.forward(xs, ts, train_flg=False) == plain.forward(xs, ts, train_flg=False)
    assert "PastDecode: past_W (4, 4), past_b (4,), past_c (7,), 27 parameters" in repr(model)
    total = sum(param.size for param in model.params)
    assert f": {total:,} parameters" in repr(model).splitlines()[0]
    one, other = copy.deepcopy(model), made({"past_decode": 0.5})
    for each in one, other:
        each.reset_state()
        each.forward(xs, ts)
        each.backward()
    for a, b in zip(one.grads, other.grads, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.past.affine is one.layers[-1] is not model.layers[-1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda loss, x, t: loss.forward(x, t),
            TypeError,
            "previous must be a NumPy array, got NoneTyp",
        ),
        (
            lambda loss, x, t: loss.forward(x, t, previous=t[:, 1:]),
            ValueError,
            r"previous must be \(N, T\) = \(2, 3\), got \(2, 2\)",
        ),
        (
            lambda loss, x, t: loss.past.forward(np.zeros((3, 2)), t[0]),
            ValueError,
            r"scores must be \(M, V\) = \(M, 7\), got \(3, 2\)",
        ),
        (
            lambda loss, x, t: loss.forward(x, t, previous=t + V),
            ValueError,
            r"previous must be in \[0, 7\), got",
        ),
        (
            lambda loss, x, t: loss.backward(),
            RuntimeError,
            "backward needs the forward of a training",
        ),
        (
            lambda loss, x, t: loss.past.backward(),
            RuntimeError,
            "backward needs the forward of a train",
        ),
    ],
)
def test_wrong_calls_of_the_loss(call, error, message):
    loss = made({"past_decode": 0.5}).loss_layer
    with pytest.raises(error, match=message):
        call(loss, np.zeros((N, T, H)), batch(0)[1])


def test_layers_of_the_loss_belong_together():
    model, other = made({"past_decode": 0.5}), made({})
    with pytest.raises(ValueError, match="past must have the same affine layer, got another"):
        TimeRegularizedSoftmaxWithLoss(other.layers[-1], past=model.past)
