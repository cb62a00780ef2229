"""How gradients explode and vanish over time. Deep Learning from Scratch 2, chapter 6."""

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks, plot
from rnnfast.inspection.arguments import here
from rnnfast.kernels import load
from rnnfast.layers.cells import RECURRENT
from rnnfast.layers.functions import sigmoid
from rnnfast.layers.initial import generator
from rnnfast.typing import Array

# The cells that Wx, Wh and b are enough for
SHOWN = tuple(name for name, layer in RECURRENT.items() if set(layer.more) <= {"Wp"})
FLOAT64 = np.dtype(np.float64)


class Curve(NamedTuple):
    """One line in a plot of gradient norms.

    Attributes
    ----------
    label : str
        The legend.
    singular_value : float
        The largest singular value of Wh.
    norms : list of float
        Norms 1, 2, ... steps back in time.
    """

    label: str
    singular_value: float
    norms: list[float]


def gradient_norms(
    Wh: Array,
    *,
    cell: str | None = None,
    Wx: Array | None = None,
    b: Array | None = None,
    xs: Array | None = None,
    batch_size: int = 2,
    time_size: int = 20,
) -> list[float]:
    """Norm of the state's gradient 1, 2, ... T steps back in time.

    Parameters
    ----------
    Wh : float64 (H, G*H)
        Recurrent weights: (H, H) for rnn, (H, 4H) for lstm, (H, 3H) for gru.
    cell : {"rnn", "lstm", "gru", "slstm"}, optional
        None is the book's ch06/rnn_gradient_graph.py: only the product dh Wh^T. A cell runs its
        backward along the states that it reaches over the inputs.
    Wx : float64 (D, G*H), optional
        Input weights, given together with `xs`. Without them the inputs are zero.
    b : float64 (G*H,), optional
        Bias.
    xs : array (N, T, D), optional
        Inputs.
    batch_size, time_size : int
        N and T without `xs`.

    Returns
    -------
    list of float
        T norms.

    Raises
    ------
    ValueError
        `cell` is unknown, the shapes do not fit, or `Wx` and `xs` are not given together.
    TypeError
        A dtype is not the expected one.

    Notes
    -----
    The gradient starts as dh = 1 at the last step. As in the book, the norm is that of the whole
    (N, H) array divided by N. For an LSTM it is the norm of dh and dc together,
    for an sLSTM of dh, dc, dn and dm.

    References
    ----------
    Deep Learning from Scratch 2, section 6.1.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import inspection
    >>> inspection.gradient_norms(0.5 * np.eye(4), batch_size=1, time_size=3)
    [1.0, 0.5, 0.25]
    """
    owner = "gradient_norms"
    if cell is not None and cell not in SHOWN:
        raise ValueError(f"{owner}: cell must be None or one of {SHOWN}, got {cell!r}")
    gates = 1 if cell is None else RECURRENT[cell].gates
    given = {"Wh": Wh, "Wx": Wx, "b": b, "xs": xs}
    arrays = [here(owner, name, x) for name, x in given.items()]
    return _norms(owner, cell, gates, arrays, batch_size, time_size)


def _norms(
    owner: str,
    cell: str | None,
    gates: int,
    arrays: list[Any],
    batch_size: int,
    time_size: int,
) -> list[float]:
    """gradient_norms of NumPy arrays: Wh, Wx, b and xs."""
    Wh, Wx, b, xs = arrays
    H = checks.matrix(owner, "Wh", Wh, "(H, G*H)")[0]
    checks.exactly(owner, "Wh", Wh, FLOAT64, (H, gates * H), "(H, G*H)")
    N = checks.count(owner, "batch_size", batch_size)
    T = checks.count(owner, "time_size", time_size)
    if cell is None:
        if not (Wx is None and b is None and xs is None):
            raise ValueError(f"{owner}: Wx, b and xs must be None where cell is None")
        dh: NDArray[Any] = np.ones((N, H))
        norms: list[float] = []
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


def _cell_norms(module: Any, xs: Any, params: tuple[Any, ...]) -> list[float]:
    """The norms of a cell, which runs step by step: each step's backward gives its gradient."""
    N, T, _ = xs.shape
    H = params[1].shape[0]
    grads = tuple(None if p is None else np.empty_like(p) for p in params)
    state: Any = None
    caches: list[Any] = []
    for t in range(T):
        _, state, cache = module.forward(xs[:, t : t + 1], state, params)
        caches.append(cache)
    dstate: Any = (np.ones((N, H)), *[np.zeros((N, H))] * (len(state) - 1))
    norms: list[float] = []
    for cache in reversed(caches):
        _, dstate = module.backward(np.zeros((N, 1, H)), dstate, params, cache, grads)
        norms.append(float(np.sqrt(sum(np.sum(d**2) for d in dstate)) / N))
    return norms


def gradient_cases(
    *, hidden_size: int = 50, time_size: int = 50, rng: Any = 0
) -> dict[str, list[Curve]]:
    """The cases that `plot_gradients` draws.

    Parameters
    ----------
    hidden_size, time_size : int
        H and T of all cases but the book's.
    rng : int or numpy.random.Generator
        Seed or generator of all cases but the book's.

    Returns
    -------
    dict
        Title -> curves, for three plots:

        - the book's case (N 2, H 3, T 20, seed 3): Wh and 0.5 Wh;
        - an RNN whose Wh is orthogonal, and 2 and 0.5 times this Wh;
        - an RNN and LSTMs. In an LSTM only the forget gate reduces the gradient of c.

    Raises
    ------
    TypeError
        `rng` is neither a seed nor a generator.

    References
    ----------
    Deep Learning from Scratch 2, sections 6.1 and 6.2.
    """
    owner = "gradient_cases"
    H, T = (
        checks.count(owner, "hidden_size", hidden_size),
        checks.count(owner, "time_size", time_size),
    )
    book_Wh = np.random.RandomState(3).randn(3, 3)
    if rng is None:  # this module draws no numbers from np.random
        raise TypeError(f"{owner}: rng must be a seed or a Generator, got NoneType")
    rng = generator(owner, rng)
    N = D = 10
    xs = rng.standard_normal((N, T, D))
    Wx = {G: rng.standard_normal((D, G * H)) / np.sqrt(D) for G in (1, 4)}
    orthogonal = _orthogonal(rng, H)
    lstm_Wh = np.hstack([_orthogonal(rng, H) for _ in range(4)])

    def rnn(label: str, Wh: NDArray[Any]) -> Curve:
        norms = gradient_norms(Wh, cell="rnn", Wx=0.1 * Wx[1], xs=xs)
        return Curve(label, _singular_value(Wh), norms)

    def lstm(label: str, forget_bias: float) -> Curve:
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


def plot_gradients(
    path: str | os.PathLike[str],
    *,
    hidden_size: int = 50,
    time_size: int = 50,
    rng: Any = 0,
) -> None:
    """Plot `gradient_cases`, and sigmoid, tanh and relu with their derivatives.

    Parameters
    ----------
    path : path-like
        The file to write: a PNG, SVG or PDF by its ending.
    hidden_size, time_size, rng
        As in `gradient_cases`.

    Raises
    ------
    ModuleNotFoundError
        matplotlib, the extra `plot`, is missing.
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


def _orthogonal(rng: Any, H: int) -> NDArray[np.float64]:
    """A random orthogonal matrix; every singular value is 1."""
    Q, R = np.linalg.qr(rng.standard_normal((H, H)))
    found: NDArray[np.float64] = Q * np.sign(np.diag(R))
    return found


def _singular_value(Wh: NDArray[Any]) -> float:
    """The largest singular value."""
    return float(np.linalg.norm(Wh, 2))
