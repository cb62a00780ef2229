"""Language models whose output is a mixture of softmaxes, of one layer or of two."""

import copy
import pickle

import numpy as np
import pytest
from naive import numeric_gradient
from on_host import assert_allclose

from rnnfast import sampling
from rnnfast.io import to_numpy
from rnnfast.layers.freezing import frozen
from rnnfast.models import LanguageModel, load_model
from rnnfast.optim import remove_duplicate
from rnnfast.trainer import eval_perplexity

V, D, H, N, T = 9, 4, 5, 2, 3
MIXTURE = {"mixtures": 3, "layers": 2}
CASES = {
    "mixture": MIXTURE | {"latent_size": 6},
    "tied, one layer": {"mixtures": 2, "tie_weights": True},
    "direct output connection": MIXTURE
    | {"mixtures_below": 2, "tie_weights": True, "dropout": 0.3, "variational_dropout": True}
    | {"latent_dropout": 0.4, "balance": 0.2, "alpha": 2.0, "beta": 1.0},
    "past decode": MIXTURE | {"mixtures_below": 2, "past_decode": 0.4, "balance": 0.2},
    "a narrow last layer": MIXTURE | {"layers": 3, "mixtures_below": 2, "last_hidden_size": 3},
    "the embedding, too": {"mixtures": 2, "mixtures_below": 1, "cell": "gru"},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)

pytestmark = pytest.mark.usefixtures("device")


def make(options):
    return LanguageModel(V, D, H, **{"rng": 0, "dtype": "f8"} | options)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(V, size=(N, T)), rng.integers(V, size=(N, T))


@cases
@pytest.mark.one_in(2)
def test_gradients_are_the_numeric_ones(options, batch):
    """Of the loss and all penalties, with the same masks each time."""
    model = make(options)

    def total():
        for drop in model.drop_layers:
            drop.step = 0
        model.reset_state()
        return model.forward(*batch) + model.penalty

    total()
    model.backward()
    params, grads = remove_duplicate(model.params, model.grads)
    grads = [grad.copy() for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        assert_allclose(grad, numeric_gradient(total, param), atol=1e-7)


@cases
def test_scores_are_log_probabilities(options, batch):
    """And the loss is theirs; one id after the other gives the same."""
    xs, ts = batch
    model = make(options)
    log_p = to_numpy(model.predict(xs))
    assert log_p.shape == (N, T, V)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=2), 1, rtol=1e-12)
    model.reset_state()
    loss = model.forward(xs, ts, train_flg=False)
    chosen = np.take_along_axis(log_p, ts[..., np.newaxis], 2)
    assert float(loss) == pytest.approx(-chosen.mean(), rel=1e-12)
    model.reset_state()
    with frozen(model):
        for t in range(T):
            assert_allclose(model.next_scores(xs[:, t : t + 1]), log_p[:, t], rtol=1e-12)
    assert model.vocab_size == V


@cases
def test_files_and_copies(options, batch, tmp_path):
    xs, ts = batch
    model = make(options)
    model.save_params(tmp_path / "m.safetensors")
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert loaded.sizes == model.sizes
    expected = model.predict(xs)
    for other in (loaded, copy.deepcopy(make(options)), pickle.loads(pickle.dumps(make(options)))):
        np.testing.assert_array_equal(other.predict(xs), expected)
        other.forward(xs, ts)
        other.backward()
        tied = np.shares_memory(other.params[0], other.layers[-1].params[0])
        assert tied == options.get("tie_weights", False)
        assert other.loss_layer.mixture is other.layers[-1]
    assert "TimeMixtureSoftmax: " in repr(model)
    assert eval_perplexity(model, np.arange(50) % V, batch_size=2, time_size=5) > 1
    for m in (model, loaded):
        m.reset_state()
    text = [sampling.generate(m, [1], 20, rng=np.random.default_rng(3)) for m in (model, loaded)]
    assert text[0] == text[1]


def test_widths_and_names():
    """Tied weights need no narrow last layer here: the latent vectors are as wide as words."""
    model = make(MIXTURE | {"mixtures_below": 2, "tie_weights": True})
    assert [layer.Wh.shape[0] for layer in model.recurrent_layers] == [H, H]
    shapes = dict(zip(model.param_names, (p.shape for p in model.params), strict=True))
    assert shapes["prior_W"] == (H, 5)
    assert shapes["latent_W1"] == (H, 2 * D)
    assert shapes["latent_W2"] == (H, 3 * D)
    assert shapes["latent_b2"] == (3 * D,)
    narrow = make(MIXTURE | {"layers": 3, "last_hidden_size": 3, "mixtures_below": 2})
    assert [layer.Wh.shape[0] for layer in narrow.recurrent_layers] == [H, H, 3]
    shapes = dict(zip(narrow.param_names, (p.shape for p in narrow.params), strict=True))
    assert (shapes["prior_W"], shapes["latent_W1"], shapes["latent_W2"]) == (
        (3, 5),
        (H, 2 * D),
        (3, 3 * D),
    )
    assert make({"layers": 2, "last_hidden_size": 3}).layers[-1].params[0].shape == (3, V)
    assert make(MIXTURE).param_names[-2:] == ["latent_W", "latent_b"]


def test_dropout_of_latent_vectors_counts_its_masks(batch):
    """Checkpoints save how many, as of every dropout layer of the model."""
    model = make(MIXTURE | {"latent_dropout": 0.5})
    (drop,) = model.drop_layers
    assert drop.variational
    first = model.forward(*batch)
    model.reset_state()
    assert drop.step == 1
    assert model.forward(*batch) != first
    model.reset_state()
    assert model.forward(*batch, train_flg=False) == make(MIXTURE).forward(*batch, train_flg=False)
    assert drop.step == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mixtures": 0}, "mixtures must be from 1 up, got 0"),
        ({"mixtures_below": 2}, "mixtures_below must be None without mixtures, got 2"),
        ({"balance": 0.1}, "balance must be None without mixtures, got 0.1"),
        ({"mixtures": 2, "balance": -1}, "balance must be finite, from 0 up, got -1"),
        ({"mixtures": 2, "latent_dropout": 1}, r"latent_dropout must be in \[0, 1\), got 1"),
        (
            {"mixtures": 2, "latent_size": 3, "tie_weights": True},
            "latent_size must be wordvec_size = 4, tied, got 3",
        ),
        ({"tie_weights": True}, "hidden_size must be wordvec_size = 4, tied, got 5"),
        ({"last_hidden_size": 3}, "last_hidden_size must be hidden_size = 5, got 3"),
        (
            {"layers": 2, "last_hidden_size": 3, "tie_weights": True},
            "last_hidden_size must be wordvec_size = 4, tied, got 3",
        ),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=f"^LanguageModel: {text}"):
        make(options)
