"""The suites of benchmarks/gpu.sh on what stands in for a GPU: items, and what finds a fault."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rnnfast import cuda, kernels

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

import compiled
import fake_gpu

from benchmarks import cases, model_contenders
from benchmarks.cuda import (
    cells,
    contenders,
    exact,
    language,
    launches,
    machine,
    micro,
    plans,
    smoke,
    sweep,
    versions,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for the GPU, tiny sizes and a clock that looks once."""
    for module, names in {
        machine: ("why_missing", "this_gpu", "describe", "Events"),
        model_contenders: ("JOBS", "V", "N", "T"),
        contenders: ("TRANSFERRED",),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # so that it is put back
    monkeypatch.setattr(cases, "GRIDS", dict(cases.GRIDS))
    fake_gpu.install()
    yield machine.this_gpu()
    cuda.use(None)


def pick(items, *words):
    """The first item whose name has all these words."""
    return next(run for name, run in items.items() if all(word in name for word in words))


# Smoke


@pytest.mark.rest
def test_smoke(gpu):
    items = smoke.items(dry=True)
    found = pick(items, "small slstm", "float32")()
    assert 0 <= found["error"] <= found["tolerance"]
    assert pick(items, "lstm-N3-T2", "highest")()["checked"][0] == [3, 2, 7]


def test_smoke_finds_what_is_wrong(gpu, monkeypatch):
    right = exact.results
    monkeypatch.setattr(exact, "results", lambda case: [x + 0.01 for x in right(case)])
    with pytest.raises(AssertionError, match=r"rnnfast, lstm.*: hs is off by 0\.0"):
        pick(smoke.items(dry=True), "lstm-N3-T2", "highest")()
    with pytest.raises(AssertionError, match=r"error 1\.00e\+00, over 0\.1"):
        smoke.small(lambda: (1.0, 0.1))


@pytest.mark.rest
def test_smoke_finds_other_bits(gpu):
    class Wandering(contenders.Rnnfast):
        looks = 0

        def results(self):
            self.looks += 1
            return [np.float32(x + 1e-7 * self.looks) for x in super().results()]

    case = contenders.Case("rnn", (3, 2, 4, 5), "training")
    with pytest.raises(AssertionError, match="two runs differ by"):
        smoke.real(case, Wandering)


@pytest.mark.parametrize("after", [False, True])
def test_exact(after):
    """float64 by the cpu column is what the reference says."""
    case = contenders.Case("gru", (3, 2, 4, 5), "training", after=after)
    f8 = replace(case, dtype=np.float64).arrays
    hs, *_ = kernels.load("gru", "reference").forward(f8["xs"], None, f8["params"], **case.options)
    np.testing.assert_allclose(exact.results(case)[0], hs, rtol=1e-12)


# Cells


def test_cells(gpu):
    row = pick(cells.items(dry=True), "lstm", "forward")()
    ours, book = row["contenders"]["rnnfast"], row["contenders"]["cupy"]
    assert ours["us_per_step"] > 0 and "ratio" not in ours
    assert 0 < book["ratio"][0] <= book["ratio"][1] <= book["ratio"][2]
    assert set(row["plans"]["tf32"]) == {"forward", "backward"}
    assert "wrong" not in row


def test_peers_run_before_the_first_item(gpu, monkeypatch):
    """Once each, tiny, and none of ours, whose kernels for that width no archive has."""
    ran = []

    class Peer(contenders.Book):
        def run(self):
            super().run()
            ran.append(str(self.case))

    monkeypatch.setattr(cells, "CONTENDERS", {"rnnfast": contenders.Rnnfast, "cupy": Peer})
    monkeypatch.setattr(contenders.Rnnfast, "run", lambda self: ran.append("ours"))
    cells.begin(dry=True)
    assert ran == [f"{cell}-N2-T3-D4-H5-training" for cell in ("lstm", "gru_after", "rnn", "gru")]


def test_who_is_wrong_has_no_time(gpu, monkeypatch):
    class Wrong(contenders.RnnfastTF32):
        def results(self):
            return [x + 2 for x in super().results()]

    case = contenders.Case("rnn", (2, 3, 4, 5), "forward")
    them = {"rnnfast": contenders.Rnnfast, "rnnfast-tf32": Wrong, "cupy": contenders.Book}
    row = cells.measure("cell", case, them, 2)
    assert list(row["contenders"]) == ["rnnfast", "cupy"]
    assert row["wrong"].startswith("rnnfast-tf32, rnn-N2-T3-D4-H5-forward: hs is off by ")


def test_the_books_gru_is_left_out_of_the_other(gpu):
    row = pick(cells.items(dry=True), "gru_after", "forward")()
    assert row["cell"] == "gru_after"
    assert row["left_out"]["cupy"] == "the book's GRU has the reset gate before the product"


# The race of plans


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sweep, "DRY_SHAPES", ((3, 13),))


def test_candidates(gpu):
    """The planner's choice and others, each once."""
    every = 0
    for direction in plans.DIRECTIONS:
        found = plans.candidates("lstm", direction, 5, 120, "float32")
        assert found[0] == plans.chosen("lstm", direction, 5, 120, "float32")
        assert len(set(found)) == len(found)
        every += len(found)
    assert every > 2


@pytest.mark.rest
def test_sweep(gpu, small):
    items = sweep.items(dry=True)
    ranks = [items[name].args[2] for name in items]
    assert ranks == sorted(ranks) and ranks[0] == 0 < ranks[-1]  # the planner's choices go first
    key, plan, rank, _ = items[list(items)[-1]].args
    row = items[list(items)[-1]]()
    assert (row["plan"], row["rank"]) == (str(plan), rank) and key[:2] == ("lstm", row["direction"])
    assert row["error"] < 1e-3
    assert "us_per_step" not in row  # a stand-in's kernels have no time


def test_plans_that_race(monkeypatch):
    """The first by the model, and some of the slower ones."""
    monkeypatch.setattr(plans, "predicted", lambda plan: plan)
    found = [3.0, 1.0, 2.0, *(float(n) for n in range(100, 4, -1))]
    ranks = [rank for rank, _ in sweep.of_all(found)]
    assert ranks[: sweep.FIRST] == list(range(sweep.FIRST))
    assert len(ranks) == sweep.FIRST + sweep.SPREAD and ranks[-1] == len(found) - 1
    assert [plan for _, plan in sweep.of_all([2.0, 1.0])] == [1.0, 2.0]


def test_sweep_finds_a_wrong_plan(gpu, small, monkeypatch):
    monkeypatch.setattr(sweep, "differs", lambda got, expected: 0.1)
    with pytest.raises(AssertionError, match=r"off by 0\.1"):
        pick(sweep.items(dry=True), "backward")()


def test_a_step_is_the_difference_of_two_lengths(gpu, small, monkeypatch):
    """100 us before the first step, 3 a step."""
    monkeypatch.setattr(sweep.Problem, "results", lambda self, *_: [np.ones(1)])
    length = lambda self, *_: 100 + 3.0 * self.xs.shape[1]  # noqa: E731
    monkeypatch.setattr(sweep.Problem, "us", length)
    row = pick(sweep.items(dry=True), "forward")()
    assert (row["us_per_step"], row["us_before"]) == (3.0, 100.0)


# Kernels alone


class Event:
    """A CUDA event of a clock that a launch moves on."""

    now = 0.0

    def record(self):
        self.at = Event.now

    def synchronize(self):
        pass


def test_kernels_alone(monkeypatch):
    """Launches of a kernel in a call are summed up, calls give the median."""
    stand_in = type(sys)("cupy")
    stand_in.cuda = stand_in
    stand_in.Event, stand_in.get_elapsed_time = Event, lambda a, b: b.at - a.at
    stand_in.runtime = type(sys)("runtime")
    stand_in.runtime.deviceSynchronize = lambda: None
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    held = []
    monkeypatch.setattr(micro, "kernel", lambda name: lambda *arguments: held.append(arguments[2]))
    took = iter([1, 2, 5, 1, 2, 6, 1, 2, 70])

    def work(grid):
        Event.now += next(took) / 1e3  # ms

    first, second = launches.Watched(work, "first"), launches.Watched(work, "second")

    def call():
        first(1)
        first(1)
        second(1)

    assert launches.times(call, repeats=3) == {"first": 3.0, "second": 6.0}
    took = iter([1, 2, 5, 1, 2, 6, 1, 2, 70])
    assert launches.whole(call, repeats=3) == 9.0
    # Steps are hundreds of launches, which the host must have queued before the GPU is free
    assert held == [(launches.HOLD,)] * 3 + [(launches.HOLD_STEPS,)] * 3


# The others


@pytest.mark.rest
def test_language(gpu):
    items = language.items(dry=True)
    row = pick(items, "epoch rnnfast")()
    assert row["valid_perplexity"] > 1
    assert row["seconds_of_40_epochs"] == pytest.approx(40 * row["seconds"], rel=0.1)
    found = pick(items, "iteration Rnnlm")()
    assert "wrong" not in found and found["contenders"]["cupy"]["ratio"][1] > 0


def test_models_of_peers_run_before_the_first_item(gpu, monkeypatch):
    ran = []
    step = language.models.Book.step
    monkeypatch.setattr(language.models.Book, "step", lambda self: ran.append(step(self)))
    monkeypatch.setattr(language.models.Rnnfast, "step", lambda self: ran.append("ours"))
    language.begin(dry=True)
    assert len(ran) == len(language.JOBS) and all(loss > 0 for loss in ran)


def test_an_iteration_that_is_wrong(gpu, monkeypatch):
    def loss(self):
        return 100.0

    monkeypatch.setattr(language.models.RnnfastTF32, "step", loss)
    found = pick(language.items(dry=True), "iteration Rnnlm")()
    assert found["wrong"].startswith("rnnfast-tf32: losses [100.0, 100.0, 100.0], not")
    assert "rnnfast" in found["contenders"] and "rnnfast-tf32" not in found["contenders"]


def test_an_epoch_without_text(monkeypatch):
    monkeypatch.delenv("PTB", raising=False)
    with pytest.raises(RuntimeError, match="PTB must name the folder"):
        language.corpus("train", dry=False)


def test_numba_compiles(gpu, monkeypatch, tmp_path):
    """A kernel of its own, whatever has been kept before."""
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    assert versions.items(dry=True)["compiles"]()["seconds"] >= 0
    assert list(tmp_path.iterdir()) == []


# Of each kernel of micro.cu: what it times, as nvdisasm calls it
PIECES = {
    "meet": "LDG.E.128.STRONG.GPU",
    "packets": "LDG.E.128.STRONG.GPU",
    "packets_at_once": "LDG.E.128.STRONG.GPU",
    "push_4": "ST.E",
    "push_8": "ST.E",
    "flag": "LDG.E.STRONG.GPU",
    "read_l2": "LDG.E.128.STRONG.GPU",
    "chase_l2": "LDG.E.STRONG.GPU",
    "read_shared": "LDS.128",
    "ffma": "FFMA",
    "mma": "HMMA.1688.F32.TF32",
}


def test_pieces_are_compiled():
    """micro.cu, by NVRTC. What is timed is there: loads that nothing needs are left out."""
    if compiled.nvdisasm() is None:
        pytest.skip("the cuda-compile extra is needed")
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="the cuda-compile extra is needed")
    source = Path(micro.__file__).with_name("micro.cu").read_bytes()
    _, program = nvrtc.nvrtcCreateProgram(source, b"micro.cu", 0, [], [])
    options = [b"--gpu-architecture=sm_90", b"--std=c++17"]
    (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytearray(size)  # a bytes object of one byte is shared by the whole process
    nvrtc.nvrtcGetProgramLog(program, log)
    assert int(code) == 0, log.decode()
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    cubin = bytearray(size)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    sections = re.split(r"\.section\s+\.text\.(\w+)", compiled.disassembled(bytes(cubin)))
    sass = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert set(sass) == set(PIECES) | {"nothing", "hold"}
    for kernel, opcode in PIECES.items():
        assert f" {opcode}" in sass[kernel], f"{kernel} has no {opcode}"
