"""What a run must not lose: a finished model, what came before a divergence, what a kill left."""

import math
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from cases import PATIENCE
from shell import (
    LINE,
    LINES,
    QUIET,
    SMALL,
    command,
    failing,
    losses,
    no_such_file,
    ok,
    read_log,
    run,
)
from tiny import CLASSES, POINTS, TS, XS, N, T, TwoLayerNet, V

from rnnfast import io
from rnnfast.commands import inputs, settings, train
from rnnfast.commands.folder import take_folder
from rnnfast.commands.main import main
from rnnfast.models import Rnnlm, load_model
from rnnfast.optim import SGD, Adam
from rnnfast.trainer import (
    Diverged,
    ProgressBar,
    RnnlmTrainer,
    Step,
    Trainer,
    Watch,
    eval_perplexity,
)

CHECKPOINT, GOOD, WEIGHTS = "checkpoint.safetensors", "good.safetensors", "Rnnlm.safetensors"


def files(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def arguments(text, out, *more):
    return ["train", text, "--out", str(out), *SMALL, *QUIET, *more]


# Overwriting


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, text, capsys):
    out = tmp_path / "out"
    ok(capsys, *arguments(text, out, "--epochs", "2"))
    before = files(out)
    error = failing(capsys, *arguments(text, out, "--epochs", "1"))
    assert f"{out}: holds a run" in error and "--resume" in error and "--force" in error
    for left in [WEIGHTS], [CHECKPOINT], ["log.jsonl"]:
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        for name in os.listdir(other):
            (other / name).unlink()
        for name in left:
            (other / name).write_bytes(before[name])
        assert f"holds a run ({left[0]})" in failing(capsys, *arguments(text, other))
        assert files(other) == {name: before[name] for name in left}
    assert files(out) == before
    with pytest.raises(SystemExit) as exit:
        main(arguments(text, out, "--resume", "--force"))
    assert exit.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--resume and --force exclude each other"):
        train.train(str(out), resume=True, force=True)
    ok(capsys, *arguments(text, out, "--epochs", "1", "--force", "--seed", "5"))
    assert read_log(out)[0]["seed"] == 5
    assert files(out)[WEIGHTS] != before[WEIGHTS]


@pytest.mark.parametrize("validated", [False, True])
def test_old_weights_stay_until_there_are_new_ones(tmp_path, text, capsys, monkeypatch, validated):
    """A run that was forced and then stopped leaves the model of the one before."""
    out = tmp_path / "out"
    more = ["--valid", text] if validated else []
    ok(capsys, *arguments(text, out, "--epochs", "2", *more))
    before = files(out)
    seen = []

    def stop(step):
        seen.append(step)
        if len(seen) == 120:  # of an epoch of 55 or 58
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "step", lambda self, step: stop(step))
    assert main(arguments(text, out, "--epochs", "9", "--force", "--seed", "5", *more)) == 130
    capsys.readouterr()
    after = files(out)
    assert after[WEIGHTS] == before[WEIGHTS]
    assert after[CHECKPOINT] != before[CHECKPOINT]
    monkeypatch.undo()
    ok(capsys, "train", "--out", str(out), "--resume", "--epochs", "3", "--sample", "0")
    assert files(out)[WEIGHTS] != before[WEIGHTS]


# Resuming with other settings


def test_another_rate_optimizer_and_batch(tmp_path, text, capsys):
    out = tmp_path / "out"
    ok(capsys, *arguments(text, out, "--epochs", "1"))
    resume = ["train", "--out", str(out), "--resume", *QUIET]
    lines = ok(capsys, *resume, "--epochs", "2", "--lr", "0.001")
    assert "  --lr: 0.005 before, 0.001 now" in lines and "  --epochs: 1 before, 2 now" in lines
    lines = ok(capsys, *resume, "--epochs", "3", "--optimizer", "sgd")
    assert "  --optimizer: adam before, sgd now" in lines
    assert "  --lr: that of the old one before, 20.0 now" in lines
    assert "  the new optimizer starts with a state of its own" in lines
    lines = ok(capsys, *resume, "--epochs", "4", "--batch-size", "8", "--time-size", "5")
    assert "  --batch-size: 4 before, 8 now" in lines
    assert any(line.startswith("| epoch 4 | iter 1 / 55 |") for line in lines)
    ok(capsys, *resume, "--epochs", "5")  # and all of that is kept
    stored, _, _ = settings.stored_settings(str(out / CHECKPOINT), {})
    assert (stored.optimizer, stored.batch_size, stored.time_size) == ("sgd", 8, 5)
    assert [epoch for epoch, i, _ in losses(out) if i == 1] == [1, 2, 3, 4, 5]
    assert "--resume: hidden is 12" in failing(capsys, *resume, "--hidden", "3")
    assert "what may change: --epochs, --optimizer, --lr" in failing(capsys, *resume, "--seed", "3")


def test_a_rate_that_validation_lowered_may_be_given(tmp_path, text, capsys):
    out = tmp_path / "out"
    more = ["--valid", text, "--optimizer", "sgd", "--lr-decay", "4", "--lr", "1e-9"]
    ok(capsys, *arguments(text, out, "--epochs", "3", *more))
    resume = ["train", "--out", str(out), "--resume", *QUIET]
    lowered = read_log(out)[-1]["lr"]
    lines = ok(capsys, *resume, "--epochs", "4", "--lr", "2")
    assert any(line.startswith("  --lr: ") and line.endswith("before, 2.0 now") for line in lines)
    assert [e["lr"] for e in read_log(out) if e["event"] == "valid"][-2:] == [lowered, 2.0]


def stopped_within_an_epoch(text, out, monkeypatch, *more):
    """A run that Ctrl-C ended after 20 iterations of 55."""
    with monkeypatch.context() as patch:
        patch.setattr(
            ProgressBar,
            "step",
            lambda self, step: step.iter == 20 and signal.raise_signal(signal.SIGINT),
        )
        assert main(arguments(text, out, "--epochs", "3", *more)) == 130


def test_another_batch_within_an_epoch(tmp_path, text, capsys, monkeypatch):
    out = tmp_path / "out"
    stopped_within_an_epoch(text, out, monkeypatch)
    capsys.readouterr()
    before = files(out)
    error = failing(capsys, "train", "--out", str(out), "--resume", "--batch-size", "8")
    assert "--batch-size may change where an epoch begins, but the checkpoint is after" in error
    assert "iteration 20 of 55 of epoch 1" in error
    assert files(out) == before
    ok(capsys, "train", "--out", str(out), "--resume", *QUIET)


def test_resume_from_another_folder(tmp_path, text, capsys, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    (tmp_path / "valid.txt").write_text(LINES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    more = ["--valid", "valid.txt", "--test", "valid.txt"]
    ok(capsys, *arguments(text, whole, "--epochs", "2", *more))
    lines = ok(capsys, *arguments("text.txt", "out", "--epochs", "1", *more))
    assert lines[0].startswith("text.txt: ") and f"weights: {os.path.join('out', WEIGHTS)}" in lines
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ok(capsys, "train", "--out", "../out", "--resume", "--epochs", "2", *QUIET)
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    # The texts may have moved, too, but not changed.
    os.rename(tmp_path / "valid.txt", tmp_path / "moved.txt")
    resume = ["train", "--out", "../out", "--resume", "--epochs", "3", *QUIET]
    assert f"{tmp_path / 'valid.txt'}: {no_such_file()}" in failing(capsys, *resume)
    error = failing(capsys, *resume, "--valid", "../text.txt", "--test", "../moved.txt")
    assert "text.txt: not the text that" in error
    lines = ok(capsys, *resume, "--valid", "../moved.txt", "--test", "../moved.txt")
    assert f"  --valid: {tmp_path / 'valid.txt'} before, ../moved.txt now" in lines


def train_trainer(trainer, stop_after=None, batch_size=N, epochs=3):
    seen = []

    def callback(step):
        seen.append((step.epoch, step.iter, step.loss))
        if len(seen) == stop_after:
            trainer.stop()

    trainer.callbacks, trainer.write = [callback], lambda line: None
    trainer.fit(XS, TS, epochs, batch_size, T, 0.25)
    return seen


def test_checkpoints_between_epochs_take_another_batch(tmp_path):
    path = tmp_path / CHECKPOINT
    first = RnnlmTrainer(Rnnlm(V, 5, 8, rng=1), SGD(0.5))
    train_trainer(first, 10)  # an epoch
    first.save_checkpoint(path)
    second = RnnlmTrainer(Rnnlm(V, 5, 8, rng=2), Adam(0.01))
    second.load_checkpoint(path, optimizer=False)
    assert second.optimizer.m is None and second.between_epochs
    seen = train_trainer(second, batch_size=8)
    assert [at[:2] for at in seen] == [(epoch, i) for epoch in (2, 3) for i in range(1, 6)]
    # as a new trainer with these weights has it
    third = RnnlmTrainer(Rnnlm(V, 5, 8, rng=1), SGD(0.5))
    third.load_checkpoint(path)
    params = [param.copy() for param in third.model.params]
    fourth = RnnlmTrainer(Rnnlm(V, 5, 8, rng=2), Adam(0.01))
    for param, saved in zip(fourth.model.params, params, strict=True):
        param[...] = saved
    assert [at[2] for at in train_trainer(fourth, batch_size=8, epochs=2)] == [at[2] for at in seen]


def test_seconds_count_through_the_run(tmp_path):
    lines, path = [], tmp_path / CHECKPOINT
    trainer = RnnlmTrainer(Rnnlm(V, 5, 8, rng=1), SGD(0.5), write=lines.append)
    trainer.seconds = 1e6
    trainer.fit(XS, TS, 1, N, T)
    trainer.fit(XS, TS, 1, N, T)
    times = [int(re.search(r"\| time (\d+)\[s\]", line).group(1)) for line in lines]
    assert len(times) == 2 and 10**6 <= times[0] <= times[1]
    trainer.save_checkpoint(path)
    other = RnnlmTrainer(Rnnlm(V, 5, 8, rng=1), SGD(0.5))
    other.load_checkpoint(path)
    assert other.seconds == trainer.seconds > 1e6


# Divergence


def test_watch():
    def step(loss):
        return Step(1, 1, 9, loss, None, None, 0.0)

    watch = Watch(10, patience=20)
    for loss in [math.log(10), 8.0, *[1.0] * 40]:
        watch.step(step(loss))
    assert not watch.risen and watch.lowest < 1.1
    for _ in range(3):
        watch.step(step(3.0))
    assert not watch.risen  # not yet above a blind guess
    for _ in range(20):
        watch.step(step(2.0))
    assert not watch.risen  # worse than before, as another part of a text may be
    with pytest.raises(Diverged, match="try a smaller learning rate"):
        for _ in range(40):
            watch.step(step(5.0))
    assert watch.risen
    resumed = Watch(10, lowest=1.0)
    resumed.step(step(5.0))
    assert resumed.risen and resumed.lowest == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_grad", [None, 0.25])
def test_a_loss_that_is_no_number_changes_no_weight(dtype, max_grad):
    model = Rnnlm(V, 5, 8, rng=1, dtype=dtype)
    model.params[5][3] = np.nan
    trainer = RnnlmTrainer(model, SGD(0.5), write=lambda line: None)
    before = [param.copy() for param in model.params]
    with pytest.raises(Diverged, match=r"diverged at epoch 1, iter 1 \(loss nan"):
        trainer.fit(XS, TS, 1, N, T, max_grad)
    for param, old in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(param, old)

    net = TwoLayerNet()
    net.params[1][0] = np.nan
    with pytest.raises(RuntimeError, match="training diverged"):
        Trainer(net, SGD(0.5), write=lambda line: None).fit(POINTS, CLASSES, 1, 8, max_grad)


def test_a_gradient_that_is_no_number_changes_no_weight():
    net = TwoLayerNet()
    backward = net.backward

    def wrong():
        backward()
        net.grads[0][0, 0] = np.inf

    net.backward = wrong
    before = [param.copy() for param in net.params]
    with pytest.raises(Diverged, match="gradient norm inf"):
        Trainer(net, SGD(0.5), write=lambda line: None).fit(POINTS, CLASSES, 1, 8, 1.0)
    for param, old in zip(net.params, before, strict=True):
        np.testing.assert_array_equal(param, old)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the reference column
@pytest.mark.parametrize("lr", ["1e30", "300"])
@pytest.mark.parametrize("validated", [False, True])
def test_a_diverged_run_goes_on_from_before(tmp_path, text, lr, validated, capsys):
    """Whether its loss is no number any more or only absurd; checkpoints come all the time."""
    out = tmp_path / "out"
    more = ["--valid", text] if validated else []
    options = arguments(text, out, "--optimizer", "sgd", *more, "--save-every", "0")
    ok(capsys, *options, "--lr", "1", "--epochs", "3")
    good = eval_perplexity(load_model(out / CHECKPOINT)[0], load_ids(out, text), 1, 35)
    resume = ["train", "--out", str(out), "--resume", *QUIET]
    code = main([*resume, "--epochs", "9", "--lr", lr])
    captured = capsys.readouterr()
    assert code == 1 and "training diverged" in captured.err.splitlines()[-1]
    command_line = captured.err.partition(": rnnfast ")[2].partition(" goes on")[0].split()
    assert command_line == ["train", "--out", str(out), "--resume", "--lr", f"{float(lr) / 4:g}"]
    assert not [name for name in os.listdir(out) if "tmp" in name]
    found = eval_perplexity(load_model(out / CHECKPOINT)[0], load_ids(out, text), 1, 35)
    assert found < 1.5 * good
    lines = ok(capsys, *resume, "--lr", "0.5", "--epochs", "4")
    assert "  --lr: 1.0 before, 0.5 now" in lines
    first = next(line for line in lines if line.startswith("| epoch"))
    assert first.startswith("| epoch 4 | iter 1 ")
    log = read_log(out)
    assert max(e["perplexity"] for e in log if e["event"] == "train" and e["epoch"] > 3) < 20


def load_ids(out, text):
    return inputs.load_ids(text, inputs.open_model(out / CHECKPOINT)[1])


def test_a_run_that_never_learned_leaves_no_weights(tmp_path, text, capsys):
    out = tmp_path / "out"
    code = main(arguments(text, out, "--optimizer", "adam", "--lr", "3", "--epochs", "1"))
    assert code == 1 and "training diverged" in capsys.readouterr().err
    assert WEIGHTS not in os.listdir(out)
    ok(capsys, "train", "--out", str(out), "--resume", "--lr", "0.005", *QUIET)
    assert read_log(out)[-1]["perplexity"] < 17


# Two processes, and damaged files


def test_a_folder_of_a_run_that_did_not_begin(tmp_path, text, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "log.jsonl").touch()
    ok(capsys, *arguments(text, out, "--epochs", "1"))


def test_one_folder_is_for_one_process(tmp_path, text, capsys):
    out = tmp_path / "out"
    ok(capsys, *arguments(text, out, "--epochs", "1"))
    before = files(out)
    resume = ["train", "--out", str(out), "--resume", "--epochs", "2", *QUIET]
    with ExitStack() as until:
        take_folder(str(out), until)
        error = failing(capsys, *resume)
        assert error == f"rnnfast: {out}: another process is training in this folder\n"
        assert "another process" in failing(capsys, *arguments(text, out, "--force"))
        assert files(out) == before
    ok(capsys, *resume)


def test_a_damaged_checkpoint_beside_a_good_one(tmp_path, text, capsys):
    out = tmp_path / "out"
    ok(capsys, *arguments(text, out, "--epochs", "1"))
    whole = (out / CHECKPOINT).read_bytes()
    (out / CHECKPOINT).unlink()  # the other is a link to it
    (out / CHECKPOINT).write_bytes(whole[:-9])
    resume = ["train", "--out", str(out), "--resume", "--epochs", "2", *QUIET]
    error = failing(capsys, *resume)
    assert CHECKPOINT in error and f"{out / GOOD} is an earlier one: copied over it, --res" in error
    (out / CHECKPOINT).write_bytes((out / GOOD).read_bytes())
    ok(capsys, *resume)


# Killed, terminated, without a stdout


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_generate_on_what_a_killed_run_left(tmp_path, text, capsys):
    out = tmp_path / "out"
    options = arguments(text, out, "--epochs", "100000", "--save-every", "0")
    process = subprocess.Popen(command(*options), stdout=subprocess.PIPE, encoding="utf-8")
    for line in process.stdout:
        if LINE.match(line) and "epoch 2 " in line:
            break
    process.kill()
    process.communicate(timeout=PATIENCE)
    for name in CHECKPOINT, GOOD:
        path = str(out / name)
        assert len("\n".join(ok(capsys, "generate", path, "--length", "30", "--seed", "1"))) == 30
        assert ok(capsys, "eval", path, text)[2].startswith("perplexity: ")
        assert ok(capsys, "score", path, "the cat")[-1].startswith("perplexity: ")
        assert "  vocabulary      17 characters" in ok(capsys, "info", path)
    model, tokens = load_model(out / CHECKPOINT)
    assert type(model) is Rnnlm and len(tokens) == 17
    other = Rnnlm(17, 6, 12)
    other.load_params(out / CHECKPOINT)
    assert all(map(np.array_equal, other.params, model.params))


def test_a_checkpoint_of_another_model_is_no_weight_file(tmp_path):
    Trainer(TwoLayerNet(), SGD()).save_checkpoint(tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="a checkpoint of a model that is not one of rnnfast's"):
        io.load_weights(tmp_path / CHECKPOINT)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("name", "word"), [("SIGINT", "interrupted"), ("SIGTERM", "terminated")])
def test_signals_save_and_say_how_to_go_on(tmp_path, text, name, word, capsys):
    out, signum = tmp_path / "my run", getattr(signal, name)
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    options = command(*arguments(text, out, "--epochs", "100000"), before=before)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    process = subprocess.Popen(options, **pipes)
    for line in process.stdout:
        if LINE.match(line) and "epoch 2 " in line:
            break
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signum
    assert stderr == f"rnnfast: {word}; to go on: rnnfast train --out '{out}' --resume\n"
    assert stdout.splitlines()[-1] == f"checkpoint: {out / CHECKPOINT}"
    at = load_checkpoint(out)
    assert at["current_epoch"] >= 1 and at["progress"]["iter"] > 0


def load_checkpoint(out):
    return io.load_arrays(out / CHECKPOINT, only_header=True)[1]["checkpoint"]


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe")
def test_a_reader_that_goes_away_stops_and_saves(tmp_path, text):
    out = tmp_path / "out"
    options = command(*arguments(text, out, "--epochs", "100000"))
    process = subprocess.Popen(options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith(b"| epoch 2 "):
            break
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 1
    error = process.stderr.read().decode()
    process.stderr.close()
    assert error.startswith("rnnfast: stdout is gone (") and error.count("\n") == 1
    assert error.endswith(f"; to go on: rnnfast train --out {out} --resume\n")
    assert load_checkpoint(out)["current_epoch"] >= 1


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("arguments", [["info"], ["--version"], ["train", "x"]])
def test_a_closed_stdout_is_one_line(arguments):
    line = [*command(*arguments)]
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *line], stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert process.returncode == 1
    assert process.stderr == "rnnfast: stdout is closed; /dev/null takes what nobody reads\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["info"], ["train"]])
def test_a_full_disk_under_stdout_is_one_line(tmp_path, text, arguments):
    if arguments == ["train"]:
        arguments = ["train", text, "--out", str(tmp_path / "out"), *SMALL, *QUIET]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            command(*arguments), stdout=full, stderr=subprocess.PIPE, encoding="utf-8"
        )
    assert process.returncode == 1
    assert process.stderr.startswith("rnnfast: ") and process.stderr.count("\n") == 1
    assert "No space left on device" in process.stderr


@pytest.mark.parametrize("variable", ["RNNFAST_NUM_THREADS", "RNNFAST_SIMD", "RNNFAST_DEVICE"])
@pytest.mark.parametrize("way", ["script", "module"])
def test_a_wrong_environment_is_one_line(variable, way, monkeypatch):
    start = [sys.executable, "-m", "rnnfast"]
    if way == "script":  # as an installed one begins
        code = "import sys; sys.argv[0] = '/bin/rnnfast'; from rnnfast.commands.main import main; "
        start = [sys.executable, "-c", code + "sys.exit(main())"]
    monkeypatch.setenv(variable, "0")
    done = subprocess.run([*start, "info"], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert variable in done.stderr or variable == "RNNFAST_SIMD"
    assert done.stderr.startswith("rnnfast: ") and done.stderr.count("\n") == 1
    code = "import rnnfast; rnnfast.get_device()"  # who imports it gets the ValueError
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.stderr.splitlines()[-1].startswith("ValueError: ")


def test_empty_names(tmp_path, text, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = failing(capsys, "train", text, "--out", "")
    assert error == "rnnfast: --out must name a folder, got ''\n"
    for line in (["train", ""], ["train", text, "--valid", ""], ["eval", "", text], ["info", ""]):
        assert failing(capsys, *line) == f"rnnfast: the empty name: {no_such_file('')}\n"
    assert "the empty name" in failing(capsys, "gradients", "--out", "")
    assert os.listdir(tmp_path) == ["text.txt"]
    done = run("gradients", "--out", "missing/g.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rnnfast: missing/g.png: No such file or directory\n"
