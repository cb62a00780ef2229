"""Gradients through time, units of a character model, word vectors."""

import html
import re

import numpy as np
import pytest

from rnnfast import inspection
from rnnfast.kernels import load
from rnnfast.models import LanguageModel

rng = np.random.default_rng(0)


# Gradients


def test_the_books_case():
    """ch06/rnn_gradient_graph.py: seed 3, N 2, H 3, T 20; np.random is left alone."""
    np.random.seed(3)
    Wh = np.random.randn(3, 3)
    np.random.seed(1)
    before = np.random.get_state()[1].tobytes()
    curves = inspection.gradient_cases(hidden_size=4, time_size=3)["dh Wh^T alone, the book's Wh"]
    assert np.random.get_state()[1].tobytes() == before
    assert [curve.label for curve in curves] == ["Wh", "0.5 Wh"]
    for curve, W in zip(curves, (Wh, 0.5 * Wh), strict=True):
        dh, expected = np.ones((2, 3)), []
        for _ in range(20):
            dh = np.dot(dh, W.T)
            expected.append(np.sqrt(np.sum(dh**2)) / 2)
        np.testing.assert_allclose(curve.norms, expected, rtol=1e-14)
        assert curve.singular_value == pytest.approx(np.linalg.svd(W)[1][0], rel=1e-14)
    assert curves[0].norms[0] == pytest.approx(2.4684068094579303, rel=1e-14)
    assert curves[0].norms[-1] > 100
    assert curves[1].norms[-1] < 1e-3


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_norms_are_those_of_the_whole_sequence(cell, gates):
    """k steps back is what backward over the last k steps gives."""
    N, T, D, H = 3, 6, 4, 5
    xs, Wx = rng.normal(size=(N, T, D)), rng.normal(size=(D, gates * H))
    Wh, b = rng.normal(size=(H, gates * H)), rng.normal(size=gates * H)
    norms = inspection.gradient_norms(Wh, cell=cell, Wx=Wx, b=b, xs=xs)
    assert len(norms) == T
    module = load(cell, "reference")
    for k in range(1, T + 1):
        _, state, _ = module.forward(xs[:, : T - k], None, (Wx, Wh, b))
        _, _, cache = module.forward(xs[:, T - k :], state, (Wx, Wh, b))
        dstate = (np.ones((N, H)), *[np.zeros((N, H))] * (cell == "lstm"))
        grads = [np.empty_like(p) for p in (Wx, Wh, b)]
        _, dstate = module.backward(np.zeros((N, k, H)), dstate, (Wx, Wh, b), cache, grads)
        expected = np.sqrt(sum((d**2).sum() for d in dstate)) / N
        assert norms[k - 1] == pytest.approx(expected, rel=1e-12)


def test_without_inputs_an_rnn_is_the_product():
    Wh = rng.normal(size=(4, 4))
    got = inspection.gradient_norms(Wh, cell="rnn", batch_size=3, time_size=5)
    expected = inspection.gradient_norms(Wh, batch_size=3, time_size=5)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_explosion_and_vanishing():
    cases = inspection.gradient_cases(rng=1)
    up, orthogonal, down = cases["RNN"]
    values = up.singular_value, orthogonal.singular_value, down.singular_value
    np.testing.assert_allclose(values, (2, 1, 0.5), rtol=1e-12)
    assert [len(curve.norms) for curve in cases["RNN"]] == [50] * 3
    assert up.norms[-1] > 100 * up.norms[0]
    assert 1e-3 < orthogonal.norms[-1] / orthogonal.norms[0] < 1
    assert down.norms[-1] < 1e-10 * down.norms[0]
    rnn, _, _, lstm = cases["RNN and LSTM"]
    assert rnn.norms[-1] < 0.01 * rnn.norms[0]
    assert 0.1 < lstm.norms[-1] / lstm.norms[0] < 100
    again = inspection.gradient_cases(rng=1)
    assert again == cases
    assert inspection.gradient_cases(rng=np.random.default_rng(1)) == cases
    assert inspection.gradient_cases(rng=2)["RNN"] != cases["RNN"]


def test_the_picture(tmp_path):
    path = tmp_path / "gradients.png"
    inspection.plot_gradients(path, hidden_size=5, time_size=6)
    assert list(tmp_path.iterdir()) == [path]
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    assert (width, height) == (1400, 800)


def test_the_picture_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr("rnnfast.plot.available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"rnnfast\[plot\]"):
        inspection.plot_gradients(tmp_path / "gradients.png")
    assert list(tmp_path.iterdir()) == []


Wh = np.ones((3, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"Wh": [[1.0]]}, TypeError, "Wh must be a float32 or float64 array, got list"),
        ({"Wh": np.ones((3, 3), "f")}, TypeError, "Wh must be a float64 array, got float32"),
        ({"Wh": np.ones((3, 4))}, ValueError, r"Wh must be \(H, G\*H\) = \(3, 3\), got \(3, 4\)"),
        ({"Wh": Wh, "cell": "lstm"}, ValueError, r"Wh must be \(H, G\*H\) = \(3, 12\)"),
        ({"Wh": Wh, "cell": "relu"}, ValueError, "cell must be None or one of .*, got 'relu'"),
        ({"Wh": Wh, "batch_size": 0}, ValueError, "batch_size must be from 1 up, got 0"),
        ({"Wh": Wh, "time_size": 2.0}, TypeError, "time_size must be an integer, got float"),
        ({"Wh": Wh, "b": np.ones(3)}, ValueError, "Wx, b and xs must be None where cell is None"),
        ({"Wh": Wh, "cell": "rnn", "Wx": Wh}, ValueError, "Wx and xs must be given together"),
        (
            {"Wh": Wh, "cell": "rnn", "Wx": Wh, "xs": np.ones((2, 3, 4))},
            ValueError,
            r"xs must be \(N, T, D\) = \(N, T, 3\), sizes from 1 up, got \(2, 3, 4\)",
        ),
        (
            {"Wh": Wh, "cell": "rnn", "Wx": Wh, "xs": np.ones((2, 0, 3))},
            ValueError,
            r"xs must be .* got \(2, 0, 3\)",
        ),
        ({"Wh": Wh, "cell": "rnn", "b": np.ones(4)}, ValueError, r"b must be \(G\*H,\) = \(3,\)"),
    ],
)
def test_bad_arguments_of_gradient_norms(arguments, error, message):
    with pytest.raises(error, match=f"^gradient_norms: {message}"):
        inspection.gradient_norms(**arguments)


def test_bad_arguments_of_gradient_cases(tmp_path):
    for call in (
        inspection.gradient_cases,
        lambda **options: inspection.plot_gradients(tmp_path / "x.png", **options),
    ):
        with pytest.raises(ValueError, match="hidden_size must be from 1 up, got 0"):
            call(hidden_size=0)
        with pytest.raises(TypeError, match="time_size must be an integer, got str"):
            call(time_size="5")
        with pytest.raises(TypeError, match="rng must be a seed or a Generator, got NoneType"):
            call(rng=None)
        with pytest.raises(ValueError, match="rng must be None, a seed from 0 up or a Generator"):
            call(rng=-1)
    assert list(tmp_path.iterdir()) == []


# Units


@pytest.fixture
def model():
    return LanguageModel(6, 4, 5, cell="gru", layers=2, dropout=0.3, rng=1, dtype=np.float64)


def test_activations(model):
    """Of both layers, from a zero state; the model's own is back afterwards."""
    ids = rng.integers(0, 6, 17)
    model.predict(np.array([[1, 2], [3, 4]]))
    before = model.get_state()
    found = inspection.activations(model, ids)
    for a, b in zip(model.get_state(), before, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    model.reset_state()
    assert [hs.shape for hs in found] == [(17, 5), (17, 5)]
    assert inspection.activations(model, ids.tolist())[1].tolist() == found[1].tolist()
    for t in range(17):
        model.next_scores(ids[np.newaxis, t : t + 1])
        for hs, (h,) in zip(found, model.get_state(), strict=True):
            np.testing.assert_allclose(hs[t], h[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"ids must be \(length,\) integers, got float64 \(0,\)"),
        (np.array([[1]], "i8"), r"ids must be \(length,\) integers, got int64 \(1, 1\)"),
        ([0.5], r"ids must be \(length,\) integers, got float64 \(1,\)"),
        ([1, 6], r"ids must be in \[0, 6\), got 6"),
        ("text", r"ids must be \(length,\) integers, got <U4 \(\)"),
    ],
)
def test_bad_ids_of_activations(model, ids, message):
    with pytest.raises(TypeError, match=r"activations: model must be one of rnnfast.models, got"):
        inspection.activations(np.ones(3), ids)
    with pytest.raises(ValueError, match=f"activations: {message}"):
        inspection.activations(model, ids)


def test_units_are_ranked_by_absolute_correlation():
    values = rng.normal(size=200)
    first, second = rng.normal(size=(200, 3)).astype("f"), rng.normal(size=(200, 2))
    first[:, 1] = 3 - 2 * values  # follows it, the other way round
    second[:, 0] += values
    second[:, 1] = 0.25  # never changes
    units = inspection.rank_units([first, second], values)
    assert units[0][:2] == (0, 1)
    assert units[0].correlation == pytest.approx(-1, abs=1e-6)
    assert units[1][:2] == (1, 0)
    assert units[-1] == (1, 1, 0.0)
    assert len(units) == 5
    for layer, unit, correlation in units[:-1]:
        hs = (first, second)[layer][:, unit].astype("f8")
        assert correlation == pytest.approx(np.corrcoef(hs, values)[0, 1], abs=1e-12)
    assert inspection.rank_units([first, second], values, top=2) == units[:2]
    assert inspection.rank_units([second], values > 0)[0].unit == 0


@pytest.mark.parametrize(
    ("activations", "values", "error", "message"),
    [
        (np.ones((3, 2)), [1, 2, 3], TypeError, "activations must be a list"),
        ([np.ones((3, 2))], [1, 2], ValueError, r"activations\[0\] must be .* = \(2, H\), got"),
        ([np.ones(3)], [1, 2, 3], ValueError, r"activations\[0\] must be .* got \(3,\)"),
        ([[[1.0]]], [1, 2], TypeError, r"activations\[0\] must be a NumPy array, got list"),
        ([np.ones((3, 2))], [1, 1, 1], ValueError, "values must differ somewhere"),
        ([np.ones((3, 2))], [1, 2, np.nan], ValueError, "values must be finite"),
        ([np.ones((1, 2))], [1], ValueError, r"values must be \(length,\), from 2 up, got \(1,\)"),
        ([np.ones((3, 2))], ["a", "b", "c"], TypeError, "values must be real numbers, got <U1"),
    ],
)
def test_bad_arguments_of_rank_units(activations, values, error, message):
    with pytest.raises(error, match=f"^rank_units: {message}"):
        inspection.rank_units(activations, values)
    with pytest.raises(ValueError, match="top must be from 1 up, got 0"):
        inspection.rank_units([np.ones((2, 1))], [1, 2], top=0)


def test_properties_of_a_text():
    text = 'He "ran\nUP" (a[7])'
    expected = {
        "quotes": "000011111110000000",
        "brackets": "000000000000011210",
        "line": [*range(8), *range(10)],
        "word": "120012301200010100",
        "upper": "100000001100000000",
        "digit": "000000000000000100",
    }
    assert expected.keys() == inspection.PROPERTIES.keys()
    for name, wanted in expected.items():
        got = inspection.PROPERTIES[name](text)
        assert got.dtype == np.float64
        assert got.tolist() == [float(k) for k in wanted], name
        assert inspection.PROPERTIES[name]("").shape == (0,)
    assert inspection.inside_quotes("a\u201cb\u201dc").tolist() == [0, 0, 1, 1, 0]
    assert inspection.inside_brackets(")a(").tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", inspection.PROPERTIES)
def test_properties_of_what_is_no_text(name):
    for wrong in (3, None, ["a", "b"], b"ab"):
        with pytest.raises(TypeError, match="text must be a str, got"):
            inspection.PROPERTIES[name](wrong)


def test_a_unit_that_follows_a_property_is_found():
    """The whole way, with a model one of whose units is made to see capitals alone."""
    text = "Tom was watching TV in his room. Mary came in."
    letters = sorted(set(text))
    ids = np.array([letters.index(c) for c in text])
    V = len(letters)
    model = LanguageModel(V, V, 4, cell="rnn", rng=1, dtype=np.float64)
    embed_W, Wx, Wh = model.params[:3]
    embed_W[...] = np.eye(V)
    Wx[:, 2] = [1 if c.isupper() else -1 for c in letters]
    Wh[:, 2] = 0
    ranked = inspection.rank_units(
        inspection.activations(model, ids), inspection.upper_case(text), top=2
    )
    assert ranked[0] == (0, 2, pytest.approx(1.0, rel=1e-12))
    assert abs(ranked[1].correlation) < 0.9


# Coloured text


def test_html():
    page = inspection.to_html('a<b>&"\n', [-1, -0.5, 0, 0.5, 1, 2, -3], "x < y")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>x &lt; y</title>" in page
    spans = re.findall(r'<span style="background:(#\w{6})(;color:#fff)?" title="([^"]*)">', page)
    assert [colour for colour, _, _ in spans] == [
        "#2166ac",
        "#90b2d6",
        "#ffffff",
        "#d88c95",
        "#b2182b",
        "#b2182b",
        "#2166ac",
    ]
    assert [bool(dark) for _, dark, _ in spans] == [True, False, False, False, True, True, True]
    assert [float(value) for _, _, value in spans] == [-1, -0.5, 0, 0.5, 1, 2, -3]
    body = page[page.index("<pre>") : page.index("</pre>")]
    assert html.unescape(re.sub("<[^>]*>", "", body)) == 'a<b>&"\n'
    assert re.search("(src|href)=", page) is None  # nothing is fetched
    words = inspection.to_html(["<script>", "\ud55c\uad6d"], np.array([0.1, 0.2], "f"))
    assert "<script>" not in words and "\ud55c\uad6d</span>" in words
    assert "<pre></pre>" in inspection.to_html("", [])


def test_terminal():
    text = inspection.to_terminal("a\nb", [1, 0, -0.5])
    assert text == (
        "\x1b[48;2;178;24;43;38;2;255;255;255ma\x1b[0m\n\x1b[48;2;144;178;214;38;2;0;0;0mb\x1b[0m"
    )
    hostile = inspection.to_terminal(["\x1b[2J", "x\r"], [0, 0])
    assert hostile.count("\x1b") == 4  # ours
    assert "\ufffd[2J" in hostile and "x\ufffd" in hostile
    assert inspection.to_terminal([], []) == ""


@pytest.mark.parametrize("paint", [inspection.to_html, inspection.to_terminal])
def test_bad_arguments_of_coloured_text(paint):
    name = paint.__name__
    for tokens in 3, None, [1, 2], b"ab":
        with pytest.raises(TypeError, match=f"{name}: tokens must be a str or a list of str, got"):
            paint(tokens, [0, 0])
    with pytest.raises(ValueError, match=rf"{name}: values must be one for each token, \(2,\)"):
        paint("ab", [0])
    with pytest.raises(ValueError, match=f"{name}: values must be finite"):
        paint("ab", [0, np.nan])
    with pytest.raises(TypeError, match=f"{name}: values must be real numbers"):
        paint("ab", "ab")
    with pytest.raises(TypeError, match="title must be a str, got NoneType"):
        inspection.to_html("a", [0], None)


# Word vectors


WORDS = ["king", "queen", "man", "woman", "apple", "pear"]
WORD_TO_ID = {word: k for k, word in enumerate(WORDS)}
ID_TO_WORD = dict(enumerate(WORDS))
MATRIX = np.array(
    [[2, 2, 0.1], [2, 0, 0.1], [0.1, 2, 0], [0.1, 0, 0], [0, 0.2, 3], [0.1, 0, 2]], dtype=np.float64
)


def test_most_similar(capsys):
    ranked = inspection.most_similar("apple", WORD_TO_ID, ID_TO_WORD, MATRIX, top=3)
    unit = MATRIX / (np.linalg.norm(MATRIX, axis=1, keepdims=True) + 1e-8)
    cosines = unit @ unit[4]
    order = [k for k in np.argsort(-cosines) if k != 4][:3]
    assert [word for word, _ in ranked] == [WORDS[k] for k in order]
    np.testing.assert_allclose([c for _, c in ranked], cosines[order], rtol=1e-14)
    assert ranked[0][0] == "pear"
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["", "[query] apple"]
    assert lines[2:] == [f" {word}: {cosine}" for word, cosine in ranked]
    everything = inspection.most_similar("apple", WORD_TO_ID, WORDS, MATRIX.astype("f"), top=100)
    assert len(everything) == 5
    assert everything[0][1] == pytest.approx(cosines[5], rel=1e-6)


def test_analogy(capsys):
    """man : king = woman : ?, by the book's measure, the product with the unit vector."""
    names = WORD_TO_ID, ID_TO_WORD, MATRIX
    ranked = inspection.analogy("man", "king", "woman", *names, top=2, answer="queen")
    query = MATRIX[0] - MATRIX[2] + MATRIX[3]
    measure = MATRIX @ (query / np.linalg.norm(query))
    assert ranked[0][0] == "queen"
    assert [word for word, _ in ranked] == ["queen", "pear"]
    np.testing.assert_allclose([m for _, m in ranked], measure[[1, 5]], rtol=1e-14)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["", "[analogy] man:king = woman:?"]
    assert lines[2].startswith("==>queen:")
    assert float(lines[2].removeprefix("==>queen:")) == ranked[0][1]
    assert lines[3:] == [f" {word}: {m}" for word, m in ranked]
    before = MATRIX.copy()
    inspection.analogy("man", "man", "king", *names)
    np.testing.assert_array_equal(MATRIX, before)


def test_bad_words(capsys):
    names = WORD_TO_ID, ID_TO_WORD, MATRIX
    for word in "plum", None, 3, ["king"]:
        with pytest.raises(ValueError, match="most_similar: word must be in the vocabulary, got"):
            inspection.most_similar(word, *names)
        for k, name in enumerate("abc"):
            words = ["man", "king", "woman"]
            words[k] = word
            with pytest.raises(ValueError, match=f"analogy: {name} must be in the vocabulary, got"):
                inspection.analogy(*words, *names)
    with pytest.raises(ValueError, match="analogy: answer must be in the vocabulary, got 'plum'"):
        inspection.analogy("man", "king", "woman", *names, answer="plum")
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="most_similar: top must be"):
            inspection.most_similar("man", *names, top=wrong)
    for matrix, error in ((MATRIX[:5], ValueError), (MATRIX[0], ValueError), ([[1]], TypeError)):
        with pytest.raises(error, match="most_similar: word_matrix must be"):
            inspection.most_similar("man", WORD_TO_ID, ID_TO_WORD, matrix)
    with pytest.raises(TypeError, match="word_to_id must be a dict, got NoneType"):
        inspection.most_similar("man", None, ID_TO_WORD, MATRIX)
    with pytest.raises(ValueError, match=r"the id of 'man' must be in \[0, 6\), got 9"):
        inspection.most_similar("man", WORD_TO_ID | {"man": 9}, ID_TO_WORD, MATRIX)
    assert capsys.readouterr().out == ""


def test_activations_must_be_finite():
    hs = np.random.default_rng(0).standard_normal((6, 4))
    hs[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"rank_units: activations\[0\] must be finite, got nan"):
        inspection.rank_units([hs], [0, 1, 0, 1, 1, 0])
