"""What a step of the kernels costs, counted: instructions are no timings, so they may pass or fail.

With an H100's plans. The table of all cells is benchmarks/results/cuda-counts.md.
"""

import pytest
from on_cuda import H100
from ptx.counts import figures
from ptx.execute import why_missing

from rnnfast.cuda import cost, gru, lstm, planner, rnn

MISSING = why_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


CELLS = {"rnn": rnn.CELL, "lstm": lstm.CELL, "gru": gru.CELL}
# Of an LSTM: cycles of issue a step, forward and back, and before the first step
LIMITS = {
    (20, 650, "float32"): (2750, 3500, 2500),  # back 3300 without the tags of what is sent
    (20, 650, "tf32"): (550, 840, 4000),  # 500 and 800
    (64, 512, "float32"): (5000, 5500, 2500),
    (64, 512, "tf32"): (850, 1170, 4000),  # 800 and 1050
    (32, 256, "float32"): (750, 900, 2500),
    (32, 256, "tf32"): (300, 450, 4000),
    (1, 256, "float32"): (150, 250, 2500),
    (20, 100, "float32"): (520, 520, 2500),
}
SECTORS = 240_000  # of 20, 650
FIXED = 400  # cycles of a step that every product has: exchange, sums, what a unit does
MOST_CONFLICTS = 1.2  # wavefronts of a loop over those that it needs


def of(shapes):
    """Parameters, the large ones for later: their kernels take a while to compile and to run."""
    marks = {True: pytest.mark.rest, False: ()}
    return [
        pytest.param(shape, marks=marks[shape[0] * shape[1] > 2000], id="-".join(map(str, shape)))
        for shape in shapes
    ]


@pytest.mark.parametrize("shape", of(LIMITS))
@pytest.mark.one_in(2)
def test_an_lstm_keeps_its_limits(shape):
    """And the formulas by which the planner chooses say what the kernels execute."""
    *limits, start = LIMITS[shape]
    N, H, precision = shape
    for (way, found), most in zip(figures("lstm", *shape).items(), limits, strict=True):
        assert found.issue <= most
        assert found.start <= start
        assert found.conflicts <= MOST_CONFLICTS
        if (N, H) == (20, 650):
            assert found.sectors <= SECTORS
        forward = way == "forward"
        plan = planner.make_plan(H100, lstm.CELL, forward, N, H, "float32", precision)
        model = cost.of_frame(lstm.CELL, plan, N, H100.multiprocessors)
        assert plan.grid == found.blocks
        assert model.issue == pytest.approx(found.issue, rel=0.2)
        assert model.shared == pytest.approx(found.shared, rel=0.35)
        assert model.sectors == pytest.approx(found.sectors, rel=0.35)


@pytest.mark.parametrize(
    ("name", "options"), [("rnn", ()), ("gru", ()), ("gru", (("reset_after", True),))]
)
@pytest.mark.parametrize("shape", [(20, 650, "float32"), (20, 650, "tf32"), (20, 100, "float32")])
@pytest.mark.rest
def test_other_cells_in_proportion(name, options, shape):
    """By their gates over the four of an LSTM; what does not shrink with them stands beside."""
    gates, products = CELLS[name].gates, len(CELLS[name].products) if not options else 1
    N, H, precision = shape
    cell = gru.GruAfter() if options else CELLS[name]
    for k, found in enumerate(figures(name, *shape, options).values()):
        plan = planner.make_plan(H100, cell, k == 0, N, H, "float32", precision)
        *limits, start = LIMITS[N, H, "tf32" if plan.arithmetic == "tf32" else "float32"]
        assert found.issue <= limits[k] * gates / 4 + FIXED * products
        assert found.start <= start * products
        if (N, H) == (20, 650):
            assert found.sectors <= SECTORS * products  # each has an exchange
        assert found.conflicts <= MOST_CONFLICTS
