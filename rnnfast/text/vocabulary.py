"""Vocabularies: text to ids and back. Chapters 2 and 6.

Ids are given in the order in which tokens first appear in the text that a vocabulary is made from,
as in the book.
"""

import re
import sys
from collections import Counter
from itertools import islice

import numpy as np

from rnnfast.io import headers

EOS = "<eos>"  # the word that a newline becomes
UNKNOWN_WORD = "<unk>"
UNKNOWN_CHARACTER = "\ufffd"  # Unicode's replacement character
PART = 1 << 17  # characters of a text that are a list of tokens at a time
LONGEST = 1 << 20  # characters of a part at whose end no token ends
TOKEN = 150  # bytes, roughly, that a token of a vocabulary takes beside its text


class Vocabulary:
    """The distinct tokens of a text, numbered; `tokens` lists them, `token_to_id` finds them.

    unknown: the token, one of them, that stands for all others; None makes those a ValueError.
    prime: a list of ids, of a text that a model of this vocabulary may read before any other, where
    a zero state is none that it knows; weight files keep it.
    """

    level = ""  # what a token is: "char" or "word"
    default_unknown = ""
    between = None  # a pattern: where a text may be cut without cutting a token; None is nowhere

    def __init__(self, tokens, unknown=None):
        name = type(self).__name__
        self.tokens = list(tokens)
        if not all(isinstance(token, str) and token for token in self.tokens):
            raise ValueError(f"{name}: tokens must be strings that are not empty")
        self.token_to_id = {token: i for i, token in enumerate(self.tokens)}
        if len(self.token_to_id) != len(self.tokens):
            raise ValueError(f"{name}: tokens must be distinct")
        if unknown is not None and unknown not in self.token_to_id:
            raise ValueError(f"{name}: unknown must be one of the tokens, got {unknown!r}")
        self.unknown = unknown
        self.prime = []

    @classmethod
    def from_text(cls, text, *, unknown=None, min_count=1):
        """The vocabulary of a text (str).

        unknown: the token for what is not in the vocabulary, added at the end if the text does
        not have it. min_count: rarer tokens count as unknown; above 1 that needs `unknown`.
        ValueError for so many tokens that they would take many times the text.
        """
        if not isinstance(text, str):
            raise TypeError(f"{cls.__name__}: text must be a str, got {type(text).__name__}")
        if isinstance(min_count, bool) or not isinstance(min_count, int) or min_count < 1:
            raise ValueError(f"{cls.__name__}: min_count must be from 1 up, got {min_count!r}")
        counts = cls._counted(text)
        if min_count > 1:
            if unknown is None:
                raise ValueError(f"{cls.__name__}: min_count {min_count} needs a token as unknown")
            kept = [token for token, count in counts.items() if count >= min_count]
        else:
            kept = list(counts)
        del counts  # the vocabulary has a dict of its own
        if unknown is not None and unknown not in kept:
            kept.append(unknown)
        return cls(kept, unknown)

    @staticmethod
    def split(text):
        """The tokens of a text, one after the other."""
        raise NotImplementedError

    @classmethod
    def parts(cls, text):
        """`split` of a text, one part after the other: a list of words takes 80 times the text."""
        start = 0
        while start < len(text):
            end = len(text)
            if cls.between is not None and end - start > PART:
                at = start + PART
                if found := cls.between.search(text, at, at + LONGEST):
                    end = found.start()
                elif at + LONGEST < end:
                    raise ValueError(
                        f"a {cls.level} of more than {LONGEST:,} characters at position {at}"
                    )
            yield cls.split(text[start:end])
            start = end

    @classmethod
    def _counted(cls, text):
        """How often each token comes, in order of first appearance; refused as in from_text."""
        counts, number = Counter(), 0
        taken, room = sys.getsizeof(text), headers.room(len(text))
        for tokens in cls.parts(text):
            known = len(counts)
            counts.update(tokens)
            number += len(tokens)
            taken += sum(map(sys.getsizeof, islice(counts, known, None)))
            ids = number * np.dtype(np.int32).itemsize
            if taken + TOKEN * len(counts) + ids > room:
                raise ValueError(
                    f"a vocabulary of more than {len(counts):,} {cls._unit()}s is too large for a "
                    f"text of {len(text):,} characters"
                )
        return counts

    def __len__(self):
        return len(self.tokens)

    @property
    def stand_in(self):
        """The token as which encode(text, "map") reads what is not known, None if there is none.

        `unknown`; where that is None <unk> or U+FFFD if the text had it, else for characters a
        space.
        """
        for token in (self.unknown, self.default_unknown, " "):
            if token in self.token_to_id:
                return token
        return None

    def encode(self, text, unknown=None):
        """Text -> int32 ids. ValueError names a token that is not known, unless `unknown` is.

        unknown: what becomes of such tokens whatever the vocabulary says: "skip" leaves them out,
        "map" reads them as the vocabulary's `stand_in`.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode: text must be a str, got {type(text).__name__}")
        if unknown not in (None, "skip", "map"):
            raise ValueError(f"encode: unknown must be None, 'skip' or 'map', got {unknown!r}")
        known, skips = self.token_to_id, unknown == "skip"
        token = self.unknown if unknown is None else self.stand_in
        ids, count = np.empty(len(text), np.int32), 0
        for tokens in self.parts(text):
            if skips:
                tokens = [token for token in tokens if token in known]
            if token is None:
                found = map(known.__getitem__, tokens)
            else:
                get, stand_in = known.get, known[token]
                found = (get(one, stand_in) for one in tokens)
            end = count + len(tokens)
            if end > len(ids):
                ids.resize(2 * end, refcheck=False)
            try:
                ids[count:end] = np.fromiter(found, np.int32, len(tokens))
            except KeyError as error:
                missing = error.args[0]
                raise ValueError(self._not_known(missing, count + tokens.index(missing))) from None
            count = end
        ids.resize(count, refcheck=False)  # in place: a copy would be as much again
        return ids

    def count_unknown(self, text):
        """How many of a text's tokens are not known."""
        known = self.token_to_id
        return sum(token not in known for tokens in self.parts(text) for token in tokens)

    @classmethod
    def _unit(cls):
        return {"char": "character"}.get(cls.level, cls.level)

    def _not_known(self, token, position):
        what = self._unit()
        return (
            f"{what} {token!r} at position {position} "
            f"is not among the vocabulary's {len(self)} {what}s"
        )

    def decode(self, ids):
        """Ids -> text. ValueError for an id outside 0 .. len(self) - 1."""
        return "".join(self.pieces(np.asarray(ids).ravel().tolist()))

    def pieces(self, ids):
        """The text of each of the ids (any iterable) as soon as it comes; `decode` joins them."""
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"id {i} is outside 0 .. {len(self) - 1}")
            yield self.tokens[i]


class CharVocabulary(Vocabulary):
    """A token is a character (a Unicode code point)."""

    level = "char"
    default_unknown = UNKNOWN_CHARACTER
    between = re.compile("")

    @staticmethod
    def split(text):
        return text


class WordVocabulary(Vocabulary):
    """A token is what stands between white space; the end of a line is the word <eos>."""

    level = "word"
    default_unknown = UNKNOWN_WORD
    between = re.compile(r"\s")  # what str.split splits at

    @staticmethod
    def split(text):
        return text.replace("\n", f" {EOS} ").split()

    def pieces(self, ids):
        """Words with a space between them, <eos> as the end of a line."""
        between = ""
        for token in super().pieces(ids):
            if token == EOS:
                yield "\n"
                between = ""
            else:
                yield between + token
                between = " "


VOCABULARIES = {cls.level: cls for cls in (CharVocabulary, WordVocabulary)}
UNITS = {"char": "characters", "word": "words"}
