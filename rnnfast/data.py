"""Text in, arrays of ids out: vocabulary, corpora, and batches for truncated BPTT."""

import numpy as np


class CharVocabulary:
    """The characters of a text, numbered in the order in which they first appear."""

    def __init__(self, tokens):
        self.tokens = list(tokens)
        self.token_to_id = {token: i for i, token in enumerate(self.tokens)}
        if len(self.token_to_id) != len(self.tokens):
            raise ValueError("CharVocabulary: tokens must be distinct")

    @classmethod
    def from_text(cls, text):
        return cls(dict.fromkeys(text))

    def __len__(self):
        return len(self.tokens)

    def encode(self, text):
        """Text -> int32 ids (len(text),). ValueError names a character that is not known."""
        try:
            return np.fromiter(map(self.token_to_id.__getitem__, text), np.int32, len(text))
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"character {character!r} at position {text.index(character)} "
                f"is not among the vocabulary's {len(self)} characters"
            ) from None

    def decode(self, ids):
        """Ids -> text. ValueError for an id outside 0 .. len(self) - 1."""
        ids = np.asarray(ids).ravel().tolist()
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"id {i} is outside 0 .. {len(self) - 1}")
        return "".join(self.tokens[i] for i in ids)


def read_text(path):
    """The text of a UTF-8 file (a leading byte order mark is dropped).

    OSError if it cannot be read, ValueError if it is empty or not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
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
