"""Corpora as arrays of ids, and batches of them for truncated BPTT. Chapters 2 and 6.

A corpus is an int32 array (length,) of ids.
"""

import io
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.io.files import StrPath, cache_folder, open_regular
from rnnfast.text.base import Vocabulary
from rnnfast.text.vocabulary import VOCABULARIES

PTB_SPLITS = ("train", "valid", "test")


def load_text(
    path: StrPath,
    vocabulary: Vocabulary | None = None,
    *,
    level: str = "word",
    unknown: str | None = None,
    min_count: int = 1,
) -> tuple[NDArray[np.int32], Vocabulary]:
    """Read a UTF-8 file as a corpus.

    Parameters
    ----------
    path : str or PathLike
    vocabulary : Vocabulary, optional
        Used as it is: for validation and test texts. None makes one from the text.
    level : {"word", "char"}
        The kind of token of a new vocabulary.
    unknown, min_count
        For a new vocabulary; see `Vocabulary.from_text`.

    Returns
    -------
    ids : ndarray of int32, (length,)
    vocabulary : Vocabulary

    Raises
    ------
    OSError, ValueError
        See `read_text`, `Vocabulary.from_text` and `Vocabulary.encode`. Also a ValueError for a
        text without a token.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "text.txt")
    ...     with open(file, "w") as text:
    ...         _ = text.write("you say goodbye\\nyou say hello\\n")
    ...     ids, vocabulary = load_text(file)
    >>> ids, vocabulary
    (array([0, 1, 2, 3, 0, 1, 4, 3], dtype=int32), WordVocabulary(5 words))
    """
    if vocabulary is not None:
        checks.of_kind("load_text", "vocabulary", vocabulary, Vocabulary)
    elif level not in VOCABULARIES:
        raise ValueError(f"load_text: level must be one of {tuple(VOCABULARIES)}, got {level!r}")
    text = read_text(path)
    try:
        if vocabulary is None:
            cls = VOCABULARIES[level]
            vocabulary = cls.from_text(text, unknown=unknown, min_count=min_count)
        ids = vocabulary.encode(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(ids) == 0:
        raise ValueError(f"{path}: there is no {vocabulary.level} in it")
    return ids, vocabulary


def load_ptb(
    split: str = "train", folder: StrPath | None = None
) -> tuple[NDArray[np.int32], dict[str, int], dict[int, str]]:
    """Load Penn Treebank, like the book's ptb.load_data (chapter 2).

    Parameters
    ----------
    split : {"train", "valid", "val", "test"}
    folder : str or PathLike, optional
        The folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt. The default is the folder
        into which ``rnnfast data ptb`` downloads them.

    Returns
    -------
    corpus : ndarray of int32, (length,)
        Ids. They are those of ptb.train.txt for every split.
    word_to_id : dict
    id_to_word : dict

    Raises
    ------
    OSError
        If the files are not there.
    ValueError
        For another split, and for a word that does not occur in the training text.
    """
    split = {"val": "valid"}.get(split, split)
    if split not in PTB_SPLITS:
        raise ValueError(f"load_ptb: split must be one of {PTB_SPLITS}, got {split!r}")
    if folder is None:
        folder = os.path.join(cache_folder(), "ptb")
        if not os.path.isfile(os.path.join(folder, "ptb.train.txt")):
            raise FileNotFoundError(f"{folder}: no ptb.train.txt there; `rnnfast data ptb` gets it")
    corpus, vocabulary = load_text(os.path.join(folder, "ptb.train.txt"))
    if split != "train":
        corpus, _ = load_text(os.path.join(folder, f"ptb.{split}.txt"), vocabulary)
    return corpus, vocabulary.token_to_id, dict(enumerate(vocabulary.tokens))


def read_text(path: StrPath) -> str:
    """Read a UTF-8 file. A byte order mark at the start is dropped.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    str

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is empty, not UTF-8, or not a regular file.
    """
    with open_regular(path) as file:
        text = decoded(file, f"{path}")
    if not text:
        raise ValueError(f"{path}: the file is empty")
    return text


def decoded(file: IO[bytes], name: str) -> str:
    """Read UTF-8 text from a binary file: as `read_text`, but it may be empty.

    Parameters
    ----------
    file : binary file
    name : str
        For the error.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is not UTF-8.
    """
    try:
        return io.TextIOWrapper(io.BytesIO(file.read()), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: not UTF-8 text (byte 0x{error.object[error.start]:02x}: {error.reason}); "
            "save it as UTF-8, or convert it: iconv -f CP949 -t UTF-8 OLD > NEW for a Korean text, "
            "CP932 for a Japanese, GB18030 for a Chinese one"
        ) from None


def python_docs() -> str:
    """CPython's language reference, about 465,000 characters, part of the standard library.

    Returns
    -------
    str

    Raises
    ------
    ModuleNotFoundError
        If this Python was installed without pydoc_data.topics.
    """
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "this Python comes without its documentation (pydoc_data.topics): name a text file"
        ) from error
    return "\n".join(topics[name] for name in sorted(topics))


def sequence_batch(
    xs: NDArray[Any], ts: NDArray[Any], batch_size: int, time_size: int, time_idx: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Slice one batch of inputs and targets for truncated BPTT out of two long sequences of ids.

    Parameters
    ----------
    xs, ts : ndarray of int, (length,)
        Inputs and targets.
    batch_size, time_size : int
        N and T.
    time_idx : int
        Steps already read.

    Returns
    -------
    xs, ts : ndarray of int, (N, T)

    Raises
    ------
    TypeError, ValueError
        `xs` and `ts` differ in length, or a size is no positive integer.

    Notes
    -----
    Sample i starts at offset i * (len(xs) // N) + time_idx and wraps around at the end of the
    sequence. With time_idx increased by T, each sample of the next batch continues where the last
    one stopped.

    References
    ----------
    Deep Learning from Scratch 2, chapter 5.

    Examples
    --------
    >>> import numpy as np
    >>> corpus = np.arange(10)
    >>> xs, ts = sequence_batch(corpus[:-1], corpus[1:], 2, 3, time_idx=0)
    >>> xs
    array([[0, 1, 2],
           [4, 5, 6]])
    """
    owner = "sequence_batch"
    if len(xs) != len(ts):
        raise ValueError(f"{owner}: xs and ts must be equally long, got {len(xs)} and {len(ts)}")
    batch_size = checks.count(owner, "batch_size", batch_size)
    time_size = checks.count(owner, "time_size", time_size)
    offsets = np.arange(batch_size, dtype=np.int64) * (len(xs) // batch_size) + time_idx
    positions = offsets[:, np.newaxis] + np.arange(time_size)
    return np.take(xs, positions, mode="wrap"), np.take(ts, positions, mode="wrap")
