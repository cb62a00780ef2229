"""The examples do what they say, and the code in README.md runs."""

import re
from pathlib import Path

import numpy as np
import pytest

from rnnfast.examples import tom_mary

README = Path(__file__).parents[1] / "README.md"


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


def code_of(section):
    """The blocks of Python in a section of README.md."""
    text = README.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


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
