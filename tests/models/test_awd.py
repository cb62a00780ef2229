"""AWD-LSTM, and the regularisation of language models, against the papers' equations.

The second opinion is plain NumPy with gradients by complex steps, in float64 to 1e-10.
"""

import numpy as np
import pytest
from complex_step import cross_entropy, gradients, lstm

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
    embed_W, *cells, affine_b = params
    affine_W = embed_W.T if tied else cells.pop()

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
        raw, *state = lstm(hs, *states[k], Wx, Wh, b, h_mask)
        final.append(state)
        hs = dropped(raw, "between" if k < layers - 1 else "output", k + 1)
    change = raw[:, 1:] - raw[:, :-1]
    penalty = sizes.get("alpha", 0) * (hs * hs).mean()
    if change.size:
        penalty = penalty + sizes.get("beta", 0) * (change * change).mean()
    return cross_entropy(hs @ affine_W + affine_b, ts), penalty, final


@cases
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
    new |= {"alpha", "beta"}
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


def test_checkpoints_keep_the_masks_of_words(tmp_path):
    ids = np.random.default_rng(0).integers(0, V, 61)

    def trainer():
        return RnnlmTrainer(made(AWD), SGD(0.5), write=lambda line: None)

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
    import rnnfast

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
        ({"embedding_dropout": -1}, ValueError, r"embedding_dropout must be in \[0, 1\), got -1"),
        ({"alpha": -1.0}, ValueError, "alpha must be finite, from 0 up, got -1.0"),
        ({"beta": np.inf}, ValueError, "beta must be finite, from 0 up, got inf"),
        ({"beta": "2"}, TypeError, "beta must be a number, got str"),
    ],
)
def test_wrong_options(change, error, message):
    with pytest.raises(error, match=f"^LanguageModel: {message}"):
        made(change)


def test_the_books_model_still_needs_equal_sizes():
    with pytest.raises(ValueError, match=r"^BetterRnnlm: hidden_size must be wordvec_size = 3"):
        BetterRnnlm(V, D, H)


def test_wrong_activations():
    import rnnfast

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
