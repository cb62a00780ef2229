"""Long texts in parts: as one list, their words take 80 times the memory of the text."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from rnnfast.io import headers

PART = 1 << 17  # characters of a text that are split into a list of tokens at a time
LONGEST = 1 << 20  # characters that a token may extend beyond a part
TOKEN = 150  # approximate bytes per token of a vocabulary, in addition to its text


def cut(text: str, between: re.Pattern[str] | None, level: str) -> Iterator[str]:
    """Cut a text where `between` matches, or nowhere without it; a ValueError for a long token."""
    start = 0
    while start < len(text):
        end = len(text)
        if between is not None and end - start > PART:
            at = start + PART
            if found := between.search(text, at, at + LONGEST):
                end = found.start()
            elif at + LONGEST < end:
                raise ValueError(f"a {level} of more than {LONGEST:,} characters at position {at}")
        yield text[start:end]
        start = end


def count_tokens(text: str, parts: Iterable[Sequence[str]], unit: str) -> Counter[str]:
    """Count the tokens in the parts of a text, in order of first appearance.

    A ValueError if they would need many times the memory of the text.
    """
    counts: Counter[str] = Counter()
    number = 0
    taken, room = sys.getsizeof(text), headers.room(len(text))
    for tokens in parts:
        known = len(counts)
        counts.update(tokens)
        number += len(tokens)
        taken += sum(map(sys.getsizeof, islice(counts, known, None)))
        ids = number * np.dtype(np.int32).itemsize
        if taken + TOKEN * len(counts) + ids > room:
            raise ValueError(
                f"a vocabulary of more than {len(counts):,} {unit}s is too large for a "
                f"text of {len(text):,} characters"
            )
    return counts
