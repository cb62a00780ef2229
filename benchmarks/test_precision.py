"""RNN, LSTM and GRU over whole sequences in float32, bfloat16 and, in inference, 8 bits.

    pytest benchmarks/test_precision.py --benchmark-json=results.json

As in test_cells.py the rows of a group, a cell and a shape, are checked, then measured together. If
hs of a contender is further from float32 than its bound, the group fails and has no times. The
error of the others' 8 bits has no bound; it is in the results. --benchmark-disable stops after that
check.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from benchmarks.cases import GATES, GRIDS, MODES, Case
from benchmarks.precision_contenders import CONTENDERS, OURS, CannotRun
from benchmarks.race import TOLERANCE, Result, check, largest_error, race
from benchmarks.replay import replay

# Of hs, as TOLERANCE. Nothing in a plain RNN damps what it rounded in earlier steps, and with the
# weights of the cases a step does not shrink it: twice as much there.
BOUNDS = {"float32": TOLERANCE, "bf16": 2e-2, "int8": 5e-2}
RNN_BOUNDS = BOUNDS | {"bf16": 4e-2, "int8": 1e-1}


@dataclass
class Measured:
    case: Case
    contenders: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)  # of hs against float32
    reasons: dict = field(default_factory=dict)  # why the others do not run
    result: Result | None = None  # None with --benchmark-disable


def pytest_generate_tests(metafunc):
    if "measured" in metafunc.fixturenames:
        grid = GRIDS[metafunc.config.getoption("grid")]
        cases = [Case(cell, shape, mode) for cell in GATES for shape in grid for mode in MODES]
        metafunc.parametrize("measured", cases, indirect=True, ids=str, scope="module")


@pytest.fixture(scope="module")
def measured(request, keep_freed_memory, same_threads):
    """The contenders of a case, checked, and the race's result."""
    made = Measured(request.param)
    peers = request.config.getoption("peers")
    expected = {}  # hs of each reference
    for name, contender in CONTENDERS.items():
        if name not in OURS.values() and peers and name.partition("-")[0] not in peers:
            made.reasons[name] = "not asked for"
            continue
        try:
            one = contender(made.case)
        except CannotRun as reason:
            made.reasons[name] = str(reason)
            continue
        if contender.reference not in expected:
            reference = contender.reference(made.case)
            reference.run()
            hs = reference.hs
            expected[contender.reference] = np.asarray(hs.detach() if hasattr(hs, "detach") else hs)
        one.run()
        made.contenders[name] = one
        made.errors[name] = checked_error(one, expected[contender.reference])
    if not request.config.getoption("benchmark_disable"):
        made.result = race(made.contenders, request.config.getoption("rounds"))
    return made


def checked_error(contender, expected):
    """The largest error of hs; AssertionError above its bound."""
    bounds = RNN_BOUNDS if contender.case.cell == "rnn" else BOUNDS
    bounded = contender.name in OURS.values() or contender.precision != "int8"
    bound = bounds[contender.precision] if bounded else math.inf  # no NaN is within that, either
    check(f"{contender.name}, {contender.case}", contender.results()[:1], [expected], bound)
    return largest_error(contender.results()[0], expected)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.benchmark(timer=replay)
def test_precision(measured, name, machine, benchmark):
    if name in measured.reasons:
        pytest.skip(measured.reasons[name])
    case, result, contender = measured.case, measured.result, measured.contenders[name]
    benchmark.group = f"{case}, by precision"
    if result is None:
        benchmark(lambda: None)
        return
    replay.play(benchmark, result.times[name])
    benchmark.extra_info |= {
        "contender": name,
        "label": contender.label,
        "precision": contender.precision,
        "precision_of": f"{case.cell} training" if case.training else case.cell,
        "shape": list(case.shape),
        "dtype": np.dtype(case.dtype).name,
        "seconds": result.median(name),
        "error": measured.errors[name],
        "calls_per_round": result.calls[name],
        "others_cores": result.others_cores,
        "far": result.far,
        "device": measured.contenders[OURS["float32"]].layer.device,
        **machine,
    }
    # time of this contender / our time in its precision: lower quartile, median, upper quartile
    if name not in OURS.values():
        benchmark.extra_info["ratio"] = result.ratio(name, OURS[contender.precision])
    # our time in float32 / time of this contender
    if contender.precision != "float32":
        benchmark.extra_info["gain"] = result.ratio(OURS["float32"], name)
