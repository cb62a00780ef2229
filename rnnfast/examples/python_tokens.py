"""Tag the characters of a Python source as names, strings, comments ...: many to many.

A bidirectional LSTM tags source files of the standard library, one tag per character. The right
tags are those of Python's own `tokenize`. Files are cut into pieces of some hundred characters.
Only later characters tell whether a word is a keyword or the beginning of a longer name, or whether
a line between quotes is code or a string. Therefore the same LSTM in one direction is trained for
comparison. Two baselines use no context: the most frequent tag, and the most frequent tag of each
character. Every sixth file is held out.

    python -m rnnfast.examples.python_tokens
"""

import io
import keyword
import sysconfig
import time
import token
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import data, sequences, trainer
from rnnfast.examples import common

# fmt: off
MODULES = [  # the last module of each line is held out
    "argparse", "ast", "base64", "calendar", "codecs", "configparser",
    "contextlib", "csv", "difflib", "enum", "fractions", "functools",
    "gettext", "heapq", "imaplib", "optparse", "platform", "pprint",
    "random", "shlex", "shutil", "statistics", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "traceback", "uuid", "weakref",
]
# fmt: on
TESTED = MODULES[5::6]
TAGS = ("space", "name", "keyword", "number", "string", "comment", "operator")
KINDS = {
    token.NUMBER: "number",
    token.STRING: "string",
    token.COMMENT: "comment",
    token.OP: "operator",
}
LENGTH = 200  # characters per piece
IGNORED = -1  # the tag of the padding of a file's last piece
COLOURS = ("black", "black", "tab:blue", "tab:purple", "tab:green", "tab:gray", "tab:orange")
TEXT: dict[str, Any] = {"family": "monospace", "fontsize": 8, "ha": "center", "va": "center"}


def tag(source: str) -> NDArray[np.int64]:
    """Tag the characters of a Python source.

    Returns
    -------
    ndarray (len(source),)
        Indices of TAGS.

    Notes
    -----
    Characters between tokens, ends of lines and indentation are "space". From Python 3.12 on, which
    splits f-strings into tokens, words and operators in their braces have their own tags.
    """
    lines = source.splitlines(keepends=True)
    starts = np.cumsum([0, *map(len, lines)])
    tags = np.full(len(source), TAGS.index("space"))
    for found in tokenize.generate_tokens(io.StringIO(source).readline):
        if found.type == token.NAME:
            kind = "keyword" if keyword.iskeyword(found.string) else "name"
        elif token.tok_name[found.type].startswith(("FSTRING", "TSTRING")):
            kind = "string"
        else:
            kind = KINDS.get(found.type, "space")
        (row, column), (last_row, last_column) = found.start, found.end
        tags[starts[row - 1] + column : starts[last_row - 1] + last_column] = TAGS.index(kind)
    return tags


def read(module: str) -> str:
    """The source of a module of the standard library."""
    return data.read_text(Path(sysconfig.get_path("stdlib"), f"{module}.py"))


def pieces(
    sources: Sequence[str], vocabulary: data.CharVocabulary
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids and tags (M, LENGTH) of the sources in turn, each padded at its end."""
    xs: list[NDArray[Any]] = []
    ts: list[NDArray[Any]] = []
    for source in sources:
        fill = (0, -len(source) % LENGTH)
        xs.append(np.pad(vocabulary.encode(source), fill))
        ts.append(np.pad(tag(source), fill, constant_values=IGNORED))
    return np.concatenate(xs).reshape(-1, LENGTH), np.concatenate(ts).reshape(-1, LENGTH)


def baselines(
    xs: NDArray[Any],
    ts: NDArray[Any],
    test_xs: NDArray[Any],
    test_ts: NDArray[Any],
    characters: int,
) -> dict[str, float]:
    """The share of `test_ts` that two baselines get right, which know the training pieces."""
    known, there = ts != IGNORED, test_ts != IGNORED
    counts = np.zeros((characters, len(TAGS)), int)
    np.add.at(counts, (xs[known], ts[known]), 1)
    commonest, by_character = counts.sum(axis=0).argmax(), counts.argmax(axis=1)
    test_xs, test_ts = test_xs[there], test_ts[there]
    return {
        f'always "{TAGS[commonest]}"': float((test_ts == commonest).mean()),
        "each character's most frequent": float((by_character[test_xs] == test_ts).mean()),
    }


def run(
    *,
    train: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    hidden: int = 64,
    epochs: int = 2,
    seed: int = 0,
) -> tuple[sequences.SequenceTagger, data.CharVocabulary, dict[str, float]]:
    """Train both models.

    Parameters
    ----------
    train, test : sequence of str, optional
        Sources. None takes those of MODULES, every sixth of which is for the test.
    hidden, epochs, seed : int
        The options of the command line.

    Returns
    -------
    model : SequenceTagger
        The bidirectional model.
    vocabulary : CharVocabulary
    found : dict
        Name of a model or baseline -> share of test characters with the right tag.
    """
    if train is None:
        train = [read(module) for module in MODULES if module not in TESTED]
    if test is None:
        test = [read(module) for module in TESTED]
    vocabulary = data.CharVocabulary.from_text(
        "".join(train), unknown=data.UNKNOWN_CHARACTER, min_count=10
    )
    V = len(vocabulary)
    seen, held_out = pieces(train, vocabulary), pieces(test, vocabulary)
    found = baselines(*seen, *held_out, V)

    def fit(name: str, bidirectional: bool) -> sequences.SequenceTagger:
        print(f"{name}:")
        model = sequences.SequenceTagger(
            V, 32, hidden, len(TAGS), layers=2, bidirectional=bidirectional, rng=seed
        )
        model.embed.params[0][...] *= 100  # the book's initial vectors are small and grow slowly
        shares = common.train(
            model,
            *seen,
            lambda: trainer.eval_labels(model, *held_out, batch_size=50),
            epochs=epochs,
            batch_size=8,
            lr=0.01,
            seed=seed,
        )
        found[name] = shares[-1]
        return model

    fit("LSTM", False)
    return fit("bidirectional LSTM", True), vocabulary, found


def draw(
    figure: Any,
    model: sequences.SequenceTagger,
    vocabulary: data.CharVocabulary,
    found: dict[str, float],
    source: str,
    first: int,
    last: int,
) -> None:
    """Draw the shares, and lines first to last of a source in the colours of their tags."""
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    names = list(found)[::-1]
    bars = left.barh(names, [100 * found[name] for name in names])
    left.bar_label(bars, fmt="%.2f", padding=3)
    left.set(title="Held-out characters with the right tag, %", xlim=(0, 118))
    left.set_xticks(range(0, 101, 20))

    xs, ts = pieces([source], vocabulary)
    tags = model.predict(xs).argmax(axis=2).ravel()
    wrong = tags != ts.ravel()
    right.set(xlim=(0, 90), ylim=(last + 2, first))
    right.set_title("As the bidirectional LSTM sees a held-out file, mistakes underlined in red")
    right.set_axis_off()
    for k, (name, colour) in enumerate(zip(TAGS[1:], COLOURS[1:], strict=True)):
        right.text(8 + 14 * k, last + 1, name, color=colour, **TEXT)
    y, x = 0, 0
    for k, character in enumerate(source):
        if first <= y < last:
            if character.strip():
                right.text(x, y + 0.5, character, color=COLOURS[tags[k]], **TEXT)
            if wrong[k]:
                right.text(x, y + 0.5, "_", color="tab:red", weight="bold", **TEXT)
        y, x = (y + 1, 0) if character == "\n" else (y, x + 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = common.parser("python_tokens", __doc__, epochs=2)
    parser.add_argument(
        "--hidden", type=common.count, default=64, metavar="N", help="units (default: 64)"
    )
    options = vars(parser.parse_args(argv))
    picture, start = options.pop("picture"), time.monotonic()
    print(f"held out: {', '.join(TESTED)}")
    try:
        model, vocabulary, found = run(**options)
    except OSError as error:
        parser.exit(1, f"{parser.prog}: this Python comes without its sources ({error})\n")
    print("right tags of held-out characters:")
    for name, share in found.items():
        print(f"  {name:<31} {share:.2%}")
    shown = read(TESTED[-1]), 88, 123
    common.draw_picture(
        picture, lambda figure: draw(figure, model, vocabulary, found, *shown), 14, 6
    )
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
