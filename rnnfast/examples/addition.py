"""Addition by sequence to sequence: "16+75" in, "91" out, character by character (chapter 7).

The encoder reads seven characters, a sum padded with spaces. The decoder starts with "_" and writes
four characters, "91  ". The data are generated: 50,000 different sums of two numbers below 1,000,
of which a tenth is held out, as in the book's addition.txt. The book has two improvements: the
question is read backwards, and the decoder sees the encoder's state at every step (peeky). A GRU
and a falling learning rate reach more in the same time than the book's settings.

    python -m rnnfast.examples.addition
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import data, sequences
from rnnfast.examples import common
from rnnfast.layers.cells import RECURRENT

VOCABULARY = data.CharVocabulary("0123456789+ _")
QUESTION, ANSWER = 7, 5  # characters; an answer includes the "_" at its beginning
LIMIT = 1000  # the numbers are below it
TESTED = 0.1  # share of the sums that is held out
SHOWN = 12  # answers in the picture


def make_data(size: int, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw `size` different sums.

    Returns
    -------
    xs : ndarray (size, 7)
        Ids of the questions.
    ts : ndarray (size, 5)
        Ids of the answers.
    """
    drawn = np.random.default_rng(seed).choice(LIMIT**2, size, replace=False).tolist()
    pairs = [divmod(number, LIMIT) for number in drawn]
    questions = "".join(f"{a}+{b}".ljust(QUESTION) for a, b in pairs)
    answers = "".join(f"_{a + b}".ljust(ANSWER) for a, b in pairs)
    return (
        VOCABULARY.encode(questions).reshape(size, QUESTION),
        VOCABULARY.encode(answers).reshape(size, ANSWER),
    )


def run(
    *,
    reverse: bool = True,
    peeky: bool = True,
    cell: str = "gru",
    hidden: int = 128,
    size: int = 50_000,
    epochs: int = 10,
    seed: int = 0,
) -> tuple[sequences.Seq2seq, NDArray[Any], NDArray[Any], list[float]]:
    """Train a model.

    Returns
    -------
    model : Seq2seq
    xs, ts : ndarray
        Held-out questions and answers.
    shares : list of float
        Share of held-out answers that are right in every digit, after each epoch.
    """
    xs, ts = make_data(size, seed)
    kind = sequences.PeekySeq2seq if peeky else sequences.Seq2seq
    model = kind(len(VOCABULARY), 16, hidden, cell=cell, reverse=reverse, rng=seed)
    return model, *common.train_exact(model, xs, ts, TESTED, epochs=epochs, lr=0.003, seed=seed)


def answers_of(
    model: sequences.Seq2seq, xs: NDArray[Any], ts: NDArray[Any]
) -> tuple[list[str], list[str]]:
    """The model's answers and the right answers, as text without the spaces."""
    found = model.generate_batch(xs, int(ts[0, 0]), ANSWER - 1)
    answers, wanted = (
        [VOCABULARY.decode(row).strip() for row in rows] for rows in (found, ts[:, 1:])
    )
    return answers, wanted


def draw(
    figure: Any,
    model: sequences.Seq2seq,
    xs: NDArray[Any],
    ts: NDArray[Any],
    shares: Sequence[float],
) -> None:
    """Draw the curve and some answers, mistakes first."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    common.draw_curve(left, shares, "Held-out sums that are right in every digit")
    right.set_axis_off()
    right.set(title="Answers, some mistakes first", xlim=(0, 1), ylim=(SHOWN, 0))
    found, wanted = answers_of(model, xs, ts)
    wrong = [k for k in range(len(xs)) if found[k] != wanted[k]][: SHOWN // 3]
    right_ones = [k for k in range(len(xs)) if found[k] == wanted[k]]
    for y, k in enumerate([*wrong, *right_ones][:SHOWN]):
        question = VOCABULARY.decode(xs[k]).strip()
        mark, colour = (f"  not {wanted[k]}", "tab:red") if y < len(wrong) else ("", "tab:green")
        text = f"{question:>7} = {found[k]}{mark}"
        right.text(0.1, y + 0.5, text, family="monospace", size=12, color=colour, va="center")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = common.parser("addition", __doc__, epochs=10)
    option, flag = parser.add_argument, argparse.BooleanOptionalAction
    option("--reverse", action=flag, default=True, help="read questions backwards (default)")
    option(
        "--peeky",
        action=flag,
        default=True,
        help="show the encoder's state to every step of the decoder (default)",
    )
    option("--cell", choices=tuple(RECURRENT), default="gru", help="type of layer (default: gru)")
    option("--hidden", type=common.count, default=128, metavar="N", help="units (default: 128)")
    options = vars(parser.parse_args(argv))
    picture, start = options.pop("picture"), time.monotonic()
    model, xs, ts, shares = run(**options)
    for row, found, wanted in zip(xs[:5], *answers_of(model, xs[:5], ts[:5]), strict=True):
        mark = "right" if found == wanted else f"not {wanted}"
        print(f"{VOCABULARY.decode(row)} = {found:<4}  {mark}")
    print(f"exactly right on {len(xs):,} held-out sums: {shares[-1]:.2%}")
    common.draw_picture(picture, lambda figure: draw(figure, model, xs, ts, shares), 10, 4.5)
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
