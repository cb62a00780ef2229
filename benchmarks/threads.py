"""The time loop on 1 to 64 threads: a model, and what can be measured of it on this machine.

    python -m benchmarks.threads [--out threads.json]

In a step of a cell, P panels of units times R tiles of rows are computed. A thread owns some of
these tiles, then all wait at barriers and read each other's h; or it owns rows of all panels, then
it waits for nobody, but needs all weights in its own L2::

    units(n) = step ceil(P R / n) / (P R) + barriers barrier(n) + exchange(n)
    rows(n)  = step c(rows of the busiest thread) / c(all rows)
    barrier(n)  = n line                    each thread adds to one counter, one after the other
    exchange(n) = lines of h (n - 1) / n line / AHEAD

step is one thread's, measured; c(rows) = max(rows, 4) + CUT for each tile, as a tile also costs
something by itself and fewer rows do not keep the multipliers busy; line is half of a barrier of
two threads, measured; AHEAD lines are on their way at once. The kernels choose by the rule in
`own_rows_of` of src/kernels/panels.h, which `rule` repeats. The table has what the model says for
it, and for the better of the two.

Then threads beyond the cores: the time of 4, 8 and 16 threads relative to as many threads as there
are cores, and with a busy process beside, relative to one thread alone on an idle machine. All
outputs must be the same bits.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np

import rnnfast
from benchmarks.cases import FULL_GRID, GATES, Case
from benchmarks.contenders import Rnnfast
from benchmarks.machine import describe
from rnnfast import io
from rnnfast.cpu import _runtime

THREADS = (1, 2, 4, 8, 16, 32, 64)
SHAPES = (*(shape for shape in FULL_GRID if shape[1] > 1), (64, 200, 128, 128), (32, 1000, 64, 64))
TILES = {"avx512": (16, 12), "avx2": (8, 6), "neon": (4, 8), "portable": (4, 4)}  # lanes, rows
BARRIERS = {"rnn": 1, "lstm": 1, "gru": 2}
L2 = 1 << 20  # bytes of weights, as in the kernels
CUT = 1  # rows
AHEAD = 8
BUSY = "while True: pass"


class Model:
    """One cell and shape, with the measured seconds of one thread's step and of a line."""

    def __init__(self, case, step, line):
        self.case, self.step, self.line = case, step, line
        lanes, self.most = TILES[_runtime.simd()]
        self.panels = -(-case.H // lanes)

    def units(self, n):
        """Seconds of a step where a thread owns tiles of panels."""
        tiles = self.panels * -(-self.case.N // self.most)
        lines = self.case.N * self.case.H * 4 / 64
        waits = BARRIERS[self.case.cell] * (n * self.line if n > 1 else 0)
        exchange = lines * (n - 1) / n * self.line / AHEAD
        return self.step * math.ceil(tiles / n) / tiles + waits + exchange

    def rows(self, n):
        """Seconds of a step where a thread owns rows; infinite where it cannot."""
        N = self.case.N
        if self.weights > L2 or n > N:
            return math.inf
        tiles = math.ceil(math.ceil(N / self.most) / n)  # of a thread
        height = math.ceil(N / (n * tiles))
        whole = N + CUT * math.ceil(N / self.most)
        return self.step * tiles * (max(height, 4) + CUT) / whole

    @property
    def weights(self):
        return (self.case.D + self.case.H) * GATES[self.case.cell] * self.case.H * 4

    def rule(self, n):
        """The owners that the kernels choose."""
        n = self.threads(n)
        few = self.case.N < 12  # x Wx before the time loop
        return "units" if few or self.weights > L2 or 4 * n > self.case.N else "rows"

    def threads(self, n):
        """How many of n threads a call takes."""
        return min(n, max(-(-self.case.H // 16), self.case.N // 8))

    def seconds(self, n, owners):
        n = self.threads(n)
        return self.units(n) if owners == "units" else self.rows(n)

    def best(self, n):
        return min(("units", "rows"), key=lambda owners: self.seconds(n, owners))


def seconds_of(run, least=0.3):
    """The median time of a call, of calls that take so long together."""
    run()
    times = []
    while sum(times) < least or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@contextmanager
def busy_process():
    """A process that never sleeps."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(0.5)  # until it is there
        yield
    finally:
        process.kill()
        process.wait()


def barrier(threads):
    """Seconds, the median of several."""
    rnnfast.set_num_threads(threads)
    return float(np.median([_runtime.meet(20_000) for _ in range(9)])) * 1e-9


def measure(case, line, cores):
    """The model of a case, and the seconds of a step with one thread and with one for each core."""
    contender, steps = Rnnfast(case), []
    for threads in (1, cores):
        rnnfast.set_num_threads(threads)
        steps.append(seconds_of(contender.run) / case.T)
    return Model(case, steps[0], line), steps[1]


def beyond(case, cores):
    """The times of more threads than cores, and of threads with a busy process beside."""
    contender = Rnnfast(case)
    found = {}
    rnnfast.set_num_threads(1)
    contender.run()
    expected = contender.hs.copy()
    alone = seconds_of(contender.run, 1)
    rnnfast.set_num_threads(cores)
    usual = seconds_of(contender.run, 1)
    for threads in (2 * cores, 4 * cores, 8 * cores):
        rnnfast.set_num_threads(threads)
        found[f"{threads} threads"] = round(seconds_of(contender.run, 1) / usual, 2)
        np.testing.assert_array_equal(contender.hs, expected)
    with busy_process():
        for threads in (1, cores):
            rnnfast.set_num_threads(threads)
            name = f"{threads} beside a busy process"
            found[name] = round(seconds_of(contender.run, 2) / alone, 2)
            np.testing.assert_array_equal(contender.hs, expected)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON to write")
    parser.add_argument("--cells", nargs="+", choices=GATES, default=[*GATES])
    options = parser.parse_args(argv)
    cores = rnnfast.get_num_threads()
    line = barrier(2) / 2
    machine = describe()
    found = {"machine": machine, "line_ns": round(line * 1e9, 1), "steps": [], "beyond": []}
    print(f"a line from one core to another: {1e9 * line:.0f} ns")
    print(f"| cell | N, D, H | us, 1 thread | {cores}: measured | model | {heads()} |")
    print("| --- " * (5 + len(THREADS[2:])) + "|")
    for cell in options.cells:
        for shape in SHAPES:
            model, two = measure(Case(cell, shape, "forward"), line, cores)
            found["steps"].append(show(model, cores, two))
    for cell in options.cells:
        for shape in ((20, 35, 650, 650), (32, 64, 256, 256)):
            result = beyond(Case(cell, shape, "forward"), cores)
            print(cell, shape, result)
            found["beyond"].append({"cell": cell, "shape": shape, **result})
    if options.out:
        io.write_atomically(options.out, (json.dumps(found, indent=1) + "\n").encode())


def heads():
    return " | ".join(f"{n} threads" for n in THREADS[2:])


def show(model, cores, two):
    """Print a line, and return it as a dict."""
    case = model.case
    counts = sorted({*THREADS, cores})
    row = {
        "cell": case.cell,
        "shape": case.shape,
        "step_us": {"1": round(model.step * 1e6, 2), str(cores): round(two * 1e6, 2)},
        "model_us": {n: round(model.seconds(n, model.rule(n)) * 1e6, 2) for n in counts},
        "rule": {n: model.rule(n) for n in counts},
        "lost": {
            n: round(model.seconds(n, model.rule(n)) / model.seconds(n, model.best(n)), 2)
            for n in counts
        },
    }
    predicted = row["model_us"]
    speedups = " | ".join(
        f"{model.step * 1e6 / predicted[n]:.1f} {row['rule'][n]}"
        + (f" (the other {row['lost'][n]:.2f} times as fast)" if row["lost"][n] > 1.1 else "")
        for n in THREADS[2:]
    )
    print(
        f"| {case.cell} | {case.N}, {case.D}, {case.H} | {row['step_us']['1']:.1f} |"
        f" {row['step_us'][str(cores)]:.1f} | {predicted[cores]:.1f} | {speedups} |",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
