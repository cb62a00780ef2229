"""The model of a step in benchmarks/scaling.py."""

import json

import numpy as np
import pytest

scaling = pytest.importorskip("benchmarks.scaling", reason="benchmarks are not installed")
Network, Workload = scaling.Network, scaling.Workload
efficiency, step_time, sum_time = scaling.efficiency, scaling.step_time, scaling.sum_time

FREQUENCIES = (1 / np.arange(1, 101) / (1 / np.arange(1, 101)).sum()).tolist()
WORK = Workload(0.001, 0.002, 4_000_000, 400, 100, False, FREQUENCIES)
FAST, SLOW = Network(0.0, 1e15), Network(0.01, 1e6)


def test_one_rank_and_free_networks_lose_nothing():
    for weak in (True, False):
        assert efficiency(WORK, SLOW, 1, 20, weak=weak) == pytest.approx(1)
    assert efficiency(WORK, FAST, 1024, 20, weak=True) == pytest.approx(1, abs=1e-6)
    # Strong scaling repeats what a step costs without samples: 4 samples of 20 in 9 of 41 ms
    assert efficiency(WORK, FAST, 5, 20, weak=False) == pytest.approx(41 / 45)
    # 20 samples on 3 ranks: the largest share has 7
    assert efficiency(WORK, FAST, 3, 20, weak=False) == pytest.approx(41 / 3 / 15)


def test_the_time_of_a_sum():
    network = Network(1.0, 10.0)
    assert sum_time(network, 1, 1e6) == 0
    assert sum_time(network, 2, 100) == 1 + 10  # recursive doubling: a round with everything
    assert sum_time(network, 1024, 0) == 10
    # Of large arrays each rank sends 2 (R - 1) / R
    assert sum_time(network, 4, 1e6) == pytest.approx(4 + 1.5e5)


def test_distinct_words_are_those_that_are_drawn():
    draw = np.random.default_rng(0)
    for words in (1, 50, 1000):
        drawn = [len(set(draw.choice(100, words, p=FREQUENCIES).tolist())) for _ in range(200)]
        assert WORK.distinct(words) == pytest.approx(np.mean(drawn), rel=0.03)


def test_sums_hide_behind_backward_and_rounds_divide_them():
    backward = scaling.BACKWARD * WORK.compute(20)
    total = sum_time(SLOW, 4, WORK.bytes(4, 20))
    assert step_time(WORK, SLOW, 4, 20) == pytest.approx(WORK.compute(20) + total - backward)
    weights = sum_time(SLOW, 4, WORK.weights())
    assert step_time(WORK, SLOW, 4, 20, 50) == pytest.approx(WORK.compute(20) + weights / 50)
    by_rounds = [efficiency(WORK, SLOW, 64, 20, weak=True, every=k) for k in (2, 10, 100, 1000)]
    assert by_rounds == sorted(by_rounds) and by_rounds[-1] > 0.8
    by_ranks = [efficiency(WORK, SLOW, ranks, 20, weak=True) for ranks in scaling.RANKS]
    assert by_ranks == sorted(by_ranks, reverse=True)


@pytest.mark.parametrize("name", scaling.MODELS)
def test_the_bytes_are_those_of_the_model(name):
    model = scaling.made(name, 50)
    work = Workload(0.0, 1.0, **scaling.sizes(model, [1 / 50] * 50))
    every = {id(param.base if param.base is not None else param): param for param in model.params}
    assert work.weights() == sum(param.nbytes for param in every.values())
    assert work.tied == (name == "BetterRnnlm")


def test_predictions_are_printed_and_drawn(tmp_path, capsys):
    two = {"alone": 0.04, "seconds": 0.025, "predicted": 0.024}
    measured = {"workload": vars(WORK), "two ranks": two}
    file, picture = tmp_path / "scaling.json", tmp_path / "scaling.png"
    file.write_text(json.dumps({"models": {"Rnnlm": measured}}))
    assert scaling.main(["predict", str(file), "--picture", str(picture)]) is None
    out = capsys.readouterr().out
    assert "two ranks 25.0 ms, predicted 24.0 ms" in out
    assert out.count("%") == len(scaling.RANKS) * len(scaling.NETWORKS) * len(scaling.CASES)
    assert picture.read_bytes()[:4] == b"\x89PNG"
