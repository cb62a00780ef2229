"""Dates as people write them to ISO dates, by attention: "september 27, 1994" (chapter 8).

The encoder reads a date in one of thirteen forms, padded with spaces, and the decoder writes it as
"1994-09-27". The data are generated: of all days of fifty years in all forms 50,000 are drawn, and
a tenth of these is held out; a day that is held out in one form may be known in another. In two
digits, a year is one of 1970 to 2019. The picture shows which characters the decoder looks at when
it writes each of its own.

    python -m rnnfast.examples.dates
"""

import argparse
import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import data, sequences
from rnnfast.examples import common
from rnnfast.layers.cells import RECURRENT

# fmt: off
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# fmt: on
FIRST, LAST = datetime.date(1970, 1, 1), datetime.date(2019, 12, 31)
QUESTION, ANSWER = 29, 11  # characters; an answer includes the "_" at its beginning
TESTED = 0.1  # share of the dates that is held out
SHOWN = 4  # dates in the picture

Date = datetime.date


def month(day: Date) -> str:
    """The name of the month, as the language has it whatever the locale is."""
    return MONTHS[day.month - 1]


def ordinal(day: Date) -> str:
    """The day of the month: "1st", "22nd", "13th"."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return f"{day.day}{'th' if day.day in (11, 12, 13) else ending}"


# No two give the same text, and each text is one date.
FORMS: tuple[Callable[[Date], str], ...] = (
    lambda day: f"{month(day)} {day.day}, {day.year}",
    lambda day: f"{month(day)} {day.day}, {day.year}".lower(),
    lambda day: f"{month(day)} {ordinal(day)}, {day.year}",
    lambda day: f"{month(day)[:3]} {day.day} {day.year}",
    lambda day: f"{month(day)[:3]} {day.day} {day.year}".upper(),
    lambda day: f"{day.day} {month(day)} {day.year}",
    lambda day: f"{day.day}-{month(day)[:3]}-{day.year}",
    lambda day: f"the {ordinal(day)} of {month(day)} {day.year}",
    lambda day: f"{WEEKDAYS[day.weekday()]}, {month(day)} {day.day}, {day.year}",
    lambda day: f"{day.month}/{day.day}/{day.year}",
    lambda day: f"{day.month}/{day.day}/{day.year % 100:02}",
    lambda day: f"{day.day}.{day.month}.{day.year}",
    lambda day: f"{day.year}/{day.month}/{day.day}",
)
YEAR = [FIRST + datetime.timedelta(k) for k in range(366)]
VOCABULARY = data.CharVocabulary.from_text(
    " _-" + "".join(form(day) for day in YEAR for form in FORMS)
)


def make_data(size: int, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw `size` different dates in one of their forms.

    Returns
    -------
    xs : ndarray (size, 29)
        Ids of the dates as people write them.
    ts : ndarray (size, 11)
        Ids of "_" and the ISO dates.
    """
    days = (LAST - FIRST).days + 1
    drawn = np.random.default_rng(seed).choice(days * len(FORMS), size, replace=False).tolist()
    pairs = [divmod(number, len(FORMS)) for number in drawn]
    dates = [(FIRST + datetime.timedelta(day), FORMS[form]) for day, form in pairs]
    questions = "".join(form(day).ljust(QUESTION) for day, form in dates)
    answers = "".join(f"_{day.isoformat()}" for day, _ in dates)
    return (
        VOCABULARY.encode(questions).reshape(size, QUESTION),
        VOCABULARY.encode(answers).reshape(size, ANSWER),
    )


def run(
    *,
    attention: bool = True,
    reverse: bool = True,
    cell: str = "lstm",
    hidden: int = 128,
    size: int = 50_000,
    epochs: int = 4,
    seed: int = 0,
) -> tuple[sequences.Seq2seq, NDArray[Any], NDArray[Any], list[float]]:
    """Train a model.

    Returns
    -------
    model : Seq2seq
        An AttentionSeq2seq, unless `attention` is False.
    xs, ts : ndarray
        Held-out dates and answers.
    shares : list of float
        Share of held-out dates that are right in every character, after each epoch.
    """
    xs, ts = make_data(size, seed)
    kind = sequences.AttentionSeq2seq if attention else sequences.Seq2seq
    model = kind(len(VOCABULARY), 16, hidden, cell=cell, reverse=reverse, rng=seed)
    return model, *common.train_exact(model, xs, ts, TESTED, epochs=epochs, lr=0.005, seed=seed)


def attention_map(
    model: sequences.AttentionSeq2seq, x: NDArray[Any]
) -> tuple[str, NDArray[np.float64]]:
    """The model's answer to one date, and the weights (characters written, characters read)."""
    start_id = VOCABULARY.token_to_id["_"]
    answer = VOCABULARY.decode(model.generate(x[np.newaxis], start_id, ANSWER - 1))
    weights = model.decoder.attention.attention_weights or []
    return answer, np.array([one[0] for one in weights], np.float64)


def draw(
    figure: Any,
    model: sequences.Seq2seq,
    xs: NDArray[Any],
    shares: Sequence[float],
) -> None:
    """Draw the curve and, with attention, the weights of some dates, one panel for each."""
    if not isinstance(model, sequences.AttentionSeq2seq):
        common.draw_curve(figure.subplots(), shares, "Held-out dates that are right")
        return
    left, *others = figure.subplot_mosaic([["curve", *range(2)], ["curve", *range(2, 4)]]).values()
    common.draw_curve(left, shares, "Held-out dates that are right")
    for axes, x in zip(others, xs[:SHOWN], strict=True):
        text = VOCABULARY.decode(x).rstrip()
        answer, weights = attention_map(model, x)
        axes.imshow(weights[:, : len(text)], cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(text)), list(text), family="monospace")
        axes.set_yticks(range(len(answer)), list(answer), family="monospace")
        axes.set_title(text)


def describe(model: sequences.Seq2seq, xs: NDArray[Any]) -> str:
    """The picture in words, for those who do not see it."""
    if not isinstance(model, sequences.AttentionSeq2seq):
        return "The share of right answers on held-out dates after each epoch."
    lines = [
        "The share of right answers on held-out dates after each epoch, and attention weights."
    ]
    for x in xs[:SHOWN]:
        text = VOCABULARY.decode(x).rstrip()
        answer, weights = attention_map(model, x)
        looked_at = "".join(VOCABULARY.decode([x[t]]) for t in weights.argmax(axis=1))
        lines.append(f'For {answer}, from "{text}", it looks most at the characters "{looked_at}".')
    return " ".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = common.parser("dates", __doc__, epochs=4)
    option, flag = parser.add_argument, argparse.BooleanOptionalAction
    option("--attention", action=flag, default=True, help="attend to the date (default)")
    option("--reverse", action=flag, default=True, help="read dates backwards (default)")
    option("--cell", choices=tuple(RECURRENT), default="lstm", help="type of layer (default: lstm)")
    option("--hidden", type=common.count, default=128, metavar="N", help="units (default: 128)")
    options = vars(parser.parse_args(argv))
    picture, start = options.pop("picture"), time.monotonic()
    model, xs, ts, shares = run(**options)
    found = model.generate_batch(xs[:5], int(ts[0, 0]), ANSWER - 1)
    for x, ids, t in zip(xs[:5], found, ts[:5], strict=True):
        answer, wanted = VOCABULARY.decode(ids), VOCABULARY.decode(t[1:])
        mark = "right" if answer == wanted else f"not {wanted}"
        print(f"{VOCABULARY.decode(x)} = {answer}  {mark}")
    print(f"exactly right on {len(xs):,} held-out dates: {shares[-1]:.2%}")
    common.draw_picture(
        picture, lambda figure: draw(figure, model, xs, shares), 14, 7, lambda: describe(model, xs)
    )
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
