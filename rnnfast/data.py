"""Vocabularies, corpora and padding: from texts to arrays of ids. Defined in rnnfast.text."""

from rnnfast.text.base import Vocabulary
from rnnfast.text.corpora import load_ptb, load_text, python_docs, read_text, sequence_batch
from rnnfast.text.padding import pad_sequences
from rnnfast.text.vocabulary import (
    EOS,
    UNKNOWN_CHARACTER,
    UNKNOWN_WORD,
    VOCABULARIES,
    CharVocabulary,
    WordVocabulary,
    load_vocabulary,
)

__all__ = [
    "EOS",
    "UNKNOWN_CHARACTER",
    "UNKNOWN_WORD",
    "VOCABULARIES",
    "CharVocabulary",
    "Vocabulary",
    "WordVocabulary",
    "load_ptb",
    "load_text",
    "load_vocabulary",
    "pad_sequences",
    "python_docs",
    "read_text",
    "sequence_batch",
]
