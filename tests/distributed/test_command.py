"""`rnnfast train` under mpiexec: the same numbers, files and messages as without it."""

import json

import pytest
from ranks import COMMAND, MODEL, TEXT, assert_equal_weights, finished, launch, ok, train
from shell import QUIET, SMALL, no_such_file, read_log, run


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def numbers(log):
    """Of a log, all that must be the same."""
    return [{k: v for k, v in event.items() if k != "seconds"} for event in log]


def assert_close(found, expected):
    """Logs: floats nearly, the rest exactly."""
    assert len(found) == len(expected)
    for mine, theirs in zip(numbers(found), numbers(expected), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            close = pytest.approx(theirs[key], rel=1e-4) if _is_float(mine[key]) else theirs[key]
            assert mine[key] == close, (key, mine)


def _is_float(value):
    return isinstance(value, float)


@pytest.mark.parametrize("way", ["held out", "validated", "gradual", "gradual, validated"])
@pytest.mark.one_in(4)
def test_three_ranks_train_as_one_process(tmp_path, text, way):
    more = ["--valid", text, "--test", text, "--lr-decay", "4"] if "validated" in way else []
    more += ["--gradual", "1"] if "gradual" in way else []
    arguments = [text, *COMMAND, *MODEL, *more]
    more = {1: [], 3: ["--verbose"]}
    lines = {
        size: ok(size, *arguments, "--out", str(tmp_path / f"{size}"), *options).splitlines()
        for size, options in more.items()
    }
    assert_close(read_log(tmp_path / "3"), read_log(tmp_path / "1"))
    assert_equal_weights(tmp_path / "3", tmp_path / "1", tolerance=1e-4)
    (said,) = [line for line in lines[3] if line.startswith("gradients between 3 ranks")]
    assert (
        " MB, each " in said
        and " ms not hidden" in said
        and not any("gradients" in line for line in lines[1])
    )
    assert len(lines[3]) == len(lines[1]) + 1  # rank 0 alone prints
    assert {path.name for path in (tmp_path / "1").iterdir()} == {
        path.name for path in (tmp_path / "3").iterdir()
    }


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, text):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ok(3, text, *COMMAND, *MODEL, "--out", str(whole))
    ok(2, text, *COMMAND, *MODEL, "--out", str(parts), "--epochs", "1")
    ok(1, "--resume", "--out", str(parts), "--epochs", "2", "--sample", "0", "--no-plot")
    ok(4, "--resume", "--out", str(parts), "--epochs", "3", "--sample", "0", "--no-plot")
    assert_equal_weights(parts, whole, tolerance=1e-4)
    events = [event for event in read_log(parts) if event["event"] == "train"]
    expected = [event for event in read_log(whole) if event["event"] == "train"]
    assert_close(events, expected)


@pytest.mark.rest
def test_gradual_learning_goes_on_with_another_number_of_ranks(tmp_path, text):
    """Also in rounds, and in 16 bits, whose sums are of another size after a stage."""
    whole, parts, rounds = (tmp_path / name for name in ("whole", "parts", "rounds"))
    arguments = [text, *COMMAND, *MODEL, "--gradual", "1"]
    ok(3, *arguments, "--out", str(whole))
    ok(2, *arguments, "--out", str(parts), "--epochs", "2")
    ok(3, "--resume", "--out", str(parts), "--epochs", "3", "--sample", "0", "--no-plot")
    assert_equal_weights(parts, whole, tolerance=1e-4)
    ok(2, *arguments, "--out", str(rounds), "--sync-every", "5", "--compress")
    ok(2, *arguments, "--out", str(rounds), "--compress", "--force")


def test_ranks_share_out_an_evaluation(tmp_path, text):
    ok(1, text, *COMMAND, "--epochs", "1", "--out", str(tmp_path / "out"), *MODEL)
    command = "eval", str(tmp_path / "out" / "LanguageModel.safetensors"), text
    code, out, err = finished(launch(3, "-m", "rnnfast", *command))
    assert (code, out, err) == (0, run(*command).stdout, "")
    assert out.count("perplexity: ") == 1


@pytest.mark.rest
def test_errors_of_all_ranks_are_said_once(tmp_path, text):
    missing = str(tmp_path / "missing.txt")
    for arguments, why in (
        ((missing,), f"rnnfast: {missing}: {no_such_file()}\n"),
        (
            (text, "--batch-size", "2"),
            "--batch-size must be at least the number of ranks, 3, got 2",
        ),
        ((text, "--epochs", "x"), "expected a positive integer, got 'x'"),
    ):
        code, _, err = train(3, *arguments, *QUIET, "--out", str(tmp_path / "out"))
        assert code in (1, 2) and err.count(why) == 1, err
        assert "Traceback" not in err and "killed" not in err


@pytest.mark.rest
def test_the_patience_must_be_a_number(tmp_path, text):
    for wrong in ("x", "0"):
        quiet = [text, *QUIET, "--out", str(tmp_path / "out")]
        code, _, err = train(2, *quiet, env={"RNNFAST_PATIENCE": wrong})
        why = f"RNNFAST_PATIENCE must be a positive number of seconds, got '{wrong}'"
        assert code == 1 and err == f"rnnfast: {why}\n"


@pytest.mark.rest
def test_ranks_must_have_the_same_settings_and_texts(tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_text(TEXT + "x")
    for mine, theirs, what in (
        ((text,), (text, "--lr", "0.1"), "--lr must be the same on all ranks"),
        ((text,), (str(other),), "--file must be the same on all ranks"),
    ):
        quiet = [*SMALL, *QUIET, "--out", str(tmp_path / "out")]
        process = launch(
            1, "-m", "rnnfast", "train", *mine, *quiet,
            then=("-m", "rnnfast", "train", *theirs, *quiet),
        )  # fmt: skip
        code, _, err = finished(process)
        assert code == 1 and err.count(what) == 1 and "rank 1 (process" in err, err
    assert not (tmp_path / "out").exists()


def test_a_missing_mpi4py_is_named(tmp_path, text):
    before = "import sys, os; sys.modules['mpi4py'] = None; os.environ['PMI_RANK'] = '0'"
    before += "; os.environ['PMI_SIZE'] = '2'"
    found = run("train", text, "--out", str(tmp_path / "out"), before=before)
    assert found.returncode == 1
    assert found.stderr.startswith('rnnfast: mpi4py is missing: pip install "rnnfast[mpi]"')
    assert json.dumps(found.stdout) == '""'
