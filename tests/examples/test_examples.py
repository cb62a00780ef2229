"""The examples do what they say, and the code in README.md runs."""

import os
import pickle
import re
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from rnnfast import data, models
from rnnfast.commands import main
from rnnfast.examples import (
    addition,
    common,
    dates,
    digit_names,
    digits,
    forecast,
    python_tokens,
    tom_mary,
)

README = Path(__file__).parents[2] / "README.md"


def test_sentences_of_tom_and_mary():
    words = tom_mary.sentence("Tom", "Mary", ())
    assert " ".join(words) == (
        "Tom was watching TV in his room . Mary came into the room . Mary said hi to"
    )
    xs, ts = tom_mary.make_data()
    assert xs.shape == (10 * 9 * (1 + 6 + 36), tom_mary.LENGTH)
    assert len({row.tobytes() for row in xs}) == len(xs)
    vocabulary = np.array(tom_mary.VOCABULARY)
    for row, t in zip(xs[::97], ts[::97], strict=True):
        words = [word for word in vocabulary[row] if word != "<pad>"]
        assert words[0] == vocabulary[t] and words[0] in tom_mary.NAMES
        assert words.count(words[0]) == 1  # nowhere else, and beyond the window
        assert words[-4:] == [words[8], "said", "hi", "to"]
        assert words[5] == ("his" if words[0] in tom_mary.HIS else "her")
        assert len(words) > 3 * tom_mary.WINDOW
    assert (xs[:, -1] != 0).all()


def test_gradient_of_the_window_model():
    rng = np.random.default_rng(0)
    model = tom_mary.WindowModel(3, rng)
    xs, ts = (a[:4] for a in tom_mary.make_data())
    model.forward(xs, ts)
    model.backward()
    for param, grad in zip(model.params, model.grads, strict=True):
        for k in [tuple(rng.integers(n) for n in param.shape) for _ in range(5)] + [
            tuple(np.unravel_index(np.abs(grad).argmax(), grad.shape))
        ]:
            value, losses = param[k], []
            for step in (1e-2, -1e-2):
                param[k] = value + step
                losses.append(model.forward(xs, ts))
            param[k] = value
            assert grad[k] == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=1e-3)


def test_a_window_guesses_and_an_rnn_knows(capsys):
    """Chance is one of the nine other names."""
    assert tom_mary.main(["--cell", "gru", "--iterations", "500"]) == 0
    out = capsys.readouterr().out
    window, gru = (float(x) for x in re.findall(r"([\d.]+)%", out))
    assert window < 20
    assert gru > 90
    assert "all words (gru)" in out


@pytest.mark.parametrize(
    "argv",
    [["--iterations", "0"], ["--hidden", "x"], ["--cell", "cbow"], ["--seed", "-1"], ["more"]],
    ids=str,
)
def test_bad_options(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        tom_mary.main(argv)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def blocks(language, section=""):
    """The blocks of code in README.md, or in one section of it."""
    text = README.read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def code_of(section):
    return blocks("python", section)


OTHERS = ("torch", "keras", "cupy", "convert")  # packages and files that have tests of their own


def test_the_python_of_the_readme(capsys):
    """Every block as it stands, one after the other, but for those of other packages."""
    names, run, threads = {}, 0, rnnfast.get_num_threads()
    try:
        for code in blocks("python"):
            if not any(re.search(rf"\b{other}\b", code) for other in OTHERS):
                exec(compile(code, str(README), "exec"), names)
                run += 1
    finally:
        rnnfast.set_num_threads(threads)
    assert run == len(blocks("python")) - 4
    out = capsys.readouterr().out
    assert "ello\n" in out and "instruction set" in out
    assert names["dxs"].shape == (20, 35, 100)


def test_a_gpu_of_the_readme():
    pytest.importorskip("cupy")
    names = {}
    for code in (code_of("One line of a book script")[1], *code_of("On a GPU")):
        exec(compile(code, str(README), "exec"), names)


# A command of a shell block -> what it is run with besides, so that it takes a moment
QUICKLY = {"train": ["--no-plot", "--hidden", "8", "--epochs", "2"], "generate": ["--length", "9"]}
# installs, loads, needs MPI
NOT_RUN = ("python3 -m venv", ".venv/bin/", "for stage", "done", "rnnfast data", "pip ", "mpiexec")


def test_the_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    """Every line of the shell blocks that begins with rnnfast, on texts of the names it has."""
    monkeypatch.chdir(tmp_path)
    text = "to be or not to be , that is the question\n" * 120
    for name in ("my_text", "other_text", "ptb.train", "ptb.valid", "ptb.test"):
        Path(f"{name}.txt").write_text(text, encoding="utf-8")
    words = len(set(text.split())) + 1
    with open("Rnnlm.pkl", "wb") as file:
        pickle.dump([p.astype("f2") for p in models.Rnnlm(words, 4, 4, rng=0).params], file)
    run = 0
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            argv = shlex.split(line, comments=True)
            if not argv or line.startswith(NOT_RUN):
                continue
            assert argv.pop(0) == "rnnfast", line
            more = QUICKLY.get(argv[0], [])
            with warnings.catch_warnings():
                assert main.main([*argv, *more]) == 0, line
            run += 1
    assert run == 8
    assert "generated text" in capsys.readouterr().out
    assert {"my_model", "rnnfast-out"} <= set(os.listdir())


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")  # Keras
def test_weights_in_and_out_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for package in ("torch", "keras", "onnx"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in code_of("Weights in and out"):
        exec(compile(code, str(README), "exec"), names)
    assert names["gru"].Wx.shape == (100, 600)
    assert [p.shape for p in names["stack"].params[-3:]] == [(400, 800), (200, 800), (800,)]


def test_hello_of_the_readme(capsys):
    """Under ten lines; it says ello, letter by letter, from a state that knows nothing else."""
    (code,) = code_of("Hello")
    assert len([line for line in code.splitlines() if line.strip()]) < 10
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert capsys.readouterr().out == "ello\n"
    model, ids = names["model"], names["ids"]
    assert names["vocabulary"].tokens == ["h", "e", "l", "o"]
    model.reset_state()
    scores = model.predict(ids[np.newaxis, :-1])
    p = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    assert (np.take_along_axis(p, ids[np.newaxis, 1:, np.newaxis], axis=2) > 0.9).all()


# The sequence tasks


PNG = b"\x89PNG\r\n\x1a\n"


def run_main(example, argv, tmp_path, capsys):
    """What it prints; its picture is there."""
    picture = tmp_path / "picture.png"
    assert example.main([*argv, "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert f"picture: {picture}\n" in out
    assert picture.read_bytes().startswith(PNG)
    assert list(tmp_path.iterdir()) == [picture]
    return out


def rows(array):
    return {row.tobytes() for row in np.ascontiguousarray(array)}


def test_sums():
    xs, ts = addition.make_data(500, seed=0)
    assert xs.shape == (500, 7) and ts.shape == (500, 5)
    assert len(rows(xs)) == 500
    decode = addition.VOCABULARY.decode
    for question, answer in zip(xs, ts, strict=True):
        a, b = map(int, decode(question).split("+"))
        assert decode(answer) == f"_{a + b}".ljust(5) and max(a, b) < 1000
    again, other = addition.make_data(500, seed=0)[0], addition.make_data(500, seed=1)[0]
    assert (again == xs).all() and (other != xs).any()


def test_addition_learns_and_holds_out():
    """A tenth of the sums is held out; their loss is far below that of a guess."""
    model, xs, ts, shares = addition.run(hidden=48, size=3000, epochs=4)
    assert model.sizes["reverse"] and model.decoder.peeky and len(xs) == 300
    seen, held_out = common.split(3000, addition.TESTED, 0)
    assert not set(seen) & set(held_out) and len(seen) + len(held_out) == 3000
    assert rows(addition.make_data(3000, 0)[0][held_out]) == rows(xs)
    assert len(shares) == 4
    found, wanted = addition.answers_of(model, xs, ts)
    assert shares[-1] == np.mean([a == b for a, b in zip(found, wanted, strict=True)])
    assert wanted[0] == str(eval(addition.VOCABULARY.decode(xs[0])))
    guess = np.log(len(addition.VOCABULARY))
    assert model.forward(xs, ts, train_flg=False) < 0.8 * guess


def test_addition_from_a_shell(tmp_path, capsys, monkeypatch):
    run = addition.run
    monkeypatch.setattr(addition, "run", lambda **options: run(size=2000, **options))
    argv = ["--epochs", "1", "--hidden", "16", "--no-peeky", "--no-reverse", "--cell", "lstm"]
    out = run_main(addition, argv, tmp_path, capsys)
    assert re.search(r"exactly right on 200 held-out sums: \d+\.\d\d%", out)
    assert re.search(r"^\| epoch 1 / 1 \| time \d+\[s\] \| loss 2\.", out, re.MULTILINE)


TOKENS = [
    ("def", "keyword"),
    (" ", "space"),
    ("f", "name"),
    ("(", "operator"),
    ("é", "name"),
    ("):", "operator"),
    ("  ", "space"),
    ("# in", "comment"),
    ("\n    ", "space"),
    ("return", "keyword"),
    (" ", "space"),
    ("None", "keyword"),
    (" ", "space"),
    ("if", "keyword"),
    (" ", "space"),
    ("é", "name"),
    (" ", "space"),
    ("==", "operator"),
    (" ", "space"),
    ("0x1F", "number"),
    (" ", "space"),
    ("else", "keyword"),
    (" ", "space"),
    ('"""if\n  1"""', "string"),
    ("\n\n", "space"),
    ("match", "name"),  # a soft keyword
    (" ", "space"),
    ("=", "operator"),
    (" ", "space"),
    ("b'x'", "string"),
    (" \\\n  ", "space"),
    ("+", "operator"),
    ("1.5e3", "number"),
    ("\n", "space"),
]


def test_tags_of_a_source():
    source = "".join(text for text, _ in TOKENS)
    expected = [name for text, name in TOKENS for _ in text]
    assert [python_tokens.TAGS[k] for k in python_tokens.tag(source)] == expected
    assert python_tokens.tag("").shape == (0,)


def test_modules_are_there_and_split_by_file():
    tested = set(python_tokens.TESTED)
    assert len(tested) == 5 and tested < set(python_tokens.MODULES)
    for module in python_tokens.MODULES:
        source = python_tokens.read(module)
        assert len(source) > 10_000
        if module in tested:
            tags = python_tokens.tag(source)
            assert set(tags) == set(range(len(python_tokens.TAGS)))


def test_pieces_are_filled_up():
    vocabulary = data.CharVocabulary("x =1\n")
    length = python_tokens.LENGTH
    xs, ts = python_tokens.pieces(["x = 1\n" * length, "x", "=" * length], vocabulary)
    assert xs.shape == ts.shape == (6 + 1 + 1, length)
    assert vocabulary.decode(xs[:6]) == "x = 1\n" * length
    assert (ts[:6] != python_tokens.IGNORED).all() and (ts[7] != python_tokens.IGNORED).all()
    assert ts[6, 0] == 1 and (ts[6, 1:] == python_tokens.IGNORED).all()


def test_baselines_by_hand():
    """Tags are not looked at but counted."""
    xs, ts = np.array([[0, 0, 1, 1, 0]]), np.array([[1, 1, 4, 4, 2]])
    test_xs, test_ts = np.array([[0, 0, 1, 0]]), np.array([[1, 2, 4, -1]])
    found = python_tokens.baselines(xs, ts, test_xs, test_ts, 2)
    assert found == {'always "name"': 1 / 3, "each character's most frequent": 2 / 3}


def test_python_tokens(tmp_path, capsys, monkeypatch):
    """On two files; what comes later helps already."""
    monkeypatch.setattr(python_tokens, "TESTED", ["weakref"])
    monkeypatch.setattr(python_tokens, "MODULES", ["pprint", "weakref"])
    out = run_main(python_tokens, ["--epochs", "4", "--hidden", "24"], tmp_path, capsys)
    assert "held out: weakref\n" in out
    always, by_character, one_way, both_ways = (
        float(share) for share in re.findall(r"^  .* ([\d.]+)%$", out, re.MULTILINE)
    )
    assert always < 30 < by_character < 70
    assert both_ways > max(one_way, by_character)


def test_python_tokens_without_sources(capsys, monkeypatch):
    monkeypatch.setattr(python_tokens, "MODULES", ["no_such_module"])
    with pytest.raises(SystemExit) as caught:
        python_tokens.main([])
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "this Python comes without its sources" in message and "no_such_module.py" in message


def test_mackey_glass():
    series = forecast.mackey_glass(600, seed=0)
    assert series.shape == (600,) and 0.2 < series.min() < series.max() < 1.5
    assert (forecast.mackey_glass(600, seed=0) == series).all()
    assert (forecast.mackey_glass(600, seed=1) != series).any()
    xs, ts = forecast.windows(np.arange(600.0), 6)
    assert xs.shape == ts.shape == (10, forecast.WINDOW, 1)
    assert (ts - xs == 6).all() and ts.max() < 600


def test_forecast_is_better_than_the_last_value():
    found, truth, last, skills = forecast.run(epochs=40, length=2000, hidden=32)
    series = forecast.mackey_glass(2000, seed=0)
    assert len(found) == len(truth) == len(last) == 400 - forecast.WARM_UP - forecast.AHEAD
    np.testing.assert_array_equal(truth, series[-len(truth) :])
    np.testing.assert_array_equal(last, series[-len(truth) - forecast.AHEAD : -forecast.AHEAD])
    assert forecast.rmse(found, truth) < 0.5 * forecast.rmse(last, truth)
    expected = 1 - (forecast.rmse(found, truth) / forecast.rmse(last, truth)) ** 2
    assert skills[-1] == pytest.approx(expected)
    assert len(skills) == 40 and skills[-1] > 0.75


def test_forecast_from_a_shell(tmp_path, capsys):
    out = run_main(forecast, ["--epochs", "2", "--hidden", "8", "--cell", "rnn"], tmp_path, capsys)
    assert re.search(r"last value: 0\.1\d+\n  rnn: +0\.\d+\n  skill: +-?\d+\.\d\d%", out)


@pytest.mark.parametrize("example", [digits, digit_names])
def test_handwritten_digits(example, tmp_path, capsys):
    pytest.importorskip("sklearn")
    out = run_main(example, ["--epochs", "6"], tmp_path, capsys)
    (share,) = re.findall(r"right.* 359 held-out digits: ([\d.]+)%", out)
    assert float(share) > 93


@pytest.mark.parametrize("example", [digits, digit_names])
def test_digits_without_scikit_learn(example, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit) as caught:
        example.main([])
    assert caught.value.code == 1
    message = 'scikit-learn, whose digits these are, is missing: pip install "rnnfast[examples]"'
    assert message in capsys.readouterr().err


def test_names_of_digits():
    decode = digit_names.VOCABULARY.decode
    assert [decode(row).strip("_") for row in digit_names.SPELLED] == list(digit_names.NAMES)
    assert digit_names.SPELLED.shape == (10, digit_names.LETTERS + 1)
    assert (digit_names.SPELLED[:, [0, -1]] == 0).all()
    images, labels = np.random.default_rng(0).random((40, 8, 8)), np.arange(40) % 10
    model, pixels, held_out, shares = digit_names.run(images.astype("f"), labels, epochs=1)
    assert pixels.shape == (8, 64) and len(held_out) == 8 and len(shares) == 1
    assert len(digit_names.spell(model, pixels)) == 8


def test_a_curve_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setattr(common.plot, "available", lambda: False)
    common.draw_picture("picture.png", None, 1, 1)
    out = capsys.readouterr().out
    assert out == 'picture: not drawn, matplotlib is missing (pip install "rnnfast[plot]")\n'


@pytest.mark.parametrize("example", [addition, dates, digits, digit_names, forecast, python_tokens])
@pytest.mark.parametrize(
    "argv",
    [["--epochs", "0"], ["--hidden", "x"], ["--seed", "-1"], ["more"], ["--picture", "no/x.png"]],
)
def test_bad_options_of_sequence_tasks(example, argv, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(argv)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
