"""How gradients explode and vanish over time. Deep Learning from Scratch 2, chapter 6."""

from typing import NamedTuple

import numpy as np

from rnnfast import checks, plot
from rnnfast.inspection.arguments import here
from rnnfast.kernels import CELLS, load
from rnnfast.layers.functions import sigmoid
from rnnfast.layers.initial import generator

FLOAT64 = np.dtype(np.float64)


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
    Wh, Wx, b, xs = (here(owner, name, x) for name, x in arrays.items())
    H = checks.matrix(owner, "Wh", Wh, "(H, G*H)")[0]
    checks.exactly(owner, "Wh", Wh, FLOAT64, (H, gates * H), "(H, G*H)")
    N = checks.count(owner, "batch_size", batch_size)
    T = checks.count(owner, "time_size", time_size)
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
    H, T = (
        checks.count(owner, "hidden_size", hidden_size),
        checks.count(owner, "time_size", time_size),
    )
    book_Wh = np.random.RandomState(3).randn(3, 3)
    if rng is None:  # np.random's numbers are not this module's to take
        raise TypeError(f"{owner}: rng must be a seed or a Generator, got NoneType")
    rng = generator(owner, rng)
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
