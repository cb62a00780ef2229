"""Plots with matplotlib (the extra `plot`), which only this module imports, when it is used."""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from rnnfast.io.files import check_writable, write_atomically


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save_perplexity(
    path: str | os.PathLike[str],
    perplexities: Sequence[float],
    eval_interval: int,
    ylim: tuple[float, float] | None = None,
) -> None:
    """Write the perplexity curve of a trainer as a PNG, without a window or global state.

    Parameters
    ----------
    path : path-like
        The file.
    perplexities : sequence of float
        The trainer's `ppl_list`.
    eval_interval : int
        Iterations between two values.
    ylim : (float, float), optional
        Limits of the y axis.

    Raises
    ------
    ModuleNotFoundError
        matplotlib, the extra `plot`, is missing.
    """
    xs = [1 + k * eval_interval for k in range(len(perplexities))]
    curves = {"training": (xs, [float(ppl) for ppl in perplexities])}
    save_curves(path, curves, "Perplexity", ylim=ylim, xlabel="iteration")


def save_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    measure: str = "perplexity",
    *,
    ylim: tuple[float, float] | None = None,
    xlabel: str = "epoch",
) -> None:
    """Write curves over epochs as a PNG.

    Parameters
    ----------
    path : path-like
        The file.
    curves : dict
        Name -> (epochs, values). The end of an epoch is a whole number. Curves without values are
        left out.
    title : str
        Title of the plot.
    measure : str
        Label of the y axis. A "perplexity" has a logarithmic scale, unless `ylim` is given.
    ylim : (float, float), optional
        Limits of the y axis.
    xlabel : str
        Label of the x axis.

    Raises
    ------
    ModuleNotFoundError
        matplotlib, the extra `plot`, is missing.
    """
    picture = figure(7, 4)
    _draw_curves(picture.add_subplot(), curves, title, measure, ylim, xlabel)
    save(picture, path)


def figure(width: float, height: float) -> Any:
    """Create an empty matplotlib figure, without a window or global state.

    Parameters
    ----------
    width, height : float
        Size in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    return _matplotlib("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def save(
    figure: Any, path: str | os.PathLike[str], dpi: int = 120, *, description: str = ""
) -> None:
    """Write a figure as a PNG, or what the name's ending says, atomically.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : path-like
        The file, complete or unchanged. Its name ends in .png, .svg or .pdf, or has no such ending:
        then it is a PNG.
    dpi : int
        Pixels per inch.
    description : str
        An alternative text, kept in the file as its description.
    """
    kind, content = _kind(path), BytesIO()
    metadata = {"Subject" if kind == "pdf" else "Description": description} if description else None
    figure.savefig(content, format=kind, dpi=dpi, metadata=metadata)
    write_atomically(path, content.getvalue())


def check_picture(path: str | os.PathLike[str]) -> None:
    """Check that a picture can be written at `path`.

    Parameters
    ----------
    path : path-like
        Its name ends in .png, .svg or .pdf, or has no such ending: then it will be a PNG.

    Raises
    ------
    ValueError
        Another ending, or as `rnnfast.io.files.check_writable`.
    OSError
        As `rnnfast.io.files.check_writable`.
    """
    _kind(path)
    check_writable(path)


def _kind(path: str | os.PathLike[str]) -> str:
    """The format that the ending of a name asks for."""
    kind = os.path.splitext(os.fsdecode(path))[1][1:].lower() or "png"
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"picture: the name must end in .png, .svg or .pdf, got {path!r}")
    return kind


def show_curve(
    epochs: Sequence[float],
    values: Sequence[float],
    ylim: tuple[float, float] | None = None,
    measure: str = "perplexity",
) -> None:
    """Show a curve in a window, as the book's trainers do.

    Parameters
    ----------
    epochs, values : sequence of float
        Points of the curve.
    ylim : (float, float), optional
        Limits of the y axis.
    measure : {"perplexity", "loss"}
        Label of the y axis.

    Raises
    ------
    ModuleNotFoundError
        matplotlib, the extra `plot`, is missing.
    """
    pyplot = _matplotlib("matplotlib.pyplot")
    curves = {"training": (epochs, values)}
    _draw_curves(pyplot.gca(), curves, measure.capitalize(), measure, ylim, "epoch")
    pyplot.show()


MARKED = 30  # so many values have markers: a line of a single value would be invisible


def _draw_curves(
    axes: Any,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    measure: str,
    ylim: tuple[float, float] | None,
    xlabel: str,
) -> None:
    """Draw curves into axes of matplotlib; a perplexity on a logarithmic scale."""
    for name, (xs, values) in curves.items():
        if len(values):
            axes.plot(xs, values, marker="o" if len(values) <= MARKED else "", ms=4, label=name)
    axes.set(title=title, xlabel=xlabel, ylabel=measure)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if len(axes.lines) > 1:
        axes.legend()
    if not axes.lines:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center")
    if ylim is not None:
        axes.set_ylim(*ylim)
    elif measure == "perplexity":
        # from the vocabulary's size down to a few: only a logarithmic scale shows both
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")


def _matplotlib(module: str) -> Any:
    """A module of matplotlib; ModuleNotFoundError, naming the extra, without it."""
    if not available():
        raise ModuleNotFoundError('matplotlib is missing: pip install "rnnfast[plot]"')
    return importlib.import_module(module)
