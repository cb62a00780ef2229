"""The fit of the planner's constants, to times that are computed from other constants."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from on_cuda import H100

from benchmarks.cuda import calibrate, plans
from rnnfast.cuda import cost, planner

OTHER = {"overlap": 1.4, "meeting": 1.1, "meeting back": 0.9, "pass": 0.3}
OTHER |= {"sectors": 2e5, "sectors back": 4e5, "mma": 5}


@pytest.fixture
def constants(monkeypatch):
    """A table to write into."""
    monkeypatch.setattr(cost, "CONSTANTS", dict(cost.CONSTANTS))
    return cost.CONSTANTS


def candidates(cell, direction, N, H, precision):
    forward = direction == "forward"
    return planner.candidates(H100, plans.cell_of(cell), forward, N, H, precision)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("direction", plans.DIRECTIONS)
def test_a_plan_is_made_again_of_its_sizes(cell, direction):
    kinds = set()
    for N, H in ((8, 128), (20, 1000)):
        for plan in candidates(cell, direction, N, H, "tf32")[::20]:
            sizes = json.loads(json.dumps(plans.sizes(plan)))  # as a file has them
            again = plans.rebuilt(plans.cell_of(cell), direction, N, H, sizes)
            if plan.kind == "steps":
                assert again.kind == "steps"
            else:
                assert again == replace(plan, us=None)
            kinds.add(plan.kind)
    assert len(kinds) > 1


def a_race(path, direction, precision):
    """Writes a sweep.json with the times that the model predicts, two of a hundred wrong."""
    items = {}
    for cell, N, H in (("lstm", 20, 650), ("rnn", 64, 512)):
        key = {"cell": cell, "direction": direction, "N": N, "H": H, "precision": precision}
        for k, plan in enumerate(candidates(cell, direction, N, H, precision)[:400:4]):
            us = plan.us * (3 if k % 50 == 7 else 1)
            row = {**key, "sizes": plans.sizes(plan), "us_per_step": us}
            items[f"{cell} {k}"] = {"seconds": 1.0, "result": row}
    items["without a time"] = {"seconds": 1.0, "result": {}}
    items["hung"] = {"failed": "hung"}
    path.write_text(json.dumps({"items": items}))


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("direction", plans.DIRECTIONS)
@pytest.mark.one_in(2)
def test_the_constants_are_found_again(tmp_path, constants, direction, precision):
    before = dict(constants)
    constants.update({n: replace(constants[n], value=value) for n, value in OTHER.items()})
    a_race(tmp_path / "sweep.json", direction, precision)
    constants.update(before)
    measured = calibrate.read(tmp_path / "sweep.json")
    off = np.median(np.abs(calibrate.errors(measured)))
    calibrate.fit(measured)
    assert np.median(np.abs(calibrate.errors(measured))) < 0.01 < 0.1 < off
    of_direction = "" if direction == "forward" else " back"
    wanted = {"overlap", "pass", f"meeting{of_direction}", f"sectors{of_direction}"}
    for name in wanted:
        assert constants[name].value == pytest.approx(OTHER[name], rel=0.1), name
    assert all(constants[name] == before[name] for name in calibrate.GIVEN)


def test_what_the_choices_cost(constants):
    """By predicted time, of plans that were measured."""
    key = "lstm", "forward", 20, 650, "float32"
    first, second = sorted(candidates(*key), key=lambda plan: plan.us)[:2]
    measured = [calibrate.Measured(key, first, 3.0), calibrate.Measured(key, second, 2.0)]
    assert calibrate.choices(measured) == [(key, 3.0, first.kind, 2.0, second.kind)]
    assert calibrate.described(calibrate.choices(measured)).startswith("0 of 1 choices")
    assert calibrate.described(calibrate.choices(measured[:1])).startswith("1 of 1 choices")


def test_what_is_printed(tmp_path, constants, monkeypatch, capsys):
    a_race(tmp_path / "sweep.json", "forward", "tf32")
    monkeypatch.setattr(sys, "argv", ["calibrate", str(tmp_path)])
    calibrate.main()
    said = capsys.readouterr().out
    assert f"| meeting | {constants['meeting'].unit} |" in said
    assert "| grid forward tf32 |" in said
    assert "of 2 choices take at most 1.05 times as long as the best plan; now, 2 of 2" in said
