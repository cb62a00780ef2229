"""The time that a call of the cuda column takes on the host.

    python -m benchmarks.cuda.host_cost

The calls are those of the contract, with CuPy arrays of a shape that was used before. Their time is
that of Python, CuPy, the driver and cuBLAS on the CPU. In training, forward and backward are
measured separately. Sequences are short and the GPU is idle when a call begins, so no call waits
for the GPU. The table has the shortest of many calls, and how much of it CuPy's allocations take.
"""

import argparse
import contextlib
import time
from unittest import mock

import numpy as np

from benchmarks.cases import GATES
from benchmarks.machine import cpu_name
from rnnfast import cuda
from rnnfast.kernels import load

SHAPES = ((20, 3, 100, 100), (20, 3, 650, 650))  # N, T, D, H
CALLS = 3000


def settle():
    """Waits for the GPU."""
    import cupy

    cupy.cuda.runtime.deviceSynchronize()


def shortest(run, calls, prepare=lambda: ()):
    """us of the shortest of `calls` calls of run(*prepare()), without prepare."""
    clock, best = time.perf_counter_ns, float("inf")
    for _ in range(calls):
        arguments = prepare()
        start = clock()
        run(*arguments)
        best = min(best, clock() - start)
        settle()
    return best / 1e3


def makers():
    """The functions that allocate: (object, name of its method) of each."""
    gpu = cuda.what_runs()
    return (gpu, "empty"), (gpu, "zeros")


def allocations(run, prepare):
    """All allocations of one call: [(object, name, shape, dtype)]."""
    made, arguments = [], prepare()

    def watched(where, name):
        make = getattr(where, name)

        def of(*args):
            made.append((where, name, *args))
            return make(*args)

        return mock.patch.object(where, name, of)

    with contextlib.ExitStack() as stack:
        for maker in makers():
            stack.enter_context(watched(*maker))
        run(*arguments)
    return made


def of_allocations(made, calls):
    """us that CuPy takes for these allocations, each measured separately."""
    return sum(
        made.count(one) * shortest(lambda make, *args: make(*args), calls, lambda a=arguments: a)
        for one in set(made)
        if (arguments := (getattr(*one[:2]), *one[2:]))
    )


def ways(cell, shape):
    """{name: (function that makes one call, function that prepares its arguments)}."""
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

    def forward():
        return module.forward(xs, None, params)

    def backward(hs, state, cache):
        module.backward(dhs, None, params, cache, grads)

    def nothing():
        return ()

    return {
        "inference": (inference, nothing),
        "forward": (forward, nothing),
        "backward": (backward, forward),
    }


def measure(calls):
    """The rows of the table: cell, shape, name, us, number of allocations, us of allocations."""
    prepared = []
    for shape in SHAPES:
        for cell in GATES:
            for way, (run, prepare) in ways(cell, shape).items():
                run(*prepare())  # compiles
                prepared.append((cell, shape, way, run, prepare, allocations(run, prepare)))
    settle()
    for cell, shape, way, run, prepare, made in prepared:
        us = shortest(run, calls, prepare)
        yield cell, shape, way, us, len(made), of_allocations(made, calls)


def table(rows):
    yield "| cell | N, T, D, H | call | us | allocations | us of these | beyond |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for cell, shape, way, us, count, of_these in rows:
        sizes = ", ".join(map(str, shape))
        numbers = f"{us:.1f} | {count} | {of_these:.1f} | {us - of_these:.1f}"
        yield f"| {cell} | {sizes} | {way} | {numbers} |"


def calls_wanted(doc, default):
    """--calls, of a benchmark of the host. Ends it where there is no GPU."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--calls", type=int, default=default, metavar="N", help=f"({default})")
    calls = parser.parse_args().calls
    if reason := cuda.available():
        raise SystemExit(f"no GPU: {reason}")
    return calls


def main():
    calls = calls_wanted(__doc__, CALLS)
    print(f"{cuda.what_runs().name}, {cpu_name()}\n")
    for line in table(measure(calls)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
