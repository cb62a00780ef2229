"""Options of several commands: --device and --threads, stdin, and progress."""

import io
import sys

import pytest
from shell import LINES, QUIET, SMALL, ok

import rnnfast
from rnnfast import kernels
from rnnfast.commands import generate as generating
from rnnfast.commands.main import main
from rnnfast.models import load_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """-> a text, and the weights of a model of it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(LINES * 30, encoding="utf-8")
    out = folder / "out"
    arguments = [*SMALL, *QUIET, "--epochs", "1", "--out", str(out)]
    assert main(["train", str(folder / "text.txt"), *arguments]) == 0
    return str(folder / "text.txt"), str(out / "Rnnlm.safetensors")


@pytest.fixture
def calls(monkeypatch):
    """The device and the number of threads at every model that is opened."""
    seen, usual = [], generating.open_model

    def open_model(*arguments):
        seen.append((kernels.get_device(), kernels.get_num_threads()))
        return usual(*arguments)

    for command in ("generate", "score", "eval"):
        monkeypatch.setattr(f"rnnfast.commands.{command}.open_model", open_model)
    return seen


@pytest.mark.parametrize("command", ["generate", "score", "eval"])
def test_device_and_threads(trained, command, calls, capsys):
    text, model = trained
    arguments = {"generate": ["--length", "3"], "score": ["the cat"], "eval": [text]}[command]
    before = kernels.get_device(), rnnfast.get_num_threads()
    usual = ok(capsys, command, model, *arguments, *(["--seed", "0"] * (command == "generate")))
    chosen = ["--device", "reference", "--threads", "3"]
    more = ["--seed", "0"] if command == "generate" else []
    lines = ok(capsys, command, model, *arguments, *more, *chosen)
    assert calls == [before, ("reference", 3)]
    assert (kernels.get_device(), rnnfast.get_num_threads()) == before
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in usual]


def test_training_on_a_device(trained, tmp_path, capsys):
    text, _ = trained
    arguments = [*SMALL, *QUIET, "--epochs", "1", "--out", str(tmp_path / "out")]
    lines = ok(capsys, "train", text, *arguments, "--device", "reference", "--threads", "2")
    assert lines[1].startswith("Rnnlm on reference: ")
    model, _ = load_model(tmp_path / "out" / "Rnnlm.safetensors")
    assert model.layers[0].device != "reference"  # a file has no device


def test_wrong_devices_and_threads(trained, capsys):
    _, model = trained
    for wrong in (
        ["--device", "tpu"],
        ["--threads", "0"],
        ["--threads", "1025"],
        ["--threads", "x"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(["generate", model, *wrong])
        assert caught.value.code == 2
        assert wrong[0] in capsys.readouterr().err
    if "cuda" not in rnnfast.devices():
        assert main(["generate", model, "--device", "cuda"]) == 1
        assert "rnnfast: device 'cuda' is not usable" in capsys.readouterr().err


def test_a_prompt_from_stdin(trained, capsys, monkeypatch):
    _, model = trained
    given = ["generate", model, "--length", "9", "--seed", "0"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\nsat"))
    lines = ok(capsys, *given, "--prompt", "-")
    assert lines[0] == "the cat" and lines[1].startswith("sat")
    assert lines == ok(capsys, *given, "--prompt", "the cat\nsat")
    monkeypatch.setattr(sys, "stdin", None)
    assert main([*given, "--prompt", "-"]) == 1
    assert capsys.readouterr().err == "rnnfast: --prompt is - but stdin is closed\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"gr\xfcn"), encoding="utf-8"))
    assert main([*given, "--prompt", "-"]) == 1
    error = "--prompt: stdin: not UTF-8 text (byte 0xfc: invalid start byte)"
    assert capsys.readouterr().err.startswith(f"rnnfast: {error}")
    for typed in b"the cat\r\nsat", b"\xef\xbb\xbfthe cat\nsat":  # as files are read
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="latin-1"))
        assert lines == ok(capsys, *given, "--prompt", "-")


def test_a_wrong_device_in_the_environment_is_no_fault_of_the_file(trained, capsys, monkeypatch):
    _, model = trained
    monkeypatch.setenv("RNNFAST_DEVICE", "tpu")
    assert main(["generate", model]) == 1
    assert capsys.readouterr().err.startswith("rnnfast: RNNFAST_DEVICE must be one of ")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], ["perplexity", "accuracy"]),
        (["--cache", "5"], ["perplexity"]),
        (["--dynamic", "rms", "--dynamic-text", "TEXT"], ["mean squares", "perplexity"]),
    ],
)
def test_progress_of_eval(trained, options, named, capsys, monkeypatch):
    """On a terminal, a bar for each measure, up to its last batch."""
    text, model = trained
    options = [text if option == "TEXT" else option for option in options]
    quiet = ok(capsys, "eval", model, text, *options)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    monkeypatch.setattr("rnnfast.training.callbacks.ProgressBar.show", spy(seen := []))
    assert main(["eval", model, text, *options]) == 0
    assert capsys.readouterr().out.splitlines() == quiet
    assert [what for what, done, total in seen if done == total] == named
    for what in named:
        counts = [done for name, done, _ in seen if name == what]
        assert counts == list(range(1, len(counts) + 1))
    assert "it/s" in terminal.getvalue()


def spy(seen):
    from rnnfast.training.callbacks import ProgressBar

    usual = ProgressBar.show

    def show(self, done, total):
        usual(self, done, total)
        assert (self.bar.n, self.bar.total) == (done, total)
        seen.append((self.bar.desc.removesuffix(": "), done, total))

    return show
