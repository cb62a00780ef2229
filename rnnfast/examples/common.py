"""What the examples share: their options, a training loop with a line an epoch, their pictures."""

import argparse
import time

import numpy as np

from rnnfast import io, plot
from rnnfast.optim import Adam
from rnnfast.trainer import ProgressBar, Trainer


def parser(name, doc, *, epochs):
    """A parser with --epochs, --seed and --picture; name: the example's, doc: its docstring."""
    made = argparse.ArgumentParser(
        prog=f"python -m rnnfast.examples.{name}", description=doc.splitlines()[0]
    )
    option = made.add_argument
    option("--epochs", type=count, default=epochs, metavar="N", help=f"default: {epochs}")
    option("--seed", type=natural, default=0, metavar="N", help="of data, weights and batches")
    what = f"PNG to write (default: {name}.png)"
    option("--picture", type=writable, default=f"{name}.png", metavar="FILE", help=what)
    return made


def count(text):
    """An option's positive integer."""
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return value


def natural(text):
    """An option's integer from 0 up."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected an integer from 0 up, got {text!r}")
    return int(text)


def writable(path):
    """An option's file, which is to be written when all is done."""
    try:
        io.check_writable(path)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path!r}: {error.strerror}") from None
    return path


def train(model, xs, ts, evaluate, *, epochs, batch_size, lr, seed, max_grad=5.0):
    """Adam, its rate falling in a line to a tenth -> evaluate(), after each of the epochs.

    evaluate: gives what is to be seen on the way, a share such as the accuracy.
    """
    np.random.seed(seed)  # the trainer's batches
    optimizer, losses, shares = Adam(lr), [], []
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


def split(count, share, seed):
    """Two arrays of rows, in random order: those to train on, and the `share` held out."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = round(count * share)
    return order[held_out:], order[:held_out]


def draw_picture(path, draw, width, height):
    """Write the figure that `draw` fills; without matplotlib say so."""
    if not plot.available():
        print("picture: not drawn, matplotlib is missing (pip install 'rnnfast[plot]')")
        return
    figure = plot.figure(width, height)
    draw(figure)
    plot.save(figure, path)
    print(f"picture: {path}")


def draw_curve(axes, shares, title):
    """Shares of right answers, one an epoch."""
    axes.plot(range(1, len(shares) + 1), np.array(shares) * 100, marker=".")
    axes.set(title=title, xlabel="epoch", ylabel="right, %", ylim=(0, 102))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
