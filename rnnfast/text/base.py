"""The base of the vocabularies: tokens, their ids, and text to ids and back. Chapters 2 and 6.

As in the book, ids follow the order in which tokens first appear in the text from which the
vocabulary was made.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.text.parts import count_tokens, cut


def counted(count: int, noun: str) -> str:
    """A number and what it counts: "1 word", "2 words"."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


class Vocabulary:
    """The distinct tokens of a text, numbered from 0.

    Base class of CharVocabulary and WordVocabulary.

    Parameters
    ----------
    tokens : iterable of str
        Distinct, not empty; their ids are their positions.
    unknown : str, optional
        The token, one of `tokens`, for every token that is not among them. With None, the default,
        encoding such a token is a ValueError.
    prime : sequence of int
        Ids of a text that a model of this vocabulary may read before any other, because it was not
        trained from a zero state. Weight files keep it.

    Attributes
    ----------
    tokens : list of str
    token_to_id : dict
    unknown : str or None
    prime : list of int
        `set_prime` replaces it.
    level : str
        The kind of token: "char" or "word".

    Raises
    ------
    ValueError
        For empty or repeated tokens, or if `unknown` or an id of `prime` is not among them.
    """

    level: ClassVar[str] = ""
    default_unknown: ClassVar[str] = ""
    # Matches where a text may be cut without cutting a token. None: nowhere.
    between: ClassVar[re.Pattern[str] | None] = None

    tokens: list[str]
    token_to_id: dict[str, int]
    unknown: str | None
    prime: list[int]

    def __init__(
        self, tokens: Iterable[str], unknown: str | None = None, *, prime: Sequence[int] = ()
    ) -> None:
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
        self.set_prime(prime)

    def set_prime(self, prime: Sequence[int] | NDArray[Any]) -> None:
        """Replace `prime`: only a trained model tells which end of its text is a good one.

        Parameters
        ----------
        prime : sequence of int
            As in the constructor.

        Raises
        ------
        TypeError, ValueError
            If it has anything but ids of tokens. Nothing is changed then.
        """
        name = type(self).__name__
        found = [checks.integer(name, "prime", i) for i in prime]
        if found and not 0 <= min(found) <= max(found) < len(self.tokens):
            raise ValueError(f"{name}: prime must be ids in [0, {len(self.tokens)}), got {prime}")
        self.prime = found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self), self._unit() or 'token')})"

    @classmethod
    def from_text(cls, text: str, *, unknown: str | None = None, min_count: int = 1) -> Self:
        """Make the vocabulary of a text.

        Parameters
        ----------
        text : str
        unknown : str, optional
            The token for everything that is not in the vocabulary. It is added at the end if the
            text does not have it.
        min_count : int
            Tokens that occur less often are left out. Values above 1 need `unknown`.

        Returns
        -------
        Vocabulary

        Raises
        ------
        TypeError
            If `text` is not a str.
        ValueError
            For a wrong `min_count`, one that leaves no token, or if the tokens would need many
            times the memory of the text.

        Examples
        --------
        >>> from rnnfast.data import CharVocabulary
        >>> vocabulary = CharVocabulary.from_text("hello")
        >>> vocabulary
        CharVocabulary(4 characters)
        >>> vocabulary.tokens
        ['h', 'e', 'l', 'o']
        """
        if not isinstance(text, str):
            raise TypeError(f"{cls.__name__}: text must be a str, got {type(text).__name__}")
        min_count = checks.count(cls.__name__, "min_count", min_count)
        counts = count_tokens(text, cls.parts(text), cls._unit())
        if min_count > 1:
            if unknown is None:
                raise ValueError(f"{cls.__name__}: min_count {min_count} needs a token as unknown")
            kept = [token for token, count in counts.items() if count >= min_count]
            if counts and not kept:
                raise ValueError(
                    f"{cls.__name__}: min_count must leave a token, got {min_count}; the most "
                    f"frequent one occurs {counted(max(counts.values()), 'time')}"
                )
        else:
            kept = list(counts)
        del counts  # the vocabulary has a dict of its own
        if unknown is not None and unknown not in kept:
            kept.append(unknown)
        return cls(kept, unknown)

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Split a text into tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        sequence of str
        """
        raise NotImplementedError

    @classmethod
    def parts(cls, text: str) -> Iterator[Sequence[str]]:
        """Split a text into tokens, part by part, because a list of words takes 80 times the text.

        Parameters
        ----------
        text : str

        Yields
        ------
        sequence of str
            The tokens of the next part.

        Raises
        ------
        ValueError
            For a token of more than a million characters.
        """
        return map(cls.split, cut(text, cls.between, cls.level))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def stand_in(self) -> str | None:
        """The token to which encode(text, "map") maps unknown tokens; None if there is none.

        It is `unknown` if that is set, else <unk> (words) or U+FFFD (characters) if the vocabulary
        has it, else a space if the vocabulary has it.
        """
        for token in (self.unknown, self.default_unknown, " "):
            if token in self.token_to_id:
                return token
        return None

    def encode(self, text: str, unknown: str | None = None) -> NDArray[np.int32]:
        """Convert a text to ids.

        Parameters
        ----------
        text : str
        unknown : {None, "skip", "map"}
            How to treat unknown tokens: None maps them to the vocabulary's `unknown`, "skip" leaves
            them out, "map" maps them to `stand_in`.

        Returns
        -------
        ndarray of int32, (length,)

        Raises
        ------
        TypeError
            If `text` is not a str.
        ValueError
            For an unknown token without a token to map it to. The error names it and its position.

        Examples
        --------
        >>> from rnnfast.data import CharVocabulary
        >>> CharVocabulary("helo").encode("hole")
        array([0, 3, 2, 1], dtype=int32)
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
            found: Iterator[int]
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

    def count_unknown(self, text: str) -> int:
        """Count the tokens of a text that are not in the vocabulary.

        Parameters
        ----------
        text : str

        Returns
        -------
        int
        """
        known = self.token_to_id
        return sum(token not in known for tokens in self.parts(text) for token in tokens)

    @classmethod
    def _unit(cls) -> str:
        """The kind of token as an English word."""
        return {"char": "character"}.get(cls.level, cls.level)

    def _not_known(self, token: str, position: int) -> str:
        """The error message for an unknown token."""
        what = self._unit()
        return (
            f"{what} {token!r} at position {position} "
            f"is not among the vocabulary's {len(self)} {what}s"
        )

    def decode(self, ids: Any) -> str:
        """Convert ids to a text.

        Parameters
        ----------
        ids : array_like of int
            Of any shape; read in C order.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            For an id outside [0, len(self)).
        TypeError
            For ids that are no integers.

        Examples
        --------
        >>> from rnnfast.data import CharVocabulary
        >>> CharVocabulary("helo").decode([0, 1, 2, 2, 3])
        'hello'
        """
        found = checks.on_host("decode", "ids", checks.listed("decode", "ids", ids))
        if found.dtype.kind not in "iu":
            raise TypeError(f"decode: ids must be integers, got {found.dtype}")
        return "".join(self.pieces(found.ravel().tolist()))

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Convert ids to text one by one, for example while a model generates them.

        Parameters
        ----------
        ids : iterable of int

        Yields
        ------
        str
            The text of the next id; `decode` joins them.

        Raises
        ------
        ValueError
            For an id outside [0, len(self)).
        """
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"id {i} is outside 0 .. {len(self) - 1}")
            yield self.tokens[i]
