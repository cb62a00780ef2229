"""Pictures, drawn with matplotlib (the `plot` extra), which is imported only here and when used."""

import importlib.util
from io import BytesIO

from rnnfast.io import write_atomically


def available():
    """True if the pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def save_perplexity(path, perplexities, eval_interval, ylim=None):
    """Write the curve of a trainer's `ppl_list` as a PNG, without a window or global state.

    ModuleNotFoundError, naming the extra, without matplotlib.
    """
    picture = figure(7, 4)
    _draw_curve(picture.add_subplot(), perplexities, eval_interval, ylim, "perplexity")
    save(picture, path)


def figure(width, height):
    """An empty matplotlib figure of so many inches, without a window or global state."""
    return _matplotlib("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def save(figure, path, dpi=120):
    """Write a figure as a PNG: all of it, or nothing."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    write_atomically(path, png.getvalue())


def show_curve(values, eval_interval, ylim=None, measure="perplexity"):
    """Show the curve of a "perplexity" or a "loss" in a window, as the book's trainers do."""
    pyplot = _matplotlib("matplotlib.pyplot")
    _draw_curve(pyplot.gca(), values, eval_interval, ylim, measure)
    pyplot.show()


def _draw_curve(axes, values, eval_interval, ylim, measure):
    axes.plot(list(map(float, values)))  # losses may lie on a GPU
    axes.set_xlabel(f"evaluation (every {eval_interval} iterations)")
    axes.set_ylabel(measure)
    axes.grid(alpha=0.3)
    if ylim is not None:
        axes.set_ylim(*ylim)
    elif (
        measure == "perplexity"
    ):  # from the vocabulary's size down to a few: a logarithm shows both
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")


def _matplotlib(module):
    if not available():
        raise ModuleNotFoundError("matplotlib is missing: pip install 'rnnfast[plot]'")
    return importlib.import_module(module)
