"""What tests of the cuda column share: a GPU in software, their own plans, the reference beside."""

from contextlib import contextmanager
from functools import cache

import pytest
from cases import assert_close, assert_grad_close
from ptx.execute import why_missing
from ptx.gpu import PtxGpu

from rnnfast import cuda, kernels

try:
    from rnnfast.cuda import planner
except ImportError:  # numba-cuda is missing: in_software skips
    planner = None

BLOCKS = 64  # that a GPU in software runs at once


class H100:
    """The figures that the planner asks for."""

    multiprocessors = 132
    shared_memory = 227 * 1024


@cache
def gpu_in_software(**options):
    """One for all tests that ask for the same: it keeps the kernels that it has compiled."""
    return PtxGpu(multiprocessors=BLOCKS, **options)


@contextmanager
def in_software(new=False, **options):
    """The column runs on a GPU in software meanwhile; new: on one that has no kernels yet."""
    if reason := why_missing():
        pytest.skip(reason)
    cuda.use((gpu_in_software.__wrapped__ if new else gpu_in_software)(**options))
    try:
        yield cuda.what_runs()
    finally:
        cuda.use(None)


def on_gpu(gpu, *arrays):
    return [gpu.to_device(a) for a in arrays]


def frame(units, rows, threads=64, precision="float32", **more):
    """A rule for `plan_as`: units of a block, samples of a pass."""

    def plan(cell, forward, N, H):
        own = {name: n for name, n in more.items() if name != "passes" or len(cell.products) == 1}
        least = min(units, H) if precision == "float32" else units
        return planner.frame_plan(cell, forward, N, H, precision, least, rows, threads, **own)

    return plan


def steps(cell, forward, N, H):
    return planner.steps_plan(cell, forward, N, H, "float32")


PLANS = {
    "row": frame(99, 1),
    "row of 2 samples": frame(99, 2, slices=3, own=1),
    "blocks": frame(5, 8, slices=2, own=1),
    "groups": frame(3, 2, own=2),
    "passes": frame(8, 2, passes=2),
    "steps": steps,
}


def plan_as(monkeypatch, rule):
    """Let rule(cell, forward, N, H) choose instead of the planner."""

    def make_plan(gpu, cell, forward, N, H, dtype, precision):
        return rule(cell, forward, N, H)

    monkeypatch.setattr(planner, "make_plan", make_plan)


def check(cell, problem, tolerance=1e-5):
    """Against the reference; returns what the column gave."""
    got = problem.run(kernels.load(cell.name, "cuda"))
    expected = problem.astype("float64").run(kernels.load(cell.name, "reference"))
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_close(a, b, name, tolerance)
    for (name, a), (_, b) in zip(got.named_grads(), expected.named_grads(), strict=True):
        assert_grad_close(a, b, name, tolerance)
    return got
