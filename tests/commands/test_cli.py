"""The command line from outside: files, lines, exit codes."""

import importlib.util
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cases import PATIENCE
from shell import LINE, SMALL, command, failing, no_such_file, read_log, run

import rnnfast
from rnnfast.commands.main import main
from rnnfast.models import Rnnlm, load_model

NO_MATPLOTLIB = "import sys; sys.modules['matplotlib'] = None"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("she sells sea shells by the sea shore.\n" * 50, encoding="utf-8")
    return str(path)


def test_train_end_to_end(tmp_path, text):
    out = tmp_path / "out"
    arguments = ["train", text, "--out", str(out), *SMALL, "--epochs", "6", "--sample", "40"]
    done = run(*arguments, "--eval-interval", "15", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")

    lines = done.stdout.splitlines()
    assert lines[0] == f"{text}: 1,950 characters, 13 different"
    assert (
        lines[1]
        == f"Rnnlm on {Rnnlm(2, 2, 2).lstm_layer.device}: embedding 6, hidden 12, 1,159 parameters"
    )
    progress = [line for line in lines if LINE.fullmatch(line)]
    assert len(progress) == 6 * 4  # 46 iterations an epoch: 1, 16, 31, 46
    assert progress[0].startswith("| epoch 1 | iter 1 / 46 | time ")
    assert progress[-1].startswith("| epoch 6 | iter 46 / 46 | time ")

    log = read_log(out)
    assert [entry["event"] for entry in log] == ["start", *["train"] * 24, "held_out"]
    assert (log[0]["characters"], log[0]["vocab_size"], log[0]["seed"]) == (1950, 13, 3)
    for line, entry in zip(progress, log[1:-1], strict=True):
        assert line.endswith(f"perplexity {entry['perplexity']:.2f}")
        assert line.startswith(f"| epoch {entry['epoch']} | iter {entry['iter']} / 46 ")
    perplexities = [entry["perplexity"] for entry in log[1:-1]]
    assert perplexities[0] == pytest.approx(13, rel=0.1)  # knows nothing
    assert perplexities[-1] < 2
    assert log[-1]["characters"] == 97
    assert log[-1]["perplexity"] < 2
    ppl = log[-1]["perplexity"]
    shown = f"{ppl:.2f} ({math.log2(ppl):.3f} bits per character)"
    shown += f", accuracy {log[-1]['accuracy']:.2%}"
    assert f"held-out perplexity (last 97 characters): {shown}" in lines

    model, vocabulary = load_model(out / "Rnnlm.safetensors")
    assert model.sizes == {"vocab_size": 13, "wordvec_size": 6, "hidden_size": 12}
    assert "".join(vocabulary) == "she labytor.\n"
    prompt = ("she sells sea shells by the sea shore.\n" * 2)[:64]
    assert f"prompt, the beginning of the text: {prompt!r}" in lines
    generated = done.stdout.partition("generated text (temperature 0.8):\n")[2]
    assert len(generated) == 41
    assert set(generated) <= set(vocabulary)

    files = {"Rnnlm.safetensors", "checkpoint.safetensors", "good.safetensors", "log.jsonl"}
    if importlib.util.find_spec("matplotlib"):
        files.add("perplexity.png")
        assert (out / "perplexity.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert set(os.listdir(out)) == files


def test_same_seed_same_files_with_or_without_matplotlib(tmp_path, text):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, ["1", "1", "2"], strict=True):
        arguments = ["train", text, "--out", str(folder), *SMALL, "--epochs", "1", "--seed", seed]
        done = run(*arguments, before=NO_MATPLOTLIB)
        assert (done.returncode, done.stderr) == (0, "")
        assert 'curve: not drawn, matplotlib is missing (pip install "rnnfast[plot]")' in (
            done.stdout.splitlines()
        )
        assert set(os.listdir(folder)) == {
            "Rnnlm.safetensors",
            "checkpoint.safetensors",
            "good.safetensors",
            "log.jsonl",
        }
    weights = [(folder / "Rnnlm.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    losses = [[entry.get("loss") for entry in read_log(folder)] for folder in folders]
    assert losses[0] == losses[1]


def test_progress_bar_and_lines_do_not_garble_each_other(tmp_path, text):
    """On one terminal: what a carriage return leaves of every line is a whole line of ours."""
    termios = pytest.importorskip("termios")
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 80))
    arguments = ["train", text, "--out", str(tmp_path / "out"), *SMALL, "--epochs", "2"]
    process = subprocess.Popen(command(*arguments, "--sample", "0"), stdout=end, stderr=end)
    os.close(end)
    written = read_all(terminal)
    assert process.wait(timeout=PATIENCE) == 0
    assert "/92 [" in written and "it/s" in written
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in written.split("\n")]
    assert sum(bool(LINE.fullmatch(line)) for line in lines) == 6
    assert not [line for line in lines if "it/s" in line]


def read_all(terminal):
    """What is written to a pseudo-terminal until its other end is closed."""
    parts = []
    try:
        while part := os.read(terminal, 65536):
            parts.append(part)
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_saves_first(tmp_path, text):
    out = tmp_path / "out"
    # A job that a shell puts into the background inherits an ignored SIGINT.
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    arguments = ["train", text, "--out", str(out), *SMALL, "--epochs", "1000000"]
    process = subprocess.Popen(
        command(*arguments, before=before),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    for line in process.stdout:
        if LINE.match(line):
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert stderr == f"rnnfast: interrupted; to go on: rnnfast train --out {out} --resume\n"
    assert stdout.splitlines()[-1] == f"checkpoint: {out / 'checkpoint.safetensors'}"
    assert not (out / "Rnnlm.safetensors").exists()  # it has not ended
    model, vocabulary = load_model(out / "checkpoint.safetensors")
    assert len(vocabulary) == 13
    assert all(np.isfinite(param).all() for param in model.params)
    assert [entry["event"] for entry in read_log(out)][:2] == ["start", "train"]


def test_version_and_info(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"rnnfast {rnnfast.__version__}\n"
    assert main(["info"]) == 0
    assert "rnnfast" in capsys.readouterr().out


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "rnnfast", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"rnnfast {rnnfast.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["train", "--epochs", "0"],
        ["train", "--hidden", "-1"],
        ["train", "--batch-size", "2.5"],
        ["train", "--lr", "nan"],
        ["train", "--max-grad", "0"],
        ["train", "--max-grad", "inf"],
        ["train", "--seed", "-1"],
        ["train", "--optimizer", "magic"],
        ["train", "a", "b"],
        ["eval", "model"],
        ["score", "model"],
        ["generate"],
        ["generate", "model", "--temperature", "-1"],
        ["generate", "model", "--top-p", "1.5"],
        ["generate", "model", "--top-k", "0"],
        ["generate", "model", "--stop", ""],
        ["data"],
        ["data", "wikipedia"],
        ["train", "--dropout", "1"],
        ["train", "--lr-decay", "1"],
        ["train", "--level", "byte"],
        ["train", "--model", "transformer"],
        ["train", "--save-every", "nan"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: rnnfast" in capsys.readouterr().err


def test_failures_before_training_starts(tmp_path, text, capsys):
    out = ["--out", str(tmp_path / "out")]
    missing = str(tmp_path / "missing.txt")
    error = failing(capsys, "train", missing, *out)
    assert error == f"rnnfast: {missing}: {no_such_file()}\n"
    assert "Is a directory" in failing(capsys, "train", str(tmp_path), *out)

    empty = tmp_path / "empty.txt"
    empty.touch()
    assert "empty.txt: the file is empty" in failing(capsys, "train", str(empty), *out)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    error = failing(capsys, "train", str(tmp_path / "latin.txt"), *out)
    assert "latin.txt: not UTF-8 text" in error
    assert "1,950 characters are too few" in failing(capsys, "train", text, *out)
    assert not (tmp_path / "out").exists()


def test_unwritable_folder(tmp_path, text, capsys):
    (tmp_path / "file").touch()
    for folder in ("file", "file/inside"):
        arguments = ["train", text, "--out", str(tmp_path / folder), *SMALL]
        assert str(tmp_path / "file") in failing(capsys, *arguments)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the reference column
def test_divergence(tmp_path, text, capsys):
    out = str(tmp_path / "out")
    arguments = ["train", text, "--out", out, *SMALL, "--optimizer", "sgd", "--lr", "1e30"]
    assert main(arguments) == 1
    assert "training diverged" in capsys.readouterr().err
    assert not os.path.exists(os.path.join(out, "Rnnlm.safetensors"))


def test_no_documentation_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    error = failing(capsys, "train", "--out", str(tmp_path / "out"))
    assert "pydoc_data.topics" in error and "name a text file" in error


def test_import_is_light():
    heavy = "tqdm", "matplotlib", "safetensors", "numba", "cupy"
    code = f"import sys, rnnfast.commands.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_progress_bar_needs_no_other_process():
    code = (
        "import sys\nfrom rnnfast.io.bars import bar\nwith bar(total=3) as shown:\n shown.update()"
    )
    code += "\nprint('multiprocessing' in sys.modules, shown.format_dict['total'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False 3\n", "")
