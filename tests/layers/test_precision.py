"""freeze(precision=) of layers, stacks and models."""

import numpy as np
import pytest

import rnnfast
from rnnfast.layers.stacks import TimeStack
from rnnfast.models import Rnnlm
from rnnfast.sampling import generate
from rnnfast.sequences import SequenceClassifier
from rnnfast.training.evaluation import eval_perplexity

XS = np.random.default_rng(0).standard_normal((4, 6, 10)).astype("f4")
LAYERS = [
    rnnfast.TimeRNN,
    rnnfast.TimeLSTM,
    rnnfast.TimeGRU,
    rnnfast.TimeBiLSTM,
    rnnfast.TimeBiGRU,
]
precisions = pytest.mark.parametrize("precision", ["bf16", "int8"])


@pytest.fixture(params=["cpu", "reference"])
def device(request):
    return request.param


@precisions
@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_layers(kind, precision, device):
    layer = kind.create(10, 20, rng=0, device=device)
    exact = layer.forward(XS)
    layer.freeze(precision)
    rough = layer.forward(XS, train=False)
    assert 0 < np.abs(rough - exact).max() < 0.05
    assert "frozen" in repr(layer)
    with pytest.raises(RuntimeError, match="frozen"):
        layer.forward(XS)
    layer.unfreeze()
    np.testing.assert_array_equal(layer.forward(XS), exact)


@precisions
def test_one_step(precision, device):
    layer = rnnfast.LSTM.create(10, 20, rng=0, device=device)
    h, c = np.zeros((2, 4, 20), "f4")
    exact = layer.forward(XS[:, 0], h, c)[0]
    layer.freeze(precision)
    rough = layer.forward(XS[:, 0], h, c, train=False)[0]
    assert 0 < np.abs(rough - exact).max() < 0.05


def test_precision_of_a_frozen_layer():
    layer = rnnfast.TimeLSTM.create(10, 20, rng=0, device="cpu")
    for wrong in ("float16", 8, "BF16"):
        with pytest.raises(ValueError, match="TimeLSTM: precision must be None, 'bf16' or 'int8'"):
            layer.freeze(wrong)
        assert not layer.frozen and layer.params[0].flags.writeable
    layer.freeze("int8")
    assert repr(layer).endswith("frozen, int8)")
    layer.freeze("int8")
    for other in (None, "bf16"):
        with pytest.raises(RuntimeError, match="frozen with precision 'int8'; unfreeze"):
            layer.freeze(other)
    assert layer.frozen
    layer.unfreeze()
    layer.freeze("bf16")
    assert repr(layer).endswith("frozen, bf16)")


def test_a_stack_is_frozen_whole_or_not_at_all():
    stack = TimeStack(
        [rnnfast.TimeLSTM.create(10, 8, rng=0), rnnfast.TimeLayerNormLSTM.create(8, 8, rng=0)]
    )
    with pytest.raises(ValueError, match=r"^TimeLayerNormLSTM: precision must be None"):
        stack.freeze("bf16")
    assert not any(part.frozen for part in stack.parts)
    stack.parts[0].freeze("bf16")
    with pytest.raises(ValueError, match="precision must be None"):
        stack.freeze("bf16")
    assert stack.parts[0].frozen  # by another call


def test_both_directions_of_which_one_is_frozen():
    both = rnnfast.TimeBiLSTM.create(10, 8, rng=0, device="cpu")
    both.parts[0].freeze("bf16")
    with pytest.raises(RuntimeError, match="frozen with precision 'bf16'"):
        both.freeze("int8")
    assert [part.frozen for part in both.parts] == [True, False]
    assert "frozen" not in repr(both)
    both.freeze("bf16")
    assert repr(both).endswith("frozen, bf16)")


@precisions
def test_a_language_model(precision):
    model = Rnnlm(vocab_size=30, wordvec_size=16, hidden_size=20, rng=0)
    corpus = np.random.default_rng(1).integers(0, 30, 400)
    exact = eval_perplexity(model, corpus, 2, 10)
    model.freeze(precision)
    rough = eval_perplexity(model, corpus, 2, 10)  # leaves it frozen
    assert model.recurrent_layers[0].frozen
    assert 0 < abs(rough / exact - 1) < 0.01
    assert len(generate(model, [0, 1], 5, rng=0)) == 5
    with pytest.raises(RuntimeError, match="frozen"):
        model.forward(corpus[:6].reshape(2, 3), corpus[1:7].reshape(2, 3))
    model.unfreeze()
    assert eval_perplexity(model, corpus, 2, 10) == exact


def test_a_model_of_sequences():
    model = SequenceClassifier(10, 20, classes=3, bidirectional=True, rng=0)
    exact = model.predict(XS)
    model.freeze("bf16")
    assert 0 < np.abs(model.predict(XS) - exact).max() < 0.05
    model.unfreeze()
    np.testing.assert_array_equal(model.predict(XS), exact)
