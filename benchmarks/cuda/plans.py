"""The planner as the benchmarks see it: the one place that knows how it is asked.

cell: one of rnnfast.kernels.CELLS, or "gru_after", the GRU with reset_after. direction: "forward"
or "backward". precision: "float32" or "tf32".
"""

from importlib import import_module
from unittest import mock

from rnnfast.cuda import gru, planner, what_runs

DIRECTIONS = ("forward", "backward")
PRECISIONS = {"float32": "highest", "tf32": "high"}  # as set_float32_matmul_precision has it


def cell_of(name):
    """The planner's word for a cell without options."""
    return gru.GruAfter() if name == "gru_after" else import_module(f"rnnfast.cuda.{name}").CELL


def chosen(cell, direction, N, H, precision):
    """The planner's choice."""
    forward = direction == "forward"
    return planner.make_plan(what_runs(), cell_of(cell), forward, N, H, "float32", precision)


def candidates(cell, direction, N, H, precision):
    """Every plan that fits, the planner's choice first."""
    own, forward = chosen(cell, direction, N, H, precision), direction == "forward"
    found = planner.candidates(what_runs(), cell_of(cell), forward, N, H, precision)
    return [own, *(plan for plan in found if plan != own)]


def fixed(plan):
    """A context in which the column takes this plan, whatever the planner says."""
    return mock.patch.object(planner, "make_plan", lambda *arguments: plan)


def predicted(plan):
    """us a step as the planner's model has it; None where it has none."""
    return plan.us


def described(cell, N, H, precision):
    """{direction: its plan as text and what is predicted of it}."""
    found = {}
    for direction in DIRECTIONS:
        plan = chosen(cell, direction, N, H, precision)
        found[direction] = {"plan": str(plan), "predicted": predicted(plan)}
    return found
