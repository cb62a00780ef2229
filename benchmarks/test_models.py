"""One training iteration of the language models of chapter 6: V 10,000, N 20, T 35.

    pytest benchmarks/test_models.py

An iteration is all that the book's trainer does for a batch, except for fetching the batch. Before
a race the contenders take two steps without dropout; then losses and weights must agree.
"""

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.model_contenders import CHECKED_LR, CONTENDERS, JOBS, MAX_GRAD
from benchmarks.race import PEER_TOLERANCE, TOLERANCE, race
from benchmarks.replay import replay
from rnnfast import models


def agree(job, names):
    """AssertionError unless all contenders have the same losses and weights after two steps."""
    job = replace(job, dropout=0.0, lr=CHECKED_LR)
    expected = CONTENDERS["numpy"](job)
    losses = [expected.step(), expected.step()]
    for name in names:
        contender = CONTENDERS[name](job)
        assert np.allclose([contender.step(), contender.step()], losses, rtol=TOLERANCE), name
        for got, ref in zip(contender.params(), expected.params(), strict=True):
            assert np.linalg.norm(got - ref) <= PEER_TOLERANCE * np.linalg.norm(ref), name


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: job.model)
def measured(request, keep_freed_memory, same_threads):
    """job and the race's result (None with --benchmark-disable)."""
    job = request.param
    if not hasattr(models, job.model):
        pytest.skip(f"rnnfast.models has no {job.model} yet")
    peers = request.config.getoption("peers")
    names = [name for name in CONTENDERS if name == "rnnfast" or peers is None or name in peers]
    if not importlib.util.find_spec("torch"):
        names = [name for name in names if name != "pytorch"]
    agree(job, names)
    if request.config.getoption("benchmark_disable"):
        return job, dict.fromkeys(names), None
    contenders = {name: CONTENDERS[name](job) for name in names}
    steps = {name: SimpleNamespace(run=contender.step) for name, contender in contenders.items()}
    result = race(steps, request.config.getoption("rounds"))
    assert contenders["rnnfast"].norm > MAX_GRAD, "nothing was clipped"
    return job, contenders, result


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.benchmark(timer=replay)
def test_iteration(measured, name, machine, benchmark):
    job, contenders, result = measured
    if name not in contenders:
        pytest.skip(f"{name} is not installed or not asked for")
    benchmark.group = f"{job.model}, one training iteration"
    if result is None:
        benchmark(lambda: None)
        return
    replay.play(benchmark, result.times[name])
    benchmark.extra_info |= {
        "contender": name,
        "label": contenders[name].label,
        "model": job.model,
        "width": job.H,
        "seconds": result.median(name),
        "others_cores": result.others_cores,
        "far": result.far,
        **machine,
    }
    if name != "rnnfast":
        benchmark.extra_info["ratio"] = result.ratio(name, "rnnfast")
