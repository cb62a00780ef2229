"""What the GPU's benchmarks can show without one: contenders on the simulator, a clock that lies.

Those of the repository alone: an installed rnnfast has no benchmarks.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from compiled import kernel_names
from simulator import Simulator

import rnnfast
from rnnfast import cuda, kernels

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from fake_gpu import Cupy

from benchmarks import baselines, model_contenders, sanitize
from benchmarks.cases import GATES, MODES, Case
from benchmarks.contenders import NumpyLayers
from benchmarks.cuda import contenders, machine, measure, models, report
from benchmarks.cuda.race import race

ROOT = Path(__file__).parent.parent
SHAPE = (3, 2, 4, 6)
HAS_GPU = "cuda" in kernels.devices()

without_gpu = pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")


@pytest.fixture
def gpu():
    """The simulator's arrays and PyTorch's CPU in the place of a GPU's."""
    cuda.use(Simulator(seed=0))
    yield machine.Gpu(Cupy(), "cpu")
    cuda.use(None)
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
def test_models_are_right(gpu, monkeypatch, name, model):
    skip_without_torch(name)
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
    runners = {name: Runner(name, s) for name, s in (("fast", 1e-3), ("slow", 4e-3))}
    result = race(runners, clock, rounds=4)
    assert result.median("fast") == 1e-3
    assert result.host_median("slow") == 2e-3
    assert result.ratio("slow", "fast") == [4.0] * 3
    assert result.calls == {"fast": 20, "slow": 5}
    blocks = [name for name, calls in clock.calls if calls == result.calls[name]]
    assert blocks == ["fast", "slow", "slow", "fast"] * 2  # the order turns around
    warm = [calls for name, calls in clock.calls if name == "fast"][2:]
    assert warm == [5, 20] * 4


def test_race_of_somebody_slow_has_fewer_rounds():
    result = race({"slow": Runner("slow", 0.5)}, Clock(), rounds=9)
    assert len(result.times["slow"]) == 5
    assert result.calls["slow"] == 1


class Config:
    def __init__(self, **options):
        self.options = {"peers": None, "benchmark_disable": False, "rounds": 3, **options}

    def getoption(self, name):
        return self.options[name]


def test_who_is_wrong_has_no_times():
    """And the others have theirs."""

    def gate(made):
        assert made.name != "cudnn", "hs is off by 1"

    measured, config = measure.Measured(None), Config(peers=["cudnn"])
    for name, why in measure.wanted(("rnnfast", "cudnn", "cupy"), ["rnnfast"], config).items():
        made = Runner(name, 1e-3)
        made.label, made.precision = name, "highest"
        measure.admit(measured, name, None, why, lambda made=made: made, gate)
    measure.go(measured, Clock(), config)
    assert list(measured.result.times) == ["rnnfast"]
    assert measure.row(measured, "rnnfast")["seconds"] == 1e-3
    with pytest.raises(
        pytest.fail.Exception, match="cudnn is not timed, AssertionError: hs is off"
    ):
        measure.row(measured, "cudnn")
    with pytest.raises(pytest.skip.Exception, match="not asked for"):
        measure.row(measured, "cupy")


# The report


def result_files(folder):
    """A results file of one case, a transfer and a model, as the benchmarks write it."""
    about = {
        "gpu": "GPU X",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "driver": "1.2",
        "cuda_driver": "13.0",
        "cuda_runtime": "13.0",
        "clocks": {"clocks.sm": "1980 MHz"},
        "power_limit": "700 W",
        "system": "Linux",
        "python": "3.11",
        "rnnfast": "0",
        "packages": {"numpy": "2"},
    }
    rows = []
    for kind, name, label, seconds, ratio in (
        ("cell", "rnnfast", "rnnfast", 35e-6, None),
        ("cell", "cudnn", "PyTorch (cuDNN)", 70e-6, 2.0),
        ("cell", "cupy", "CuPy at the book's cost", 17.5e-6, 0.5),
        ("transfers", "rnnfast-host", "rnnfast, NumPy in and out", 350e-6, None),
    ):
        row = {kind: "lstm", "shape": [20, 35, 100, 100], "mode": "forward", "contender": name}
        row |= {"label": label, "seconds": seconds, "host_seconds": seconds * 0.95}
        row |= {"us_per_step": seconds * 1e6 / 35}
        rows.append(row | ({"ratio": [ratio] * 3} if ratio else {}) | about)
    rows.append(
        {"model": "Rnnlm", "width": 100, "contender": "rnnfast", "label": "rnnfast"}
        | {"seconds": 2e-3, "host_seconds": 1e-3}
        | about
    )
    benchmarks = [{"extra_info": row} for row in [*rows, {"cell": "not timed"}]]
    path = folder / "cuda.json"
    path.write_text(json.dumps({"benchmarks": benchmarks}))
    return path


def test_report(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    path = result_files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", str(path), "--into", str(page)])
    report.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert capsys.readouterr().out.strip() in text
    assert "| LSTM | 20, 35, 100, 100 | 1 | 2 | 0.5 | ▲ 2.00 | ▼ 0.50 |" in text
    assert "### With NumPy arrays in and out: inference (forward)" in text
    assert "| LSTM | 20, 35, 100, 100 | 10 |" in text
    assert "| Rnnlm | 100 | 2 |" in text
    assert "The host is the slower one, not the GPU, in LSTM 20, 35, 100, 100 forward (rn" in text
    assert "GPU X" in text
    empty = tmp_path / "empty.json"
    empty.write_text('{"benchmarks": []}')
    with pytest.raises(SystemExit, match="nothing was timed"):
        report.Results(empty)


def run_benchmarks(tmp_path, *words):
    """benchmarks/cuda on the simulator, and its rows by what they are of."""
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    path = tmp_path / "cuda.json"
    done = python(
        *(
            "-m",
            "pytest",
            "benchmarks/cuda",
            "-p",
            "fake_gpu",
            "-p",
            "no:cacheprovider",
            "-rs",
            "-W",
            "default",
        ),
        *(f"--benchmark-json={path}", "--rounds=2", *words),
        PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    )
    found = json.loads(path.read_text())["benchmarks"] if path.exists() else []
    return done, [benchmark["extra_info"] for benchmark in found], path


@without_gpu
def test_benchmarks_end_to_end(tmp_path):
    done, rows, path = run_benchmarks(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    torch = machine.importlib.util.find_spec("torch") is not None
    cells, transfers, of_models = 5, 4, 5
    if not torch:
        cells, transfers, of_models = 3, 2, 3
        assert "PyTorch with CUDA is not installed" in done.stdout
    assert sum("cell" in row for row in rows) == 3 * 2 * cells
    assert sum("transfers" in row for row in rows) == 3 * 2 * transfers
    assert sum("model" in row for row in rows) == 2 * of_models
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["ratio_to"].startswith("rnnfast") for row in rows if "ratio" in row)
    text = report.markdown(report.Results(path))
    assert text.count("| LSTM | 2, 2, 3, 4 |") == 4
    assert "| BetterRnnlm | 5 |" in text


@without_gpu
def test_benchmarks_stop_in_time(tmp_path):
    """What is over is written, the rest is skipped by name."""
    done, rows, _ = run_benchmarks(tmp_path, "--seconds=0", "--peers=cupy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows == []
    assert "no time was left (--seconds)" in done.stdout


# The sanitizer's cases


def test_sanitizer_cases(gpu, capsys):
    """Right in the simulator, and every kernel of the column is among them."""
    seen = set()
    launched = Simulator.kernel

    def kernel(self, function, *args, **keywords):
        seen.add(function.__name__)
        return launched(self, function, *args, **keywords)

    simulator = cuda.what_runs()
    simulator.kernel = kernel.__get__(simulator)
    assert sanitize.run(sanitize.cases()) == 0
    assert capsys.readouterr().out.count(" ok\n") == len(sanitize.cases())
    assert seen == kernel_names()


def test_sanitizer_finds_what_is_wrong(gpu, capsys, monkeypatch):
    monkeypatch.setitem(sanitize.TOLERANCES, "float32", 1e-12)
    assert sanitize.run(["rnn-row-float32"]) == 1
    assert "WRONG" in capsys.readouterr().out
    nan = np.full(2, np.nan)
    assert np.isnan(sanitize.worst([np.zeros(2), nan], [np.zeros(2), np.zeros(2)]))


# The script


def python(*words, **variables):
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}  # not a part of ours
    environment = {**own, "PYTHONPATH": str(ROOT), **variables}
    command = words if words[0].endswith(".sh") else (sys.executable, *words)
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )


SCRIPT = str(ROOT / "benchmarks" / "gpu.sh")


@without_gpu
@pytest.mark.parametrize(
    "words", [("-m", "benchmarks.sanitize"), ("-m", "benchmarks.cuda.machine"), (SCRIPT,)]
)
def test_without_a_gpu(words, tmp_path):
    """One line that says why, exit code 1, nothing written."""
    out = tmp_path / "out"
    done = python(*words, PYTHON=sys.executable, OUT=str(out))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no GPU: ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_wrong_words():
    done = python(SCRIPT, "everything", PYTHON=sys.executable)
    assert done.returncode == 2
    assert "usage: benchmarks/gpu.sh" in done.stderr
    done = python("-m", "benchmarks.sanitize", "lstm-sideways")
    assert done.returncode == 2
    assert "no case lstm-sideways; there are ops, rnn-row-float32" in done.stderr


STUB = """#!/usr/bin/env bash
case "$*" in
    "-m benchmarks.cuda.machine"*) echo "GPU X"; echo '{"gpu": "GPU X"}' > "$3" ;;
    "-m pytest tests"*) echo "$*"; echo "1 failed"; exit 1 ;;
    "-m benchmarks.sanitize"*) echo "all cases"; sleep "$SLEEP" ;;
    "-m pytest benchmarks/cuda"*) echo "2 passed"; echo "{}" > "$OUT/cuda.json" ;;
    "-m benchmarks.cuda.report"*) echo "| a table |" ;;
    "-c import xdist") exit 1 ;;
    *) exec "$REAL" "$@" ;;
esac
"""


def run_script(tmp_path, *words, **variables):
    """The script on an interpreter that only says what a GPU's would; and its gpu.json."""
    stub, out, tools = tmp_path / "python", tmp_path / "out", tmp_path / "cuda"
    stub.write_text(STUB)
    sanitizer = tools / "bin" / "compute-sanitizer"
    sanitizer.parent.mkdir(parents=True)
    sanitizer.write_text(
        "#!/usr/bin/env bash\n[[ $2 == memcheck ]] && echo fine && exit 0\nexit 77"
    )
    for file in (stub, sanitizer):
        file.chmod(0o755)
    variables = {"SLEEP": "0", "CUDA_HOME": str(tools), **variables}
    done = python(SCRIPT, *words, PYTHON=str(stub), REAL=sys.executable, OUT=str(out), **variables)
    return done, json.loads((out / "gpu.json").read_text()), out


def test_a_part_that_fails_does_not_stop_the_next(tmp_path):
    done, result, out = run_script(tmp_path)
    assert done.returncode == 1
    codes = {part["part"]: part["exit_code"] for part in result["parts"]}
    assert codes == {"tests": 1, "cases": 0, "memcheck": 0, "racecheck": 77, "bench": 0}
    assert not result["passed"]
    assert result["versions"] == {"gpu": "GPU X"}
    assert [part["says"] for part in result["parts"]][:2] == ["1 failed", "all cases"]
    assert "-m pytest tests -k cuda" in (out / "gpu-tests.log").read_text()
    assert (out / "cuda.md").read_text() == "| a table |\n"
    summary = done.stdout.partition("=== summary")[2]
    assert "tests      FAILED" in summary and "bench      passed" in summary


def test_parts_can_be_chosen_and_pass(tmp_path):
    done, result, _ = run_script(tmp_path, "bench")
    assert done.returncode == 0
    assert result["passed"]
    assert [part["part"] for part in result["parts"]] == ["bench"]


def test_a_part_is_stopped_when_its_time_is_over(tmp_path):
    done, result, _ = run_script(tmp_path, "sanitizer", SLEEP="60", PERCENT="1")
    assert done.returncode == 1
    cases = result["parts"][0]
    assert cases["exit_code"] == 124
    assert cases["says"].startswith("took longer than 1 s; all cases")
    assert len(result["parts"]) == 3
