"""Checks the results of all kernels: the small cases of benchmarks/sanitize.py, then real widths.

At a real width a few steps run forward and backward with the planner's plan, in float32 and in
TF32. The results are compared with float64, and a second run must give the same bits.
"""

from functools import partial

import numpy as np

from benchmarks import sanitize
from benchmarks.cuda import exact, machine
from benchmarks.cuda.contenders import Case, Rnnfast, RnnfastTF32, check_results

# N, T, D, H
SHAPES = (
    (20, 5, 650, 650),
    (20, 5, 100, 100),
    (64, 5, 512, 512),
    (32, 5, 256, 256),
    (1, 5, 256, 256),
    (1, 5, 100, 100),
    (8, 5, 128, 128),
    (128, 5, 1024, 1024),
    (1, 1, 512, 512),
    (3, 1, 5, 101),
    (7, 2, 33, 333),
)
DRY_SHAPES = ((3, 2, 5, 7), (5, 2, 4, 120))
CELLS = (("lstm", False), ("gru", True), ("gru", False), ("rnn", False))  # (cell, after)


def small(run):
    error, tolerance = run()
    assert error <= tolerance, f"error {error:.2e}, over {tolerance:g}"
    return {"error": float(f"{error:.2e}"), "tolerance": tolerance}


def real(case, contender):
    made = contender(case, machine.this_gpu())
    made.prepare()
    made.run()
    first = [np.array(x) for x in made.results()]
    check_results(made, exact.results(case))
    if not case.streaming:
        made.run()
        for a, b in zip(first, made.results(), strict=True):
            assert np.array_equal(a, b), f"{case}: two runs differ by {np.max(np.abs(a - b)):.2g}"
    return {"checked": [list(x.shape) for x in first]}


def items(dry):
    found = {f"small {name}": partial(small, run) for name, run in sanitize.cases().items()}
    if dry:
        found = dict(list(found.items())[:: len(found) // 4])
    for shape in DRY_SHAPES if dry else SHAPES:
        for cell, after in CELLS:
            for contender in (Rnnfast, RnnfastTF32):
                case = Case(cell, shape, "training", after=after)
                found[f"{case} {contender.precision}"] = partial(real, case, contender)
    return found
