"""Options that contradict a file, each other, or what a run was started with."""

import os
from pathlib import Path

import pytest
from shell import LINES, QUIET, SMALL, failing, ok, read_log

from rnnfast import data, models
from rnnfast.commands.main import main
from rnnfast.commands.settings import stored_settings

TINY = [*SMALL, *QUIET, "--epochs", "1"]


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def words(tmp_path):
    """An untrained model of words, and its file."""
    vocabulary = data.WordVocabulary.from_text(LINES, unknown="<unk>")
    model = models.Rnnlm(len(vocabulary), 4, 5, rng=0)
    path = str(tmp_path / "words.safetensors")
    model.save_params(path, vocabulary)
    return path


def test_a_vocabulary_of_the_file_is_not_replaced(text, words, capsys):
    error = failing(capsys, "eval", words, text, "--vocabulary", text)
    assert "has a vocabulary of its own; leave --vocabulary out" in error
    error = failing(capsys, "eval", words, text, "--level", "char")
    assert "--level needs --vocabulary" in error


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("train", "--seed", 10**19),
        ("train", "--eval-interval", 2**63),
        ("generate", "--length", 10**19),
    ],
)
def test_numbers_that_no_checkpoint_could_store(command, option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "x", option, str(value)])
    assert stopped.value.code == 2
    wanted = f"argument {option}: expected an integer up to {2**63 - 1}, got '{value}'"
    assert wanted in capsys.readouterr().err


def test_a_run_that_averages_may_change_its_optimizer(text, out, capsys):
    averaged = ["--optimizer", "ntasgd", "--lr", "1", "--valid", text, "--nonmono", "3"]
    ok(capsys, "train", text, "--out", out, *TINY, *averaged)
    more = ["train", "--out", out, "--resume", "--epochs"]
    lines = ok(capsys, *more, "2", "--nonmono", "2")
    assert "  --nonmono: 3 before, 2 now" in lines
    lines = ok(capsys, *more, "3", "--optimizer", "asgd")
    assert "  --optimizer: ntasgd before, asgd now" in lines
    lines = ok(capsys, *more, "4", "--optimizer", "ntasgd", "--nonmono", "4")
    assert "  --nonmono: None before, 4 now" in lines


def test_no_other_weights_to_start_from_on_resume(text, out, tmp_path, capsys):
    ok(capsys, "train", text, "--out", out, *TINY)
    first = os.path.join(out, "Rnnlm.safetensors")
    other = str(tmp_path / "other")
    ok(capsys, "train", text, "--out", other, *TINY, "--init", first)
    ok(capsys, "train", "--out", other, "--resume", "--init", first)
    error = failing(capsys, "train", "--out", other, "--resume", "--init", "x.safetensors")
    assert "--resume: init is " in error and "leave it out" in error


def test_the_usual_learning_rate_on_resume(text, out, capsys):
    ok(capsys, "train", text, "--out", out, *TINY, "--lr", "0.123")
    lines = ok(capsys, "train", "--out", out, "--resume", "--epochs", "2", "--lr", "none")
    assert "  --lr: 0.123 before, 0.005 now" in lines


def test_units_of_the_layer_that_is_meant(tmp_path, capsys):
    vocabulary = data.CharVocabulary.from_text(LINES)
    model = models.LanguageModel(len(vocabulary), 4, 8, layers=2, last_hidden_size=4, rng=0)
    path = str(tmp_path / "two.safetensors")
    model.save_params(path, vocabulary)
    assert "--layer needs --unit" in failing(capsys, "cells", path, "the cat", "--layer", "1")
    for layer, unit, message in (
        ("1", "6", "--unit must be below 4 in layer 1, got 6"),
        ("2", "0", "--layer must be below 2, got 2"),
    ):
        error = failing(capsys, "cells", path, "the cat", "--layer", layer, "--unit", unit)
        assert message in error


def test_a_sample_without_the_unknown_token(tmp_path, out, capsys):
    path = tmp_path / "rare.txt"
    path.write_text("".join(f"a{chr(0x4E00 + k)}" for k in range(400)), encoding="utf-8")
    sizes = [*SMALL, "--epochs", "1", "--no-plot", "--min-count", "2", "--sample", "60"]
    lines = ok(capsys, "train", str(path), "--out", out, *sizes)
    assert lines[-1] == "a" * 60


def test_stop_within_a_word(words, capsys):
    lines = ok(capsys, "generate", words, "--prompt", "the", "--stop", "a", "--seed", "1")
    _, _, after = "\n".join(lines).removeprefix("the").partition("a")
    assert not any(map(str.isspace, after))  # the word with it was the last one


def test_no_text_first(words, capsys):
    plain = ok(capsys, "score", words, "the cat sat")
    bare = ok(capsys, "score", words, "the cat sat", "--prime", "")
    assert plain[0].endswith('"the"') and bare[0].endswith('"cat"')
    assert "(natural; 3 words" in plain[-2] and "(natural; 2 words" in bare[-2]
    (*_, log, _) = ok(capsys, "score", words, "the cat", "--prime", "")
    assert "(natural; 1 word)" in log


def test_dropout_of_a_model_without(text, out, capsys):
    error = failing(capsys, "train", text, "--out", out, *TINY, "--dropout", "0.5")
    assert "--dropout goes with --model better or custom, not with --model rnnlm" in error


def test_force_leaves_no_weights_of_the_run_before(text, out, capsys):
    ok(capsys, "train", text, "--out", out, *TINY, "--model", "simple", "--valid", text)
    assert {"SimpleRnnlm.safetensors", "best.safetensors"} <= {*os.listdir(out)}
    own = os.path.join(out, "mine.safetensors")
    os.link(os.path.join(out, "SimpleRnnlm.safetensors"), own)
    ok(capsys, "train", text, "--out", out, *TINY, "--force")
    weights = {file for file in os.listdir(out) if file.endswith(".safetensors")}
    assert weights == {f"{name}.safetensors" for name in ("Rnnlm", "checkpoint", "good", "mine")}
    assert read_log(Path(out))[0]["event"] == "start"


@pytest.fixture
def steep(tmp_path):
    """A model whose weights are so large that rounding them shows."""
    vocabulary = data.CharVocabulary.from_text(LINES)
    model = models.Rnnlm(len(vocabulary), 8, 16, rng=0)
    for param in model.params:
        param *= 4
    path = str(tmp_path / "steep.safetensors")
    model.save_params(path, vocabulary)
    return path


def number_after(lines, word):
    (found,) = (line for line in lines if line.startswith(word))
    return float(found.removeprefix(word).split()[0].rstrip(","))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_weights_of_fewer_bits(steep, text, precision, capsys):
    for command, given, word in (("score", LINES, "log-probability:"), ("eval", text, "loss:")):
        argv, warning = (command, steep, given), "worse than a blind guess"
        exact = number_after(ok(capsys, *argv, warning=warning), word)
        lines = ok(capsys, *argv, "--precision", precision, warning=warning)
        assert exact != number_after(lines, word) == pytest.approx(exact, rel=0.05)
    ok(capsys, "generate", steep, "--precision", precision, "--length", "5")
    error = failing(capsys, "eval", steep, text, "--dynamic", "--precision", precision)
    assert "--precision is not for --dynamic" in error


def test_states_that_are_never_reset(text, out, capsys):
    ok(capsys, "train", text, "--out", out, *TINY, "--restart-every", "0")
    stored, _, _ = stored_settings(os.path.join(out, "checkpoint.safetensors"), {})
    assert stored.restart_every == 0
