"""Sequence lengths that vary, as AWD-LSTM has them."""

import numpy as np
import pytest
from tiny import TS, XS, N, V

from rnnfast.models import BetterRnnlm
from rnnfast.optim import SGD, clip_grads, remove_duplicate
from rnnfast.trainer import RnnlmTrainer
from rnnfast.training import lengths

T = 8


def trainer(rate=0.5, **more):
    return RnnlmTrainer(BetterRnnlm(V, 6, 6, rng=1), SGD(rate), write=lambda line: None, **more)


def fit(it, epochs=2, **more):
    it.fit(XS, TS, epochs, N, T, 0.25, eval_interval=None, **{"length_seed": 3} | more)
    return it


def test_lengths_are_of_the_papers_distribution():
    drawn = np.array([lengths.random_length(70, 1, i) for i in range(4000)])
    near, half = drawn[drawn > 52], drawn[drawn <= 52]
    assert near.mean() == pytest.approx(69.5, abs=0.5) and near.std() == pytest.approx(5, abs=0.3)
    assert len(half) / len(drawn) == pytest.approx(0.05, abs=0.012)
    assert half.mean() == pytest.approx(34.5, abs=1.5)
    assert min(lengths.random_length(6, 1, i) for i in range(50)) == 5
    assert drawn.tolist()[:9] == [lengths.random_length(70, 1, i) for i in range(9)]
    assert drawn.tolist()[:9] != [lengths.random_length(70, 2, i) for i in range(9)]


def test_an_update_is_that_of_these_steps_with_a_scaled_rate():
    """As a loop by hand does it; the text is read without a gap."""
    losses = []
    tested = fit(trainer(callbacks=[lambda step: losses.append(step.loss)]))
    assert tested.optimizer.lr == 0.5
    by_hand, at, found, drawn = trainer(), 0, [], []
    max_iter = len(XS) // (N * T)
    for i in range(2 * max_iter):
        steps = lengths.random_length(T, 3, i)
        rows = (np.arange(N) * (len(XS) // N))[:, np.newaxis] + np.arange(at, at + steps)
        at, rows = at + steps, rows % len(XS)
        found.append(by_hand.model.forward(XS[rows], TS[rows]))
        by_hand.model.backward()
        params, grads = remove_duplicate(by_hand.model.params, by_hand.model.grads)
        clip_grads(grads, 0.25)
        SGD(0.5 * (steps / T)).update(params, grads)
        drawn.append(steps)
    assert len(set(drawn)) > 3
    assert losses == found
    assert tested.time_idx == at
    for a, b in zip(tested.model.params, by_hand.model.params, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stop_after", [1, 7, 11])
@pytest.mark.parametrize("restart_every", [None, 3])
def test_resumed_is_uninterrupted(tmp_path, stop_after, restart_every):
    path, seen = tmp_path / "c.safetensors", []

    def stop(step):
        seen.append(step.loss)
        if len(seen) == stop_after:
            first.save_checkpoint(path)
            first.stop()

    expected, losses = [], []
    fit(trainer(callbacks=[lambda step: expected.append(step.loss)]), restart_every=restart_every)
    first = trainer(callbacks=[stop])
    fit(first, restart_every=restart_every)
    second = trainer(9.0, callbacks=[lambda step: losses.append(step.loss)])
    second.load_checkpoint(path)
    fit(second, restart_every=restart_every)
    assert seen + losses == expected


def test_the_rate_is_back_after_an_error():
    tested = trainer()
    tested.model.params[0][...] = np.inf
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="diverged"):
        fit(tested)
    assert tested.optimizer.lr == 0.5


@pytest.mark.parametrize("wrong", [-1, 0.5, True, 2**64])
def test_wrong_seeds(wrong):
    with pytest.raises((TypeError, ValueError), match=r"^fit: length_seed must be"):
        fit(trainer(), length_seed=wrong)


class Halving:
    """An optimiser of a user, whose rate changes within `update`, under a name of its own."""

    def __init__(self, name):
        self.name = name
        setattr(self, name, 1.0)

    def update(self, params, grads):
        for param, grad in zip(params, grads, strict=True):
            param -= getattr(self, self.name) * grad
        setattr(self, self.name, getattr(self, self.name) / 2)


@pytest.mark.parametrize("name", ["lr", "rate"])
def test_without_varying_lengths_the_optimiser_has_its_rate_to_itself(name):
    tested = RnnlmTrainer(BetterRnnlm(V, 6, 6, rng=1), Halving(name), write=lambda line: None)
    fit(tested, epochs=1, length_seed=None)
    updates = (len(XS) - 1) // (N * T)
    assert updates > 1 and getattr(tested.optimizer, name) == 0.5**updates
