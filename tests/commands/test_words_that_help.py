"""The book's own model classes in evaluation; unknown characters; numbers that make no sense."""

import math

import numpy as np
import pytest
from shell import failing, ok
from tiny import TEXT, TS, XS, N, T, V

from rnnfast import plot, time_layers
from rnnfast.data import CharVocabulary, WordVocabulary
from rnnfast.models import Rnnlm
from rnnfast.optim import OPTIMIZERS, SGD, Adam, clip_grads
from rnnfast.trainer import RnnlmTrainer, eval_accuracy, eval_perplexity

# The book's classes: they call forward(xs) of their layers


class BooksRnnlm:
    """As ch06/rnnlm.py has it: no flag that says what is trained."""

    def __init__(self):
        rn = np.random.default_rng(1).standard_normal
        weights = [
            rn((V, 6)) / 10,
            rn((6, 32)) / 2,
            rn((8, 32)) / 3,
            rn(32),
            rn((8, V)) / 9,
            rn(V) / 9,
        ]
        embed_W, *lstm, affine_W, affine_b = (w.astype("f") for w in weights)
        self.layers = [
            time_layers.TimeEmbedding(embed_W),
            time_layers.TimeLSTM(*lstm, stateful=True),
            time_layers.TimeAffine(affine_W, affine_b),
        ]
        self.loss_layer = time_layers.TimeSoftmaxWithLoss()
        self.params = [p for layer in self.layers for p in layer.params]
        self.grads = [g for layer in self.layers for g in layer.grads]

    def predict(self, xs):
        for layer in self.layers:
            xs = layer.forward(xs)
        return xs

    def forward(self, xs, ts):
        return self.loss_layer.forward(self.predict(xs), ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout

    def reset_state(self):
        self.layers[1].reset_state()


class BooksBetterRnnlm(BooksRnnlm):
    """As ch06/better_rnnlm.py has it: the flag is dropout's alone."""

    def __init__(self):
        super().__init__()
        self.drop_layers = [time_layers.TimeDropout(0.5)]
        self.layers.insert(2, self.drop_layers[0])

    def predict(self, xs, train_flg=False):
        for layer in self.drop_layers:
            layer.train_flg = train_flg
        return super().predict(xs)

    def forward(self, xs, ts, train_flg=True):
        return self.loss_layer.forward(self.predict(xs, train_flg), ts)


@pytest.mark.parametrize("make", [BooksRnnlm, BooksBetterRnnlm])
def test_evaluation_of_the_books_classes(make):
    model = make()
    trainer = RnnlmTrainer(model, SGD(0.5), write=lambda line: None)
    for _ in range(2):  # evaluation in between, as ch06/train_better_rnnlm.py has it
        trainer.fit(XS, TS, 1, N, T, 0.25, eval_interval=None)
        ours = Rnnlm(V, 6, 8, rng=1)
        for param, its in zip(ours.params, model.params, strict=True):
            param[...] = its
        for sizes in (1, 7), (2, 7):
            expected = eval_perplexity(ours, TEXT, *sizes)
            assert eval_perplexity(model, TEXT, *sizes) == pytest.approx(expected, rel=1e-6)
            assert eval_accuracy(model, TEXT, *sizes) == eval_accuracy(ours, TEXT, *sizes)
        prime = TEXT[:5]
        assert eval_perplexity(model, TEXT, 2, 7, prime=prime) == pytest.approx(
            eval_perplexity(ours, TEXT, 2, 7, prime=prime), rel=1e-6
        )
    assert all(param.flags.writeable for param in model.params)


def test_the_books_classes_may_restart():
    trainer = RnnlmTrainer(BooksRnnlm(), SGD(0.5), write=lambda line: None)
    trainer.fit(XS, TS, 1, N, T, 0.25, restart_every=2)


# Unknown characters


@pytest.fixture
def characters(tmp_path):
    path = tmp_path / "characters.safetensors"
    Rnnlm(5, 4, 6, rng=1).save_params(path, CharVocabulary("ab \nc"))
    return str(path)


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.safetensors"
    tokens = ["<eos>", "hi", "there", "<unk>"]
    Rnnlm(4, 4, 6, rng=2).save_params(path, WordVocabulary(tokens, "<unk>"))
    return str(path)


def test_unknown_tokens_of_a_vocabulary():
    letters = CharVocabulary("ab \nc")
    assert letters.stand_in == " "
    assert letters.decode(letters.encode("éaxb", "skip")) == "ab"
    assert letters.decode(letters.encode("éaxb", "map")) == " a b"
    assert letters.count_unknown("éaxb") == 2
    known = WordVocabulary(["<eos>", "hi", "<unk>"], "<unk>")
    assert known.encode("hi you").tolist() == known.encode("hi you", "map").tolist() == [1, 2]
    assert known.encode("hi you", "skip").tolist() == [1]
    had = WordVocabulary(["<eos>", "hi", "<unk>"])  # Penn Treebank's has it, and no `unknown`
    assert had.encode("hi you", "map").tolist() == [1, 2]
    none = CharVocabulary("ab")
    assert none.stand_in is None
    with pytest.raises(ValueError, match="character 'x' at position 1 is not among"):
        none.encode("ax", "map")
    with pytest.raises(ValueError, match="unknown must be None, 'skip' or 'map', got 'drop'"):
        letters.encode("a", "drop")


def test_unknown_characters_name_the_remedy(characters, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text("ab éa\ncx" * 60, encoding="utf-8")
    for arguments, where in [
        (["eval", characters, str(file)], f"{file}: character 'é' at position 3"),
        (["score", characters, "abé"], "TEXT: character 'é' at position 2"),
        (["score", characters, "ab", "--prime", "é"], "--prime: character 'é'"),
        (["generate", characters, "--prompt", "é"], "--prompt: character 'é'"),
        (["cells", characters, "ab\nbé"], "TEXT: character 'é'"),
    ]:
        error = failing(capsys, *arguments)
        assert where in error and "--unknown skip leaves unknown characters out" in error
        assert "--unknown map reads them as ' '" in error and "--min-count 2" in error
        for choice in ("skip", "map"):
            ok(capsys, *arguments, "--unknown", choice)
    clean = tmp_path / "clean.txt"
    for choice, text, done in [
        ("skip", "ab a\nc", "left out"),
        ("map", "ab  a\nc ", "read as ' '"),
    ]:
        clean.write_text(text * 60, encoding="utf-8")
        lines = ok(capsys, "eval", characters, str(file), "--unknown", choice)
        assert lines[0] == f"{file}: {len(text) * 60} characters, 120 unknown ones {done}"
        assert lines[1:] == ok(capsys, "eval", characters, str(clean))[1:]
        scored = ok(capsys, "score", characters, "éab", "--unknown", choice)
        assert scored[-2].endswith(f"characters, 1 unknown one {done})")
    # the same unit and colours, but for the character that is not there
    found = ok(capsys, "cells", characters, "ab\nébcb", "--unknown", "skip", "--property", "line")
    assert len(found) == 5 + 2


def test_a_prompt_is_echoed_as_it_was_typed(characters, words, capsys):
    typed = "ab  é\n c"
    for choice in ("skip", "map"):
        arguments = ["--prompt", typed, "--unknown", choice, "--length", "9", "--seed", "1"]
        found = "\n".join(ok(capsys, "generate", characters, *arguments))
        assert found.startswith(typed) and len(found) == len(typed) + 9
    for typed, then in [("hi  you", " "), ("hi you ", ""), ("hi\tthere\n", "")]:
        arguments = ["--prompt", typed, "--length", "3", "--seed", "3", "--skip", "<eos>"]
        found = "\n".join(ok(capsys, "generate", words, *arguments))
        drawn = found.removeprefix(typed)
        assert drawn != found and drawn.split(" ")[-3:] == drawn.split()
        assert drawn.startswith(then) and not drawn.startswith(then + " ")
    assert "<unk>" not in found


def test_a_token_for_unknown_characters_by_min_count(tmp_path, capsys):
    path, other, out = tmp_path / "text.txt", tmp_path / "other.txt", tmp_path / "out"
    path.write_text("she sells sea shells q" * 30 + "zx", encoding="utf-8")
    other.write_text("she sells ÿ" * 30, encoding="utf-8")
    options = ["--hidden", "8", "--batch-size", "4", "--time-size", "10", "--epochs", "1"]
    options += ["--no-plot", "--sample", "0", "--min-count", "2", "--out", str(out)]
    ok(capsys, "train", str(path), *options)
    lines = ok(capsys, "eval", str(out / "Rnnlm.safetensors"), str(other))
    assert lines[0] == f"{other}: 330 characters, 30 of them \ufffd"


def test_a_property_that_never_changes(characters, capsys):
    for name in ("quotes", "brackets", "upper", "digit"):
        error = failing(capsys, "cells", characters, "ab a\nb", "--property", name)
        assert f"--property {name}: it is the same at each of the 6 characters of TEXT" in error


# Numbers


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values())
def test_numbers_of_optimizers(optimizer):
    unbounded = [name for name in optimizer.numbers if name in ("lr", "weight_decay")]
    counts = "iter", "start", "interval", "ppls"
    rates = [name for name in optimizer.numbers if name not in (*unbounded, *counts)]
    wrong = [(name, value) for name in unbounded for value in (-0.1, math.nan, math.inf)]
    wrong += [(name, value) for name in rates for value in (2, 1, -0.5, math.nan)]
    param, grad = np.ones(3, "f"), np.ones(3, "f")
    for name, value in wrong:
        message = f"{optimizer.__name__}: {name} must be .*, got {float(value)}"
        with pytest.raises(ValueError, match=message):
            optimizer(**{name: value})
        made = optimizer()
        with pytest.raises(ValueError, match=message):
            made.load_state_dict(made.state_dict() | {name: value})
        setattr(made, name, value)
        with pytest.raises(ValueError, match=message):
            made.update([param], [grad])
        assert (param == 1).all()
    for value in ("0.1", None, 1j):
        with pytest.raises(TypeError, match=f"{optimizer.__name__}: lr must be a real number"):
            optimizer(value)
    optimizer(0)
    assert type(optimizer(np.float32(0.5)).lr) is float


def test_numbers_of_clip_grads():
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip_grads: max_norm must be positive, got"):
            clip_grads([np.ones(3, "f")], wrong)
    made = Adam()
    with pytest.raises(ValueError, match="Adam: iter must be from 0 up, got -1"):
        made.load_state_dict(made.state_dict() | {"iter": -1})


# Curves


def drawn(figure):
    (axes,) = figure.axes
    return axes, {line.get_label(): line for line in axes.lines}


@pytest.fixture
def pictures(monkeypatch):
    """What is drawn instead of written."""
    pytest.importorskip("matplotlib")
    found = []
    monkeypatch.setattr(plot, "save", lambda figure, path, dpi=120: found.append(figure))
    return found


@pytest.mark.parametrize("validated", [False, True])
def test_the_curve_of_a_run(tmp_path, capsys, pictures, validated):
    path, out = tmp_path / "text.txt", tmp_path / "out"
    path.write_text("she sells sea shells by the sea shore.\n" * 50, encoding="utf-8")
    options = ["--hidden", "8", "--batch-size", "4", "--time-size", "10", "--sample", "0"]
    options += ["--valid", str(path)] if validated else []
    ok(capsys, "train", str(path), "--out", str(out), *options, "--epochs", "2")
    axes, lines = drawn(pictures[0])
    assert axes.get_title() == "Perplexity of Rnnlm"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "perplexity")
    max_iter = 48 if validated else 46
    expected = [e + (i + 1) / max_iter for e in (0, 1) for i in range(0, max_iter, 20)]
    assert lines["training"].get_xdata() == pytest.approx(expected)
    other = lines["validation" if validated else "held out"]
    assert list(other.get_xdata()) == ([1, 2] if validated else [2])
    assert axes.get_legend() is not None
    assert all(line.get_marker() == "o" for line in lines.values())
    # one more epoch goes on, and one evaluation alone is a point that can be seen
    ok(capsys, "train", "--out", str(out), "--resume", "--epochs", "3", "--sample", "0")
    _, lines = drawn(pictures[1])
    assert len(lines["training"].get_xdata()) == len(expected) * 3 // 2
    ok(
        capsys,
        "train",
        str(path),
        "--out",
        str(out),
        "--force",
        *options,
        "--epochs",
        "1",
        "--eval-interval",
        "999",
    )
    _, lines = drawn(pictures[2])
    assert len(lines["training"].get_xdata()) == 1 and lines["training"].get_marker() == "o"


def test_a_curve_without_a_value_says_so(pictures):
    plot.save_curves("x.png", {"training": ([], [])}, "Loss", "loss")
    axes, lines = drawn(pictures[0])
    assert not lines and axes.texts[0].get_text() == "no evaluation yet"
    plot.save_perplexity("x.png", [8.0, 4.0], 10)
    axes, lines = drawn(pictures[1])
    assert list(lines["training"].get_xdata()) == [1, 11] and axes.get_xlabel() == "iteration"
