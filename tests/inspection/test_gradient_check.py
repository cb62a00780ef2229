"""Gradients by differences: right ones pass, wrong ones are named."""

import numpy as np
import pytest
from cases import CELLS
from on_host import assert_allclose
from sequence_cases import CASES, SIZES, batch
from tiny import CLASSES, POINTS, TwoLayerNet

import rnnfast
from rnnfast import layers, models
from rnnfast.inspection import gradient_check
from rnnfast.layers.cells import BIDIRECTIONAL, RECURRENT

rng = np.random.default_rng(0)
N, T, D, H = 2, 3, 3, 4
XS = rng.normal(size=(N, T, D))
IDS = rng.integers(0, 5, (N, T))
F64 = {"rng": 0, "dtype": "float64"}


@pytest.mark.parametrize("kinds", [RECURRENT, BIDIRECTIONAL], ids=["one way", "both ways"])
@pytest.mark.parametrize("cell", RECURRENT)
def test_recurrent_layers(cell, kinds, device):
    layer = kinds[cell].create(D, H, **F64, device=device)
    report = gradient_check(layer, XS, elements=4, lengths=[T, 1])
    assert report.passed, report
    names = [array.name for array in report.arrays]
    assert len(names) == len(layer.params) + 1 and names[-1] == "inputs[0]"
    assert all(array.checked == min(4, np.prod(array.shape)) for array in report.arrays)


def test_every_cell_is_checked():
    assert len(RECURRENT) == len(CELLS)


def scores(*sides):
    return np.random.default_rng(2).normal(size=sides)


LAYERS = {
    "one step": (
        lambda: rnnfast.LSTM.create(D, H, **F64),
        scores(N, D),
        scores(N, H),
        scores(N, H),
    ),
    "affine": (lambda: rnnfast.TimeAffine.create(D, H, **F64), XS),
    "embedding": (lambda: rnnfast.TimeEmbedding(scores(5, D)), IDS),
    "dropout by a seed": (lambda: rnnfast.TimeDropout(0.5, rng=3), XS),
    "dropout by np.random": (lambda: rnnfast.TimeDropout(0.5), XS),
    "stack": (
        lambda: rnnfast.TimeStack(
            [rnnfast.TimeGRU.create(D, H, **F64), rnnfast.TimeRNN.create(H, 2, **F64)], 0.5, rng=1
        ),
        XS,
    ),
    "softmax": (lambda: rnnfast.Softmax(), scores(N, 4)),
    "softmax loss": (lambda: rnnfast.TimeSoftmaxWithLoss(), scores(N, T, 5), IDS),
    "squared loss": (lambda: rnnfast.TimeSquaredLoss(), XS, XS[:, ::-1].copy()),
    "a net of the book": (TwoLayerNet, POINTS[:4], CLASSES[:4]),
    "a language model": (lambda: models.BetterRnnlm(5, 4, 4, **F64), IDS, IDS[:, ::-1].copy()),
    "mixture": (lambda: models.LanguageModel(5, 4, 4, mixtures=2, **F64), IDS, IDS[::-1].copy()),
}


@pytest.mark.parametrize(("make", "inputs"), [(m, x) for m, *x in LAYERS.values()], ids=LAYERS)
def test_layers_losses_and_models(make, inputs):
    layer = make()
    before, state = [param.copy() for param in layer.params], np.random.get_state()[1].copy()
    report = gradient_check(layer, *inputs, elements=6)
    assert report.passed, report
    assert_allclose(np.random.get_state()[1], state, rtol=0, atol=0)
    for param, old in zip(layer.params, before, strict=True):
        np.testing.assert_array_equal(param, old)


@pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES)
def test_sequence_models(kind, options):
    model = kind(*SIZES[kind], **options, **F64)
    for param in model.params:  # the embedding's are small
        param += 0.3 * np.random.default_rng(1).normal(size=param.shape)
    report = gradient_check(model, *batch(kind), elements=4)
    assert report.passed, report
    assert {array.name for array in report.arrays} - {"inputs[0]"} == set(model.param_names)


def test_a_state_is_where_forwards_start():
    layer = rnnfast.TimeLSTM.create(D, H, stateful=True, **F64)
    layer.forward(XS)
    state = [array.copy() for array in layer.state]
    assert gradient_check(layer, XS, elements=5).passed
    for array, old in zip(layer.state, state, strict=True):
        np.testing.assert_array_equal(array, old)


def test_shared_weights_have_the_sum_of_their_gradients():
    model = models.LanguageModel(5, 4, 4, tie_weights=True, **F64)
    report = gradient_check(model, IDS, IDS[::-1].copy(), elements=None)
    assert report.passed and report.arrays[0].name == "embed_W"
    assert len(report.arrays) == len(set(model.param_names) - {None})


class Wrong(layers.Affine):
    """An affine layer with a mistake in one element of one gradient."""

    mistake = "dx"

    def backward(self, dout):
        dx = super().backward(dout)
        if self.mistake == "dx":
            dx[1, 2] += 0.01
        elif self.mistake == "nan":
            self.grads[0][2, 1] = np.nan
        else:
            self.grads[1][3] *= 1.01
        return dx


@pytest.mark.parametrize(
    ("mistake", "name", "index"),
    [("dx", "inputs[0]", (1, 2)), ("db", "b", (3,)), ("nan", "W", (2, 1))],
)
def test_the_worst_element_is_named(mistake, name, index):
    layer = Wrong(scores(3, 4), scores(4))
    layer.mistake = mistake
    report = gradient_check(layer, scores(2, 3), elements=None)
    assert not report.passed
    assert (report.worst.name, report.worst.index) == (name, index)
    text = str(report)
    assert f"FAILED, tolerance 1e-06; the worst element is {name}{list(index)}" in text
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["W", "b", "inputs[0]"]
    if mistake == "dx":
        difference = report.worst.backward - report.worst.numeric
        assert difference == pytest.approx(0.01, rel=1e-6)


def test_float32_needs_to_be_asked_for():
    layer = rnnfast.Affine.create(3, 2, rng=0, device="cpu")
    x = scores(2, 3).astype("f")
    with pytest.raises(TypeError, match="gradient_check: W must be float64, got float32; to check"):
        gradient_check(layer, x)
    double = rnnfast.Affine.create(3, 2, **F64, device="cpu")
    with pytest.raises(
        TypeError, match=r"gradient_check: inputs\[0\] must be float64, got float32"
    ):
        gradient_check(double, x)
    assert gradient_check(layer, x, step=1e-2, tolerance=1e-3).passed
    assert not gradient_check(layer, x, step=1e-2, tolerance=1e-9).passed


class NoGradient:
    def __init__(self):
        self.params, self.grads = [], []

    def forward(self, xs):
        return xs * 1.0

    def backward(self, dout):
        return dout[:1]


@pytest.mark.parametrize(
    ("layer", "inputs", "options", "error", "message"),
    [
        (3, (XS,), {}, TypeError, "layer must have forward, got a int without"),
        (NoGradient(), (XS,), {}, ValueError, r"the gradient of inputs\[0\] must be like inputs"),
        (NoGradient(), (IDS,), {}, ValueError, "layer must have a weight or an input with a grad"),
        (NoGradient(), (XS,), {"elements": 0}, ValueError, "elements must be from 1 up, got 0"),
        (NoGradient(), (XS,), {"step": 0}, ValueError, "step must be finite, above 0, got 0"),
        (NoGradient(), (XS,), {"tolerance": "1"}, TypeError, "tolerance must be a real number"),
        (NoGradient(), (XS,), {"rng": "1"}, TypeError, "rng must be None, a seed from 0 up or"),
    ],
)
def test_bad_arguments(layer, inputs, options, error, message):
    with pytest.raises(error, match=f"gradient_check: {message}"):
        gradient_check(layer, *inputs, **options)
