"""What the GPU's benchmarks can show without one: contenders on one in software, a clock that lies.

Those of the repository alone: an installed rnnfast has no benchmarks.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from compiled import kernel_names
from on_cuda import BLOCKS, in_software
from ptx.execute import why_missing
from ptx.gpu import PtxGpu

import rnnfast
from rnnfast import cuda, kernels

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from fake_gpu import Cupy

from benchmarks import baselines, model_contenders, sanitize
from benchmarks.cases import GATES, MODES
from benchmarks.contenders import NumpyLayers
from benchmarks.cuda import contenders, machine, models
from benchmarks.cuda.contenders import Case
from benchmarks.cuda.race import race

SHAPE = (3, 2, 4, 6)


@pytest.fixture
def gpu():
    """A GPU in software and PyTorch's CPU in the place of a GPU's."""
    with in_software(new=True, seed=0):
        yield machine.Gpu(Cupy(), "cpu")
    rnnfast.set_float32_matmul_precision("highest")


def exact(case):
    reference = NumpyLayers(replace(case, dtype=np.float64))
    reference.run()
    return reference.results()


def skip_without_torch(name):
    if name.startswith("cudnn"):
        pytest.importorskip("torch", reason="PyTorch is not installed")


# Contenders

EVERYBODY = {**contenders.CONTENDERS, **contenders.TRANSFERS}


@pytest.mark.parametrize("name", EVERYBODY)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("T", [1, 2])
@pytest.mark.one_in(18)
def test_contenders_are_right(gpu, name, cell, mode, T):
    skip_without_torch(name)
    case = Case(cell, (3, T, 4, 6), mode)
    contender = EVERYBODY[name](case, gpu)
    contender.prepare()
    contender.run()
    expected = exact(case)
    contenders.check_results(contender, expected)
    wrong = [expected[0] + 0.05, *expected[1:]]
    if cell == "gru" and name.startswith("cudnn"):
        assert contender.results() is None
    else:
        with pytest.raises(AssertionError, match=f"{name}, {cell}.*: hs is off by 0.0"):
            contenders.check_results(contender, wrong)


@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_streaming_goes_on(gpu, name):
    """A single step starts from the state that the call before ended in."""
    skip_without_torch(name)
    contender = contenders.CONTENDERS[name](Case("lstm", (2, 1, 3, 5), "forward"), gpu)
    found = []
    for _ in range(2):
        contender.run()
        found.append(np.array(contender.results()[0]))
    assert np.abs(found[1] - found[0]).max() > 1e-3


def test_precision_of_each(gpu):
    case = Case("rnn", SHAPE, "forward")
    for name, expected in (("rnnfast-tf32", "high"), ("rnnfast", "highest")):
        contenders.CONTENDERS[name](case, gpu).prepare()
        assert kernels.get_float32_matmul_precision() == expected


def test_torch_precision():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "highest"):
            contenders.set_torch_precision(torch, precision)
            assert torch.backends.cudnn.allow_tf32 == (precision == "high")
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def test_the_book_on_another_array_module():
    """A copy of the baselines computes with the module it is given, and leaves the original."""
    other = SimpleNamespace(**{name: getattr(np, name) for name in dir(np) if name[0] != "_"})
    calls = []

    def dot(a, b):
        calls.append(a.shape)
        return np.dot(a, b)

    other.dot = dot
    copy = contenders.on(other)
    assert baselines.np is np
    case = Case("rnn", SHAPE, "forward")
    copy.TimeRNN(*case.arrays["params"]).forward(case.arrays["xs"])
    assert len(calls) == 2 * case.T
    with pytest.raises(AssertionError, match="no_such_name"):
        contenders.on(np, no_such_name=1)


def test_peers_without_cuda_are_named():
    gpu = machine.Gpu(None, None)
    for name, contender in EVERYBODY.items():
        reason = contenders.why_not(contender, gpu)
        assert (reason == "PyTorch with CUDA is not installed") == name.startswith("cudnn")


# Models


@pytest.mark.parametrize("name", models.CONTENDERS)
@pytest.mark.parametrize("model", ["Rnnlm", "BetterRnnlm"])
@pytest.mark.one_in(4)
def test_models_are_right(gpu, monkeypatch, name, model):
    skip_without_torch(name)
    if "graph" in name and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("PyTorch's graphs need a CUDA GPU")
    for size, value in (("V", 11), ("N", 2), ("T", 3)):
        monkeypatch.setattr(model_contenders, size, value)
    job = model_contenders.Job(model, 5, 0.0, lr=1.0)
    book, contender = model_contenders.Book(job), models.CONTENDERS[name](job, gpu)
    contender.prepare()
    tolerance = 1e-5 if contender.precision == "highest" else 1e-3
    before = [p.copy() for p in book.params()]
    for _ in range(3):  # the state is carried on, memory is used again
        expected = book.step()
        contender.run()
        assert float(contender.loss) == pytest.approx(expected, rel=tolerance)
    for p, q, start in zip(contender.params(), book.params(), before, strict=True):
        rounding = 1e-6 * np.linalg.norm(q)
        assert np.linalg.norm(p - q) <= 10 * tolerance * np.linalg.norm(q - start) + rounding


def test_our_model_clips(gpu, monkeypatch):
    for size, value in (("V", 11), ("N", 2), ("T", 3)):
        monkeypatch.setattr(model_contenders, size, value)
    job = model_contenders.Job("BetterRnnlm", 5, 0.5, lr=0.5)
    contender = models.Rnnfast(job, gpu)
    contender.prepare()
    before = contender.params()
    contender.run()
    assert contender.norm > model_contenders.MAX_GRAD
    moved = sum(np.sum((a - b) ** 2) for a, b in zip(contender.params(), before, strict=True))
    assert np.sqrt(moved) == pytest.approx(0.5 * model_contenders.MAX_GRAD, rel=1e-4)


# The race


class Clock:
    """Says what the contenders should take, and notes who ran how often."""

    def __init__(self):
        self.calls = []

    def time(self, run, calls):
        self.calls.append((run.__self__.name, calls))
        for _ in range(calls):
            run()
        return run.__self__.seconds, run.__self__.seconds / 2


class Runner:
    prepared = None

    def __init__(self, name, seconds):
        self.name, self.seconds = name, seconds

    def prepare(self):
        Runner.prepared = self.name

    def run(self):
        assert Runner.prepared == self.name, "somebody else's precision"


def test_race():
    clock = Clock()
    runners = {name: Runner(name, s) for name, s in (("fast", 1e-3), ("slow", 2e-3))}
    result = race(runners, clock, rounds=4)
    assert result.median("fast") == 1e-3
    assert result.host_median("slow") == 1e-3
    assert result.ratio("slow", "fast") == [2.0] * 3
    assert result.calls == {"fast": 8, "slow": 4}
    blocks = [name for name, calls in clock.calls if calls == result.calls[name]]
    assert blocks == ["fast", "slow", "slow", "fast"] * 2  # the order turns around
    warm = [calls for name, calls in clock.calls if name == "fast"][2:]
    assert warm == [2, 8] * 4


def test_race_of_somebody_slow_has_fewer_rounds():
    result = race({"slow": Runner("slow", 0.5)}, Clock(), rounds=9)
    assert len(result.times["slow"]) == 3
    assert result.calls["slow"] == 1


# The sanitizer's cases


@pytest.mark.parametrize("name", sanitize.cases())
@pytest.mark.one_in(120, 30)
def test_sanitizer_cases(name):
    """Right in two schedules, with races watched."""
    for seed in (None, 1):
        with in_software(new=True, seed=seed, races=True):
            error, tolerance = sanitize.cases()[name]()
            assert error <= tolerance


def test_every_kernel_is_in_the_sanitizers_cases():
    """By the names alone: what they compute is tested above, and here nothing is launched."""
    if reason := why_missing():
        pytest.skip(reason)
    names = set()

    class Naming(PtxGpu):
        def launcher(self, function, *how):
            names.add(function.__name__)
            return lambda grid, *args: None

    cuda.use(Naming(multiprocessors=BLOCKS))
    try:
        with np.errstate(all="ignore"):  # of numbers that nobody computed
            for case in sanitize.cases().values():
                case()
    finally:
        cuda.use(None)
    assert names == kernel_names()


def test_sanitizer_says_what_is_right(gpu, capsys):
    assert sanitize.run(["rnn-row-float32", "ops"]) == 0
    assert capsys.readouterr().out.count(" ok\n") == 2


def test_sanitizer_finds_what_is_wrong(gpu, capsys, monkeypatch):
    monkeypatch.setitem(sanitize.TOLERANCES, "float32", 1e-12)
    assert sanitize.run(["rnn-row-float32"]) == 1
    assert "WRONG" in capsys.readouterr().out
    nan = np.full(2, np.nan)
    assert np.isnan(sanitize.worst([np.zeros(2), nan], [np.zeros(2), np.zeros(2)]))
