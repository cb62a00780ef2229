"""The commands beside a plain `rnnfast train`: words, validation, resuming, trained models."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time

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
    naive_logs,
    no_such_file,
    ok,
    read_log,
    run,
)

from rnnfast import io, plot
from rnnfast.commands import inputs, settings
from rnnfast.commands.main import main
from rnnfast.data import CharVocabulary, WordVocabulary
from rnnfast.inspection import colours, units
from rnnfast.models import BetterRnnlm, Rnnlm, load_model
from rnnfast.trainer import PerplexityWarning, eval_accuracy, eval_perplexity
from rnnfast.training import evaluation, scoring

KOREAN = "나 보기가 역겨워 가실 때에는\n말없이 고이 보내 드리우리다\n"


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other.txt"
    path.write_text("the cat sat on the dog\nthe yak sang\n" * 4, encoding="utf-8")
    return str(path)


# Training


def test_words_with_validation_and_test(tmp_path, text, other, capsys):
    out = tmp_path / "out"
    arguments = ["train", text, "--level", "word", "--valid", other, "--test", other]
    arguments += ["--optimizer", "sgd", "--lr", "60", "--lr-decay", "4", "--epochs", "6"]
    arguments += ["--out", str(out), *SMALL, "--sample", "5", "--no-plot"]
    lines = ok(capsys, *arguments, warning="is above the vocabulary's 12: worse than a blind guess")
    assert lines[0] == f"{text}: 720 words, 12 different"  # eleven, and <unk>
    log = read_log(out)
    assert (log[0]["words"], log[0]["vocab_size"]) == (720, 12)
    valid = [entry for entry in log if entry["event"] == "valid"]
    assert [entry["epoch"] for entry in valid] == [1, 2, 3, 4, 5, 6]
    best, lr = math.inf, 60.0
    for entry in valid:
        assert entry["lr"] == lr
        shown = f"| epoch {entry['epoch']} | validation perplexity {entry['perplexity']:.2f}"
        shown += f", accuracy {entry['accuracy']:.2%}"
        if entry["perplexity"] < best:
            best = entry["perplexity"]
        else:
            lr /= 4
            shown += f" | lr {lr:g}"
        assert shown in lines
    assert lr < 60  # it happened

    model, vocabulary = inputs.open_model(out / "Rnnlm.safetensors")
    assert isinstance(vocabulary, WordVocabulary)
    assert vocabulary.tokens[:6] == ["the", "cat", "sat", "on", "mat", "<eos>"]
    assert vocabulary.unknown == "<unk>"
    ids = vocabulary.encode("the cat sat on the dog\nthe yak sang\n" * 4)
    # The weights are the best epoch's, and the test is made with them.
    prime = np.array(vocabulary.prime)  # the training text's end
    assert 64 <= len(prime) <= 128
    np.testing.assert_array_equal(prime, vocabulary.encode(LINES * 40)[-len(prime) :])
    with pytest.warns(PerplexityWarning):
        assert eval_perplexity(model, ids, 1, 35, prime=prime) == best
    accuracy = eval_accuracy(model, ids, 1, 35, prime=prime)
    found = {"perplexity": best, "accuracy": accuracy}
    assert log[-1] == {"event": "test", "words": len(ids), **found}
    assert f"test perplexity: {best:.2f}, accuracy {accuracy:.2%}" in lines
    assert len(lines[-1].split()) <= 5


def test_unknown_characters_in_a_validation_text(tmp_path, capsys):
    text, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    text.write_text(KOREAN * 20, encoding="utf-8")
    valid.write_text("나 보기가 싫어\n", encoding="utf-8")
    out = str(tmp_path / "out")
    arguments = ["--valid", str(valid), "--out", out, *SMALL, *QUIET, "--epochs", "2"]
    lines = ok(capsys, "train", str(text), *arguments)
    different = len(set(KOREAN)) + 1
    assert lines[0] == f"{text}: {20 * len(KOREAN)} characters, {different} different"
    model = os.path.join(out, "Rnnlm.safetensors")
    lines = ok(capsys, "eval", model, str(valid))
    assert lines[0] == f"{valid}: 9 characters, 2 of them \ufffd"
    lines = ok(capsys, "generate", model, "--prompt", "나 보", "--length", "50", "--seed", "1")
    generated = "\n".join(lines)
    assert generated.startswith("나 보")
    assert set(generated) <= set(KOREAN)  # the unknown character is never drawn


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_file_name_that_is_no_text(tmp_path, text, capsys):
    name, out = os.fsdecode(b"caf\xe9.txt"), tmp_path / "out"
    os.rename(text, tmp_path / name)
    ok(capsys, "train", str(tmp_path / name), "--out", str(out), *SMALL, *QUIET, "--epochs", "1")
    ok(capsys, "train", "--out", str(out), "--resume", "--epochs", "2")
    assert read_log(out)[0]["text"] == str(tmp_path / name)


def test_better_and_its_sizes(tmp_path, text, capsys):
    out = str(tmp_path / "out")
    arguments = ["--model", "better", "--hidden", "8", "--dropout", "0.2", "--out", out, *QUIET]
    arguments += ["--batch-size", "4", "--time-size", "10", "--epochs", "1", "--seed", "7"]
    lines = ok(capsys, "train", text, *arguments)
    model, _ = load_model(os.path.join(out, "BetterRnnlm.safetensors"))
    assert type(model) is BetterRnnlm
    assert model.sizes == {
        "vocab_size": 17,
        "wordvec_size": 8,
        "hidden_size": 8,
        "dropout_ratio": 0.2,
    }
    count = 17 * 8 + 2 * (8 * 32 + 8 * 32 + 32) + 17  # the tied matrix once
    assert lines[1].endswith(f"embedding 8, hidden 8, {count:,} parameters")


@pytest.mark.parametrize("optimizer", settings.RULES)
def test_optimizers_learn_with_their_usual_rate(tmp_path, text, optimizer, capsys):
    out = tmp_path / "out"
    arguments = ["--optimizer", optimizer, "--out", str(out), *SMALL, *QUIET, "--epochs", "5"]
    arguments += ["--valid", text] if optimizer == "ntasgd" else []
    ok(capsys, "train", text, *arguments)
    log = read_log(out)
    assert log[0]["lr"] == settings.RULES[optimizer][1]
    assert log[-1]["perplexity"] < 9  # of 17


def test_wrong_training_arguments(tmp_path, text, other, capsys):
    out = ["--out", str(tmp_path / "out"), *SMALL]
    for arguments, message in [
        (["--lr-decay", "4"], "--lr-decay needs --valid"),
        (["--cell", "gru"], "--cell goes with --model custom, not with --model rnnlm"),
        (["--rank", "4"], "--rank goes with --model custom, not with --model rnnlm"),
        (
            ["--model", "custom", "--rounds", "4"],
            "--rounds must be left out with --cell 'lstm', got",
        ),
        (["--proj-size", "4"], "--proj-size goes with --model custom, not with --model rnnlm"),
        (["--model", "custom", "--proj-size", "4"], "--proj-size must be left out with"),
        (["--heads", "2"], "--heads goes with --model custom, not with --model rnnlm"),
        (["--model", "custom", "--heads", "2"], "--heads must be left out with --cell"),
        (["--tie"], "--tie goes with --model custom"),
        (["--alpha", "2"], "--alpha goes with --model custom, not with --model rnnlm"),
        (["--dropout", "0.5"], "--dropout goes with --model better or custom"),
        (["--model", "better", "--layers", "3"], "--layers goes with --model custom, not with"),
        (["--model", "better"], "rnnfast: --hidden must be --embedding = 6, tied, got"),
        (["--valid", str(tmp_path / "no.txt")], f"no.txt: {no_such_file()}"),
        (["--resume"], f"checkpoint.safetensors: {no_such_file(tmp_path / 'out' / 'x')}"),
    ]:
        assert message in failing(capsys, "train", text, *arguments, *out)
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert "the file is empty" in failing(capsys, "train", text, "--test", str(empty), *out)
    empty.write_text("a", encoding="utf-8")
    error = failing(capsys, "train", text, "--valid", str(empty), *out)
    assert "empty.txt: needs at least 2 characters, got 1" in error
    assert not (tmp_path / "out").exists()


def test_options_of_several_ranks_in_one_process(tmp_path, text, capsys):
    arguments = ["train", text, *SMALL, *QUIET, "--epochs", "1"]
    plain = ok(capsys, *arguments, "--out", str(tmp_path / "plain"))
    given = ["--sync-every", "3", "--compress", "--verbose"]
    lines = ok(capsys, *arguments, *given, "--out", str(tmp_path / "given"))
    idle = "without effect, as this is one process, not started by mpiexec: "
    assert idle + "--sync-every, --compress, --verbose" in lines
    assert len(lines) == len(plain) + 1 and not any(line.startswith(idle) for line in plain)


def test_plot_is_required_or_not_wanted(tmp_path, text):
    arguments = ["train", text, "--out", str(tmp_path / "out"), *SMALL, "--epochs", "1"]
    before = "import sys; sys.modules['matplotlib'] = None"
    done = run(*arguments, "--plot", before=before)
    assert done.returncode == 1
    assert done.stderr == 'rnnfast: matplotlib is missing: pip install "rnnfast[plot]"\n'
    assert not (tmp_path / "out").exists()
    done = run(*arguments, "--no-plot")
    assert done.returncode == 0
    assert "curve" not in done.stdout
    assert "perplexity.png" not in os.listdir(tmp_path / "out")


# Resuming

MODES = {
    "held out": [],
    "validation": ["--lr-decay", "4", "--optimizer", "sgd"],
}


def run_arguments(text, other, out, mode):
    arguments = ["train", text, "--out", str(out), *SMALL, *QUIET, "--epochs", "9"]
    arguments += ["--eval-interval", "1", *MODES[mode]]
    return arguments + (["--valid", other, "--test", other] if mode == "validation" else [])


def same_files(one, two):
    for name in ("Rnnlm.safetensors", "perplexity.png"):
        assert os.path.exists(one / name) == os.path.exists(two / name)
    first, second = ((folder / "Rnnlm.safetensors").read_bytes() for folder in (one, two))
    assert first == second
    assert losses(one) == losses(two)
    endings = [read_log(folder)[-1] for folder in (one, two)]
    assert endings[0] == endings[1]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.one_in(2)
def test_kill_and_resume_equals_uninterrupted(tmp_path, text, other, mode, capsys):
    """Killed three times at a moment that nobody chose, also while it writes a checkpoint."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ok(capsys, *run_arguments(text, other, whole, mode))
    arguments = [*run_arguments(text, other, killed, mode), "--save-every", "0"]
    for attempt in range(3):
        resume = ["--resume"] if attempt else []
        process = subprocess.Popen(
            command(*arguments, *resume),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=4096,  # so that it cannot end long before it is read
            encoding="utf-8",
        )
        seen = 0
        for line in process.stdout:
            seen += bool(LINE.match(line))
            if seen == 10:
                break
        time.sleep(0.01 * attempt)
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert (process.returncode, stderr) == (-signal.SIGKILL, "")
    (killed / "checkpoint.safetensors.1.tmp").touch()  # as one that was cut short leaves it
    lines = ok(capsys, "train", "--out", str(killed), "--resume", *QUIET)
    assert not [name for name in os.listdir(killed) if name.endswith(".tmp")]
    assert any(line.startswith("resumed in epoch ") for line in lines)
    same_files(whole, killed)
    assert [entry["event"] for entry in read_log(killed)].count("resume") >= 1


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_and_resume_equals_uninterrupted(tmp_path, text, other, mode, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    ok(capsys, *run_arguments(text, other, whole, mode))
    process = subprocess.Popen(
        command(
            *run_arguments(text, other, stopped, mode),
            before="import signal; signal.signal(signal.SIGINT, signal.default_int_handler)",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=4096,  # so that it cannot end long before it is read
        encoding="utf-8",
    )
    seen = 0
    for line in process.stdout:
        seen += bool(LINE.match(line))
        if seen == 30:
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    command_line = f"rnnfast train --out {stopped} --resume"
    assert process.returncode == 130
    assert stderr == f"rnnfast: interrupted; to go on: {command_line}\n"
    assert stdout.splitlines()[-1] == f"checkpoint: {stopped / 'checkpoint.safetensors'}"
    load_model(stopped / "checkpoint.safetensors")
    ok(capsys, "train", text, "--resume", "--out", str(stopped), *QUIET)
    same_files(whole, stopped)


def test_more_epochs_than_before(tmp_path, text, capsys):
    whole, more = tmp_path / "whole", tmp_path / "more"
    arguments = [text, *SMALL, *QUIET, "--seed", "3"]
    ok(capsys, "train", *arguments, "--out", str(whole), "--epochs", "4")
    ok(capsys, "train", *arguments, "--out", str(more), "--epochs", "2")
    ok(capsys, "train", *arguments, "--out", str(more), "--epochs", "4", "--resume")
    same_files(whole, more)
    # And a run that is finished has nothing left to do.
    lines = ok(capsys, "train", *arguments, "--out", str(more), "--epochs", "4", "--resume")
    assert not [line for line in lines if LINE.match(line)]
    same_files(whole, more)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_while_a_finished_run_saves(tmp_path, text, capsys, monkeypatch):
    """There is nothing left to train when it is resumed."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = ["train", text, *SMALL, *QUIET, "--epochs", "2"]
    ok(capsys, *arguments, "--out", str(whole))
    with monkeypatch.context() as patch:
        save = Rnnlm.save_params

        def save_and_interrupt(model, *args):
            signal.raise_signal(signal.SIGINT)
            save(model, *args)

        patch.setattr(Rnnlm, "save_params", save_and_interrupt)
        assert main([*arguments, "--out", str(stopped)]) == 130
        capsys.readouterr()
    lines = ok(capsys, *arguments, "--out", str(stopped), "--resume")
    assert not [line for line in lines if LINE.match(line)]
    same_files(whole, stopped)


def test_a_log_on_a_full_disk_is_named(tmp_path, text, capsys, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    out = tmp_path / "out"
    out.mkdir()
    os.symlink("/dev/full", out / "log.jsonl")
    assert main(["train", text, "--out", str(out), *SMALL, *QUIET, "--force"]) == 1
    error = capsys.readouterr().err
    assert error == f"rnnfast: {out / 'log.jsonl'}: No space left on device\n"


def test_what_cannot_be_resumed(tmp_path, text, other, capsys):
    out = tmp_path / "out"
    ok(capsys, "train", text, "--out", str(out), *SMALL, *QUIET, "--epochs", "1")
    before = (out / "checkpoint.safetensors").read_bytes()
    resume = ["train", "--out", str(out), "--resume"]
    error = failing(capsys, *resume, "--hidden", "13")
    assert "--resume: hidden is 12 in" in error and "got 13; leave it out" in error
    error = failing(capsys, *resume, "--valid", other)
    assert "valid is None in" in error
    error = failing(capsys, *resume[:1], other, *resume[1:])
    assert f"other.txt: not the text that {out / 'checkpoint.safetensors'} was made with" in error
    (out / "checkpoint.safetensors").write_bytes(before[:-9])
    assert "not a complete safetensors file" in failing(capsys, *resume)
    (out / "checkpoint.safetensors").write_bytes(before)
    arrays, header = io.load_arrays(out / "checkpoint.safetensors")
    for change in ({"batch_size": "4"}, {"colour": "red"}, {"seed": None}, {"restart_every": "1"}):
        extra = {**header["extra"], "settings": header["extra"]["settings"] | change}
        io.save_arrays(out / "checkpoint.safetensors", arrays, {**header, "extra": extra})
        assert "not a checkpoint of `rnnfast train`" in failing(capsys, *resume)
    Rnnlm(3, 3, 3).save_params(out / "checkpoint.safetensors")
    assert "not a checkpoint of `rnnfast train`" in failing(capsys, *resume)
    assert {entry["event"] for entry in read_log(out)} == {"start", "train", "held_out"}


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_loses_nothing(tmp_path, text, capsys):
    """The run ends with a message; what was saved before is whole, and goes on to the same end."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = [text, *SMALL, *QUIET, "--eval-interval", "50", "--seed", "3"]
    ok(capsys, "train", *arguments, "--out", str(whole), "--epochs", "4")
    ok(capsys, "train", *arguments, "--out", str(out), "--epochs", "2")
    kept = {name: (out / name).read_bytes() for name in os.listdir(out)}
    size = len(kept["checkpoint.safetensors"]) - 100
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    resume = ["train", *arguments, "--out", str(out), "--epochs", "4", "--resume"]
    done = run(*resume, before=limit)
    assert done.returncode == 1
    assert done.stderr == f"rnnfast: {out / 'checkpoint.safetensors'}: File too large\n"
    assert set(os.listdir(out)) == set(kept)
    for name in ("checkpoint.safetensors", "Rnnlm.safetensors"):
        assert (out / name).read_bytes() == kept[name]
    ok(capsys, *resume)
    same_files(whole, out)


# Trained models


@pytest.fixture
def characters(tmp_path):
    """A character model that knows some letters and the end of a line."""
    path = tmp_path / "Rnnlm.safetensors"
    model = Rnnlm(5, 4, 6, rng=1)
    model.save_params(path, CharVocabulary("ab \nc"))
    return str(path), model


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.safetensors"
    model = Rnnlm(4, 4, 6, rng=2)
    model.save_params(path, WordVocabulary(["<eos>", "hi", "there", "<unk>"], "<unk>"))
    return str(path), model


def naive_right(model, ids):
    """Whether each id but the first is the likeliest."""
    model.reset_state()
    guesses = model.predict(np.array([ids]))[0].argmax(axis=1)
    model.reset_state()
    return [guesses[i] == ids[i + 1] for i in range(len(ids) - 1)]


def test_score_of_words(words, capsys):
    path, model = words
    logs = naive_logs(model, [0, 1, 3, 0, 2])
    lines = ok(capsys, "score", path, "hi you\nthere")
    tokens = ["hi", "<unk>", "<eos>", "there"]
    expected = [f'{v:10.4f}  "{t}"' for v, t in zip(logs, tokens, strict=True)]
    assert lines[:4] == expected
    assert lines[4] == f"log-probability: {sum(logs):.4f} (natural; 4 words, 1 of them <unk>)"
    accuracy = sum(naive_right(model, [0, 1, 3, 0, 2])) / 4
    assert lines[5] == f"perplexity: {math.exp(-sum(logs) / 4):.2f}, accuracy: {accuracy:.2%}"


def test_score_of_characters_from_stdin(characters, capsys, monkeypatch):
    path, model = characters
    logs = naive_logs(model, [3, 0, 1, 3])

    class Stdin:
        def read(self):
            return "ab\n"

    monkeypatch.setattr(sys, "stdin", Stdin())
    lines = ok(capsys, "score", path, "-")
    assert lines[2] == f'{logs[2]:10.4f}  "\\n"'
    mean = -sum(logs) / 3
    bits = f"({mean / math.log(2):.3f} bits per character)"
    accuracy = sum(naive_right(model, [3, 0, 1, 3])) / 3
    assert lines[4] == f"perplexity: {math.exp(mean):.2f} {bits}, accuracy: {accuracy:.2%}"
    error = failing(capsys, "score", path, "abx")
    assert "character 'x' at position 2 is not among the vocabulary's 5 characters" in error
    assert "too few to score" in failing(capsys, "score", path, "")


def test_score_of_a_long_text_in_pieces(characters, monkeypatch):
    _, model = characters
    ids = np.random.default_rng(0).integers(0, 5, 50)
    whole = scoring.log_probabilities(model, ids)
    np.testing.assert_allclose(whole, naive_logs(model, ids.tolist()), rtol=0, atol=1e-6)
    monkeypatch.setattr(scoring, "SCORE_STEPS", 7)
    np.testing.assert_allclose(scoring.log_probabilities(model, ids), whole, rtol=0, atol=1e-6)
    assert model.get_state()[0][0] is None
    assert model.params[1].flags.writeable


def test_score_without_a_beginning(tmp_path, capsys):
    """Where the vocabulary has no end of a line, the first token has nothing before it."""
    model = Rnnlm(3, 4, 6, rng=1)
    model.save_params(tmp_path / "m.safetensors", CharVocabulary("abc"))
    lines = ok(capsys, "score", str(tmp_path / "m.safetensors"), "abc")
    assert lines[0] == f'{naive_logs(model, [0, 1, 2])[0]:10.4f}  "b"'
    assert "(natural; 2 characters)" in lines[2]
    assert "too few" in failing(capsys, "score", str(tmp_path / "m.safetensors"), "a")


def test_eval(characters, tmp_path, capsys):
    path, model = characters
    file = tmp_path / "text.txt"
    text = "ab ba\nc" * 60
    file.write_text(text, encoding="utf-8")
    ids = CharVocabulary("ab \nc").encode(text)
    ppl = eval_perplexity(model, ids)
    lines = ok(capsys, "eval", path, str(file))
    assert lines[0] == f"{file}: 420 characters"
    accuracy = eval_accuracy(model, ids)
    assert lines[1] == f"loss: {math.log(ppl):.4f}, accuracy: {accuracy:.2%}"
    assert lines[2] == f"perplexity: {ppl:.2f} ({math.log2(ppl):.3f} bits per character)"
    lines = ok(capsys, "eval", path, str(file), "--batch-size", "3", "--time-size", "11")
    assert lines[2].startswith(f"perplexity: {eval_perplexity(model, ids, 3, 11):.2f} ")
    file.write_text("ab ba", encoding="utf-8")  # one batch of four steps
    lines = ok(capsys, "eval", path, str(file))
    mean = -sum(naive_logs(model, ids[:5].tolist())) / 4
    assert lines[2].startswith(f"perplexity: {math.exp(mean):.2f} ")
    error = failing(capsys, "eval", path, str(file), "--batch-size", "9", "--time-size", "9")
    assert "9 x 9 needs at least 82 ids, got 5" in error
    file.write_text("abz", encoding="utf-8")
    error = failing(capsys, "eval", path, str(file))
    assert "text.txt: character 'z' at position 2" in error


def test_eval_of_the_books_pickle(tmp_path, capsys):
    train, file = tmp_path / "train.txt", tmp_path / "file.txt"
    train.write_text(LINES, encoding="utf-8")
    file.write_text("the cat sang\n" * 40, encoding="utf-8")
    vocabulary = WordVocabulary.from_text(LINES)
    ids = vocabulary.encode("the cat sang\n" * 40)
    for model in (Rnnlm(11, 5, 6, rng=1), BetterRnnlm(11, 6, 6, rng=1)):
        pickled = str(tmp_path / "weights.pkl")
        with open(pickled, "wb") as stream:
            pickle.dump([param.astype(np.float16) for param in model.params], stream)
        model.load_params(pickled)
        ppl, accuracy = (
            evaluation.evaluate(model, ids),
            evaluation.evaluate(model, ids, measure=eval_accuracy),
        )
        expected = [f"loss: {math.log(ppl):.4f}, accuracy: {accuracy:.2%}"]
        expected += [f"perplexity: {ppl:.2f}"]
        lines = ok(capsys, "eval", pickled, str(file), "--vocabulary", str(train))
        assert lines == [f"{file}: 160 words", *expected]
        assert "name the text" in failing(capsys, "eval", pickled, str(file))
        error = failing(capsys, "eval", pickled, str(file), "--vocabulary", str(file))
        assert "file.txt: the vocabulary has 4 tokens, the model 11" in error
    with open(pickled, "wb") as stream:
        pickle.dump([np.zeros((3, 3), np.float16)] * 6, stream)
    error = failing(capsys, "eval", pickled, str(file), "--vocabulary", str(train))
    assert "not the weights of one of the book's language models" in error


def test_generate(characters, words, capsys):
    path, _ = characters
    once = ok(capsys, "generate", path, "--prompt", "ab", "--length", "30", "--seed", "5")
    again = ok(capsys, "generate", path, "--prompt", "ab", "--length", "30", "--seed", "5")
    assert once == again
    text = "\n".join(once)
    assert text.startswith("ab") and len(text) == 32
    assert text != "\n".join(
        ok(capsys, "generate", path, "--prompt", "ab", "--length", "30", "--seed", "6")
    )
    likeliest = ok(capsys, "generate", path, "--length", "9", "--temperature", "0")
    assert likeliest == ok(capsys, "generate", path, "--length", "9", "--temperature", "0")
    stopped = "\n".join(ok(capsys, "generate", path, "--seed", "1", "--stop", "ab"))
    assert stopped.endswith("ab") and stopped.count("ab") == 1
    arguments = ["--length", "40", "--seed", "1", "--skip", "a", "--skip", " "]
    text = "\n".join(ok(capsys, "generate", path, *arguments))
    assert set(text) == {"b", "c", "\n"}
    error = failing(capsys, "generate", path, "--skip", "z")
    assert "--skip: 'z' is not among the vocabulary's tokens" in error
    path, _ = words
    text = "\n".join(ok(capsys, "generate", path, "--length", "50", "--seed", "1"))
    assert set(text.split()) == {"hi", "there"}


def test_generate_streams(characters):
    """What is drawn is there before all is drawn, and a closed pipe ends it quietly."""
    path, _ = characters
    process = subprocess.Popen(
        command("generate", path, "--length", "1000000000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert len(process.stdout.read(100)) == 100
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_info_of_a_file(words, tmp_path, capsys):
    path, model = words
    lines = ok(capsys, "info", path)
    assert lines[0] == f"{path}: Rnnlm"
    assert "  vocabulary      4 words, '<unk>' for all others" in lines
    total = sum(param.size for param in model.params)
    assert f"  parameters      {total:,}" in lines
    model.save_params(tmp_path / "bare.safetensors")
    assert "  vocabulary      none" in ok(capsys, "info", str(tmp_path / "bare.safetensors"))
    with open(tmp_path / "x.pkl", "wb") as stream:
        pickle.dump([np.zeros((2, 3), np.float16)], stream)
    assert ok(capsys, "info", str(tmp_path / "x.pkl"))[1] == "  float16 (2, 3)"


@pytest.mark.parametrize("name", ["eval", "score", "generate", "info"])
def test_files_that_are_no_models(tmp_path, name, capsys):
    path = tmp_path / "weights.safetensors"
    rest = ["text"] if name in ("eval", "score") else []
    assert no_such_file() in failing(capsys, name, str(path), *rest)
    assert "Is a directory" in failing(capsys, name, str(tmp_path), *rest)
    for content, message in [
        (b"", "not a complete safetensors file"),
        (b"\x80\x03garbage", "not a pickled list of arrays"),
        (b"hello there, this is text", "not a complete safetensors file"),
    ]:
        path.write_bytes(content)
        assert f"{path}: {message}" in failing(capsys, name, str(path), *rest)
    if name != "info":
        Rnnlm(3, 3, 3).save_params(path)
        assert "has no vocabulary; name the text" in failing(capsys, name, str(path), *rest)


def test_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    arguments = ["data", "ptb", "--folder", str(tmp_path), "--url", "http://127.0.0.1:1/x"]
    error = failing(capsys, *arguments)
    assert "http://127.0.0.1:1/x/ptb.train.txt: cannot be reached" in error
    error = failing(capsys, *arguments, "--sha256", "ptb.train.txt=1")
    assert "expected FILE=CHECKSUM" in error
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").touch()
    assert ok(capsys, *arguments)[0] == f"{tmp_path / 'ptb.train.txt'}: already there"


@pytest.mark.parametrize(
    "name", ["train", "eval", "score", "generate", "info", "data", "gradients"]
)
def test_help_explains_every_argument(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: rnnfast {name}")
    assert "None)" not in out and "%(" not in out


def test_the_checkpoint_says_what_was_asked_for(tmp_path, text, capsys):
    out = tmp_path / "out"
    ok(capsys, "train", text, "--out", str(out), *SMALL, *QUIET, "--epochs", "1")
    stored, changes, extra = settings.stored_settings(str(out / "checkpoint.safetensors"), {})
    assert changes == {}
    assert stored == settings.Settings(
        file=text, hidden=12, embedding=6, batch_size=4, time_size=10, epochs=1, sample=0
    )
    assert json.dumps(extra["curve"]) == json.dumps(
        [[e["iter"] / 55, e["perplexity"]] for e in read_log(out) if e["event"] == "train"]
    )


# Custom models, and looking inside


CUSTOM = ["--model", "custom", "--variational"]
AWD = {
    "input_dropout": 0.4,
    "between_dropout": 0.25,
    "output_dropout": 0.3,
    "embedding_dropout": 0.1,
    "weight_drop": 0.5,
    "alpha": 2.0,
    "beta": 1.0,
    "past_decode": 0.01,
    "adversarial": 0.02,
}
DIRECT_OUTPUT = ["--mixtures", "3", "--mixtures-below", "2", "--latent-dropout", "0.2"]
DIRECT_OUTPUT += ["--balance", "0.1"]


def test_custom_and_simple_models(tmp_path, text, capsys):
    sizes = ["--hidden", "8", "--embedding", "8", "--batch-size", "4", "--time-size", "10"]
    cases = [
        (["--model", "simple"], "SimpleRnnlm", {}),
        (
            [*CUSTOM, "--layers", "2", "--tie", "--vary-length"]
            + [part for name, x in AWD.items() for part in (f"--{name}".replace("_", "-"), str(x))],
            "LanguageModel",
            AWD,
        ),
        (
            [*CUSTOM, "--layers", "2", "--tie", *DIRECT_OUTPUT],
            "LanguageModel",
            {"mixtures": 3, "mixtures_below": 2, "latent_dropout": 0.2, "balance": 0.1},
        ),
        (
            [*CUSTOM[:2], "--h-zoneout", "0.1", "--c-zoneout", "0.3", "--recurrent-dropout", "0.2"],
            "LanguageModel",
            {"h_zoneout": 0.1, "c_zoneout": 0.3, "recurrent_dropout": 0.2},
        ),
        (CUSTOM[:2], "LanguageModel", {"cell": "lstm", "layers": 1, "dropout": 0.0}),
        (
            [*CUSTOM[:2], "--cell", "mogrifier", "--rounds", "3", "--rank", "2"],
            "LanguageModel",
            {"cell": "mogrifier", "rounds": 3, "rank": 2},
        ),
        (
            [*CUSTOM[:2], "--cell", "lnlstm", "--layers", "2"],
            "LanguageModel",
            {"cell": "lnlstm", "layers": 2},
        ),
        (
            [*CUSTOM[:2], "--cell", "lstmp", "--layers", "2", "--proj-size", "3"],
            "LanguageModel",
            {"cell": "lstmp", "layers": 2, "proj_size": 3},
        ),
        (
            [*CUSTOM[:2], "--cell", "lstmp", "--proj-size", "3", "--h-zoneout", "0.2"],
            "LanguageModel",
            {"cell": "lstmp", "proj_size": 3, "h_zoneout": 0.2},
        ),
        (
            [*CUSTOM[:2], "--cell", "slstm", "--layers", "2", "--heads", "2"],
            "LanguageModel",
            {"cell": "slstm", "layers": 2, "heads": 2},
        ),
        (
            [
                "--model",
                "custom",
                "--cell",
                "gru",
                "--layers",
                "3",
                "--dropout",
                "0.3",
                "--variational",
                "--weight-drop",
                "0.2",
                "--tie",
            ],
            "LanguageModel",
            {
                "cell": "gru",
                "layers": 3,
                "dropout": 0.3,
                "variational_dropout": True,
                "weight_drop": 0.2,
                "tie_weights": True,
            },
        ),
    ]
    for k, (arguments, name, expected) in enumerate(cases):
        whole, out = tmp_path / f"whole {k}", tmp_path / f"out {k}"
        arguments = [*arguments, *sizes, *QUIET]
        ok(capsys, "train", text, *arguments, "--out", str(whole), "--epochs", "2")
        ok(capsys, "train", text, *arguments, "--out", str(out), "--epochs", "1")
        ok(capsys, "train", "--out", str(out), "--epochs", "2", "--resume")
        files = [(folder / f"{name}.safetensors").read_bytes() for folder in (whole, out)]
        assert files[0] == files[1]
        assert losses(whole) == losses(out)
        model, _ = load_model(out / f"{name}.safetensors")
        assert type(model).__name__ == name
        assert expected.items() <= model.sizes.items()


def test_generate_top_k_and_top_p(characters, capsys):
    path, _ = characters
    likeliest = ok(capsys, "generate", path, "--length", "20", "--temperature", "0")
    arguments = ["generate", path, "--length", "20", "--seed", "1"]
    assert ok(capsys, *arguments, "--top-k", "1") == likeliest
    assert ok(capsys, *arguments, "--top-p", "1e-9") == likeliest
    assert ok(capsys, *arguments) != likeliest


FORMATS = [("svg", b"<?xml"), ("PDF", b"%PDF"), ("", b"\x89PNG")]


@pytest.mark.parametrize(("ending", "begins"), FORMATS)
def test_formats_of_pictures(ending, begins, tmp_path):
    matplotlib = pytest.importorskip("matplotlib.figure")
    path = tmp_path / ("picture." + ending if ending else "picture")
    plot.save(matplotlib.Figure(), path, description="nothing")
    assert path.read_bytes().startswith(begins)


def test_a_picture_of_another_format(tmp_path, capsys):
    error = failing(capsys, "gradients", "--out", str(tmp_path / "g.jpg"))
    assert "picture: the name must end in .png, .svg or .pdf" in error
    assert not any(tmp_path.iterdir())


def test_gradients(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "g.png"
    assert ok(capsys, "gradients", "--out", str(picture)) == [f"picture: {picture}"]
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_cells(characters, words, tmp_path, capsys):
    path, model = characters
    text = "ab a\ncab\nb"
    hs = units.activations(model, CharVocabulary("ab \nc").encode(text))
    best = units.rank_units(hs, units.position_in_line(text))
    lines = ok(capsys, "cells", path, text, "--top", "2")
    for line, unit in zip(lines[:2], best, strict=False):
        place = f"layer 0, unit {unit.unit}"
        assert line == f"{place:<24}correlation with line: {unit.correlation:+.3f}"
    coloured = colours.to_terminal(text, hs[0][:, best[0].unit])
    assert "\n".join(lines[2:]) == coloured
    page = tmp_path / "page.html"
    assert ok(capsys, "cells", path, text, "--unit", "3", "--html", str(page)) == [f"page: {page}"]
    expected = colours.to_html(text, hs[0][:, 3], "Rnnlm: layer 0, unit 3")
    assert page.read_text(encoding="utf-8") == expected
    error = failing(capsys, "cells", path, text, "--unit", "6")
    assert "--unit must be below 6 in layer 0, got 6" in error
    assert "TEXT must not be empty" in failing(capsys, "cells", path, "")
    path, _ = words
    assert "name a --unit" in failing(capsys, "cells", path, "hi there")
    (line,) = ok(capsys, "cells", path, "hi there", "--unit", "0")
    assert "hi" in line and " there" in line
