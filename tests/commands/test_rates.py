"""`rnnfast train` with a schedule of the learning rate and with patience."""

import os

import pytest
from shell import QUIET, SMALL, failing, losses, ok, read_log

from rnnfast.commands.run import Run
from rnnfast.commands.train import train
from rnnfast.optim import Cosine, StepDecay, WarmUp
from rnnfast.training.validation import epochs_without_improvement

EVERY = [*SMALL, *QUIET, "--eval-interval", "1"]


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other.txt"
    path.write_text("a bird sat on the rug\nthe dog sang\n" * 5, encoding="utf-8")
    return str(path)


COSINE = ["--schedule", "cosine", "--warm-up", "0.5", "--epochs", "3"]
STEP = ["--schedule", "step", "--step-every", "1.5", "--step-factor", "0.5", "--epochs", "3"]


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        (COSINE, WarmUp(0.5).then(Cosine(2.5))),
        (STEP, StepDecay(1.5, 0.5)),
        (["--schedule", "step", "--step-every", "1"], StepDecay(1.0, 0.1)),
        (["--warm-up", "2"], WarmUp(2.0)),
    ],
)
def test_rates_are_those_of_the_schedule(tmp_path, text, options, schedule, capsys):
    out = tmp_path / "out"
    ok(capsys, "train", text, *EVERY, "--epochs", "2", *options, "--lr", "0.01", "--out", str(out))
    start, *entries = (e for e in read_log(out) if e["event"] in ("start", "train"))
    assert start["schedule"] == repr(schedule) and start["lr"] == 0.01
    for entry in entries:
        done = entry["epoch"] - 1 + (entry["iter"] - 1) / entry["max_iter"]
        assert entry["lr"] == pytest.approx(0.01 * schedule(done), rel=1e-14)


def test_a_constant_rate_is_not_logged_as_a_schedule(tmp_path, text, capsys):
    out = tmp_path / "out"
    ok(capsys, "train", text, *EVERY, "--epochs", "1", "--out", str(out))
    start, *rest = read_log(out)
    assert "schedule" not in start
    assert {entry["lr"] for entry in rest if entry["event"] == "train"} == {start["lr"]}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("after", [7, 100])
def test_a_resumed_run_continues_its_schedule(
    tmp_path, text, other, validated, after, capsys, monkeypatch
):
    """Killed after some iterations, with the checkpoint of one before; also within the cosine."""
    options = [*EVERY, *COSINE, *(["--valid", other, "--patience", "3"] if validated else [])]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ok(capsys, "train", text, *options, "--out", str(whole))
    usual, count = Run.step, 0

    def step(run, step):
        nonlocal count
        count += 1
        if count == after:
            raise Interrupted
        usual(run, step)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Run, "step", step)
        train(
            str(killed),
            file=text,
            hidden=12,
            embedding=6,
            batch_size=4,
            time_size=10,
            sample=0,
            plot_curve=False,
            eval_interval=1,
            schedule="cosine",
            warm_up=0.5,
            epochs=3,
            save_every=0.0,
            **({"valid": other, "patience": 3} if validated else {}),
        )
    capsys.readouterr()
    ok(capsys, "train", "--resume", "--out", str(killed), *QUIET)
    assert losses(killed) == losses(whole)
    first, second = ((folder / "Rnnlm.safetensors").read_bytes() for folder in (whole, killed))
    assert first == second


def test_another_schedule_on_resume(tmp_path, text, capsys):
    out = tmp_path / "out"
    arguments = ["train", "--out", str(out), *QUIET]
    ok(capsys, *arguments, text, *EVERY, "--epochs", "1", "--warm-up", "0.5")
    lines = ok(capsys, *arguments, "--resume", "--epochs", "2", "--schedule", "cosine")
    assert "  --schedule: constant before, cosine now" in lines
    expected = WarmUp(0.5).then(Cosine(1.5))
    last = [entry for entry in read_log(out) if entry["event"] == "train"][-1]
    done = 1 + (last["iter"] - 1) / last["max_iter"]
    assert last["lr"] == pytest.approx(0.005 * expected(done), rel=1e-14)


@pytest.fixture
def forgotten(tmp_path):
    """A validation text that becomes unlikely when the training text is learned by heart."""
    path = tmp_path / "forgotten.txt"
    path.write_text("tac eht\ngur god\n" * 9, encoding="utf-8")
    return str(path)


def test_patience(tmp_path, text, forgotten, capsys):
    out = tmp_path / "out"
    options = [*EVERY, "--valid", forgotten, "--patience", "2", "--lr", "0.05"]
    lines = ok(
        capsys, "train", text, *options, "--epochs", "40", "--out", str(out), warning="blind"
    )
    values = [entry["perplexity"] for entry in read_log(out) if entry["event"] == "valid"]
    assert len(values) < 40 and epochs_without_improvement(values) == 2
    assert f"| epoch {len(values)} | no improvement in 2 epochs" in lines
    assert os.path.exists(out / "Rnnlm.safetensors")
    again = ok(capsys, "train", "--resume", "--out", str(out), *QUIET)
    assert f"| epoch {len(values)} | no improvement in 2 epochs" in again
    more = ["--resume", "--patience", "4", "--epochs", str(len(values) + 1)]
    ok(capsys, "train", *more, "--out", str(out), *QUIET, warning="blind")
    assert [e["epoch"] for e in read_log(out) if e["event"] == "valid"][-1] == len(values) + 1


def test_options_that_do_not_go_together(tmp_path, text, other, capsys):
    out = ["--out", str(tmp_path / "out"), *SMALL]
    for arguments, message in [
        (["--schedule", "step"], "--schedule step needs --step-every"),
        (
            ["--step-every", "2"],
            "--step-every goes with --schedule step, not with --schedule const",
        ),
        (
            ["--schedule", "cosine", "--step-factor", "0.5"],
            "--step-factor goes with --schedule step",
        ),
        (
            ["--schedule", "cosine", "--warm-up", "2", "--epochs", "2"],
            "--warm-up must be below --epochs 2 with --schedule cosine, got 2",
        ),
        (["--patience", "2"], "--patience needs --valid: a text on which"),
        (
            [
                *("--patience", "2", "--valid", other, "--model", "custom", "--layers", "2"),
                *("--gradual", "2"),
            ],
            "--patience does not go with --gradual",
        ),
    ]:
        assert message in failing(capsys, "train", text, *arguments, *out)
    assert not (tmp_path / "out").exists()
