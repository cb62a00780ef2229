"""Models that start from trained ones: gradual learning."""

import numpy as np
import pytest
from on_host import assert_array_equal

from rnnfast.checks import beside, shares
from rnnfast.models import LanguageModel, Rnnlm, grow, load_model, start_from

V, D, H, N, T = 9, 4, 6, 2, 5
AWD = {"tie_weights": True, "weight_drop": 0.5, "alpha": 2.0, "past_decode": 0.1}
CASES = {
    "lstm": {},
    "gru": {"cell": "gru"},
    "lstmp": {"cell": "lstmp", "hidden_size": 8, "proj_size": 3},
    "mogrifier": {"cell": "mogrifier", "rounds": 3, "rank": 2},
    "lngru": {"cell": "lngru"},
    "slstm": {"cell": "slstm", "heads": 2},
    "tied": AWD | {"wordvec_size": H},
    "mixture": {"mixtures": 3, "tie_weights": True},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)

pytestmark = pytest.mark.usefixtures("device")


def made(options, seed, **more):
    sizes = {"wordvec_size": D, "hidden_size": H, "dtype": np.float64, "rng": seed}
    return LanguageModel(V, **(sizes | options | more))


@cases
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_trained_layers_are_carried_over(options, depth):
    model, trained = made(options, 1, layers=3), made(options, 2, layers=depth)
    for param in trained.params:
        more = 0.01 * np.arange(param.size).reshape(param.shape)  # biases that are not 0
        param += beside(param, more)
    fresh = made(options, 1, layers=3).recurrent_layers
    start_from(model, trained)
    mine, theirs = model._named_params(), trained._named_params()
    for one, other in zip(model.recurrent_layers, trained.recurrent_layers, strict=depth == 3):
        for a, b in zip(one.params, other.params, strict=True):
            assert_array_equal(a, b)
            assert not shares(a, b)
    cell = options.get("cell", "lstm")
    outside = [name for name in mine if not name.startswith(f"{cell}_")]
    assert "embed_W" in outside and "affine_b" in outside
    for name in outside:
        assert_array_equal(mine[name], theirs[name])
    for layer, new in zip(model.recurrent_layers[depth:], fresh[depth:], strict=True):
        for a, b in zip(layer.params, new.params, strict=True):
            assert_array_equal(a, b)

    # The first layers compute what they did
    xs = np.random.default_rng(0).integers(0, V, (N, T))
    outputs = []
    for net in (model, trained):
        hs = net.layers[0].forward(xs, train=False)
        for layer in net.recurrent_layers[:depth]:
            hs = layer.forward(hs, train=False)
        outputs.append(hs)
    assert_array_equal(*outputs)
    if depth == 3:
        for net in (model, trained):
            net.reset_state()
        assert_array_equal(model.predict(xs), trained.predict(xs))


@cases
def test_a_model_grows(options):
    """One layer more: that of a new model with these sizes and this seed, over the trained ones."""
    trained = made(options, 2)
    model, fresh = grow(trained, rng=5), made(options, 5, layers=2)
    assert model.sizes == fresh.sizes and type(model) is LanguageModel
    assert model.recurrent_layers[0].device == trained.recurrent_layers[0].device
    start_from(fresh, trained)
    for name, param in model._named_params().items():
        assert_array_equal(param, fresh._named_params()[name])
        assert not any(shares(param, other) for other in trained.params)
    again = grow(grow(trained, 1), 4, rng=0)
    assert len(again.recurrent_layers) == 4
    for a, b in zip(
        again.recurrent_layers[0].params, trained.recurrent_layers[0].params, strict=True
    ):
        assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("trained", "layers", "error", "message"),
    [
        (
            Rnnlm(V, D, H),
            2,
            TypeError,
            "trained must be a LanguageModel, of any number of layers, got Rnnlm",
        ),
        (LanguageModel(V, D, H, layers=2), 1, ValueError, "layers must be from 2 up, got 1"),
        (LanguageModel(V, D, H), 2.0, TypeError, "layers must be an integer, got float"),
        (
            LanguageModel(V, D, H, layers=2, tie_weights=True),
            None,
            ValueError,
            "trained: its last layer must be 6 wide, as layer 2 of the model is, found 4; .*",
        ),
    ],
)
def test_models_that_do_not_grow(trained, layers, error, message):
    with pytest.raises(error, match=f"^grow: {message}$"):
        grow(trained, layers)


def test_the_books_model_is_a_first_layer():
    model, trained = LanguageModel(V, D, H, layers=2, rng=0), Rnnlm(V, D, H, rng=1)
    start_from(model, trained)
    assert_array_equal(model.recurrent_layers[0].Wx, trained.lstm_layer.Wx)


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        ({"layers": 1}, {"layers": 2}, "must have at most 1 recurrent layers, as the model has, f"),
        ({}, {"cell": "gru"}, "the layers must be TimeLSTM, found TimeGRU"),
        (
            {"layers": 3, "tie_weights": True},
            {"layers": 2, "tie_weights": True},
            "its last layer must be 6 wide, as layer 2 of the model is, found 4; with tied",
        ),
        (
            {},
            {"hidden_size": 7},
            "its last layer must be 6 wide, as layer 1 of the model is, found 7",
        ),
        ({}, {"wordvec_size": 5}, "embed_W must be float64"),
        ({"layers": 1}, {"hidden_size": 7}, "Wx of layer 1 must be float64"),
        ({}, {"dtype": "f4"}, "embed_W must be float64"),
        ({"past_decode": 0.1}, {}, "expected arrays"),
        ({}, {"mixtures": 2}, "expected arrays"),
    ],
)
def test_weights_that_do_not_fit(mine, theirs, message):
    model, trained = made({"layers": 2} | mine, 0), made({"layers": 1} | theirs, 1)
    before = [param.copy() for param in model.params]
    with pytest.raises(ValueError, match=f"^FILE: {message}"):
        start_from(model, trained, "FILE")
    for a, b in zip(model.params, before, strict=True):
        assert_array_equal(a, b)


def test_a_model_in_a_file(tmp_path):
    made({}, 3).save_params(tmp_path / "one")
    model = made({}, 4, layers=2)
    start_from(model, load_model(tmp_path / "one", device="cpu")[0])
    assert model.recurrent_layers[1].Wx.any()
