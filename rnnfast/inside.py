"""Looking inside: gradients through time, what single units follow, which words are alike.

- gradient_norms, gradient_cases, plot_gradients: why gradients explode or vanish (chapter 6).
- activations, rank_units, PROPERTIES, to_html, to_terminal: interpretable units of a character
  model (Karpathy et al. 2015, https://arxiv.org/abs/1506.02078).
- most_similar, analogy: word vectors by their neighbours (chapters 2 and 4).

All of it is NumPy's: arrays of a model on a GPU, such as its weights, are brought to the host.
Pictures need matplotlib (the `plot` extra). Wrong arguments are a TypeError or a ValueError.
"""

import html
from typing import NamedTuple

import numpy as np

from rnnfast import checks, io, plot, sampling
from rnnfast.functions import sigmoid
from rnnfast.kernels import CELLS, load

FLOAT64 = np.dtype(np.float64)

# Gradients through time


class Curve(NamedTuple):
    """One line of a picture of gradient_norms."""

    label: str
    singular_value: float  # the largest one of Wh
    norms: list[float]  # 1, 2, ... steps back in time


def gradient_norms(Wh, *, cell=None, Wx=None, b=None, xs=None, batch_size=2, time_size=20):
    """How long the gradient of the state is 1, 2, ... T steps back in time: a list of T floats.

    It starts as dh = 1 at the last step, and is measured as the book does, the norm of the whole
    (N, H) array divided by N; for an LSTM the norm is that of dh and dc together.

    Wh: float64, (H, H) for rnn, (H, 4H) for lstm, (H, 3H) for gru. cell None is the book's
    ch06/rnn_gradient_graph.py, the product dh Wh^T alone. Otherwise it is the cell's backward along
    the states it really takes, over inputs xs (N, T, D) with Wx (D, G*H), and b (G*H,) or None;
    without Wx and xs the inputs are zero. batch_size and time_size are N and T where xs is None.
    """
    owner = "gradient_norms"
    if cell is not None and cell not in CELLS:
        raise ValueError(f"{owner}: cell must be None or one of {CELLS}, got {cell!r}")
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    arrays = {"Wh": Wh, "Wx": Wx, "b": b, "xs": xs}
    Wh, Wx, b, xs = (_here(owner, name, x) for name, x in arrays.items())
    H = checks.matrix(owner, "Wh", Wh, "(H, G*H)")[0]
    checks.exactly(owner, "Wh", Wh, FLOAT64, (H, gates * H), "(H, G*H)")
    N = _count(owner, "batch_size", batch_size)
    T = _count(owner, "time_size", time_size)
    if cell is None:
        if not (Wx is None and b is None and xs is None):
            raise ValueError(f"{owner}: Wx, b and xs must be None where cell is None")
        dh, norms = np.ones((N, H)), []
        for _ in range(T):
            dh = dh @ Wh.T
            norms.append(float(np.sqrt(np.sum(dh**2)) / N))
        return norms
    if (Wx is None) != (xs is None):
        raise ValueError(f"{owner}: Wx and xs must be given together")
    if Wx is None:
        Wx, xs = np.zeros((1, gates * H)), np.zeros((N, T, 1))
    D = checks.matrix(owner, "Wx", Wx, "(D, G*H)")[0]
    checks.exactly(owner, "Wx", Wx, FLOAT64, (D, gates * H), "(D, G*H)")
    checks.real(owner, "xs", xs)
    if xs.ndim != 3 or 0 in xs.shape or xs.shape[2] != D:
        raise checks.shape_error(owner, "xs", f"(N, T, D) = (N, T, {D}), sizes from 1 up", xs)
    if b is not None:
        checks.exactly(owner, "b", b, FLOAT64, (gates * H,), "(G*H,)")
    return _cell_norms(load(cell, "reference"), checks.cast(xs, FLOAT64), (Wx, Wh, b))


def _cell_norms(module, xs, params):
    """Step by step, to see the gradient between any two of them."""
    N, T, _ = xs.shape
    H = params[1].shape[0]
    grads = tuple(None if p is None else np.empty_like(p) for p in params)
    state, caches = None, []
    for t in range(T):
        _, state, cache = module.forward(xs[:, t : t + 1], state, params)
        caches.append(cache)
    dstate = (np.ones((N, H)), *[np.zeros((N, H))] * (len(state) - 1))
    norms = []
    for cache in reversed(caches):
        _, dstate = module.backward(np.zeros((N, 1, H)), dstate, params, cache, grads)
        norms.append(float(np.sqrt(sum(np.sum(d**2) for d in dstate)) / N))
    return norms


def gradient_cases(*, hidden_size=50, time_size=50, rng=0):
    """What plot_gradients draws: a dict from a title to its Curves.

    The book's own case (N 2, H 3, T 20, seed 3; Wh and 0.5 Wh); an RNN whose Wh is orthogonal, and
    that times 2 and 0.5; an RNN against an LSTM, whose gradient of c shrinks by the forget gate
    alone. rng: a seed or a Generator, of all but the book's case.
    """
    owner = "gradient_cases"
    H, T = _count(owner, "hidden_size", hidden_size), _count(owner, "time_size", time_size)
    book_Wh = np.random.RandomState(3).randn(3, 3)
    if rng is None:  # np.random's numbers are not this module's to take
        raise TypeError(f"{owner}: rng must be a seed or a Generator, got NoneType")
    rng = sampling.generator(owner, rng)
    N = D = 10
    xs = rng.standard_normal((N, T, D))
    Wx = {G: rng.standard_normal((D, G * H)) / np.sqrt(D) for G in (1, 4)}
    orthogonal = _orthogonal(rng, H)
    lstm_Wh = np.hstack([_orthogonal(rng, H) for _ in range(4)])

    def rnn(label, Wh):
        norms = gradient_norms(Wh, cell="rnn", Wx=0.1 * Wx[1], xs=xs)
        return Curve(label, _singular_value(Wh), norms)

    def lstm(label, forget_bias):
        b = np.zeros(4 * H)
        b[:H] = forget_bias
        norms = gradient_norms(lstm_Wh, cell="lstm", Wx=Wx[4], b=b, xs=xs)
        return Curve(label, _singular_value(lstm_Wh), norms)

    return {
        "dh Wh^T alone, the book's Wh": [
            Curve(label, _singular_value(Wh), gradient_norms(Wh))
            for label, Wh in (("Wh", book_Wh), ("0.5 Wh", 0.5 * book_Wh))
        ],
        "RNN": [
            rnn("2 x orthogonal", 2 * orthogonal),
            rnn("orthogonal", orthogonal),
            rnn("0.5 x orthogonal", 0.5 * orthogonal),
        ],
        "RNN and LSTM": [
            rnn("RNN, 0.9 x orthogonal", 0.9 * orthogonal),
            lstm("LSTM, forget bias 0", 0),
            lstm("LSTM, forget bias 1", 1),
            lstm("LSTM, forget bias 5", 5),
        ],
    }


def plot_gradients(path, *, hidden_size=50, time_size=50, rng=0):
    """Write a PNG: gradient_cases, and below sigmoid, tanh and relu with their derivatives.

    ModuleNotFoundError, naming the extra, without matplotlib.
    """
    figure = plot.figure(14, 8)
    cases = gradient_cases(hidden_size=hidden_size, time_size=time_size, rng=rng)
    axes = figure.subplots(2, 3)
    for ax, (title, curves) in zip(axes[0], cases.items(), strict=True):
        for curve in curves:
            label = f"{curve.label}: {curve.singular_value:.3g}"
            ax.plot(range(1, len(curve.norms) + 1), curve.norms, label=label)
        ax.set(title=title, xlabel="steps back in time", ylabel="norm of the gradient")
        ax.set_yscale("log")
        ax.legend(title="largest singular value of Wh", fontsize="small")
    x = np.linspace(-5, 5, 501)
    functions = {
        "sigmoid": (sigmoid(x), sigmoid(x) * (1 - sigmoid(x))),
        "tanh": (np.tanh(x), 1 - np.tanh(x) ** 2),
        "relu": (np.maximum(x, 0), (x > 0).astype(float)),
    }
    for ax, (name, (y, derivative)) in zip(axes[1], functions.items(), strict=True):
        ax.plot(x, y, label=name)
        ax.plot(x, derivative, label=f"its derivative, at most {derivative.max():.3g}")
        ax.set(title=name, xlabel="x")
        ax.legend()
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    plot.save(figure, path, dpi=100)


def _orthogonal(rng, H):
    """A random orthogonal matrix; every singular value is 1."""
    Q, R = np.linalg.qr(rng.standard_normal((H, H)))
    return Q * np.sign(np.diag(R))


def _singular_value(Wh):
    return float(np.linalg.norm(Wh, 2))


# Units of a character model


def activations(model, ids):
    """What every unit of every recurrent layer gives for ids (length,): a list of (length, H).

    model: a models.BaseModel. It reads the ids from a zero state, in inference mode; its own state
    is there again afterwards.
    """
    V = sampling.vocab_size("activations", model)
    ids = np.asarray(_here("activations", "ids", ids))
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"activations: ids must be (length,) integers, got {ids.dtype} {ids.shape}"
        )
    checks.in_range("activations", "ids", ids, V)
    state = model.get_state()
    model.reset_state()
    try:
        xs, found = ids[np.newaxis], []
        for layer in model.layers[:-1]:
            xs = layer.forward(xs, train=False)
            if layer in model.recurrent_layers:
                found.append(io.to_numpy(xs[0]))
        return found
    finally:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            model.set_state(state)


class Unit(NamedTuple):
    layer: int
    unit: int
    correlation: float


def rank_units(activations, values, top=None):
    """Units by how well they follow a property of the text, the best first: a list of Unit.

    activations: (length, H) of each layer, as the function of that name gives them. values
    (length,): the property at each character, numbers or bool; PROPERTIES makes some of a text.
    A unit follows it as well as its correlation, positive or negative, is far from zero; that of a
    unit which never changes is 0. top: how many units, None for all.
    """
    owner = "rank_units"
    if checks.is_array(activations):
        raise TypeError(f"{owner}: activations must be a list, one array a layer, got an array")
    values = np.asarray(_here(owner, "values", values))
    checks.real(owner, "values", values)
    if values.ndim != 1 or values.size < 2:
        raise checks.shape_error(owner, "values", "(length,), from 2 up", values)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{owner}: values must be finite, got nan or inf")
    values -= values.mean()
    if not values.any():
        raise ValueError(f"{owner}: values must differ somewhere, got the same everywhere")
    top = None if top is None else _count(owner, "top", top)
    units = []
    for k, hs in enumerate(activations):
        hs = _here(owner, f"activations[{k}]", hs)
        checks.real(owner, f"activations[{k}]", hs)
        if hs.ndim != 2 or len(hs) != len(values):
            expected = f"(length, H) = ({len(values)}, H)"
            raise checks.shape_error(owner, f"activations[{k}]", expected, hs)
        hs = hs.astype(np.float64)
        constant = (hs == hs[0]).all(axis=0)
        hs -= hs.mean(axis=0)
        scale = np.linalg.norm(hs, axis=0) * np.linalg.norm(values)
        correlations = np.where(constant, 0.0, values @ hs / np.where(constant, 1.0, scale))
        units += [Unit(k, unit, float(c)) for unit, c in enumerate(correlations)]
    return sorted(units, key=lambda unit: -abs(unit.correlation))[:top]


def inside_quotes(text):
    """1 between a quotation mark (" or the curly pair) and the next one, and at the closing one."""
    _check_str("inside_quotes", "text", text)
    inside, found = False, []
    for character in text:
        found.append(inside)
        if character == '"':
            inside = not inside
        elif character in "\u201c\u201d":
            inside = character == "\u201c"
    return np.array(found, dtype=np.float64)


def inside_brackets(text):
    """How many brackets, ( [ or {, are open at each character."""
    _check_str("inside_brackets", "text", text)
    depth, found = 0, []
    for character in text:
        if character in ")]}":
            depth = max(depth - 1, 0)
        found.append(depth)
        if character in "([{":
            depth += 1
    return np.array(found, dtype=np.float64)


def position_in_line(text):
    """0 at the first character of a line, then 1, 2, ...; the line's end counts to it."""
    _check_str("position_in_line", "text", text)
    position, found = 0, []
    for character in text:
        found.append(position)
        position = 0 if character == "\n" else position + 1
    return np.array(found, dtype=np.float64)


def position_in_word(text):
    """0 where there is no letter or digit, then 1, 2, ... along a word."""
    _check_str("position_in_word", "text", text)
    position, found = 0, []
    for character in text:
        position = position + 1 if character.isalnum() else 0
        found.append(position)
    return np.array(found, dtype=np.float64)


def upper_case(text):
    """1 for an upper-case letter."""
    _check_str("upper_case", "text", text)
    return np.array([character.isupper() for character in text], dtype=np.float64)


def digit(text):
    """1 for a digit."""
    _check_str("digit", "text", text)
    return np.array([character.isdigit() for character in text], dtype=np.float64)


# name -> function(text) -> (len(text),) float64, for rank_units
PROPERTIES = {
    "quotes": inside_quotes,
    "brackets": inside_brackets,
    "line": position_in_line,
    "word": position_in_word,
    "upper": upper_case,
    "digit": digit,
}

POSITIVE, NEGATIVE = (178, 24, 43), (33, 102, 172)  # red, blue: told apart by the colour-blind too


def to_html(tokens, values, title="Activation of one unit"):
    """A page of its own: the text, each token on the colour of its value.

    tokens: a str, or a list of them (characters or words). values: (len(tokens),) finite numbers;
    -1 and below is blue, 0 white, 1 and above red. Returns the page as a str, to be written as
    UTF-8.
    """
    values = _checked_text("to_html", tokens, values)
    _check_str("to_html", "title", title)
    spans = []
    for token, value in zip(tokens, values, strict=True):
        (r, g, b), dark = _colour(value)
        white = ";color:#fff" if dark else ""
        style = f"background:#{r:02x}{g:02x}{b:02x}{white}"
        spans.append(f'<span style="{style}" title="{value:.3f}">{html.escape(token)}</span>')
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8">\n'
        f"<title>{title}</title>\n"
        "<style>pre { white-space: pre-wrap; overflow-wrap: anywhere; }</style>\n"
        f"</head><body>\n<h1>{title}</h1>\n<pre>{''.join(spans)}</pre>\n</body></html>\n"
    )


def to_terminal(tokens, values):
    """The same for a terminal with 24-bit colours, as a str. Control characters are replaced."""
    values = _checked_text("to_terminal", tokens, values)
    parts = []
    for token, value in zip(tokens, values, strict=True):
        (r, g, b), dark = _colour(value)
        ink = 255 if dark else 0
        start = f"\x1b[48;2;{r};{g};{b};38;2;{ink};{ink};{ink}m"
        # the colour ends before the line does, or it would fill the rest of it
        lines = [
            "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line)
            for line in token.split("\n")
        ]
        parts.append("\n".join(f"{start}{line}\x1b[0m" if line else "" for line in lines))
    return "".join(parts)


def _colour(value):
    """((r, g, b), whether it is dark) of a value from -1 to 1."""
    strength = min(abs(value), 1.0)
    end = POSITIVE if value > 0 else NEGATIVE
    colour = tuple(round(255 + (c - 255) * strength) for c in end)
    return colour, strength > 0.6


def _checked_text(owner, tokens, values):
    if not isinstance(tokens, str) and not (
        isinstance(tokens, (list, tuple)) and all(isinstance(token, str) for token in tokens)
    ):
        raise TypeError(f"{owner}: tokens must be a str or a list of str, got {_kind(tokens)}")
    values = np.asarray(_here(owner, "values", values))
    checks.real(owner, "values", values)
    if values.shape != (len(tokens),):
        raise checks.shape_error(owner, "values", f"one for each token, {(len(tokens),)}", values)
    if not np.isfinite(values).all():
        raise ValueError(f"{owner}: values must be finite, got nan or inf")
    return values.astype(np.float64).tolist()


# Word vectors


def most_similar(word, word_to_id, id_to_word, word_matrix, top=5):
    """Print the `top` words whose vectors have the highest cosine with that of `word`.

    word_matrix (V, D): a word's vector is the row of its id; a model's is model.params[0]. Returns
    [(word, cosine), ...], the best first; `word` itself is left out. ValueError for a word that is
    not in word_to_id. The book's function (chapter 2, common/util.py).
    """
    owner = "most_similar"
    W = _checked_words(owner, word_to_id, id_to_word, word_matrix)
    top = _count(owner, "top", top)
    query = W[_id_of(owner, "word", word, word_to_id, len(W))]
    unit = W / (np.sqrt(np.sum(W**2, axis=1, keepdims=True)) + 1e-8)
    similarity = unit @ (query / (np.sqrt(np.sum(query**2)) + 1e-8))
    print(f"\n[query] {word}")
    return _print_ranked(similarity, id_to_word, (word,), top)


def analogy(a, b, c, word_to_id, id_to_word, word_matrix, top=5, answer=None):
    """Print the words that are to c as b is to a: those along b - a + c, normalised.

    As in the book (chapter 4, common/util.py) the measure is the product with that vector, and
    the word vectors keep their length. With `answer` that word's measure is printed first. Returns
    [(word, measure), ...], the best first; a, b and c are left out. ValueError for a word that is
    not in word_to_id.
    """
    owner = "analogy"
    W = _checked_words(owner, word_to_id, id_to_word, word_matrix)
    top = _count(owner, "top", top)
    words = {"a": a, "b": b, "c": c}
    ids = {name: _id_of(owner, name, word, word_to_id, len(W)) for name, word in words.items()}
    if answer is not None:
        answer_id = _id_of(owner, "answer", answer, word_to_id, len(W))
    query = W[ids["b"]] - W[ids["a"]] + W[ids["c"]]
    length = np.sqrt(np.sum(query**2))
    similarity = W @ (query / length if length else query)
    print(f"\n[analogy] {a}:{b} = {c}:?")
    if answer is not None:
        print(f"==>{answer}:{similarity[answer_id]}")
    return _print_ranked(similarity, id_to_word, (a, b, c), top)


def _print_ranked(similarity, id_to_word, left_out, top):
    ranked = []
    for k in np.argsort(-similarity, kind="stable"):
        word = id_to_word[int(k)]
        if word in left_out or np.isnan(similarity[k]):
            continue
        ranked.append((word, float(similarity[k])))
        print(f" {word}: {similarity[k]}")
        if len(ranked) == top:
            break
    return ranked


def _checked_words(owner, word_to_id, id_to_word, word_matrix):
    """word_matrix in float64."""
    for name, mapping in (("word_to_id", word_to_id), ("id_to_word", id_to_word)):
        if not hasattr(mapping, "__getitem__") or isinstance(mapping, (str, np.ndarray)):
            raise TypeError(f"{owner}: {name} must be a dict, got {_kind(mapping)}")
    word_matrix = _here(owner, "word_matrix", word_matrix)
    checks.real(owner, "word_matrix", word_matrix)
    if word_matrix.ndim != 2 or len(word_matrix) != len(id_to_word):
        expected = f"(V, D), V = {len(id_to_word)} words"
        raise checks.shape_error(owner, "word_matrix", expected, word_matrix)
    return word_matrix.astype(np.float64)


def _id_of(owner, name, word, word_to_id, V):
    try:
        k = word_to_id[word]
    except (KeyError, TypeError):
        raise ValueError(f"{owner}: {name} must be in the vocabulary, got {word!r}") from None
    if not 0 <= k < V:
        raise ValueError(f"{owner}: the id of {word!r} must be in [0, {V}), got {k}")
    return k


def _here(owner, name, x):
    """x as it is, but an array on a GPU as NumPy's."""
    x = checks.adopt(owner, name, x)
    return io.to_numpy(x) if checks.is_cupy(x) else x


def _count(owner, name, value):
    value = checks.integer(owner, name, value)
    if value < 1:
        raise ValueError(f"{owner}: {name} must be from 1 up, got {value}")
    return value


def _check_str(owner, name, value):
    if not isinstance(value, str):
        raise TypeError(f"{owner}: {name} must be a str, got {_kind(value)}")


def _kind(x):
    return type(x).__name__
