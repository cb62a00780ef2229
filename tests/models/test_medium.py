"""Training in bfloat16: what a language model learns, and where else the precision counts."""

import numpy as np
import pytest

import rnnfast
from rnnfast.models import BetterRnnlm, LanguageModel, Rnnlm, SimpleRnnlm
from rnnfast.optim import Adam
from rnnfast.trainer import RnnlmTrainer
from rnnfast.training.evaluation import eval_perplexity

V = 40


@pytest.fixture(autouse=True)
def highest_again():
    yield
    rnnfast.set_float32_matmul_precision("highest")


def text(size):
    """Ids, each of which follows from the one before, but for one of eight."""
    ids = [1]
    for draw in np.random.default_rng(5).random(size - 1):
        ids.append(int(8 * V * draw) if draw < 0.125 else (3 * ids[-1] + 1) % V)
    return np.array(ids)


def trained(make, precision, device="cpu", epochs=4, size=4001):
    """The perplexity after some epochs, by a model that is evaluated as it was trained."""
    rnnfast.set_float32_matmul_precision(precision)
    np.random.seed(3)
    with rnnfast.device(device):
        model = make()
    corpus = text(size)
    trainer = RnnlmTrainer(model, Adam(0.005), write=lambda line: None)
    trainer.fit(corpus[:-1], corpus[1:], epochs, 20, 20, max_grad=0.25)
    assert all(p.dtype == np.float32 for p in model.params)
    return eval_perplexity(model, corpus, 20, 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SimpleRnnlm(V, 32, 48),
        lambda: Rnnlm(V, 32, 48),
        lambda: BetterRnnlm(V, 48, 48),
        lambda: LanguageModel(V, 32, 48, cell="gru", rng=1),
    ],
    ids=["SimpleRnnlm", "Rnnlm", "BetterRnnlm", "gru"],
)
@pytest.mark.one_in(2)
def test_the_same_perplexity(make):
    """Within 0.5%; a model that has learnt nothing has 40."""
    exact, rough = (trained(make, precision) for precision in ("highest", "medium"))
    assert rough != exact
    assert abs(rough / exact - 1) < 0.005
    assert exact < V / 2


def test_as_the_reference():
    """Two devices learn the same."""
    found = [
        trained(lambda: Rnnlm(V, 16, 24), "medium", device, epochs=1, size=801)
        for device in ("cpu", "reference")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_layers_evaluate_as_they_train():
    """train=False gives the bits of train=True; a frozen layer has the precision of freeze."""
    layer = rnnfast.TimeLSTM.create(10, 20, rng=0, device="cpu")
    xs = np.random.default_rng(0).standard_normal((4, 6, 10)).astype("f4")
    exact = layer.forward(xs)
    rnnfast.set_float32_matmul_precision("medium")
    rough = layer.forward(xs)
    assert 0 < np.abs(rough - exact).max() < 0.05
    np.testing.assert_array_equal(layer.forward(xs, train=False), rough)
    layer.freeze()
    np.testing.assert_array_equal(layer.forward(xs, train=False), exact)
    layer.unfreeze()
    layer.freeze("bf16")
    np.testing.assert_array_equal(layer.forward(xs, train=False), rough)
