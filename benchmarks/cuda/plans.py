"""All calls of the planner in the benchmarks.

cell: one of rnnfast.kernels.CELLS, or "gru_after", the GRU with reset_after. direction: "forward"
or "backward". precision: "float32" or "tf32"; of the sizes of a plan also "3xtf32".
"""

from dataclasses import replace
from importlib import import_module
from unittest import mock

from rnnfast.cuda import gru, planner, what_runs

DIRECTIONS = ("forward", "backward")
PRECISIONS = {"float32": "highest", "tf32": "high"}  # as in set_float32_matmul_precision


def cell_of(name):
    """The object of the column for a cell without options."""
    return gru.GruAfter() if name == "gru_after" else import_module(f"rnnfast.cuda.{name}").CELL


def chosen(cell, direction, N, H, precision):
    """The plan that the planner chooses."""
    forward = direction == "forward"
    return planner.make_plan(what_runs(), cell_of(cell), forward, N, H, "float32", precision)


def candidates(cell, direction, N, H, precision):
    """All plans that are possible; the planner's choice comes first."""
    own, forward = chosen(cell, direction, N, H, precision), direction == "forward"
    found = planner.candidates(what_runs(), cell_of(cell), forward, N, H, precision)
    return [own, *(plan for plan in found if plan != own)]


def fixed(plan):
    """A context in which the column uses this plan instead of the planner's choice."""
    return mock.patch.object(planner, "make_plan", lambda *arguments: plan)


def predicted(plan):
    """us of a step by the planner's model; None if the model has no prediction."""
    return plan.us


def described(cell, N, H, precision):
    """{direction: its plan as text and the predicted us}."""
    found = {}
    for direction in DIRECTIONS:
        plan = chosen(cell, direction, N, H, precision)
        found[direction] = {"plan": str(plan), "predicted": predicted(plan)}
    return found


def sizes(plan):
    """The numbers that make a plan of the frame, for `rebuilt`; None for steps."""
    if plan.kind == "steps":
        return None
    first = plan.tiles[0]
    found = {"precision": plan.arithmetic}
    found |= {name: getattr(plan, name) for name in ("units", "rows", "threads", "passes")}
    found |= {name: getattr(first, name) for name in ("own", "slices") if hasattr(first, name)}
    return {**found, "aside": [tile.aside for tile in plan.tiles]}


def rebuilt(cell, direction, N, H, sizes):
    """The plan of these sizes, as the sources make it now; None: steps."""
    forward = direction == "forward"
    if sizes is None:
        return planner.steps_plan(cell, forward, N, H, "float32")
    more = dict(sizes)
    aside, arithmetic = more.pop("aside"), more.pop("precision")
    plan = planner.frame_plan(cell, forward, N, H, arithmetic, **more)
    tiles = [replace(tile, aside=n) for tile, n in zip(plan.tiles, aside, strict=True)]
    return replace(plan, tiles=tuple(tiles))
