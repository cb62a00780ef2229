"""Shared by the examples: options, a training loop that prints a line per epoch, pictures."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import plot
from rnnfast.optim import Adam
from rnnfast.sequences import Seq2seq
from rnnfast.trainer import ProgressBar, Trainer, eval_exact
from rnnfast.typing import Model


def first_line(doc: str | None) -> str | None:
    """The first line of a docstring; None under `python -OO`, which removes them."""
    return doc and doc.splitlines()[0]


def parser(name: str, doc: str | None, *, epochs: int) -> argparse.ArgumentParser:
    """Make a parser with --epochs, --seed and --picture.

    Parameters
    ----------
    name : str
        Name of the example.
    doc : str
        Its docstring, whose first line is the description.
    epochs : int
        Default of --epochs.

    Returns
    -------
    ArgumentParser
        The parser, to which an example adds its own options.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m rnnfast.examples.{name}", description=first_line(doc)
    )
    option = made.add_argument
    option(
        "--epochs",
        type=count,
        default=epochs,
        metavar="N",
        help=f"passes over the data (default: {epochs})",
    )
    option(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="seed of data, weights and batches (default: 0)",
    )
    what = f"PNG to write (default: {name}.png)"
    option("--picture", type=writable, default=f"{name}.png", metavar="FILE", help=what)
    return made


def count(text: str) -> int:
    """The value of an option: a positive integer."""
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return value


def natural(text: str) -> int:
    """The value of an option: an integer from 0 up."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected an integer from 0 up, got {text!r}")
    return int(text)


def writable(path: str) -> str:
    """The value of an option: a file that can be written. It is written at the end."""
    try:
        plot.check_picture(path)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path!r}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def train(
    model: Model,
    xs: NDArray[Any],
    ts: NDArray[Any],
    evaluate: Callable[[], float],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    max_grad: float = 5.0,
) -> list[float]:
    """Train with Adam, whose learning rate falls linearly to a tenth.

    Parameters
    ----------
    model : Model
        A model for `rnnfast.trainer.Trainer`.
    xs, ts : ndarray
        Training samples and their targets.
    evaluate : callable
        Returns the share to print after each epoch, such as the accuracy on held-out samples.
    epochs, batch_size : int
        Passes over the data; samples per batch.
    lr : float
        Initial learning rate.
    seed : int
        Seed of the order of samples.
    max_grad : float
        Maximum norm of the gradient.

    Returns
    -------
    list of float
        The value of `evaluate` after each epoch.
    """
    np.random.seed(seed)  # the trainer draws batches from np.random
    optimizer = Adam(lr)
    losses: list[float] = []
    shares: list[float] = []
    bar = ProgressBar(epochs * (len(xs) // batch_size))
    collect = (bar.step, lambda step: losses.append(step.loss))
    trainer = Trainer(model, optimizer, callbacks=collect)
    start = time.monotonic()
    for epoch in range(epochs):
        optimizer.lr = lr * (1 - 0.9 * epoch / max(epochs - 1, 1))
        losses.clear()
        trainer.fit(xs, ts, 1, batch_size, max_grad, eval_interval=None)
        shares.append(evaluate())
        bar.write(
            f"| epoch {epoch + 1} / {epochs} | time {time.monotonic() - start:.0f}[s] "
            f"| loss {np.mean(losses):.4f} | {shares[-1]:.2%}"
        )
    bar.close()
    return shares


def split(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows at random: indices of the rows to train on, and of the held-out `share`."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = round(count * share)
    return order[held_out:], order[:held_out]


def train_exact(
    model: Seq2seq,
    xs: NDArray[Any],
    ts: NDArray[Any],
    tested: float,
    *,
    epochs: int,
    lr: float,
    seed: int,
) -> tuple[NDArray[Any], NDArray[Any], list[float]]:
    """Train a model to write answers, in batches of 128; see `train`.

    Parameters
    ----------
    model : Seq2seq
    xs, ts : ndarray
        Ids of questions and of answers.
    tested : float
        Share of them that is held out.
    epochs, lr, seed
        As in `train`.

    Returns
    -------
    xs, ts : ndarray
        Held-out questions and answers.
    shares : list of float
        Share of held-out answers that are right in every character, after each epoch.
    """
    seen, held_out = split(len(xs), tested, seed)
    test = xs[held_out], ts[held_out]
    shares = train(
        model,
        xs[seen],
        ts[seen],
        lambda: eval_exact(model, *test),
        epochs=epochs,
        batch_size=128,
        lr=lr,
        seed=seed,
    )
    return *test, shares


def draw_picture(
    path: str,
    draw: Callable[[Any], None],
    width: float,
    height: float,
    describe: Callable[[], str] | None = None,
) -> None:
    """Write the figure that `draw` fills; without matplotlib print that it is missing.

    describe: returns an alternative text, which is printed and kept in the file.
    """
    if not plot.available():
        print('picture: not drawn, matplotlib is missing (pip install "rnnfast[plot]")')
        return
    figure = plot.figure(width, height)
    draw(figure)
    text = "" if describe is None else describe()
    plot.save(figure, path, description=text)
    print(f"picture: {path}")
    if text:
        print(f"  {text}")


def draw_curve(axes: Any, shares: Sequence[float], title: str) -> None:
    """Draw the share of right answers after each epoch."""
    axes.plot(range(1, len(shares) + 1), np.array(shares) * 100, marker=".")
    axes.set(title=title, xlabel="epoch", ylabel="right, %", ylim=(0, 102))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
