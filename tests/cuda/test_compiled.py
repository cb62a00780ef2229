"""Every CUDA kernel compiled for sm_90, without a GPU: no spills, no local memory, no float64.

Needs the `cuda-compile` extra; one shape for each kernel, `python tests/compiled.py` has others.
"""

import gc
import importlib
import operator
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from unittest import mock

import compiled
import numpy as np
import pytest
from cases import CELLS, IN_ONE_KERNEL, VARIANTS, variant_name

from rnnfast.cuda import planner

MISSING = compiled.why_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

GPU = "H100"
WAYS = {"row": (20, 100), "grid": (20, 650), "steps": compiled.STEPS}
PRECISION_OF = [(kind, "float32") for kind in WAYS] + [("grid", "tf32")]
PLAIN = [variant for variant in IN_ONE_KERNEL if set(variant[1]) <= {"reset_after"}]
# The rounds of a Mogrifier LSTM, whatever their number and rank, have the same kernels
DIFFERENT = [(cell, options) for cell, options in VARIANTS if not {"rounds", "rank"} & {*options}]
RUNS = [
    (*variant, *way)
    for variant, way in product(DIFFERENT, PRECISION_OF)
    if way[0] == "steps" or variant in IN_ONE_KERNEL
]


def in_steps():
    """The planner takes steps, which it does for larger cells alone."""

    def make_plan(gpu, cell, forward, N, H, dtype, precision):
        return planner.steps_plan(cell, forward, N, H, precision)

    return mock.patch.object(planner, "make_plan", make_plan)


def in_tf32():
    """The planner takes tensor cores, also where it would find float32 faster."""

    def make_plan(gpu, cell, forward, N, H, dtype, precision):
        found = planner.candidates(gpu, cell, forward, N, H, precision)
        found = [plan for plan in found if plan.tiles and plan.arithmetic == "tf32"]
        return min(found, key=lambda plan: plan.us)

    return mock.patch.object(planner, "make_plan", make_plan)


def compile_way(
    cell, options, kind, precision, sizes=None, compile_cell=compiled.compile_cell, **ways
):
    """The kernels of forward and backward, in one list."""
    items = tuple(options.items())
    with in_steps() if kind == "steps" else in_tf32() if precision == "tf32" else nullcontext():
        both = compile_cell(GPU, cell, items, *(sizes or WAYS[kind]), precision, **ways)
    assert [plan.kind for plan, _ in both] == [kind] * 2
    return [kernel for _, kernels in both for kernel in kernels]


# Bytes that spill, stored and loaded, where all registers are taken: three or four floats
LET_PASS = {("lstm", "grid", "tf32"): 32, ("gru", "grid", "float32"): 16}


def assert_clean(found, let_pass=0):
    room = compiled.GPUS[GPU][2]
    for kernel in found:
        assert not kernel.violations(let_pass), kernel
        assert kernel.registers * kernel.threads <= 65536, kernel  # or it could not be launched
        assert kernel.static + kernel.dynamic <= room, kernel


@pytest.mark.parametrize(
    ("cell", "options", "kind", "precision"),
    [pytest.param(*run, id="-".join((variant_name(*run[:2]), *run[2:]))) for run in RUNS],
)
@pytest.mark.one_in(60, 20)
def test_cells(cell, options, kind, precision):
    found = compile_way(cell, options, kind, precision)
    assert len(found) >= 2
    assert all(kernel.cooperative == (kind == "grid") for kernel in found)
    assert_clean(found, LET_PASS.get((cell.name, kind, precision), 0))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((64, 512), marks=pytest.mark.rest),
        pytest.param((128, 1024), marks=pytest.mark.large),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", PLAIN, ids=lambda variant: variant_name(*variant))
def test_three_products(variant, sizes):
    """In float32 on tensor cores, with mask and lengths, too: nothing spills."""
    cell, options = variant
    for ways in ({}, {"mask": True, "lengths": True}):
        items = tuple(options.items())
        (plan, found), _ = compiled.compile_cell(GPU, cell, items, *sizes, "float32", **ways)
        if plan.tiles:
            assert plan.arithmetic == "3xtf32"
            assert_clean(found)


@pytest.mark.parametrize("way", ["mask", "lengths"])
@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.rest
def test_ways_to_call(kind, way):
    if (kind, way) == ("steps", "mask"):
        pytest.skip("forward it is a product of arrays there")
    cell = next(cell for cell in CELLS if cell.name == "lstm")
    found = compile_way(cell, {}, kind, "float32", **{way: True})
    assert_clean(found)
    plain = compile_way(cell, {}, kind, "float32")
    for a, b in zip(found, plain, strict=True):
        assert a.name == b.name
        assert a.opcodes != b.opcodes, a.name  # it was compiled with the mask, with lengths


@pytest.mark.parametrize("ways", [{}, {"mask": True, "lengths": True}], ids=["plain", "both"])
@pytest.mark.rest
def test_rows_whose_weights_registers_do_not_hold(ways):
    """128 units of a GRU: a part of the weights is in shared memory, and nothing spills."""
    cell = next(cell for cell in CELLS if cell.name == "gru")
    for plan, kernels in compiled.compile_cell(GPU, cell, (), 8, 128, **ways):
        assert plan.kind == "row" and any(tile.aside for tile in plan.tiles)
        assert_clean(kernels)


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.one_in(2)
def test_a_new_shape_types_few_functions(monkeypatch, way):
    """Each takes Numba's front end some 20 ms: the kernel, its products, and where samples end."""
    import numba.cuda.compiler as front_end

    from rnnfast.cuda import frame_back, frame_forward, lstm

    typed, real = [], front_end.compile_extra

    def compile_extra(*args, func, **how):
        typed.append(func.__name__)
        return real(*args, func=func, **how)

    monkeypatch.setattr(front_end, "compile_extra", compile_extra)
    forward = way == "forward"
    make = frame_forward.make_frame_forward if forward else frame_back.make_frame_back
    probe, cell = compiled.Probe(GPU), lstm.CELL
    for H in (300, 310):
        typed.clear()
        plan = planner.make_plan(probe, cell, forward, 8, H, "float32", "float32")
        make(probe, cell, False, False, plan)
        assert typed[0].endswith("_kernel")
    assert len(typed) <= 3, typed


def test_operators_are_asked_once(monkeypatch):
    """Numba keeps what a + b gives for numbers; else it asks its templates for each of them."""
    from rnnfast.cuda import numba_cuda

    context = numba_cuda.cuda_target.typing_context
    numba_cuda.remember_operators()
    add, kinds = context.resolve_value_type(operator.add), (numba_cuda.types.int16,) * 2
    found = add.get_call_type(context, kinds, {})
    monkeypatch.setattr(add, "templates", ())
    assert add.get_call_type(context, kinds, {}) == found


@pytest.mark.parametrize("enabled", [True, False])
def test_no_collections_while_a_kernel_is_compiled(monkeypatch, enabled):
    """And afterwards as before, also where it fails."""
    from rnnfast.cuda import numba_cuda

    seen = []

    def compile_function(*args, **how):
        seen.append(gc.isenabled())
        raise KeyError

    monkeypatch.setattr(numba_cuda, "compile_function", compile_function)
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError):
            compiled.Probe(GPU).compile(len, "*f", 32)
        assert seen == [False]
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_compiling_remembers_operators():
    from rnnfast.cuda import numba_cuda

    add = numba_cuda.cuda_target.typing_context.resolve_value_type(operator.add)
    vars(add).pop("get_call_type", None)

    def small_kernel(x):
        x[0] = x[1] + x[2]

    compiled.Probe(GPU).kernel(small_kernel, "*f", 32)
    assert "get_call_type" in vars(add)


def test_numpy_without_row_stack(monkeypatch):
    """NumPy 2.5 dropped a name that numba-cuda still reads: the module puts it back."""
    from rnnfast.cuda import numba_cuda

    monkeypatch.delattr(np, "row_stack", raising=False)
    importlib.reload(numba_cuda)
    assert np.row_stack is np.vstack


@pytest.mark.rest
def test_ops():
    assert_clean(compiled.compile_ops(GPU))


@pytest.mark.rest
def test_no_kernel_is_missing(monkeypatch):
    """Those compiled above are all that the column has."""
    names = set()

    class Naming(compiled.Probe):
        def launcher(self, function, *how):
            names.add(function.__name__)
            return lambda grid, *args: None

    naming = Naming(GPU)
    monkeypatch.setattr(compiled, "probe", lambda gpu: naming)
    compiled.compile_ops.__wrapped__(GPU)
    for run in RUNS:
        compile_way(*run, compile_cell=compiled.compile_cell.__wrapped__)
    assert names == compiled.kernel_names()


# The rules themselves: kernels that break them


def compile_alone(make, signature="*f i"):
    """The figures of a kernel for 32 threads that make(probe) gives."""
    probe = compiled.Probe(GPU)
    probe.kernel(make(probe), signature, 32)
    return probe.compiled[0]


def test_float64_is_found():
    def make(gpu):
        def leak_kernel(x, n):
            x[n] = x[n] * 1.1  # a Python float is a float64

        return leak_kernel

    kernel = compile_alone(make)
    assert not kernel.float64
    assert kernel.float64_instructions >= 2
    assert re.fullmatch(r"\d+ float64 instructions", ", ".join(kernel.violations()))
    meant = compile_alone(make, "*d i")
    assert meant.float64
    assert meant.count("DMUL", "DFMA") >= 1
    assert not meant.violations()


def test_local_memory_is_found():
    def make(gpu):
        cuda, float32 = gpu.cuda, gpu.float32

        def local_kernel(x, n):
            a = cuda.local.array(256, float32)
            for i in range(256):
                a[i] = x[i]
            for i in range(n):
                a[int(a[i])] += x[n]  # indices that only the run knows
            for i in range(256):
                x[i] = a[i]

        return local_kernel

    kernel = compile_alone(make)
    assert kernel.stack >= 4 * 256
    frame, accesses = kernel.violations()
    assert frame == f"a stack frame of {kernel.stack} bytes"
    assert re.fullmatch(r"\d+ accesses to local memory", accesses)


def test_spills_are_found():
    """1024 threads have 64 registers each, for 128 numbers that all stay alive."""

    def make(gpu):
        cuda, float32, zero = gpu.cuda, gpu.float32, np.float32(0)

        def spill_kernel(x, n):
            a = cuda.local.array(128, float32)
            for i in range(128):
                a[i] = x[cuda.threadIdx.x * 128 + i]
            for _ in range(n):
                total = zero
                for i in range(128):
                    total += a[i]
                    a[i] = total * a[127 - i]
                cuda.syncthreads()
            for i in range(128):
                x[cuda.threadIdx.x * 128 + i] = a[i]

        return spill_kernel

    probe = compiled.Probe(GPU)
    probe.kernel(make(probe), "*f i", 1024)
    assert "bytes of spills" in probe.compiled[0].violations()[0]


@pytest.mark.rest
def test_tensor_cores_are_found():
    lstm = next(cell for cell in CELLS if cell.name == "lstm")
    forward, back = compile_way(lstm, {}, "grid", "float32")
    low, low_back = compile_way(lstm, {}, "grid", "tf32")
    meant = [kernel.arithmetic for kernel in (forward, back, low, low_back)]
    assert meant == ["3xtf32", "float32", "tf32", "tf32"]
    assert forward.count("HMMA") == 3 * low.count("HMMA")
    assert back.count("FFMA") > back.count("HMMA") == 0
    assert not forward.violations()
    for kernel in (forward, low, low_back):
        (broken,) = replace(kernel, arithmetic="float32").violations(let_pass=32)
        assert "tensor-core instructions in full precision" in broken
    (broken,) = replace(back, arithmetic="tf32").violations()
    assert broken == "no tensor-core instruction"
    one_more = forward.opcodes + Counter({"HMMA.1688.F32.TF32": 1})
    (broken,) = replace(forward, opcodes=one_more).violations()
    assert "not three for a product" in broken


def test_row_of_the_table():
    (plan, (kernel,)), _ = compiled.compile_cell(GPU, VARIANTS[0][0], (), *WAYS["row"], "float32")
    line = compiled.row("rnn_row_forward", kernel, "20, 100", str(plan))
    columns = line.strip("| ").split(" | ")
    assert len(columns) == len(compiled.HEADINGS) + len(compiled.COUNTED)
    assert columns[:3] == ["rnn_row_forward", "20, 100", str(plan)]
    assert columns[2].startswith("row: 20 blocks x 128 threads, 100 units x 1 samples a block")
    assert int(columns[-3]) > 0
    assert columns[4:6] == ["0", "0"]
    broken = replace(kernel, arithmetic="tf32")
    assert "**no tensor-core instruction**" in compiled.row("x", broken, "", "")
