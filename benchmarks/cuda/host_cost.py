"""What a call of the column costs the host, before the GPU has anything to do.

    python -m benchmarks.cuda.host_cost

A call of the contract with CuPy arrays, of a shape that was called before: Python, the driver's
launch and cuBLAS's. Sequences are short, so that nobody waits for the GPU, which is idle when a
call begins; the shortest of many calls is told, and how much of it are CuPy's allocations.
"""

import argparse
import time
from unittest import mock

import numpy as np

from benchmarks.machine import cpu_name
from rnnfast import cuda
from rnnfast.kernels import CELLS, load

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
SHAPES = ((20, 3, 100, 100), (20, 3, 650, 650))  # N, T, D, H
CALLS = 3000
MAKERS = ("empty", "zeros")


def settle():
    """All that was begun is over."""
    import cupy

    cupy.cuda.runtime.deviceSynchronize()


def shortest(run, calls):
    """us of the shortest of so many calls."""
    clock, best = time.perf_counter_ns, float("inf")
    for _ in range(calls):
        start = clock()
        run()
        best = min(best, clock() - start)
        settle()
    return best / 1e3


def allocations(run):
    """The arguments of every allocation in a call: [(function's name, shape, dtype)]."""
    import cupy

    made = []

    def watched(name):
        make = getattr(cupy, name)

        def of(*args):
            made.append((name, *args))
            return make(*args)

        return mock.patch.object(cupy, name, of)

    with watched(MAKERS[0]), watched(MAKERS[1]):
        run()
    return made


def of_allocations(made, calls):
    """us that CuPy takes for these, each on its own."""
    import cupy

    return sum(
        made.count(one) * shortest(lambda one=one: getattr(cupy, one[0])(*one[1:]), calls)
        for one in set(made)
    )


def ways(cell, shape):
    """{name: a function that is one call}."""
    import cupy

    (N, T, D, H), rng = shape, np.random.default_rng(0)

    def normal(*sizes):
        return cupy.asarray(rng.standard_normal(sizes).astype("f") / 8)

    columns, module = GATES[cell] * H, load(cell, "cuda")
    params = normal(D, columns), normal(H, columns), normal(columns)
    xs, dhs, grads = normal(N, T, D), normal(N, T, H), tuple(map(cupy.empty_like, params))
    packed = module.pack(params)

    def inference():
        module.forward(xs, None, packed, train=False)

    def training():
        kept = module.forward(xs, None, params)[2]
        module.backward(dhs, None, params, kept, grads)

    return {"inference": inference, "training": training}


def measure(calls):
    """The rows of the table: cell, shape, way, us, how many allocations, us of these."""
    prepared = []
    for shape in SHAPES:
        for cell in CELLS:
            for way, run in ways(cell, shape).items():
                run()  # compiles
                prepared.append((cell, shape, way, run, allocations(run)))
    settle()
    for cell, shape, way, run, made in prepared:
        yield cell, shape, way, shortest(run, calls), len(made), of_allocations(made, calls)


def table(rows):
    yield "| cell | N, T, D, H | call | us | allocations | us of these | beyond |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for cell, shape, way, us, count, of_these in rows:
        sizes = ", ".join(map(str, shape))
        numbers = f"{us:.1f} | {count} | {of_these:.1f} | {us - of_these:.1f}"
        yield f"| {cell} | {sizes} | {way} | {numbers} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"({CALLS})")
    options = parser.parse_args()
    if reason := cuda.available():
        raise SystemExit(f"no GPU: {reason}")
    print(f"{cuda.what_runs().name}, {cpu_name()}\n")
    for line in table(measure(options.calls)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
