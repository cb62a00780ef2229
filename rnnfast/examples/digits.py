"""Handwritten digits, read row by row: many to one (chapter 5's layers, one answer at the end).

An image of scikit-learn's 1,797 digits is a sequence of 8 rows of 8 pixels. A bidirectional layer
reads it from the top and from the bottom, and an affine layer classifies the digit from the final
states. A fifth of the images is held out.

    python -m rnnfast.examples.digits      # needs scikit-learn: pip install "rnnfast[examples]"
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import sequences, trainer
from rnnfast.examples import common
from rnnfast.layers.cells import RECURRENT

TESTED = 0.2  # share of the images that is held out


def load() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load scikit-learn's digits.

    Returns
    -------
    images : ndarray (1797, 8, 8) of float32
        Pixels from 0 to 1.
    digits : ndarray (1797,) of int64

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        hint = 'scikit-learn, whose digits these are, is missing: pip install "rnnfast[examples]"'
        raise ModuleNotFoundError(hint) from error
    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target.astype(np.int64)


def run(
    images: NDArray[Any],
    digits: NDArray[Any],
    *,
    cell: str = "gru",
    hidden: int = 64,
    epochs: int = 40,
    seed: int = 0,
) -> tuple[sequences.SequenceClassifier, NDArray[Any], NDArray[Any], list[float]]:
    """Train a model.

    Parameters
    ----------
    images, digits : ndarray
        As from `load`.
    cell, hidden, epochs, seed
        The options of the command line.

    Returns
    -------
    model : SequenceClassifier
    images, digits : ndarray
        Held-out images and their digits.
    shares : list of float
        Share of held-out digits that are right, after each epoch.
    """
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


def draw(
    figure: Any,
    model: sequences.SequenceClassifier,
    images: NDArray[Any],
    digits: NDArray[Any],
    shares: Sequence[float],
) -> None:
    """Draw the curve and images, the wrong ones first."""
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
    right.suptitle("The digits that were read, mistakes first")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = common.parser("digits", __doc__, epochs=40)
    option = parser.add_argument
    option("--cell", choices=tuple(RECURRENT), default="gru", help="type of layer (default: gru)")
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
