"""Handwritten digits, read row by row: many to one (chapter 5's layers, one answer at the end).

An image of scikit-learn's 1,797 digits is a sequence of 8 rows of 8 pixels. Two recurrent layers,
one from the top and one from the bottom, read it, and an affine layer says from what they remember
which digit it was. A fifth of the images is held out.

    python -m rnnfast.examples.digits      # needs scikit-learn: pip install 'rnnfast[examples]'
"""

import time

import numpy as np

from rnnfast import sequences, trainer
from rnnfast.examples import common
from rnnfast.layers.cells import RECURRENT

TESTED = 0.2


def load():
    """Images (1797, 8, 8), float32 from 0 to 1, and their digits (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        hint = "scikit-learn, whose digits these are, is missing: pip install 'rnnfast[examples]'"
        raise ModuleNotFoundError(hint) from error
    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target.astype(np.int64)


def run(images, digits, *, cell="gru", hidden=64, epochs=40, seed=0):
    """Train -> (the model, held-out images and digits, the share right after each epoch)."""
    seen, held_out = common.split(len(images), TESTED, seed)
    test = images[held_out], digits[held_out]
    rows = images.shape[2]
    model = sequences.SequenceClassifier(
        rows, hidden, 10, cell=cell, bidirectional=True, dropout=0.3, rng=seed
    )
    shares = common.train(
        model,
        images[seen],
        digits[seen],
        lambda: trainer.eval_labels(model, *test),
        epochs=epochs,
        batch_size=32,
        lr=0.005,
        seed=seed,
    )
    return model, *test, shares


def draw(figure, model, images, digits, shares):
    """The curve, and images: the wrong ones first."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    common.draw_curve(left.subplots(), shares, "Held-out digits that are read right")
    found = model.predict(images).argmax(axis=1)
    order = np.argsort(found == digits, kind="stable")
    grid = right.subplots(4, 6)
    for axes, k in zip(grid.flat, order, strict=False):
        is_right = found[k] == digits[k]
        axes.imshow(images[k], cmap="gray_r")
        text = f"{found[k]}" if is_right else f"{found[k]}, not {digits[k]}"
        axes.set_title(text, fontsize=9, color="tab:green" if is_right else "tab:red")
        axes.set_axis_off()
    right.suptitle("What was read, mistakes first")


def main(argv=None):
    """The command line; returns the exit code."""
    parser = common.parser("digits", __doc__, epochs=40)
    option = parser.add_argument
    option("--cell", choices=tuple(RECURRENT), default="gru")
    option("--hidden", type=common.count, default=64, metavar="N", help="units (default: 64)")
    options = vars(parser.parse_args(argv))
    picture, start = options.pop("picture"), time.monotonic()
    try:
        images, digits = load()
    except ModuleNotFoundError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    model, images, digits, shares = run(images, digits, **options)
    print(f"right on {len(digits)} held-out digits: {shares[-1]:.2%}")
    common.draw_picture(
        picture, lambda figure: draw(figure, model, images, digits, shares), 11, 4.5
    )
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
