"""benchmarks/gpu.sh without a GPU: items that hang and die, stages.

Those of the repository alone: an installed rnnfast has no benchmarks.
"""

import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cases import PATIENCE

from rnnfast import kernels

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from planted import ROOT, environment

from benchmarks.cuda import runner, stages

UNHURRIED = ("--budget", str(PATIENCE))  # seconds, of which nothing is waited for
SCRIPT = str(ROOT / "benchmarks" / "gpu.sh")
without_gpu = pytest.mark.skipif(
    "cuda" in kernels.devices(), reason="this machine has a GPU, where the script runs for minutes"
)


def planted(each=3, total=PATIENCE, **more):
    keywords = {"startup": PATIENCE, "log": subprocess.DEVNULL, "environment": environment()} | more
    return runner.Suite("planted", each=each, total=total, on="planted", **keywords)


# Items in processes


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The planted suite, run once by one worker after the other."""
    return runner.run(planted(), tmp_path_factory.mktemp("out") / "planted.json")


def test_what_hangs_or_dies_costs_itself_alone(result):
    items = result["items"]
    assert items["hangs"] == {"failed": "hung: killed after 3 s"}
    assert items["dies"] == {"failed": "its process died with 11"}
    assert items["breaks"]["failed"] == "RuntimeError: an illegal memory access"
    assert items["unlucky"]["failed"] == "ValueError: this has nothing to do with CUDA"
    assert items["wrong"]["wrong"] == "hs is off by 1"
    good = [name for name, row in items.items() if not set(runner.BAD) & set(row)]
    assert good == ["first", "second", "third", "fourth", "fifth"]


def test_a_fresh_process_after_a_broken_context_alone(result):
    process = {name: row.get("result") for name, row in result["items"].items()}
    assert process["first"] == process["second"]  # a wrong result breaks nothing
    assert len({process[name] for name in ("second", "third", "fourth", "fifth")}) == 4


def test_wrong_with_a_result(result):
    row = result["items"]["both"]
    assert (row["result"], row["wrong"]) == ({"us": 2.5}, "cudnn is off by 1")


def test_summary(result):
    lines = list(runner.summary(result))
    assert "hangs: FAILED hung: killed after 3 s" in lines
    assert lines[-1].startswith("planted: 5 good, 2 wrong, 4 failed, ")
    assert not runner.passed(result)


def test_time_is_up(tmp_path, monkeypatch):
    """What runs is killed, what is left is skipped by name."""
    out, now, read = tmp_path / "planted.json", [0], runner.Worker.read

    def time_flies(worker):
        read(worker)
        if worker.running == "hangs":
            now[0] = 10

    monkeypatch.setattr(runner.Worker, "read", time_flies)
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr(runner, "time", clock)
    result = runner.run(planted(each=60, total=2), out, ["hangs", "fourth"])
    assert result["items"] == {
        "hangs": {"failed": "killed: no time was left"},
        "fourth": {"skipped": "no time was left"},
    }
    assert json.loads(out.read_text()) == result


def test_workers_share(tmp_path):
    names = ["first", "second", "third", "fourth"]
    result = runner.run(planted(workers=2), tmp_path / "planted.json", names)
    assert list(result["items"]) == names
    assert len({row["result"] for row in result["items"].values()}) == 2
    assert runner.passed(result)


def test_a_worker_that_does_not_start(tmp_path):
    suite = planted()
    suite.names = lambda: ["first", "second"]
    suite.prefix = ("false",)
    result = runner.run(suite, tmp_path / "planted.json")
    why = {"failed": "the worker does not start; see the log"}
    assert result["items"] == {"first": why, "second": why}


def begun(tmp_path, startup=PATIENCE, **variables):
    """Two items of the suite, each with a second, after its beginning."""
    suite = planted(each=1, startup=startup, environment=environment(**variables))
    suite.names = lambda: ["first", "second"]
    return runner.run(suite, tmp_path / "planted.json")


def test_what_comes_before_the_first_item_takes_no_time_of_it(tmp_path):
    result = begun(tmp_path, BEGIN="slow")
    assert runner.passed(result)
    (row,) = result["begun"]
    assert 2 <= row["begun"] < PATIENCE


def test_a_beginning_that_fails(tmp_path):
    """It is told, and the items run."""
    result = begun(tmp_path, BEGIN="fails")
    assert runner.passed(result)
    assert result["begun"][0]["failed"] == "RuntimeError: no PyTorch"
    assert "its beginning: FAILED RuntimeError: no PyTorch" in list(runner.summary(result))


HUNG = "hung: killed after 5 s"  # longer than this suite needs for its imports


@pytest.mark.rest
def test_a_beginning_that_hangs_is_killed(tmp_path):
    """A fresh process goes on; not a third one."""
    result = begun(tmp_path, startup=5, BEGIN="hangs", BEGUN_ONCE=str(tmp_path / "once"))
    assert runner.passed(result)
    assert result["begun"][0] == {"failed": HUNG} and "begun" in result["begun"][1]
    result = begun(tmp_path, startup=5, BEGIN="hangs")
    assert result["begun"] == [{"failed": HUNG}] * 2
    assert not runner.passed(result) and "does not start" in result["items"]["first"]["failed"]


def test_a_suite_that_cannot_be_listed(tmp_path):
    suite = runner.Suite("no_such_suite", environment=environment())
    result = runner.run(suite, tmp_path / "none.json")
    assert "No module named 'benchmarks.cuda.no_such_suite'" in result["problem"]
    assert not runner.passed(result)


def test_a_run_that_is_cut_off_leaves_what_was_measured(tmp_path):
    out = tmp_path / "planted.json"
    words = ["-m", "benchmarks.cuda.runner", "planted", "--on", "planted", "--each", "1000"]
    with subprocess.Popen(
        [sys.executable, *words, "--out", str(out), "first", "hangs"],
        cwd=ROOT,
        env=environment(),
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not (out.exists() and "first" in out.read_text()):
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.05)
        process.terminate()
    assert list(json.loads(out.read_text())["items"]) == ["first"]


# Stages


def script(tmp_path, *words, **variables):
    done = subprocess.run(
        ["bash", SCRIPT, *words],
        cwd=ROOT,
        env=environment(OUT=str(tmp_path / "out"), **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done, tmp_path / "out"


@without_gpu
def test_without_a_gpu(tmp_path):
    """One line that says why, exit code 1, nothing written."""
    done, out = script(tmp_path, "1")
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU: ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["4"], "invalid choice: '4'"),
        (["prepare", "everything"], "no suite everything; there are smoke, cells"),
        (["1", "cells"], "no suite cells"),
        ([], "the following arguments are required: stage"),
    ],
)
def test_wrong_words(tmp_path, words, why):
    done, out = script(tmp_path, *words)
    assert done.returncode == 2
    assert why in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("stage", "suites"),
    [("1", ("versions", "smoke", "micro", "cells")), ("3", ("language", "sweep"))],
)
@pytest.mark.one_in(2)
def test_a_stage(tmp_path, stage, suites):
    archive = tmp_path / "back" / "gpu.tar.xz"
    words = [*UNHURRIED, "--archive", str(archive)]
    done, out = script(tmp_path, stage, "--on", "planted", *words, PLANTED="good")
    assert done.returncode == 0, done.stdout + done.stderr
    about = json.loads((out / f"stage-{stage}.json").read_text())
    assert about["passed"] and tuple(about["suites"]) == suites
    for name in suites:
        assert runner.passed(json.loads((out / f"{name}.json").read_text()))
    assert "all passed" in (out / f"stage-{stage}.log").read_text()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert list(archive.parent.iterdir()) == [archive]  # one file comes back
    for path in out.iterdir():
        assert (tmp_path / "unpacked" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.rest
def test_a_stage_that_fails(tmp_path, monkeypatch, capsys):
    """Whatever hangs or dies in a suite, the next ones run; all within the budget."""
    run, given, left = runner.run, [], []

    def in_time(suite, out):
        """Processes may take as long as they do to start."""
        given.append(suite)
        left.append(stage.budget - stages.LAST - stage.seconds)
        return run(replace(suite, each=3, startup=PATIENCE, total=PATIENCE), out)

    monkeypatch.setattr(runner, "run", in_time)
    archive = tmp_path / "gpu.tar.xz"
    stage = stages.Stage("3", tmp_path, time.monotonic(), 100, False, "planted", archive)
    stage.environment |= environment()
    stages.stage_3(stage)
    with tarfile.open(stage.archive) as tar:  # already before the stage ends
        assert {"language.json", "sweep.json", "stage-3.log"} <= set(tar.getnames())
    assert not stage.end()
    about = json.loads((tmp_path / "stage-3.json").read_text())
    assert not about["passed"] and list(about["suites"]) == ["language", "sweep"]
    assert "hangs: FAILED hung" in capsys.readouterr().out
    assert "NOT ALL PASSED" in (tmp_path / "stage-3.log").read_text()
    language, sweep = given
    assert (language.each, language.startup) == (40 / 2, stages.STARTUP / 2)
    assert language.total == 90 / 2 <= left[0]
    assert left[1] <= sweep.total < left[0]


SANITIZER = """#!/usr/bin/env bash
# --tool TOOL --print-limit 20 --log-file FOLDER/%p.log COMMAND...
tool=$2 log=${6/\\%p/$$}
shift 6
echo "========= COMPUTE-SANITIZER" > "$log"
[[ $SAYS == "" ]] || echo "========= $SAYS" >> "$log"
"$@"
code=$?
echo "========= ERROR SUMMARY: 0 errors" >> "$log"
exit $code
"""


@pytest.mark.parametrize(
    ("says", "passes"),
    [
        ("", True),
        ("Invalid __global__ read of size 4 bytes", False),
        ("Device not supported", False),
    ],
)
@pytest.mark.one_in(3)
def test_sanitizer(tmp_path, says, passes):
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    path = os.pathsep.join((str(tool.parent), os.environ["PATH"]))
    words = ["2", "--on", "planted", *UNHURRIED]
    done, out = script(tmp_path, *words, PLANTED="good", SAYS=says, PATH=path)
    assert done.returncode == (0 if passes else 1), done.stdout
    for name in stages.TOOLS:
        found = json.loads((out / f"{name}.json").read_text())
        assert set(found["findings"]) == ({f"========= {says}"} if says else set())
        assert found["summaries"] > 0
        assert ("problem" in found) == (not passes)


def test_without_a_sanitizer(tmp_path, monkeypatch):
    """The cases run all the same, and the result says what is missing."""
    monkeypatch.setattr(sys, "path", [])
    assert stages.sanitizer(str(tmp_path)) is None
    stage = stages.Stage("2", tmp_path, time.monotonic(), PATIENCE, False, "planted")
    stage.environment |= environment(PLANTED="good", PATH=str(tmp_path))
    stage.sanitize("memcheck")
    assert not stage.end()
    found = json.loads((tmp_path / "memcheck.json").read_text())
    assert found["problem"] == "compute-sanitizer was not found"
    assert [row["result"] > 0 for row in found["items"].values()] == [True] * 3


def test_toolkit(tmp_path, monkeypatch):
    """An empty or stale CUDA_HOME is passed over."""
    good = tmp_path / "good"
    (good / "nvvm" / "libdevice").mkdir(parents=True)
    monkeypatch.setattr(stages.glob, "glob", lambda pattern: [str(good)])
    for home in ("", str(tmp_path / "gone")):
        monkeypatch.setenv("CUDA_HOME", home)
        assert stages.toolkit() == str(good)
    monkeypatch.setattr(stages.glob, "glob", lambda pattern: [])
    assert stages.toolkit() is None
