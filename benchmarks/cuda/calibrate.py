"""Fits the constants of rnnfast/cuda/cost.py to a race of plans. It needs no GPU.

    python -m benchmarks.cuda.calibrate FOLDER

FOLDER has sweep.json of benchmarks/gpu.sh. All constants are fitted but the clock, which nvidia-smi
shows, the size of L2 and the rate of reading weights, on which no plan near the best one depends:
by least squares on the logarithms of predicted and measured time. Plans that take more than NEAR
times as long as the best one of their recurrence are left out, because no planner should take them;
steps, which are seldom near, if they take NEAR_STEPS times as long. This prints the constants, the
errors before and after, and how often the plan with the shortest predicted time takes no more than
CLOSE times as long as the best measured one.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.cuda import plans
from benchmarks.report import head, line
from rnnfast.cuda import cost

MULTIPROCESSORS = 132  # of an H100
GIVEN = ("clock", "L2", "weights")
NEAR, NEAR_STEPS, CLOSE = 3.0, 5.0, 1.05
ROUNDS = 30
STEP = 0.02  # of the logarithm of a constant, for the derivative by it
OUTLIER = 0.2  # errors above this count less, by as much as they are above it
PRIOR = 0.01  # how much a constant that the measurements do not tell stays where it is


@dataclass(frozen=True)
class Measured:
    """A plan that was measured."""

    recurrence: tuple  # cell, direction, N, H, precision
    plan: plans.planner.Plan
    us: float  # of a step

    @property
    def kind(self):
        """What the errors are listed by."""
        kind, direction, precision = self.plan.kind, self.recurrence[1], self.recurrence[-1]
        if kind == "grid":
            precision = self.plan.arithmetic
        return kind if kind == "row" else f"{kind} {direction} {precision}"

    @property
    def limit(self):
        return NEAR_STEPS if self.plan.kind == "steps" else NEAR

    def predicted(self):
        """us of a step with the constants as they are now."""
        name, direction, N, H, precision = self.recurrence
        cell = plans.cell_of(name)
        if self.plan.kind == "steps":
            return cost.of_steps(cell, direction == "forward", N, H, precision)
        return cost.of_frame(cell, self.plan, N, MULTIPROCESSORS).us


def read(path):
    """All plans in a sweep.json with a time."""
    found = []
    for item in json.loads(Path(path).read_text(encoding="utf-8"))["items"].values():
        row = item.get("result", {})
        if row.get("us_per_step", 0) > 0:
            key = tuple(row[name] for name in ("cell", "direction", "N", "H", "precision"))
            plan = plans.rebuilt(plans.cell_of(key[0]), *key[1:4], row["sizes"])
            found.append(Measured(key, plan, row["us_per_step"]))
    return found


def best_of(measured):
    """{recurrence: us of its fastest plan}."""
    best = {}
    for one in measured:
        best[one.recurrence] = min(one.us, best.get(one.recurrence, one.us))
    return best


def errors(measured):
    """Logarithms of predicted over measured time."""
    return np.log([one.predicted() / one.us for one in measured])


def use(names, logarithms):
    for name, value in zip(names, np.exp(logarithms), strict=True):
        cost.CONSTANTS[name] = replace(cost.CONSTANTS[name], value=float(value))


def fit(measured):
    """Changes cost.CONSTANTS: Gauss and Newton, with less weight for outliers."""
    best = best_of(measured)
    near = [one for one in measured if one.us <= one.limit * best[one.recurrence]]
    names = [name for name in cost.CONSTANTS if name not in GIVEN]
    at = first = np.log([cost.CONSTANTS[name].value for name in names])
    for _ in range(ROUNDS):
        use(names, at)
        now = errors(near)
        slopes = np.empty((len(near), len(names)))
        for k in range(len(names)):
            use(names, at + STEP * (np.arange(len(names)) == k))
            slopes[:, k] = (errors(near) - now) / STEP
        weights = np.sqrt(np.minimum(1, OUTLIER / np.maximum(np.abs(now), 1e-9)))[:, None]
        stay = PRIOR * np.eye(len(names))
        left = np.concatenate((weights * slopes, stay))
        right = np.concatenate((-weights[:, 0] * now, PRIOR * (first - at)))
        change = np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -0.5, 0.5)
        at = at + change
        if np.max(np.abs(change)) < 1e-3:
            break
    use(names, at)


def of_kinds(measured):
    """{kind: (number of plans, median and 90% quantile of the relative error)}."""
    found = {}
    for kind in sorted({one.kind for one in measured}):
        them = [one for one in measured if one.kind == kind]
        off = np.abs(np.expm1(errors(them)))
        found[kind] = len(them), float(np.median(off)), float(np.quantile(off, 0.9))
    return found


def choices(measured):
    """[(recurrence, us of the plan that the model takes, its kind, us of the best, its kind)]."""
    found, every = [], {}
    for one in measured:
        every.setdefault(one.recurrence, []).append(one)
    for recurrence, them in every.items():
        taken, best = min(them, key=Measured.predicted), min(them, key=lambda one: one.us)
        found.append((recurrence, taken.us, taken.plan.kind, best.us, best.plan.kind))
    return found


def described(found):
    close = sum(us <= CLOSE * best for _, us, _, best, _ in found)
    return f"{close} of {len(found)} choices take at most {CLOSE:g} times as long as the best plan"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="$OUT of the stages")
    measured = read(parser.parse_args().folder / "sweep.json")
    constants, before, chosen = dict(cost.CONSTANTS), of_kinds(measured), choices(measured)
    fit(measured)
    print(*head(("constant", "unit"), "before", "after"), sep="\n")
    for name, now in cost.CONSTANTS.items():
        print(line(name, now.unit, f"{constants[name].value:.4g}", f"{now.value:.4g}"))
    print("", *head(("plans",), "number", "median error", "90%", "before", "90%"), sep="\n")
    for kind, (number, *after) in of_kinds(measured).items():
        print(line(kind, str(number), *(f"{e:.1%}" for e in (*after, *before[kind][1:]))))
    print(f"\nBefore, {described(chosen)}; now, {described(choices(measured))}.")
    for recurrence, us, kind, best, of_best in choices(measured):
        if us > CLOSE * best:
            print(f"{recurrence}: {kind} {us:.2f} us, best {of_best} {best:.2f} us")


if __name__ == "__main__":
    main()
