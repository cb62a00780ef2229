"""How benchmarks/gpu.sh runs the tests of the cuda column, on planted ones."""

import ast
import json
import subprocess
import sys

import pytest

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from planted import ROOT, environment

from benchmarks.cuda import column, runner

TESTS = """
import os, pytest

def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.mark.skip(reason="no such device")
def test_skipped(): pass
def test_left_out(): os._exit(9)
@pytest.fixture
def broken(): raise RuntimeError("in its fixture")
def test_of_fixture(broken): pass
"""


def run_column(folder, code):
    """Lines of Python that know `column` and `worker`, in a process in a checkout of its own."""
    (folder / "tests" / "cuda").mkdir(parents=True)
    (folder / "tests" / "cuda" / "test_gpu.py").write_text(TESTS)
    (folder / "tests" / "cuda" / "test_of_the_cpu.py").write_text("def test_left_out(): pass")
    (folder / "tests" / "test_broken.py").write_text("import no_such_module")
    lines = f"from benchmarks.cuda import column, worker\n{code}"
    own = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=folder, env=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_names(tmp_path):
    """All tests of a file of the column, and the file that cannot be imported."""
    said = run_column(tmp_path, "print(repr(column.names(False)))").splitlines()[-1]
    names = ast.literal_eval(said)
    assert names[0] == "tests/test_broken.py"
    tests = "good", "bad", "skipped", "left_out", "of_fixture"
    of_file = [f"tests/cuda/test_gpu.py::test_{name}" for name in tests]
    assert names[1:] == of_file


def test_a_share_of_the_tests(tmp_path):
    """Those asked for run in their order, each has its row."""
    names = [f"tests/cuda/test_gpu.py::test_{n}" for n in ("skipped", "good", "of_fixture", "bad")]
    names.insert(0, "tests/test_broken.py")
    run_column(tmp_path, f"column.run({names}, False, worker.Progress('told'))")
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [row["start"] for row in told[::2]] == names
    broken, skipped, good, of_fixture, bad = told[1::2]
    assert "No module named 'no_such_module'" in broken["wrong"]
    assert skipped["result"].startswith("skipped: ") and "no such device" in skipped["result"]
    assert not set(runner.BAD) & set(good)
    assert "in its fixture" in of_fixture["wrong"] and "assert 1 == 2" in bad["wrong"]


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("tests/kernels/test_kernels.py::test_values[cuda-float32-lstm]", True),
        ("tests/kernels/test_kernels.py::test_values[cpu-avx2-float32-lstm]", False),
        ("tests/cuda/test_gpu.py::test_a_stream_of_its_own[lstm]", True),
        ("tests/cuda/test_gpu_benchmarks.py::test_race", False),
    ],
)
def test_which_tests_are_the_columns(nodeid, expected):
    assert column.is_of_column(nodeid) == expected
