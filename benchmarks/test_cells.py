"""RNN, LSTM and GRU over whole sequences: inference, and forward + backward.

    pytest benchmarks/test_cells.py --benchmark-json=results.json

The table of pytest-benchmark has one row per contender and one group per cell, shape and mode. The
rows of a group are checked, then measured together (race.py). If rnnfast differs from the float64
baseline by more than the tolerance, the group fails and has no times. --benchmark-disable stops
after that check.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cases import GATES, GRIDS, MODES, Case
from benchmarks.contenders import CONTENDERS, OURS, NumpyLayers, available
from benchmarks.race import PEER_TOLERANCE, TOLERANCE, check, race
from benchmarks.replay import replay


def pytest_generate_tests(metafunc):
    if "measured" in metafunc.fixturenames:
        grid = GRIDS[metafunc.config.getoption("grid")]
        cases = [Case(cell, shape, mode) for cell in GATES for shape in grid for mode in MODES]
        metafunc.parametrize("measured", cases, indirect=True, ids=str, scope="module")


@pytest.fixture(scope="module")
def measured(request, keep_freed_memory, same_threads):
    """case, contenders and the race's result (None with --benchmark-disable)."""
    case = request.param
    exact = NumpyLayers(replace(case, dtype=np.float64))
    exact.run()
    contenders = {}
    peers = request.config.getoption("peers")
    for name, contender in CONTENDERS.items():
        if available(contender, case) and (name in OURS or peers is None or name in peers):
            contenders[name] = contender(case)
            contenders[name].run()
            if (got := contenders[name].results()) is not None:
                tolerance = TOLERANCE if name in OURS else PEER_TOLERANCE
                check(f"{name}, {case}", got, exact.results(), tolerance)
    del exact
    if request.config.getoption("benchmark_disable"):
        return case, contenders, None
    return case, contenders, race(contenders, request.config.getoption("rounds"))


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.benchmark(timer=replay)
def test_cell(measured, name, machine, benchmark):
    case, contenders, result = measured
    if name not in contenders:
        pytest.skip(f"{name} is not installed, not asked for, or does not do this mode")
    benchmark.group = str(case)
    if result is None:
        benchmark(lambda: None)
        return
    replay.play(benchmark, result.times[name])
    rates = case.flops / np.array(result.times[name])
    benchmark.extra_info |= {
        "contender": name,
        "label": contenders[name].label,
        "cell": case.cell,
        "shape": list(case.shape),
        "mode": case.mode,
        "dtype": np.dtype(case.dtype).name,
        "seconds": result.median(name),
        "gflops": case.flops / result.median(name) / 1e9,
        # share of the FMA ceiling in the same round: lower quartile, median, upper quartile
        "ceiling_share": result.quartiles(rates / result.ceiling),
        "ceiling_gflops": float(np.median(result.ceiling)) / 1e9,
        "ceiling_gflops_before_after": [best / 1e9 for best in result.ceiling_best],
        "calls_per_round": result.calls[name],
        "others_cores": result.others_cores,
        "far": result.far,
        "device": contenders["rnnfast"].layer.device,
        **machine,
    }
    # time of this contender / our time: lower quartile, median, upper quartile
    if name != "rnnfast":
        benchmark.extra_info["ratio"] = result.ratio(name, "rnnfast")
    if name not in OURS and "rnnfast-unfrozen" in contenders:
        benchmark.extra_info["ratio_unfrozen"] = result.ratio(name, "rnnfast-unfrozen")
