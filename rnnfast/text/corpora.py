"""Corpora as arrays of ids, and batches of them for truncated BPTT. Chapters 2 and 6.

A corpus is an int32 array (length,) of ids.
"""

import io
import os

import numpy as np

from rnnfast.io.files import cache_folder, open_regular
from rnnfast.text.vocabulary import VOCABULARIES

PTB_SPLITS = ("train", "valid", "test")


def load_text(path, vocabulary=None, *, level="word", unknown=None, min_count=1):
    """The corpus of a UTF-8 file -> (ids, vocabulary).

    vocabulary: as it is, for validation and test texts; None makes one of `level`, "word" or
    "char", with the other arguments as `Vocabulary.from_text` takes them. Errors: `read_text`,
    `from_text`, `encode`; ValueError for a text without a token.
    """
    if vocabulary is None and level not in VOCABULARIES:
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


def load_ptb(split="train", folder=None):
    """Penn Treebank as the book's ptb.load_data -> (corpus, word_to_id, id_to_word).

    split: "train", "valid" (or "val") or "test". Ids are those of ptb.train.txt in any case.
    folder: where ptb.train.txt and so on lie; None is where `rnnfast data ptb` puts them. OSError
    where they are not, ValueError for a word that the training text does not have.
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


def read_text(path):
    """The text of a UTF-8 file (a leading byte order mark is dropped).

    OSError if it cannot be read, ValueError if it is empty, not UTF-8 or no file with an end.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}: {error.reason})"
        ) from None
    if not text:
        raise ValueError(f"{path}: the file is empty")
    return text


def python_docs():
    """CPython's own language reference, about 465,000 characters that every install carries."""
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "this Python comes without its documentation (pydoc_data.topics): name a text file"
        ) from error
    return "\n".join(topics[name] for name in sorted(topics))


def sequence_batch(xs, ts, batch_size, time_size, time_idx):
    """Slice one (N, T) batch of inputs and targets out of two long sequences of ids.

    Sample i reads from its own offset i * (len(xs) // N), advanced by `time_idx` steps, and
    wraps at the end: successive batches continue each sample where the last one stopped.
    """
    offsets = np.arange(batch_size) * (len(xs) // batch_size) + time_idx
    positions = offsets[:, np.newaxis] + np.arange(time_size)
    return np.take(xs, positions, mode="wrap"), np.take(ts, positions, mode="wrap")
