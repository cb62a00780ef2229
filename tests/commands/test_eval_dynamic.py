"""`rnnfast eval` with dynamic evaluation and the neural cache."""

import math

import pytest
from shell import LINES, failing, ok

from rnnfast.commands.main import main
from rnnfast.data import CharVocabulary
from rnnfast.models import BetterRnnlm
from rnnfast.trainer import (
    NeuralCache,
    eval_cache,
    eval_dynamic,
    eval_perplexity,
    gradient_mean_squares,
)

TEXT, TRAIN = "the dog sang\n" * 40, LINES * 20


@pytest.fixture
def saved(tmp_path):
    """The arguments of eval, the model, the ids of its text and of its training text."""
    vocabulary = CharVocabulary.from_text(TRAIN)
    model = BetterRnnlm(len(vocabulary), 6, 6, rng=1)
    path, file, train = (str(tmp_path / name) for name in ("m.safetensors", "file", "train"))
    model.save_params(path, vocabulary)
    for name, text in ((file, TEXT), (train, TRAIN)):
        with open(name, "w", encoding="utf-8") as stream:
            stream.write(text)
    return ["eval", path, file], train, model, vocabulary.encode(TEXT), vocabulary.encode(TRAIN)


def shown(ppl):
    return [
        f"loss: {math.log(ppl):.4f}",
        f"perplexity: {ppl:.2f} ({math.log2(ppl):.3f} bits per character)",
    ]


def test_sgd(saved, capsys):
    command, _, model, ids, _ = saved
    expected = shown(eval_dynamic(model, ids))
    for choice in (["--dynamic"], ["--dynamic", "sgd"]):
        lines = ok(capsys, *command, *choice)
        assert lines == [f"{command[2]}: 520 characters", *expected]
    more = ["--dynamic-lr", "0.9", "--dynamic-decay", "0.01", "--time-size", "7"]
    found = eval_dynamic(model, ids, 2, 7, lr=0.9, decay=0.01)
    assert ok(capsys, *command, "--dynamic", *more, "--batch-size", "2")[1:] == shown(found)
    found = eval_dynamic(model, ids, prime=ids[:3])
    assert ok(capsys, *command, "--dynamic", "--prime", TEXT[:3])[1:] == shown(found)
    found = eval_perplexity(model, ids, 1, 20)
    lines = ok(capsys, *command, "--dynamic", "--dynamic-lr", "0", "--dynamic-decay", "0")
    assert lines[1:] == shown(found)


def test_rms(saved, capsys):
    command, train, model, ids, training = saved
    squares = gradient_mean_squares(model, training)
    found = eval_dynamic(model, ids, mean_squares=squares)
    rms = ["--dynamic", "rms"]
    assert ok(capsys, *command, *rms, "--dynamic-text", train)[1:] == shown(found)
    assert ok(capsys, *command, *rms, "--vocabulary", train, "--level", "char")[1:] == shown(found)
    more = ["--dynamic-text", train, "--dynamic-lr", "0.01", "--dynamic-decay", "0.02"]
    found = eval_dynamic(model, ids, lr=0.01, decay=0.02, epsilon=0.003, mean_squares=squares)
    lines = ok(capsys, *command, *rms, *more, "--dynamic-epsilon", "0.003")
    assert lines[1:] == shown(found)
    with open(train, "w", encoding="utf-8") as stream:
        stream.write(LINES)  # less than 20 x 20
    short = CharVocabulary.from_text(TRAIN).encode(LINES)
    squares = gradient_mean_squares(model, short, 2, 20)
    found = eval_dynamic(model, ids, mean_squares=squares)
    assert ok(capsys, *command, *rms, "--dynamic-text", train)[1:] == shown(found)


def test_cache(saved, capsys):
    command, _, model, ids, _ = saved
    found = eval_cache(model, ids, cache=NeuralCache(30))
    assert ok(capsys, *command, "--cache", "30")[1:] == shown(found)
    assert found < eval_perplexity(model, ids) - 0.5
    cache = NeuralCache(30, theta=1.5, ratio=0.4)
    more = ["--cache", "30", "--cache-theta", "1.5", "--cache-ratio", "0.4"]
    lines = ok(capsys, *command, *more, "--batch-size", "2", "--time-size", "9")
    assert lines[1:] == shown(eval_cache(model, ids, 2, 9, cache=cache))
    found = eval_dynamic(model, ids, cache=cache)
    assert ok(capsys, *command, *more, "--dynamic")[1:] == shown(found)


def test_a_short_text(saved, capsys):
    command, _, model, _, _ = saved
    with open(command[2], "w", encoding="utf-8") as stream:
        stream.write("ththth")
    ids = CharVocabulary.from_text(TRAIN).encode("ththth")
    expected = shown(eval_perplexity(model, ids, 1, 5))  # nothing is learned before its end
    assert ok(capsys, *command, "--dynamic")[1:] == expected
    expected = shown(eval_cache(model, ids, 1, 5, cache=NeuralCache(9)))
    assert ok(capsys, *command, "--cache", "9")[1:] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dynamic-lr 1", "--dynamic-lr needs --dynamic"),
        ("--dynamic-decay 0.1 --cache 9", "--dynamic-decay needs --dynamic"),
        ("--dynamic sgd --dynamic-epsilon 1", "--dynamic-epsilon needs --dynamic rms"),
        ("--dynamic --dynamic-text FILE", "--dynamic-text needs --dynamic rms"),
        ("--dynamic rms", "--dynamic rms needs the model's training text: --dynamic-text FILE"),
        ("--cache-theta 1", "--cache-theta needs --cache"),
        ("--dynamic --cache-ratio 0.1", "--cache-ratio needs --cache"),
        ("--dynamic --time-size 600", "a batch of 1 x 600 needs at least 601 ids, got 520"),
        ("--dynamic --dynamic-lr 1e30", "try a smaller lr, got 1e+30"),
    ],
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_options_that_do_not_fit(saved, options, message, capsys):
    assert message in failing(capsys, *saved[0], *options.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dynamic adam", "argument --dynamic: invalid choice: 'adam'"),
        ("--dynamic-lr -1", "--dynamic-lr: expected a number from 0 up, got '-1'"),
        ("--dynamic-decay 1.5", "--dynamic-decay: expected a number from 0 to 1, got '1.5'"),
        ("--dynamic-epsilon 0", "--dynamic-epsilon: expected a positive number, got '0'"),
        ("--cache 0", "--cache: expected a positive integer, got '0'"),
        ("--cache-theta nan", "--cache-theta: expected a number from 0 up, got 'nan'"),
        ("--cache-ratio 1", "--cache-ratio: expected a number from 0 up and below 1, got '1'"),
    ],
)
def test_values_out_of_range(saved, options, message, capsys):
    with pytest.raises(SystemExit):
        main([*saved[0], *options.split()])
    assert message in capsys.readouterr().err


def test_the_weights_in_the_file_stay(saved, capsys):
    command, _, model, ids, _ = saved
    ok(capsys, *command, "--dynamic")
    plain = ok(capsys, *command)
    assert plain[2] == shown(eval_perplexity(model, ids))[1]
