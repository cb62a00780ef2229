"""The overhead of a call beyond its kernel, and the effect of threads between calls.

    pytest benchmarks/test_calls.py

Overhead: the smallest possible layer, N = T = D = H = 1, is called as a layer and by the contract
(rnnfast.kernels). A longer sequence gives the time of one step inside the kernel. The rest of a
call with one step is overhead: all work that is done once per call, including the kernel's own
preparations.

Threads: a loop that alternates np.dot with a layer's forward, compared with each of them in its own
loop. If the worker threads of one spin while the other runs, the loop takes longer than the sum.
"""

from types import SimpleNamespace

import numpy as np
import pytest

import rnnfast
from benchmarks.cases import GATES, Case
from benchmarks.contenders import LAYERS, PyTorch, Rnnfast, RnnfastUnfrozen, available
from benchmarks.race import race
from benchmarks.replay import replay
from rnnfast.kernels import load

LONG = 1025  # time steps of the longer sequence
DOTS = (256, 1024)  # width of the matrices of np.dot
BESIDE_DOT = ("lstm", (20, 35, 100, 100))  # a layer that takes about as long as the smaller np.dot


def tiny(cell, T, freeze=False):
    layer = getattr(rnnfast, LAYERS[cell])(*Case(cell, (1, 1, 1, 1), "forward").arrays["params"])
    if freeze:
        layer.freeze()
    xs = np.zeros((1, T, 1), np.float32)
    return SimpleNamespace(run=lambda: layer.forward(xs, train=False))


def contract(cell):
    params = Case(cell, (1, 1, 1, 1), "forward").arrays["params"]
    params = (*params, None)[:3]
    forward, xs = load(cell, "cpu").forward, np.zeros((1, 1, 1), np.float32)
    return SimpleNamespace(run=lambda: forward(xs, None, params, train=False))


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.benchmark(timer=replay)
def test_overhead(cell, request, machine, keep_freed_memory, benchmark):
    calls = {"layer": tiny(cell, 1), "long": tiny(cell, LONG), "contract": contract(cell)}
    if hasattr(rnnfast.TimeLSTM, "freeze"):
        calls["layer, frozen"] = tiny(cell, 1, freeze=True)
    benchmark.group = "one call, N = T = D = H = 1"
    if request.config.getoption("benchmark_disable"):
        benchmark(calls["layer"].run)
        return
    result = race(calls, request.config.getoption("rounds"))
    step = (result.median("long") - result.median("layer")) / (LONG - 1)
    replay.play(benchmark, result.times["layer"])
    seconds = {name: result.median(name) for name in calls if name != "long"}
    benchmark.extra_info |= {
        "overhead_of": cell,
        "seconds": seconds,
        "kernel_step": step,
        "overhead": {name: value - step for name, value in seconds.items()},
        "others_cores": result.others_cores,
        "far": result.far,
        **machine,
    }


def beside_dot():
    """{name: contender} of the layers that alternate with np.dot."""
    case = Case(*BESIDE_DOT, "forward")
    kinds = (Rnnfast, RnnfastUnfrozen, PyTorch)
    return {kind.name: kind(case) for kind in kinds if available(kind, case)}


def both(dot, layer):
    def run():
        dot()
        layer()

    return run


@pytest.mark.parametrize("width", DOTS)
@pytest.mark.benchmark(timer=replay)
def test_alternating_with_dot(width, request, machine, keep_freed_memory, benchmark):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((width, width)).astype(np.float32) for _ in range(2))

    def dot():
        np.dot(a, b)

    layers = beside_dot()
    runs = {"dot": dot}
    for name, layer in layers.items():
        runs[name] = layer.run
        runs[f"dot and {name}"] = both(dot, layer.run)
    benchmark.group = f"np.dot of {width} x {width} and a layer in turns"
    if request.config.getoption("benchmark_disable"):
        benchmark(runs["dot and rnnfast"])
        return
    contenders = {name: SimpleNamespace(run=run) for name, run in runs.items()}
    result = race(contenders, request.config.getoption("rounds"))
    replay.play(benchmark, result.times["dot and rnnfast"])
    times = {name: np.array(values) for name, values in result.times.items()}
    benchmark.extra_info |= {
        "dot_width": width,
        "beside": [BESIDE_DOT[0], list(BESIDE_DOT[1])],
        "labels": {name: layer.label for name, layer in layers.items()},
        "seconds": {name: result.median(name) for name in runs},
        # time of the loop / sum of both separately: lower quartile, median, upper quartile
        "alternating": {
            name: result.quartiles(times[f"dot and {name}"] / (times["dot"] + times[name]))
            for name in layers
        },
        "others_cores": result.others_cores,
        "far": result.far,
        **machine,
    }
