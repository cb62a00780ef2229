"""Vocabularies of characters and of words, and their tables by level. Chapters 2 and 6."""

import re
from collections.abc import Iterable, Iterator, Sequence

from rnnfast.io.files import StrPath
from rnnfast.io.weights import load_header
from rnnfast.text.base import Vocabulary

EOS = "<eos>"  # the word that a newline becomes
UNKNOWN_WORD = "<unk>"
UNKNOWN_CHARACTER = "\ufffd"  # Unicode's replacement character


class CharVocabulary(Vocabulary):
    """A vocabulary of characters (Unicode code points). See `Vocabulary`.

    Examples
    --------
    >>> vocabulary = CharVocabulary.from_text("hello")
    >>> vocabulary.decode(vocabulary.encode("hole"))
    'hole'
    """

    level = "char"
    default_unknown = UNKNOWN_CHARACTER
    between = re.compile("")

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Return the text itself, a sequence of characters."""
        return text


class WordVocabulary(Vocabulary):
    """A vocabulary of words separated by white space. See `Vocabulary`.

    The end of a line is the word <eos>, as in the book's Penn Treebank.

    Examples
    --------
    >>> vocabulary = WordVocabulary.from_text("you say goodbye\\nand i say hello\\n")
    >>> vocabulary
    WordVocabulary(7 words)
    >>> vocabulary.encode("i say goodbye\\n")
    array([5, 1, 2, 3], dtype=int32)
    """

    level = "word"
    default_unknown = UNKNOWN_WORD
    between = re.compile(r"\s")  # as str.split

    @staticmethod
    def split(text: str) -> Sequence[str]:
        """Split a text at white space, with <eos> for each newline."""
        return text.replace("\n", f" {EOS} ").split()

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Convert ids to text: words with a space between them, a newline for <eos>."""
        between = ""
        for token in super().pieces(ids):
            if token == EOS:
                yield "\n"
                between = ""
            else:
                yield between + token
                between = " "


_CLASSES: tuple[type[Vocabulary], ...] = (CharVocabulary, WordVocabulary)
VOCABULARIES = {cls.level: cls for cls in _CLASSES}
UNITS = {cls.level: f"{cls._unit()}s" for cls in _CLASSES}  # for messages


def load_vocabulary(file_name: StrPath) -> Vocabulary:
    """Read the vocabulary in a weight file, with what encoding and priming need.

    Parameters
    ----------
    file_name : str or PathLike
        A weight file or a checkpoint of a language model.

    Returns
    -------
    CharVocabulary or WordVocabulary
        Its `unknown` and `prime` are those of the file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, was not written by rnnfast or has no vocabulary.

    Examples
    --------
    >>> import os, tempfile
    >>> from rnnfast.models import Rnnlm
    >>> vocabulary = WordVocabulary(["you", "say", "<unk>"], "<unk>", prime=[1, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "Rnnlm.safetensors")
    ...     Rnnlm(3, 4, 4, rng=0).save_params(file, vocabulary)
    ...     loaded = load_vocabulary(file)
    >>> loaded.encode("you know"), loaded.prime
    (array([0, 2], dtype=int32), [1, 0])
    """
    header = load_header(file_name)
    if header.vocabulary is None:
        raise ValueError(f"{file_name}: the file has no vocabulary")
    kind = VOCABULARIES[header.level]
    return kind(header.vocabulary, header.unknown, prime=header.prime or ())
