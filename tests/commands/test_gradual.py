"""`rnnfast train --gradual`: one layer after the other, in one run that may be interrupted."""

import numpy as np
import pytest
from shell import LINES, QUIET, SMALL, failing, losses, ok, read_log

from rnnfast.commands.main import main
from rnnfast.commands.run import Run
from rnnfast.commands.train import train
from rnnfast.io.weights import load_arrays
from rnnfast.models import load_model

CUSTOM = [
    "--eval-interval",
    "1",
    "--model",
    "custom",
    "--layers",
    "3",
    "--gradual",
    "2,1",
    "--epochs",
    "5",
]
PLAIN = ["--dropout", "0.2"]
VALIDATED = ["--dropout", "0.2", "--lr-decay", "4", "--optimizer", "sgd", "--lr", "2"]
AVERAGED = ["--level", "word", "--optimizer", "ntasgd", "--nonmono", "1", "--vary-length"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LINES * 45, encoding="utf-8")
    return str(path)


@pytest.fixture
def valid(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text("a bird sang\nthe dog sat on the mat\n" * 6, encoding="utf-8")
    return str(path)


def saved(folder):
    return (folder / "LanguageModel.safetensors").read_bytes()


def stages(folder):
    """Number, layers and first epoch of each stage that the log names."""
    entries = [entry for entry in read_log(folder) if entry["event"] == "stage"]
    return [(entry["stage"], entry["layers"], entry["epoch"]) for entry in entries]


@pytest.mark.parametrize("validated", [False, True])
def test_it_is_the_runs_by_hand(tmp_path, text, valid, validated, capsys):
    """Each starts from the final weights of the one before: with --valid the best ones."""
    options = [*SMALL, *QUIET, "--model", "custom", *(VALIDATED if validated else PLAIN)]
    options += ["--valid", valid] if validated else []
    out, files = tmp_path / "out", []
    gradual = ["--layers", "3", "--gradual", "2,1", "--epochs", "5"]
    lines = ok(capsys, "train", text, *options, *gradual, "--out", str(out))
    expected, before = [], []
    for layers, epochs in (1, 2), (2, 1), (3, 2):
        own = tmp_path / f"by hand {layers}"
        more = ["--layers", str(layers), "--epochs", str(epochs), "--out", str(own)]
        more += ["--init", str(files[-1])] if files else []
        ok(capsys, "train", text, *options, *more)
        start = expected[-1][0] if expected else 0
        expected += [(epoch + start, i, loss) for epoch, i, loss in losses(own)]
        files.append(own / "LanguageModel.safetensors")
        before.append(own / "best.safetensors")
    assert losses(out) == expected
    assert saved(out) == files[-1].read_bytes()
    assert stages(out) == [(1, 1, 1), (2, 2, 3), (3, 3, 4)]
    assert read_log(out)[0]["gradual"] == [2, 1]
    named = [line.split(",")[0] for line in lines if line.startswith("| stage")]
    assert named == [f"| stage {k} of 3: {k} layer{'s' * (k > 1)}" for k in (1, 2, 3)]
    if validated:
        bests = [load_arrays(file, only_header=True)[1]["extra"]["best"] for file in before]
        assert (
            load_arrays(out / "best.safetensors", only_header=True)[1]["extra"]["best"] == bests[2]
        )


def interrupted_at(monkeypatch, count, *arguments):
    """Run a command that stops after so many iterations."""
    seen, step = [], Run.step

    def stop(self, now):
        step(self, now)
        seen.append(now)
        if len(seen) == count:
            self.trainer.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", stop)
        assert main(list(arguments)) == 1  # no signal
    assert len(seen) == count


@pytest.mark.parametrize("options", [PLAIN, VALIDATED, AVERAGED], ids=["", "valid", "averaged"])
def test_interrupted_in_every_stage(tmp_path, text, valid, options, capsys, monkeypatch):
    """Within a stage, at its last iteration, at the first one of the next: the same bits."""
    arguments = ["train", text, *CUSTOM, *SMALL, *QUIET, *options]
    arguments += [] if options is PLAIN else ["--valid", valid]
    whole, out = tmp_path / "whole", tmp_path / "out"
    ok(capsys, *arguments, "--out", str(whole))
    epoch = sum(entry["event"] == "train" and entry["epoch"] == 1 for entry in read_log(whole))
    assert epoch > 12
    done = 0
    for place in (7, 2 * epoch, 2 * epoch + 1, 2 * epoch + 9, 3 * epoch, 4 * epoch - 3):
        again = ["train", "--resume", *QUIET] if done else arguments
        interrupted_at(monkeypatch, place - done, *again, "--out", str(out))
        done = place
    capsys.readouterr()
    lines = ok(capsys, "train", "--resume", *QUIET, "--out", str(out))
    assert "| stage 3 of 3: 3 layers, epochs 4 to 5, " in "\n".join(lines)
    assert losses(out) == losses(whole)
    assert saved(out) == saved(whole)
    assert [k for k, *_ in stages(out)] == [1, 1, 1, 2, 2, 2, 2, 3, 3]  # begun or resumed


@pytest.mark.parametrize("saves", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.one_in(4)
def test_killed_between_two_stages(tmp_path, text, valid, saves, validated, capsys, monkeypatch):
    """Before and after the checkpoint with which a stage begins."""
    arguments = ["train", text, *CUSTOM, *SMALL, *QUIET, *(VALIDATED if validated else PLAIN)]
    arguments += ["--valid", valid] if validated else []
    whole, out = tmp_path / "whole", tmp_path / "out"
    ok(capsys, *arguments, "--out", str(whole))
    begin = Run.begin

    def kill(self, *given):
        if saves:
            begin(self, *given)
        raise KeyboardInterrupt

    for again in False, True:  # at each of the two borders
        with monkeypatch.context() as patch:
            patch.setattr(Run, "begin", kill)
            call = ["train", "--resume", *QUIET] if again else arguments
            assert main([*call, "--out", str(out)]) == 130
    ok(capsys_of(capsys), "train", "--resume", *QUIET, "--out", str(out))
    assert losses(out) == losses(whole)
    assert saved(out) == saved(whole)


def capsys_of(capsys):
    """capsys, without what was printed before."""
    capsys.readouterr()
    return capsys


def test_a_divergence_goes_back_to_its_stage(tmp_path, text, capsys, monkeypatch):
    """The new layer's first checkpoint is there before its first iteration."""
    out, step = tmp_path / "out", Run.step

    def ruin(self, now):
        step(self, now)
        if self.stage.number == 2 and now.iter == 2:
            self.model.params[-1][0] = 1e30

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", ruin)
        arguments = ["train", text, *CUSTOM, *SMALL, *QUIET, "--out", str(out)]
        assert main(arguments) == 1
    assert "training diverged" in capsys.readouterr().err
    lines = ok(capsys, "train", "--resume", *QUIET, "--out", str(out), "--lr", "0.001")
    assert any(line.startswith("| stage 2 of 3") for line in lines)
    model, _ = load_model(out / "LanguageModel.safetensors")
    assert len(model.recurrent_layers) == 3
    assert all(np.isfinite(param).all() for param in model.params)


def test_more_epochs_are_those_of_the_last_stage(tmp_path, text, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = [text, *SMALL, *QUIET, *CUSTOM[:-2]]
    ok(capsys, "train", *arguments, "--epochs", "5", "--out", str(whole))
    ok(capsys, "train", *arguments, "--epochs", "4", "--out", str(out))
    ok(capsys, "train", "--resume", "--epochs", "5", *QUIET, "--out", str(out))
    assert losses(out) == losses(whole) and saved(out) == saved(whole)
    assert "--epochs must be above 3, the sum of --gradual, got 3" in failing(
        capsys, "train", "--resume", "--epochs", "3", "--out", str(out)
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--layers", "1"],
            "--gradual must have 0 numbers with --layers 1, one for each layer but",
        ),
        (
            ["--layers", "4"],
            "--gradual must have 3 numbers with --layers 4, one for each layer but",
        ),
        (["--epochs", "3"], "--epochs must be above 3, the sum of --gradual, got 3"),
        (["--model", "better"], "--gradual goes with --model custom, not with --model better"),
        (["--tie"], "--hidden must be --embedding = 6, tied, got 12"),
        (
            ["--mixtures", "2", "--mixtures-below", "2"],
            "--gradual: the model of stage 1: latent_W1 must be float32 (12, 12), found",
        ),
    ],
)
def test_what_does_not_go_together(tmp_path, text, more, message, capsys):
    """Said before anything is trained or written."""
    out = tmp_path / "out"
    given = [*CUSTOM, *SMALL, *QUIET, "--out", str(out), *more]
    assert message in failing(capsys, "train", text, *given)
    assert not out.exists()


@pytest.mark.parametrize("wrong", ["0", "2,", "2,x", ""])
def test_wrong_epochs(text, wrong, capsys):
    with pytest.raises(SystemExit):
        main(["train", text, *CUSTOM[:6], "--gradual", wrong])
    assert "--gradual: expected a positive integer, got" in capsys.readouterr().err


def test_from_python(tmp_path, text):
    sizes = {"hidden": 12, "embedding": 6, "batch_size": 4, "time_size": 10, "sample": 0}
    for wrong in (2,), [2.0], [True], "2":
        with pytest.raises(ValueError, match="--gradual must be a list of integers from 1 up, got"):
            train(
                str(tmp_path / "out"), file=text, model="custom", layers=2, gradual=wrong, **sizes
            )
    given = {"model": "custom", "layers": 2, "gradual": [1], "epochs": 2, "plot_curve": False}
    train(str(tmp_path / "out"), file=text, **given, **sizes)
    assert stages(tmp_path / "out") == [(1, 1, 1), (2, 2, 2)]


def test_a_damaged_checkpoint(tmp_path, text, capsys):
    from rnnfast.io.weights import save_arrays

    out = tmp_path / "out"
    ok(capsys, "train", text, *CUSTOM, *SMALL, *QUIET, "--out", str(out))
    path = out / "checkpoint.safetensors"
    arrays, whole = load_arrays(path)
    for stage in 0, 4, "2", None:
        whole["extra"]["stage"] = stage
        save_arrays(path, arrays, whole)
        error = failing(capsys, "train", "--resume", "--out", str(out))
        assert "not a checkpoint of `rnnfast train` (" in error and "extra.stage" in error
