"""The name of a digit in an image, spelled out: one to many, like image captions (chapter 7).

An affine layer turns the 64 pixels of one of scikit-learn's handwritten digits into the initial
state of a decoder, which writes "seven", letter by letter. "_" begins a name and pads it. A fifth
of the images is held out. A name is right if all of its letters are right.

    python -m rnnfast.examples.digit_names   # needs scikit-learn: pip install "rnnfast[examples]"
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import data, sequences, trainer
from rnnfast.examples import common, digits
from rnnfast.layers.cells import RECURRENT

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = 6  # the longest name and the "_" at its end
VOCABULARY = data.CharVocabulary("_" + "".join(sorted(set("".join(NAMES)))))
SPELLED = np.stack([VOCABULARY.encode("_" + name.ljust(LETTERS, "_")) for name in NAMES])


def run(
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    cell: str = "gru",
    hidden: int = 64,
    epochs: int = 40,
    seed: int = 0,
) -> tuple[sequences.VectorToSequence, NDArray[Any], NDArray[Any], list[float]]:
    """Train a model.

    Parameters
    ----------
    images, labels : ndarray
        As from `rnnfast.examples.digits.load`.
    cell, hidden, epochs, seed
        The options of the command line.

    Returns
    -------
    model : VectorToSequence
    pixels, labels : ndarray (M, 64), (M,)
        Held-out images and their digits.
    shares : list of float
        Share of held-out names that are right, after each epoch.
    """
    seen, held_out = common.split(len(images), digits.TESTED, seed)
    pixels = images.reshape(len(images), -1)
    test = pixels[held_out], labels[held_out]
    model = sequences.VectorToSequence(
        pixels.shape[1], len(VOCABULARY), 16, hidden, cell=cell, rng=seed
    )
    shares = common.train(
        model,
        pixels[seen],
        SPELLED[labels[seen]],
        lambda: trainer.eval_exact(model, test[0], SPELLED[test[1]]),
        epochs=epochs,
        batch_size=32,
        lr=0.005,
        seed=seed,
    )
    return model, *test, shares


def spell(model: sequences.VectorToSequence, pixels: NDArray[Any]) -> list[str]:
    """The name that the model writes for each row of pixels (M, 64)."""
    ids = model.generate_batch(pixels, int(SPELLED[0, 0]), LETTERS)
    return [VOCABULARY.decode(row).rstrip("_") for row in ids]


def draw(
    figure: Any,
    model: sequences.VectorToSequence,
    pixels: NDArray[Any],
    labels: NDArray[Any],
    shares: Sequence[float],
) -> None:
    """Draw the curve and images, the misspelled ones first."""
    left, right = figure.subfigures(1, 2)
    common.draw_curve(left.subplots(), shares, "Held-out digits whose name is right")
    found = spell(model, pixels)
    names = [NAMES[label] for label in labels]
    order = sorted(range(len(names)), key=lambda k: found[k] == names[k])
    for axes, k in zip(right.subplots(4, 5).flat, order, strict=False):
        is_right = found[k] == names[k]
        axes.imshow(pixels[k].reshape(8, 8), cmap="gray_r")
        text = found[k] if is_right else f"{found[k]}\nnot {names[k]}"
        axes.set_title(text, fontsize=9, color="tab:green" if is_right else "tab:red")
        axes.set_axis_off()
    right.suptitle("The names that were written, mistakes first")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = common.parser("digit_names", __doc__, epochs=40)
    option = parser.add_argument
    option("--cell", choices=tuple(RECURRENT), default="gru", help="type of layer (default: gru)")
    option("--hidden", type=common.count, default=64, metavar="N", help="units (default: 64)")
    options = vars(parser.parse_args(argv))
    picture, start = options.pop("picture"), time.monotonic()
    try:
        images, labels = digits.load()
    except ModuleNotFoundError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    model, pixels, labels, shares = run(images, labels, **options)
    print(f"spelled right, {len(labels)} held-out digits: {shares[-1]:.2%}")
    common.draw_picture(picture, lambda figure: draw(figure, model, pixels, labels, shares), 11, 5)
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
