"""Zoneout of language models: whatever computes without training takes the probabilities."""

import copy

import numpy as np
import pytest
from cases import numeric_grad

import rnnfast
from rnnfast import inspection
from rnnfast.kernels import CELLS
from rnnfast.layers.cells import RECURRENT
from rnnfast.models import LanguageModel
from rnnfast.sampling import generate
from rnnfast.trainer import NeuralCache, eval_accuracy, eval_cache, eval_dynamic, eval_perplexity
from rnnfast.training.scoring import log_probabilities

V, D, H, T = 9, 4, 5, 60
RATIOS = {"h_zoneout": 0.3, "c_zoneout": 0.45}
IDS = np.random.default_rng(0).integers(0, V, T + 1)


class Mixing(rnnfast.TimeLSTM):
    """An LSTM that mixes its states itself, one step after another: what models have to do."""

    def forward(self, xs, *, train=True, **given):
        assert {name: x for name, x in given.items() if x is not None} == RATIOS
        hs, h, c = [], self.h, self.c
        if h is None:
            h, c = np.zeros((2, len(xs), H))
        for t in range(xs.shape[1]):
            self.set_state(h, c)
            super().forward(xs[:, t : t + 1], train=train)
            h = RATIOS["h_zoneout"] * h + (1 - RATIOS["h_zoneout"]) * self.h
            c = RATIOS["c_zoneout"] * c + (1 - RATIOS["c_zoneout"]) * self.c
            hs.append(h)
        self.set_state(h, c)
        return np.stack(hs, axis=1)


def model_and_its_twin():
    options = {"layers": 2, "dropout": 0.4, "recurrent_dropout": 0.3, **RATIOS}
    model = LanguageModel(V, D, H, rng=1, dtype="float64", device="cpu", **options)
    model.params[0][...] *= 100
    twin = copy.deepcopy(model)
    for layer in twin.recurrent_layers:
        layer.__class__ = Mixing
    return model, twin


def results(model):
    """Of everything that does not train, in lists of numbers."""
    xs, ts = IDS[np.newaxis, :-1], IDS[np.newaxis, 1:]
    yield "forward", [model.forward(xs, ts, train_flg=False)]
    yield "predict", model.predict(xs[:, :7])
    yield "next_scores", model.next_scores(xs[:, :7])
    yield "state", [array for arrays in model.get_state() for array in arrays]
    yield "score", log_probabilities(model, IDS[:20])
    yield "generate", generate(model, IDS[:3], sample_size=20, rng=3)
    yield "activations", inspection.activations(model, IDS[:9])
    yield "eval_perplexity", [eval_perplexity(model, IDS, 1, 7)]
    yield "eval_accuracy", [eval_accuracy(model, IDS, 1, 7)]
    yield "eval_cache", [eval_cache(model, IDS, 1, 7, cache=NeuralCache(5, 1.0, 0.3))]


@pytest.mark.filterwarnings("ignore::rnnfast.trainer.PerplexityWarning")
def test_the_probabilities_are_everywhere():
    model, twin = model_and_its_twin()
    for (name, got), (_, expected) in zip(results(model), results(twin), strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=name)
    assert all(drop.step == 0 for drop in model.drop_layers)
    for layer in model.recurrent_layers:
        layer.freeze()
    assert eval_perplexity(model, IDS, 1, 7) == pytest.approx(eval_perplexity(twin, IDS, 1, 7))


@pytest.mark.filterwarnings("ignore::rnnfast.trainer.PerplexityWarning")
def test_dynamic_evaluation_takes_them_too():
    """It trains; with a rate of 0 it measures what evaluation does."""
    model, twin = model_and_its_twin()
    measured = eval_dynamic(model, IDS, 1, 7, lr=0.0)
    assert measured == pytest.approx(eval_perplexity(twin, IDS, 1, 7), rel=1e-12)
    assert eval_dynamic(model, IDS, 1, 7) != measured


def test_gradients_without_regularisation():
    """What dynamic evaluation learns from: those of the model that it measures."""
    model, _ = model_and_its_twin()
    xs, ts = IDS[np.newaxis, :9], IDS[np.newaxis, 1:10]
    plain = model.unregularized()
    expected = model.forward(xs, ts, train_flg=False)
    assert plain.forward(xs, ts) == pytest.approx(expected, rel=1e-14)
    plain.backward()
    grads = [grad.copy() for grad in plain.grads]

    def loss():
        plain.reset_state()
        return plain.forward(xs, ts, train_flg=False)

    for name, param, grad in zip(plain.param_names, plain.params, grads, strict=True):
        np.testing.assert_allclose(grad, numeric_grad(loss, param), atol=1e-8, err_msg=name)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if RECURRENT[cell].of_steps])
def test_gradients_of_every_cell_in_training(cell):
    """For fixed masks; the last layer is narrower, and so is the h of an LSTM with a projection."""
    options = {"layers": 2, "last_hidden_size": 3, "proj_size": 4 if cell == "lstmp" else None}
    options |= {n: r for n, r in RATIOS.items() if n in RECURRENT[cell].of_steps}
    if "candidate_mask" in RECURRENT[cell].of_steps:
        options["recurrent_dropout"] = 0.3
    model = LanguageModel(V, D, H, cell=cell, rng=1, dtype="float64", device="cpu", **options)
    model.params[0][...] *= 100
    xs, ts = IDS[:16].reshape(2, 8), IDS[1:17].reshape(2, 8)

    def loss():
        model.reset_state()
        for drop in model.drop_layers:
            drop.step = 0
        return model.forward(xs, ts)

    loss()
    assert all(drop.step for drop in model.drop_layers)
    model.backward()
    grads = [grad.copy() for grad in model.grads]
    for name, param, grad in zip(model.param_names, model.params, grads, strict=True):
        np.testing.assert_allclose(grad, numeric_grad(loss, param, 1e-6), atol=1e-7, err_msg=name)


def test_it_is_switched_off_like_dropout():
    """A drop layer with train_flg False leaves the probabilities in training, too."""
    model, _ = model_and_its_twin()
    xs, ts = IDS[np.newaxis, :9], IDS[np.newaxis, 1:10]
    expected = model.forward(xs, ts, train_flg=False)
    model.reset_state()
    assert model.forward(xs, ts) != expected
    model.reset_state()
    for drop in model.drop_layers:
        drop.train_flg = False
    assert model.forward(xs, ts) == pytest.approx(expected, rel=1e-14)
