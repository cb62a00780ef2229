"""The time of the parts of a recurrence on a GPU: launches, meetings, loads, products.

The planner's predictions use such numbers. The kernels are CUDA C (micro.cu), compiled by NVRTC, so
they need neither Numba nor the column. The result of an item is us, or cycles of a multiprocessor.
"""

import statistics
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

import rnnfast
from benchmarks.cuda import machine
from rnnfast import cuda

THREADS = 256
MET = (1, 2, 4, 8, 16, 32)  # numbers of groups
# (groups, floats of each block)
EXCHANGED = ((1, 8), (1, 256), (1, 1024), (4, 100), (4, 400), (16, 32), (16, 128))
PACKETS = ((1, 6), (1, 255), (4, 99), (4, 399), (16, 30), (16, 129))  # 3 floats in each packet
PUSHED = ((4, 32), (8, 4), (8, 32), (8, 128))  # (blocks of a cluster, floats of each)
READ = (16_384, 65_536, 262_144)  # floats that each block reads
PRODUCTS = (
    (4096, 4096, 4096),
    (700, 650, 2600),
    (700, 652, 2600),
    (700, 650, 10_000),
    (20, 650, 2600),
)


@dataclass(frozen=True)
class Effort:
    repeats: int  # of the part in one launch
    launches: int  # the result is their median
    host_calls: int


FULL, DRY = Effort(1000, 7, 200), Effort(4, 2, 3)
effort = FULL


@cache
def kernel(name, cooperative=False):
    import cupy

    source = Path(__file__).with_name("micro.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(
        code=source, options=("--std=c++17",), enable_cooperative_groups=cooperative
    )
    return module.get_function(name)


def sms():
    return cuda.what_runs().multiprocessors


def clusters():
    """Whether blocks of a cluster can push: the GPU has clusters, and room for two."""
    return cuda.what_runs().compute_capability >= (9, 0) and sms() >= 16


def timed(launch, repeats, cycles):
    """us and cycles of one repetition, medians of all launches; cycles of the slowest block."""
    import cupy

    start, end, us, of_block = cupy.cuda.Event(), cupy.cuda.Event(), [], []
    for _ in range(effort.launches + 1):
        start.record()
        launch()
        end.record()
        end.synchronize()
        us.append(1e3 * cupy.cuda.get_elapsed_time(start, end) / repeats)
        of_block.append(float(cycles.max()) / repeats)
    middle = statistics.median
    return {"us": round(middle(us[1:]), 4), "cycles": round(middle(of_block[1:]), 1)}


def zeros(*sizes):
    import cupy

    return [cupy.zeros(size, kind) for size, kind in sizes]


def meet(groups, width):
    """A meeting of all blocks of a group; each block sends `width` floats to the others."""
    blocks = sms() // groups
    counters, x, cycles = zeros(
        (32 * groups, "int32"), (2 * sms() * max(width, 4), "float32"), (sms(), "int64")
    )
    numbers = np.int32(blocks), np.int32(width), np.int32(effort.repeats)

    def launch():
        counters.fill(0)
        run = kernel("meet", cooperative=True)
        run((blocks * groups,), (THREADS,), (counters, x, *numbers, cycles))

    return {"blocks": blocks, **timed(launch, effort.repeats, cycles)}


def packets(name, groups, width):
    """The same exchange by packets that carry their number, without a meeting."""
    blocks = sms() // groups
    x, cycles = zeros((2 * sms() * width // 3 * 4, "float32"), (sms(), "int64"))
    numbers = np.int32(blocks), np.int32(width), np.int32(effort.repeats)

    def launch():
        x.fill(0)
        run = kernel(name, cooperative=True)
        run((blocks * groups,), (THREADS,), (x, *numbers, cycles))

    return {"blocks": blocks, **timed(launch, effort.repeats, cycles)}


def push(blocks, width):
    """The same within clusters, into the shared memory of the others."""
    x, cycles = zeros((1, "float32"), (sms(), "int64"))
    numbers = np.int32(width), np.int32(effort.repeats)
    run, shared = kernel(f"push_{blocks}"), 8 * blocks * width

    def launch():
        grid = sms() // 16 * 8 // blocks * blocks  # of which the clusters surely fit at once
        run((grid,), (THREADS,), (x, *numbers, cycles), shared_mem=shared)

    return timed(launch, effort.repeats, cycles)


def flag(other):
    """A flag that goes from one block to another one."""
    x, cycles = zeros((64, "int32"), (sms(), "int64"))

    def launch():
        x.fill(0)
        numbers = np.int32(other), np.int32(effort.repeats)
        kernel("flag", cooperative=True)((sms(),), (32,), (x, *numbers, cycles))

    return timed(launch, 2 * effort.repeats, cycles)


def read_l2(floats, same):
    """All blocks read from L2: sectors of 32 bytes for each nanosecond."""
    apart = 0 if same else floats
    x, cycles = zeros((floats * (1 if same else sms()), "float32"), (sms(), "int64"))
    repeats = max(1, effort.repeats // 20)

    def launch():
        numbers = np.int32(floats), np.int32(apart), np.int32(repeats)
        kernel("read_l2")((sms(),), (THREADS,), (x, *numbers, cycles))

    found = timed(launch, repeats, cycles)
    return {**found, "sectors_per_ns": round(sms() * floats / 8 / found["us"] / 1e3, 2)}


def chase_l2():
    """The latency of one load."""
    import cupy

    places = 4 * np.random.default_rng(0).permutation(4096)
    x = np.zeros(4 * 4096, np.int32)
    x[places] = np.roll(places, -1)
    there, (cycles,) = cupy.asarray(x), zeros((1, "int64"))

    def launch():
        kernel("chase_l2")((1,), (1,), (there, np.int32(effort.repeats), cycles))

    return timed(launch, effort.repeats, cycles)


def throughput(name, instructions, threads, *numbers, shared=0):
    """Cycles of a multiprocessor, with its four schedulers, for one instruction of a warp."""
    (cycles,) = zeros((sms(), "int64"))

    def launch():
        values = (*map(np.int32, (*numbers, effort.repeats)), cycles)
        kernel(name)((sms(),), (threads,), values, shared_mem=shared)

    found = timed(launch, effort.repeats, cycles)
    each = found["cycles"] / instructions / (threads / 32)
    return {**found, "cycles_per_warp_instruction": round(each, 3)}


def launches(cooperative, blocks):
    """Launches of an empty kernel: us of the host, and us between two of them on the GPU."""
    arrays, numbers = zeros(*[(4, "float32")] * 10), (np.int32(0),) * 4
    run, clock = kernel("nothing", cooperative), machine.Events()
    times = [
        clock.time(lambda: run((blocks,), (THREADS,), (*arrays, *numbers)), effort.host_calls)
        for _ in range(effort.launches)
    ]
    gpu, host = (statistics.median(t) * 1e6 for t in zip(*times, strict=True))
    return {"us": round(gpu, 2), "host_us": round(host, 2)}


def host_calls():
    """us of the host for the CuPy calls that are parts of a layer's call."""
    import cupy

    a, b, c = (cupy.zeros((100, 100), "float32") for _ in range(3))
    calls = {
        "empty": lambda: cupy.empty((20, 35, 100), "float32"),
        "zeros": lambda: cupy.zeros((20, 35, 100), "float32"),
        "ascontiguousarray": lambda: cupy.ascontiguousarray(a),
        "reshape": lambda: a.reshape(50, 200),
        "copy": a.copy,
        "matmul": lambda: cupy.matmul(a, b, out=c),
        "sum": lambda: a.sum(axis=0, out=c[0]),
        "getDevice": cupy.cuda.runtime.getDevice,
    }
    found = {}
    for name, call in calls.items():
        call()
        cupy.cuda.runtime.deviceSynchronize()
        begin = time.perf_counter()
        for _ in range(effort.host_calls):
            call()
        found[name] = round((time.perf_counter() - begin) / effort.host_calls * 1e6, 2)
        cupy.cuda.runtime.deviceSynchronize()
    return found


def product(m, k, n, precision):
    """A product outside the recurrence, by cuBLAS."""
    gpu, clock = cuda.what_runs(), machine.Events()
    random = np.random.default_rng(0)
    a, b = (gpu.xp.array(random.standard_normal(s).astype("f")) for s in ((m, k), (k, n)))
    out = gpu.xp.empty((m, n), "float32")

    def run():
        gpu.matmul(a, b, out=out)

    rnnfast.set_float32_matmul_precision(precision)
    try:
        clock.time(run, 2)
        seconds = statistics.median(clock.time(run, 10)[0] for _ in range(effort.launches))
    finally:
        rnnfast.set_float32_matmul_precision("highest")
    tflops = 2 * m * k * n / seconds / 1e12
    return {"us": round(1e6 * seconds, 2), "tflops": round(tflops, 2)}


def items(dry):
    global effort
    effort = DRY if dry else FULL
    found = {
        "launch": partial(launches, False, 1),
        "launch, all blocks": partial(launches, False, sms()),
        "launch, cooperative": partial(launches, True, sms()),
        "host calls": host_calls,
    }
    for groups in MET:
        if groups <= sms():
            found[f"meet, {groups} groups"] = partial(meet, groups, 0)
    for groups, width in EXCHANGED:
        if groups <= sms():
            found[f"meet, {groups} groups, {width} floats a block"] = partial(meet, groups, width)
    for groups, width in PACKETS:
        if groups <= sms():
            for name in ("packets", "packets_at_once"):
                label = f"{name.replace('_', ' ')}, {groups} groups, {width} floats a block"
                found[label] = partial(packets, name, groups, width)
    for blocks, width in PUSHED if clusters() else ():
        found[f"push, clusters of {blocks}, {width} floats a block"] = partial(push, blocks, width)
    for other in sorted({1, sms() // 2, sms() - 1}):
        found[f"flag to block {other}"] = partial(flag, other)
    found["load of L2 after load"] = chase_l2
    for floats in READ[:1] if dry else READ:
        found[f"loads of L2, {floats} floats, the same"] = partial(read_l2, floats, True)
        found[f"loads of L2, {floats} floats each"] = partial(read_l2, floats, False)
    for apart in (0, 4):
        more = {"shared": 4 * 4096}
        found[f"loads of shared memory, {apart} apart"] = partial(
            throughput, "read_shared", 16, THREADS, apart, **more
        )
    for threads in (THREADS, 2 * THREADS):
        found[f"ffma, {threads} threads"] = partial(throughput, "ffma", 16, threads)
        found[f"mma, {threads} threads"] = partial(throughput, "mma", 8, threads)
    for sizes in PRODUCTS[-1:] if dry else PRODUCTS:
        for precision in ("highest", "high"):
            found[f"product {sizes} {precision}"] = partial(product, *sizes, precision)
    return found
