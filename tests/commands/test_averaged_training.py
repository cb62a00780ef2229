"""`rnnfast train` with averaged SGD, and from the weights of another run."""

import numpy as np
import pytest
from shell import QUIET, SMALL, failing, losses, no_such_file, ok, read_log

from rnnfast import io
from rnnfast.commands import inputs
from rnnfast.models import load_model
from rnnfast.sequences import Seq2seq, SequenceClassifier
from rnnfast.text.corpora import read_text
from rnnfast.trainer import eval_perplexity

WORDS = ["--level", "word", "--optimizer", "ntasgd", "--nonmono", "1", "--lr", "20"]


@pytest.fixture
def valid(tmp_path):
    path = tmp_path / "valid.txt"
    swapped = "a bird sang\nthe dog sat on the mat\nthe cat sat on the rug\n"
    path.write_text(swapped * 6, encoding="utf-8")
    return str(path)


def params(path):
    return load_model(path)[0].params


def test_averaging_begins_and_is_what_is_measured_and_saved(tmp_path, text, valid, capsys):
    arguments = ["train", text, "--valid", valid, *WORDS, *SMALL, *QUIET, "--vary-length"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    lines = ok(capsys, *arguments, "--epochs", "5", "--out", str(whole))
    (begin,) = [line for line in lines if line.endswith("the weights are averaged from here on")]
    epoch = int(begin.split()[2])
    assert epoch == 4
    checks = [entry["perplexity"] for entry in read_log(whole) if entry["event"] == "valid"]
    assert checks[epoch - 1] > min(checks[: epoch - 2])

    # Interrupted before and after that, it is the same run
    for epochs in 3, 4, 5:
        more = ["--resume"] if out.exists() else arguments[1:]
        ok(capsys, "train", *more, "--epochs", str(epochs), "--out", str(out), *QUIET)
    assert losses(out) == losses(whole)
    files = [(folder / "Rnnlm.safetensors").read_bytes() for folder in (whole, out)]
    assert files[0] == files[1]

    # The last check is the best one, of the averages
    assert checks[-1] == min(checks)
    arrays, _ = io.weights.load_arrays(whole / "checkpoint.safetensors")
    means = [arrays[f"optimizer/mean/{i}"] for i in range(6)]
    saved = params(whole / "Rnnlm.safetensors")
    for param, mean, now in zip(
        saved, means, params(whole / "checkpoint.safetensors"), strict=True
    ):
        np.testing.assert_array_equal(param, mean.astype("f4"))
        assert (param != now).any()
    model, vocabulary = inputs.open_model(whole / "best.safetensors")
    ids, prime = vocabulary.encode(read_text(valid)), np.array(vocabulary.prime)
    assert eval_perplexity(model, ids, 1, 35, prime=prime) == checks[-1]


def test_without_a_validation_text_the_last_averages_are_saved(tmp_path, text, capsys):
    out = tmp_path / "out"
    arguments = ["--optimizer", "asgd", "--lr", "2", "--epochs", "2", *SMALL, *QUIET]
    ok(capsys, "train", text, *arguments, "--out", str(out))
    arrays, _ = io.weights.load_arrays(out / "checkpoint.safetensors")
    for i, param in enumerate(params(out / "Rnnlm.safetensors")):
        np.testing.assert_array_equal(param, arrays[f"optimizer/mean/{i}"].astype("f4"))


def test_a_second_run_starts_from_the_weights_of_the_first(tmp_path, text, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    ok(capsys, "train", text, "--epochs", "1", *SMALL, *QUIET, "--out", str(first))
    weights = first / "Rnnlm.safetensors"
    more = ["--init", str(weights), "--optimizer", "asgd", "--lr", "1e-30", "--epochs", "2"]
    ok(capsys, "train", text, *more, *SMALL, *QUIET, "--out", str(second), "--seed", "9")
    for one, other in zip(params(weights), params(second / "Rnnlm.safetensors"), strict=True):
        np.testing.assert_array_equal(one, other)
    more = ["--epochs", "3", "--sample", "0", "--lr", "1", "--weight-decay", "0.1"]
    lines = ok(capsys, "train", "--resume", "--out", str(second), *more)
    assert "  --weight-decay: 0.0 before, 0.1 now" in lines
    _, metadata = io.weights.load_arrays(second / "checkpoint.safetensors")
    assert metadata["checkpoint"]["optimizer"][1]["weight_decay"] == 0.1
    assert losses(second)[-1][0] == 3


def test_frage(tmp_path, text, valid, capsys):
    arguments = ["train", text, "--valid", valid, *WORDS, *SMALL, *QUIET, "--model", "custom"]
    arguments += ["--frage", "0.5", "--frage-rate", "0.2", "--embedding-dropout", "0.2"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    ok(capsys, *arguments, "--epochs", "4", "--out", str(whole))
    for epochs in 2, 4:
        more = ["--resume", *QUIET] if out.exists() else arguments[1:]
        ok(capsys, "train", *more, "--epochs", str(epochs), "--out", str(out))
    assert losses(out) == losses(whole)
    model = load_model(whole / "LanguageModel.safetensors")[0]
    assert model.sizes["frage"] == 0.5 and model.sizes["frage_rate"] == 0.2
    assert model.param_names[-2:] == ["frage_W", "frage_b"] and model.params[-1].any()
    for a, b in zip(model.params, params(out / "LanguageModel.safetensors"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_deeper_model_starts_from_a_trained_one(tmp_path, text, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    ok(capsys, "train", text, "--epochs", "1", *SMALL, *QUIET, "--out", str(first))
    more = ["--model", "custom", "--layers", "2", "--optimizer", "sgd", "--lr", "1e-30"]
    more += ["--init", str(first / "Rnnlm.safetensors"), "--epochs", "1"]
    ok(capsys, "train", text, *more, *SMALL, *QUIET, "--out", str(second))
    old, new = params(first / "Rnnlm.safetensors"), params(second / "LanguageModel.safetensors")
    for one, other in zip(old, new[:4] + new[7:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert new[4].any()


def test_arguments_that_do_not_go_together(tmp_path, text, valid, capsys):
    other = tmp_path / "other.txt"
    other.write_text("other letters\n" * 40, encoding="utf-8")
    out = ["--out", str(tmp_path / "out"), *SMALL, *QUIET]
    ok(capsys, "train", text, *out, "--epochs", "1")
    weights = str(tmp_path / "out" / "Rnnlm.safetensors")
    out[1] = str(tmp_path / "new")
    tokens = load_model(weights)[1]
    Seq2seq(len(tokens), 6, 12).save_params(tmp_path / "reader", tokens)
    SequenceClassifier(3, 4, 2).save_params(tmp_path / "classifier")
    model = load_model(weights)[0]
    model.save_params(tmp_path / "bare")
    model.params[-1][3] = np.nan
    model.save_params(tmp_path / "nan", tokens)
    nan = str(tmp_path / "nan")
    for arguments, message in [
        ([text, "--optimizer", "ntasgd"], "--optimizer ntasgd needs --valid: a text on which"),
        ([text, "--nonmono", "3"], "--nonmono goes with --optimizer ntasgd, not with --optimizer"),
        (
            [text, "--weight-decay", "1e-6"],
            "--weight-decay goes with --optimizer sgd, asgd, ntasgd,",
        ),
        ([text, "--init", str(tmp_path / "no")], f"no: {no_such_file()}"),
        ([text, "--init", text], "text.txt"),
        ([str(other), "--init", weights], f"--init: {weights} has other tokens than the training"),
        ([text, "--init", str(tmp_path / "reader")], "must be a language model, found Seq2seq"),
        ([text, "--init", str(tmp_path / "classifier")], "language model, found SequenceClass"),
        ([text, "--init", str(tmp_path / "bare")], "bare must have a vocabulary, found none"),
        ([text, "--init", nan], f"--init: {nan}: affine_b has weights that are not finite"),
        ([text, "--init", weights, "--hidden", "8"], "Wx of layer 1 must be float32 (6, 32)"),
        ([text, "--init", weights, "--model", "custom", "--cell", "gru"], "layers must be TimeGRU"),
    ]:
        assert message in failing(capsys, "train", *out, *arguments)
        assert not (tmp_path / "new").exists()
    for command in ["eval", nan, text], ["score", nan, text], ["generate", nan]:
        assert f"{nan}: affine_b has weights that are not finite" in failing(capsys, *command)
