"""The recurrence in steps: what a step asks of the GPU, and the loop that asks for it.

A GPU may be faster than what calls it: each launch of a step costs the host some microseconds.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cases import CELLS, ZONED, make_problem
from on_cuda import in_software, plan_as, steps
from ptx.arrays import Counter

from rnnfast import kernels

CELL = {cell.name: cell for cell in CELLS}

FULL = {"peepholes": "full"}

# (cell, options): launches and products of a step, forward and back. In software a product that
# adds to its result is two.
COUNTS = [
    ("rnn", {}, 2, 2),
    ("lstm", {}, 2, 2),
    ("gru", {}, 4, 4),
    ("gru", {"reset_after": True}, 2, 2),
    ("lstm", ZONED, 4, 4),
    ("gru", ZONED, 5, 5),
    ("lstm", FULL, 2 + 1 + 3 * 2, 2 + 1 + 3 * 2),
    ("lstm", FULL | ZONED, 2 + 1 + 3 * 2 + 2, 2 + 1 + 3 * 2 + 2),
    ("lstmp", {"proj_size": 3}, 4, 4),
    ("lstmp", {"proj_size": 3} | ZONED, 4 + 2, 4 + 2),
    ("lnlstm", {}, 2, 2),
    ("lnlstm", ZONED, 4, 4),
    ("lngru", {}, 2, 2),
    ("lngru", ZONED, 3, 3),
    ("slstm", {}, 4 + 1, 4 + 1),  # a product for each head
    ("slstm", {"heads": 1}, 2, 2),
    ("mogrifier", {"rounds": 2}, 2 * 2 + 2 + 2, 2 * 3 + 2 + 1),
    ("mogrifier", {"rounds": 2} | ZONED, 2 * 2 + 2 + 2 + 2, 2 * 3 + 2 + 1 + 2),
]


def launches(cell, options, T, **ways):
    """What runs on the GPU in forward and in backward; and all that they give, as bytes."""
    counts, column = [], kernels.load(cell, "cuda")

    def counted(run):
        def of(*args, **keywords):
            before = Counter.launches
            found = run(*args, **keywords)
            counts.append(Counter.launches - before)
            return found

        return of

    problem = make_problem(CELL[cell], (3, T, 4, 60), **ways, **options)
    watched = {name: counted(getattr(column, name)) for name in ("forward", "backward")}
    got = problem.run(SimpleNamespace(**watched))
    return np.array(counts), [x.tobytes() for _, x in (*got.arrays(), *got.named_grads())]


@pytest.mark.parametrize(("cell", "options", "forward", "back"), COUNTS)
@pytest.mark.one_in(9)
def test_work_of_a_step(monkeypatch, cell, options, forward, back):
    """No more than the products and their kernels, with an h_mask either; the same bits again."""
    plan_as(monkeypatch, steps)
    with in_software():
        for ways in ({}, {"mask": True}):
            two, bits = launches(cell, options, 2, **ways)
            five, _ = launches(cell, options, 5, **ways)
            assert ((five - two) / 3).tolist() == [forward, back]
            assert launches(cell, options, 2, **ways)[1] == bits


@pytest.mark.rest
def test_the_cost_of_a_step_on_the_host(monkeypatch):
    """Every variant runs, in steps and by name; what it takes here means nothing."""
    step_cost = pytest.importorskip("benchmarks.cuda.step_cost", reason="needs the bench extra")
    monkeypatch.setattr(step_cost, "H", 60)  # the kernels are those of the tests above
    monkeypatch.setattr(step_cost, "MANY", 6)
    monkeypatch.setattr(step_cost, "settle", lambda: None)
    launched = []
    with in_software() as gpu:
        monkeypatch.setitem(sys.modules, "cupy", gpu.xp)
        monkeypatch.setattr(gpu, "run_steps", lambda work, *order: launched.append(order))
        rows = list(step_cost.measure(2))
    names = [name for name, *_ in rows]
    assert len(set(names)) == len(step_cost.VARIANTS)
    assert {"gru, h_mask", "lstm, h_zoneout, c_zoneout", "mogrifier, rounds=5"} < set(names)
    calls = 3 * len(names)  # one compiles
    assert launched.count((0, 1, 5)) == launched.count((0, 1, 6)) == calls
    assert launched.count((4, -1, 5)) == launched.count((5, -1, 6)) == calls
