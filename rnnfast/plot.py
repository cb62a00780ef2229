"""Pictures, drawn with matplotlib (the `plot` extra), which is imported only here and when used."""

import importlib.util
from io import BytesIO

from rnnfast.io.files import write_atomically


def available():
    """True if the pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def save_perplexity(path, perplexities, eval_interval, ylim=None):
    """Write the curve of a trainer's `ppl_list` as a PNG, without a window or global state.

    ModuleNotFoundError, naming the extra, without matplotlib.
    """
    xs = [1 + k * eval_interval for k in range(len(perplexities))]
    curves = {"training": (xs, [float(ppl) for ppl in perplexities])}
    save_curves(path, curves, "Perplexity", ylim=ylim, xlabel="iteration")


def save_curves(path, curves, title, measure="perplexity", *, ylim=None, xlabel="epoch"):
    """Write a PNG of curves over epochs: name -> (epochs, values), those without values left out.

    An epoch's end is a whole number. ModuleNotFoundError, naming the extra, without matplotlib.
    """
    picture = figure(7, 4)
    _draw_curves(picture.add_subplot(), curves, title, measure, ylim, xlabel)
    save(picture, path)


def figure(width, height):
    """An empty matplotlib figure of so many inches, without a window or global state."""
    return _matplotlib("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def save(figure, path, dpi=120):
    """Write a figure as a PNG: all of it, or nothing."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    write_atomically(path, png.getvalue())


def show_curve(epochs, values, ylim=None, measure="perplexity"):
    """Show the curve of a "perplexity" or a "loss" in a window, as the book's trainers do."""
    pyplot = _matplotlib("matplotlib.pyplot")
    curves = {"training": (epochs, values)}
    _draw_curves(pyplot.gca(), curves, measure.capitalize(), measure, ylim, "epoch")
    pyplot.show()


MARKED = 30  # values up to which each is marked: a line of a single one could not be seen


def _draw_curves(axes, curves, title, measure, ylim, xlabel):
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
        # from the vocabulary's size down to a few: a logarithm shows both
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")


def _matplotlib(module):
    if not available():
        raise ModuleNotFoundError("matplotlib is missing: pip install 'rnnfast[plot]'")
    return importlib.import_module(module)
