"""An image of a digit, its name spelled out: one to many, as a caption is (chapter 7).

The 64 pixels of one of scikit-learn's handwritten digits are, through an affine layer, the first
state of a decoder, which writes "seven", letter by letter. "_" begins a name and fills it up. A
fifth of the images is held out; a name counts if all of its letters are right.

    python -m rnnfast.examples.digit_names   # needs scikit-learn: pip install 'rnnfast[examples]'
"""

import time

import numpy as np

from rnnfast import data, sequences, trainer
from rnnfast.examples import common, digits
from rnnfast.layers.cells import RECURRENT

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = 6  # of the longest name, and the "_" that ends it
VOCABULARY = data.CharVocabulary("_" + "".join(sorted(set("".join(NAMES)))))
SPELLED = np.stack([VOCABULARY.encode("_" + name.ljust(LETTERS, "_")) for name in NAMES])


def run(images, labels, *, cell="gru", hidden=64, epochs=40, seed=0):
    """Train -> (the model, held-out images (M, 64) and their digits, the shares right)."""
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


def spell(model, pixels):
    """What the model writes for each row of pixels (M, 64)."""
    ids = model.generate_batch(pixels, int(SPELLED[0, 0]), LETTERS)
    return [VOCABULARY.decode(row).rstrip("_") for row in ids]


def draw(figure, model, pixels, labels, shares):
    """The curve, and images: the misspelled ones first."""
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
    right.suptitle("What was written, mistakes first")


def main(argv=None):
    """The command line; returns the exit code."""
    parser = common.parser("digit_names", __doc__, epochs=40)
    option = parser.add_argument
    option("--cell", choices=tuple(RECURRENT), default="gru")
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
