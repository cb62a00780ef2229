"""Times different plans for the same shape and compares them with the planner's predictions.

    python -m benchmarks.cuda.runner sweep --out FOLDER/sweep.json --each 8 --total 150
    python -m benchmarks.cuda.report FOLDER

An item is one plan for forward or backward of a cell. Its kernels are timed at two lengths, which
gives us for a step and us before the first step. The results must be those of the planner's choice.
The items begin with the planner's choices for all shapes. Then come the second plans of all shapes,
and so on, because a run may be stopped early. The last ones are plans that are slow by the model.
"""

from functools import cache, partial

import numpy as np

import rnnfast
from benchmarks.cuda import launches, machine, plans
from benchmarks.cuda.contenders import Case, our_tolerance
from benchmarks.report import head, line
from rnnfast.kernels import load

# N, H
SHAPES = ((20, 650), (64, 512), (32, 256), (1, 256), (20, 100), (128, 1024), (8, 128))
DRY_SHAPES = ((5, 120),)
CELLS = ("lstm", "gru_after", "rnn", "gru")
FIRST, SPREAD = 5, 5  # plans of a recurrence; there may be hundreds
LENGTHS, DRY_LENGTHS = (8, 40), (2, 4)
D = 8  # small: the time of a step does not depend on it


class Problem:
    """Forward and backward of a cell at one length, with all arrays on the GPU."""

    def __init__(self, cell, N, T, H):
        gpu, kind = machine.this_gpu(), cell.removesuffix("_after")
        case = Case(kind, (N, T, D, H), "training", after=kind != cell)
        arrays = case.arrays
        self.module, self.options = load(kind, "cuda"), case.options
        self.params = (*map(gpu.put, arrays["params"]), None)[:3]
        self.xs, self.dhs = gpu.put(arrays["xs"]), gpu.put(arrays["dhs"])
        self.grads = tuple(None if p is None else gpu.xp.zeros_like(p) for p in self.params)
        self.fetch = gpu.fetch

    def forward(self):
        return self.module.forward(self.xs, None, self.params, **self.options)

    def backward(self, kept):
        return self.module.backward(self.dhs, None, self.params, kept, self.grads)

    def ready(self, direction):
        """A function that runs one direction once."""
        return self.forward if direction == "forward" else partial(self.backward, self.forward()[2])

    def results(self, direction, plan):
        """The results of one direction with a plan, as NumPy arrays."""
        run = self.ready(direction)
        with plans.fixed(plan):
            first, *_ = run()
        found = (first, *self.grads) if direction == "backward" else (first,)
        return [np.array(self.fetch(x)) for x in found if x is not None]

    def us(self, direction, plan, repeats):
        """us of the kernels of one direction with a plan; None without a GPU.

        If the steps have products by cuBLAS, us of all work on the GPU.
        """
        runs = [self.ready(direction) for _ in range(repeats)]
        with plans.fixed(plan):
            if plan.kind == "steps":
                return launches.whole(lambda: runs.pop()(), repeats)
            return sum(launches.times(lambda: runs.pop()(), repeats).values()) or None


@cache
def problem(cell, N, T, H):
    return Problem(cell, N, T, H)


@cache
def expected(cell, direction, N, T, H, precision):
    """The results with the planner's choice."""
    plan = plans.chosen(cell, direction, N, H, precision)
    return problem(cell, N, T, H).results(direction, plan)


def measure(key, plan, rank, dry):
    cell, direction, N, H, precision = key
    launches.watch()
    lengths, repeats = (DRY_LENGTHS, 2) if dry else (LENGTHS, 7)
    rnnfast.set_float32_matmul_precision(plans.PRECISIONS[precision])
    try:
        right = expected(cell, direction, N, lengths[0], H, precision)
        error = differs(problem(cell, N, lengths[0], H).results(direction, plan), right)
        tolerance = 2 * our_tolerance(plans.PRECISIONS[precision], N, lengths[0], D, H)
        assert error <= tolerance, f"{plan}: off by {error:.2g}, over {tolerance:g}"
        us = [problem(cell, N, T, H).us(direction, plan, repeats) for T in lengths]
    finally:
        rnnfast.set_float32_matmul_precision("highest")
    found = {"cell": cell, "direction": direction, "N": N, "H": H, "precision": precision}
    found |= {"plan": str(plan), "sizes": plans.sizes(plan), "rank": rank}
    found |= {"predicted": plans.predicted(plan), "error": error}
    if None not in us:
        step = (us[1] - us[0]) / (lengths[1] - lengths[0])
        found |= {"us_per_step": round(step, 3), "us_before": round(us[0] - lengths[0] * step, 2)}
    return found


def differs(got, expected):
    """The largest difference in all arrays, relative to the largest number of the array."""
    pairs = zip(got, expected, strict=True)
    return float(np.max([np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in pairs]))


def of_all(found):
    """[(rank, plan)]: the FIRST by the model, and SPREAD others, in case the model is wrong."""
    ranked = sorted(found, key=plans.predicted)
    slower = np.linspace(FIRST, len(ranked) - 1, SPREAD).round().astype(int)
    ranks = sorted({*range(min(FIRST, len(ranked))), *(slower[slower >= FIRST])})
    return [(int(rank), ranked[rank]) for rank in ranks if rank < len(ranked)]


def items(dry):
    ranked = []
    for N, H in DRY_SHAPES if dry else SHAPES:
        for cell in CELLS[:1] if dry else CELLS:
            for precision in plans.PRECISIONS:
                for direction in plans.DIRECTIONS:
                    key = cell, direction, N, H, precision
                    for rank, plan in of_all(plans.candidates(*key)):
                        name = f"{cell} {direction} {N}, {H} {precision}, plan {rank}"
                        ranked.append((rank, name, partial(measure, key, plan, rank, dry)))
    return {name: run for _, name, run in sorted(ranked, key=lambda item: item[0])}


def table(results):
    """Lines of Markdown: for each recurrence the number of plans, the chosen and the best one."""
    rows = {}
    for row in results:
        if "us_per_step" in row:
            key = row["cell"], row["direction"], row["N"], row["H"], row["precision"]
            rows.setdefault(key, []).append(row)
    if rows:
        yield from head(
            ("recurrence", "N, H", "precision", "best plan"),
            *("plans", "chosen, us", "predicted", "best, us", "predicted"),
        )
    for (cell, direction, N, H, precision), them in rows.items():
        chosen = min(them, key=lambda row: row["rank"])
        best = min(them, key=lambda row: row["us_per_step"])
        words = f"{cell} {direction}", f"{N}, {H}", precision, best["plan"], str(len(them))
        yield line(*words, *(f"{us:.2f}" for row in (chosen, best) for us in figures(row)))


def figures(row):
    """us of a step, measured and predicted; NaN if there is no prediction."""
    return row["us_per_step"], float("nan") if row["predicted"] is None else row["predicted"]
