"""RNN, LSTM and GRU on the GPU: inference, forward + backward, and with copies from and to NumPy.

    pytest benchmarks/cuda --benchmark-json=benchmarks/results/cuda.json

As benchmarks/test_cells.py: right first, then timed in turns. A contender that is wrong has no
times and fails; the others have theirs. --benchmark-disable stops after the check.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cases import GATES, GRIDS, MODES, Case
from benchmarks.contenders import NumpyLayers
from benchmarks.cuda.contenders import CONTENDERS, TRANSFERRED, TRANSFERS, check_results, why_not
from benchmarks.cuda.measure import Measured, admit, go, row, wanted
from benchmarks.replay import replay


def pytest_generate_tests(metafunc):
    if "measured" in metafunc.fixturenames:
        grid = GRIDS[metafunc.config.getoption("grid")]
        cases = [Case(cell, shape, mode) for cell in GATES for shape in grid for mode in MODES]
        metafunc.parametrize("measured", cases, indirect=True, ids=str, scope="module")
    if "transferred" in metafunc.fixturenames:
        cases = [
            Case(cell, shape, mode) for cell in GATES for shape in TRANSFERRED for mode in MODES
        ]
        metafunc.parametrize("transferred", cases, indirect=True, ids=str, scope="module")


def compare(case, contenders, gpu, clock, config):
    """Measured, of one case."""
    exact = NumpyLayers(replace(case, dtype=np.float64))
    exact.run()
    expected = exact.results()
    measured = Measured(case)

    def gate(contender):
        contender.run()
        check_results(contender, expected)

    ours = [name for name, contender in contenders.items() if contender.ours]
    for name, why in wanted(contenders, ours, config).items():
        contender = contenders[name]
        why = why or why_not(contender, gpu)
        admit(measured, name, contender, why, lambda c=contender: c(case, gpu), gate)
    go(measured, clock, config)
    return measured


@pytest.fixture(scope="module")
def measured(request, gpu, clock, in_time):
    in_time()
    return compare(request.param, CONTENDERS, gpu, clock, request.config)


@pytest.fixture(scope="module")
def transferred(request, gpu, clock, in_time):
    in_time()
    return compare(request.param, TRANSFERS, gpu, clock, request.config)


def hand_over(measured, name, about, benchmark, kind):
    """A contender's times and what is said of them, to pytest-benchmark."""
    case, found = measured.what, row(measured, name)
    benchmark.group = f"{kind} {case}"
    if found is None:
        benchmark(lambda: None)
        return
    replay.play(benchmark, measured.result.times[name])
    benchmark.extra_info |= {
        kind: case.cell,
        "shape": list(case.shape),
        "mode": case.mode,
        "dtype": np.dtype(case.dtype).name,
        "us_per_step": found["seconds"] * 1e6 / case.T,
        "gflops": case.flops / found["seconds"] / 1e9,
        **found,
        **about,
    }


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.benchmark(timer=replay)
def test_cell(measured, name, about, benchmark):
    hand_over(measured, name, about, benchmark, "cell")


@pytest.mark.parametrize("name", TRANSFERS)
@pytest.mark.benchmark(timer=replay)
def test_transfers(transferred, name, about, benchmark):
    hand_over(transferred, name, about, benchmark, "transfers")
