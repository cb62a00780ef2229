"""Rounds of local updates with an outer step, and sums in 16 bits."""

import math

import numpy as np
import pytest
import rank_jobs
from ranks import COMMAND, MODEL, TEXT, assert_equal_weights, ok, run_job, train

from rnnfast.distributed.compression import from_half, to_half
from rnnfast.io.weights import load_arrays
from rnnfast.models import Rnnlm
from rnnfast.optim import SGD
from rnnfast.text.corpora import sequence_batch
from rnnfast.trainer import RnnlmTrainer, Sync


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def simulated(size, every, lr, momentum, batch=5, steps=4):
    """The weights after an epoch, by the formula of `Sync`: models that train in one process."""
    models = [Rnnlm(rank_jobs.V, 4, 8, rng=1, dtype="float64") for _ in range(size)]
    xs, ts = rank_jobs.TEXT[:-1], rank_jobs.TEXT[1:]
    start = [param.copy() for param in models[0].params]
    velocity = [np.zeros_like(param) for param in start]
    rows = np.array_split(np.arange(batch), size)
    iterations = len(xs) // (batch * steps)
    for i in range(iterations):
        x, t = sequence_batch(xs, ts, batch, steps, i * steps)
        for model, mine in zip(models, rows, strict=True):
            model.forward(x[mine], t[mine])
            model.backward()
            SGD(0.5).update(model.params, model.grads)
        if (i + 1) % every == 0 or i + 1 == iterations:
            for k, (p, v) in enumerate(zip(start, velocity, strict=True)):
                parts = zip(models, rows, strict=True)
                d = p - sum(model.params[k] * len(mine) / batch for model, mine in parts)
                v[...] = momentum * v + d
                p -= lr * (d + momentum * v)
                for model in models:
                    model.params[k][...] = p
    return start


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.0), (0.7, 0.9)], ids=["local SGD", "DiLoCo"])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.one_in(4)
def test_rounds_follow_the_formula(tmp_path, size, lr, momentum):
    expected = simulated(size, 4, lr, momentum)
    sync = {"every": 4, "lr": lr, "momentum": momentum}
    for found in run_job(size, tmp_path, "rank_jobs", "rounds", sync=sync):
        for mine, theirs in zip(found["params"], expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
        assert found["refused"] == found["iterations"] - found["meetings"]


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.rest
def test_16_bits_learn_what_all_bits_learn(tmp_path, every):
    exact, rounded = (
        run_job(3, tmp_path / str(half), "rank_jobs", "rounds", sync={"every": every, "half": half})
        for half in (False, True)
    )
    for found in rounded[1:]:
        for mine, theirs in zip(found["params"], rounded[0]["params"], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    distance = max(
        np.abs(mine - theirs).max()
        for mine, theirs in zip(rounded[0]["params"], exact[0]["params"], strict=True)
    )
    assert 0 < distance < 0.02  # of weights that are up to 2
    assert rounded[0]["bytes"] < 0.5 * exact[0]["bytes"]


def test_the_error_of_16_bits_comes_back(tmp_path):
    """The mean of many sums of the same array is exact, though each is rounded."""
    (first, *others) = run_job(3, tmp_path, "rank_jobs", "half_sums", count=200)
    for other in others:
        np.testing.assert_array_equal(other["mean"], first["mean"])
    expected, once = first["expected"], first["once"]
    assert np.abs(once / expected - 1).max() > 1e-3
    np.testing.assert_allclose(first["mean"], expected, rtol=1e-4)


def test_bfloat16_rounds_to_the_nearest():
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    x[:6] = 0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875  # the last two are ties
    found = from_half(to_half(x))
    assert (found.view(np.uint32) & 0xFFFF == 0).all()
    np.testing.assert_array_equal(found[:6], [0, 0, np.inf, -np.inf, 1.0, 1.015625])
    assert (np.abs(found[6:] / x[6:] - 1) <= 2**-8).all()
    assert np.isnan(from_half(to_half(np.array([np.nan]))))


@pytest.mark.rest
def test_a_run_in_rounds_goes_on_as_if_it_had_not_stopped(tmp_path, text):
    rounds = ["--sync-every", "5", "--batch-size", "4"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ok(3, text, *COMMAND, *MODEL, *rounds, "--out", str(whole))
    ok(3, text, *COMMAND, *MODEL, *rounds, "--out", str(parts), "--epochs", "1")
    resume = ["--resume", "--sample", "0", "--no-plot", "--epochs", "3"]
    ok(3, *resume, "--out", str(parts))
    assert_equal_weights(parts, whole)
    ok(2, *resume[:-1], "4", "--out", str(parts))


def test_a_checkpoint_is_judged_by_the_losses_of_its_own_weights(tmp_path, text):
    """The first outer step spoils the weights; the losses of the round before it were good."""
    out = tmp_path / "out"
    rounds = ["--sync-every", "20", "--outer-lr", "3000", "--outer-momentum", "0"]
    options = [*COMMAND, *MODEL, *rounds, "--batch-size", "4", "--save-every", "0", "--epochs", "1"]
    code, _, err = train(2, text, *options, "--out", str(out))
    assert code == 1 and "training diverged" in err, err
    saved = load_arrays(out / "checkpoint.safetensors")[1]["checkpoint"]
    assert saved["progress"] is None or saved["progress"]["iter"] == 0, saved["progress"]


def test_the_loss_of_a_round_is_the_mean_of_all_its_steps(tmp_path):
    """Also that of the first round, of whose first step ranks tell each other the loss, too."""
    for found in run_job(2, tmp_path, "rank_jobs", "losses_of_rounds", every=4):
        own, told = np.mean(found["own"], axis=0), found["told"]
        assert told[0] == pytest.approx(own[0])
        for first in range(3, len(told) - 4, 4):
            expected = own[first - 3 : first + 1].mean()
            np.testing.assert_allclose(told[first : first + 4], expected, rtol=1e-12)


def test_wrong_rounds_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match="Sync: every must be from 1 up, got 0"):
        Sync(every=0)
    with pytest.raises(ValueError, match=r"Sync: momentum must be in \[0, 1\), got 1"):
        Sync(momentum=1)
    for lr in 0, math.inf:
        with pytest.raises(ValueError, match=f"Sync: lr must be finite, above 0, got {lr}"):
            Sync(lr=lr)
    model = Rnnlm(5, 4, 4, rng=1)
    with pytest.raises(TypeError, match="sync must be a Sync or None, got int"):
        RnnlmTrainer(model, SGD(), sync=4)
    with pytest.raises(TypeError, match="comm must be a communicator of mpi4py, got str"):
        RnnlmTrainer(model, SGD(), comm="world")
    code, _, err = train(1, text, "--sync-every", "0", "--out", str(tmp_path / "out"))
    assert code == 2 and "expected a positive integer, got '0'" in err
