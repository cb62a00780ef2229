"""What the CUDA column adds to the other tests: each way to run, many blocks, TF32, launches.

Without a GPU they run in tests/simulator.py; on one, the same tests run there.
"""

import numpy as np
import pytest
from cases import CELLS, assert_close, assert_grad_close, cells, make_problem, variants
from simulator import Deadlock, Simulator

import rnnfast
from rnnfast import cuda, kernels
from rnnfast.cuda import call, planner, product

TF32 = 1e-3


@pytest.fixture
def gpu():
    """The runtime: the GPU, or a simulated one."""
    if "cuda" in kernels.devices():
        yield cuda.what_runs()
        return
    cuda.use(Simulator(seed=3))
    yield cuda.what_runs()
    cuda.use(None)


@pytest.fixture
def high():
    """TF32."""
    rnnfast.set_float32_matmul_precision("high")
    yield
    rnnfast.set_float32_matmul_precision("highest")


def plan_as(monkeypatch, make):
    """Let make(products, N, H, precision) choose instead of the planner."""
    monkeypatch.setattr(
        call,
        "make_plan",
        lambda gpu, products, N, H, dtype, precision: make(products, N, H, precision),
    )


def check(cell, shape, tolerance=1e-5, **keywords):
    problem = make_problem(cell, shape, **keywords)
    got = problem.run(kernels.load(cell.name, "cuda"))
    expected = problem.astype("float64").run(kernels.load(cell.name, "reference"))
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_close(a, b, name, tolerance)
    for (name, a), (_, b) in zip(got.named_grads(), expected.named_grads(), strict=True):
        assert_grad_close(a, b, name, tolerance)


# Each way to run


@variants
@pytest.mark.parametrize("H", [1, 3, 4, 7, 20])
@pytest.mark.parametrize("way", [{}, {"reverse": True, "mask": True}], ids=["plain", "other"])
def test_row(gpu, monkeypatch, cell, options, H, way):
    plan_as(monkeypatch, lambda _, N, H, __: planner.Plan("row", N, product.up(4 * H, 32)))
    check(cell, (3, 4, 5, H), **way, **options)


@variants
@pytest.mark.parametrize("blocks", [1, 2, 7])
@pytest.mark.parametrize("way", [{}, {"reverse": True, "mask": True}], ids=["plain", "other"])
def test_grid(gpu, monkeypatch, cell, options, blocks, way):
    """The units of one group of samples over 1, 2 and 7 blocks; 13 units divide by none of them."""

    def one_group(products, N, H, precision):
        plan = planner.grid_plan(products, N, H, precision, 1, -(-H // blocks))
        assert plan.blocks == blocks
        return plan

    plan_as(monkeypatch, one_group)
    check(cell, (3, 3, 4, 13), **way, **options)


@variants
@pytest.mark.parametrize(("groups", "rows"), [(2, 3), (3, 2), (5, 1)])
def test_grid_of_several_groups(gpu, monkeypatch, cell, options, groups, rows):
    def several(products, N, H, precision):
        plan = planner.grid_plan(products, N, H, precision, groups, H)
        assert (plan.groups, plan.rows) == (groups, rows)
        return plan

    plan_as(monkeypatch, several)
    check(cell, (5, 3, 4, 9), **options)


@variants
def test_grid_in_passes_and_chunks(gpu, monkeypatch, cell, options):
    """More rows than a product takes at a time, and more terms than lie in shared memory."""
    monkeypatch.setattr(planner, "PASS_ROWS", 2)
    monkeypatch.setattr(product, "CHUNK", 16)
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 2, 7))
    check(cell, (7, 3, 4, 21), seed=1, **options)


@cells
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_grid_in_tf32(gpu, monkeypatch, high, cell, blocks):
    plan_as(
        monkeypatch,
        lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, -(-H // blocks)),
    )
    check(cell, (9, 3, 4, 13), TF32, reverse=True, mask=True)


@variants
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", [{}, {"reverse": True, "mask": True}], ids=["plain", "other"])
def test_steps(gpu, monkeypatch, cell, options, dtype, way):
    plan_as(monkeypatch, lambda _, N, H, __: planner._steps(N, H))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    check(cell, (5, 3, 4, 60), tolerance, dtype=dtype, **way, **options)


@cells
def test_every_schedule_gives_the_same_bits(monkeypatch, cell):
    """What one block writes and another reads never depends on who comes first."""
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 2, 3))
    problem, results = make_problem(cell, (4, 3, 4, 7)), []
    for seed in (None, 1, 2, 3):
        cuda.use(Simulator(seed))
        try:
            results.append(problem.run(kernels.load(cell.name, "cuda")))
        finally:
            cuda.use(None)
    for other in results[1:]:
        for (name, a), (_, b) in zip(results[0].arrays(), other.arrays(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


# Launches


@cells
@pytest.mark.parametrize("kind", ["row", "grid"])
def test_launches_of_a_call(monkeypatch, cell, kind):
    """Kernels and products; zeroing, copies and a sum come on top. A step costs none of its own."""
    simulator = Simulator()
    cuda.use(simulator)
    try:
        if kind == "grid":
            plan_as(monkeypatch, lambda p, N, H, pr: planner.grid_plan(p, N, H, pr, 1, 5))
        counts = []
        for T in (2, 5):
            p = make_problem(cell, (2, T, 3, 5))
            module = kernels.load(cell.name, "cuda")
            before = simulator.launches
            *_, cache = module.forward(p.xs, p.state, p.params)
            middle = simulator.launches
            module.backward(p.dhs, p.dstate, p.params, cache, p.poisoned_grads())
            counts.append((middle - before, simulator.launches - middle))
        assert counts[0] == counts[1]
        assert counts[0][0] == 2
        assert counts[0][1] <= 5
    finally:
        cuda.use(None)


# The plan


class H100:
    """The figures that the planner asks for."""

    multiprocessors = 132
    shared_memory = 227 * 1024


@pytest.mark.parametrize("name", [cell.name for cell in CELLS])
def test_plans(name):
    module = __import__(f"rnnfast.cuda.{name}", fromlist=[name])
    for products in (module.FORWARD, module.BACKWARD):

        def plan(N, H, dtype="float32", precision="float32", products=products):
            return planner.make_plan(H100, products, N, H, dtype, precision)

        assert plan(20, 100).kind == "row"
        assert plan(20, 100).blocks == 20
        assert plan(20, 100, "float64").kind == "steps"
        for N, H in ((20, 650), (64, 1024), (1, 256), (128, 128)):
            for precision in ("float32", "tf32"):
                p = plan(N, H, precision=precision)
                assert p.kind in ("grid", "steps")
                if p.kind == "grid":
                    assert p.blocks <= 132
                    assert 4 * p.shared <= 227 * 1024
                    assert p.groups * p.rows >= N
                    assert p.blocks // p.groups * p.units >= H
        assert plan(20, 650).kind == "grid"
        assert plan(64, 1024).kind == "grid"
        assert plan(129, 650).kind == "steps"
        assert plan(20, 4096).kind == "steps"


# The simulator itself


def simulate(function, signature, threads, blocks, *args):
    Simulator(seed=0).kernel(function, signature, threads)(blocks, *args)


def test_simulated_blocks_run_at_once():
    """A counter that both blocks raise and wait for; one after the other would hang."""
    gpu = Simulator(seed=0)

    def kernel(counter, out):
        if gpu.cuda.threadIdx.x == 0:
            gpu.arrive(counter, 0)
            while gpu.arrived(counter, 0) < 2:
                pass
        gpu.cuda.syncthreads()
        out[gpu.cuda.blockIdx.x * 4 + gpu.cuda.threadIdx.x] = gpu.cuda.blockIdx.x

    out = np.full(8, -1, np.int32)
    simulate(kernel, "*i *i", 4, 2, np.zeros(1, np.int32), out)
    assert out.tolist() == [0] * 4 + [1] * 4


def test_simulated_deadlocks_are_found():
    gpu = Simulator(seed=0)

    def waits_for_nobody(counter):
        while gpu.arrived(counter, 0) < 1:
            pass

    def waits_apart():
        if gpu.cuda.threadIdx.x == 0:
            gpu.cuda.syncthreads()

    with pytest.raises(Deadlock, match="counter"):
        simulate(waits_for_nobody, "*i", 1, 2, np.zeros(1, np.int32))
    with pytest.raises(Deadlock, match="barrier"):
        simulate(waits_apart, "", 2, 1)


def test_simulated_memory_is_checked():
    gpu = Simulator(seed=0)

    def beyond(a, i):
        a[i] = 1

    def two_places(out):
        if gpu.cuda.threadIdx.x == 0:
            gpu.cuda.syncthreads()
        else:
            gpu.cuda.syncthreads()

    def unwritten(out):
        s = gpu.cuda.shared.array(2, np.float32)
        out[0] = s[1]

    a = np.zeros(3, np.float32)
    for i in (3, -1):
        with pytest.raises(IndexError):
            simulate(beyond, "*f i", 1, 1, a, i)
    with pytest.raises(AssertionError, match="different places"):
        simulate(two_places, "*f", 2, 1, a)
    simulate(unwritten, "*f", 1, 1, a)
    assert np.isnan(a[0])


def test_simulated_warps():
    gpu = Simulator(seed=0)

    def kernel(out):
        i = gpu.cuda.threadIdx.x
        out[i] = gpu.cuda.shfl_xor_sync(-1, i, 1)

    out = np.zeros(64, np.int32)
    simulate(kernel, "*i", 64, 1, out)
    assert out.tolist() == [i ^ 1 for i in range(64)]


def test_simulated_tensor_cores_round():
    gpu = Simulator(seed=0)
    assert gpu.to_tf32(1 + 2.0**-11) == 1 + 2.0**-10
    assert gpu.to_tf32(1 + 2.0**-12) == 1
    assert np.isnan(gpu.to_tf32(np.nan))

    def kernel(out):
        one = np.float32(1 + 2.0**-12)
        out[0] = gpu.mma(one, one, one, one, one, one, one, one, one, one)[0]

    with pytest.raises(AssertionError, match="not rounded"):
        simulate(kernel, "*f", 32, 1, np.zeros(1, np.float32))
