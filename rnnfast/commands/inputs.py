"""What the commands read: weight files with their vocabularies, and texts as ids."""

import math
import os
import sys

import numpy as np

from rnnfast import models
from rnnfast.io.book import is_pickle, load_pickle
from rnnfast.io.weights import load_header
from rnnfast.layers.initial import Blank
from rnnfast.models.language import BaseModel
from rnnfast.models.loading import load_model
from rnnfast.text.corpora import load_text, read_text
from rnnfast.text.vocabulary import EOS, UNITS, VOCABULARIES

PRIME = 1024  # tokens at the end of a file that are read before another text


def open_model(path, vocabulary=None, level=None):
    """The model in a weight file and its vocabulary -> (model, rnnfast.data vocabulary).

    vocabulary: the text that the model was trained on, for files that have none in them, as the
    book's pickles; level: how it is read, "word" (None) or "char". OSError for what cannot be
    read; ValueError for damaged or foreign files and a vocabulary of another size.
    """
    path = os.fspath(path)
    if pickled := is_pickle(path):
        model, stored = _pickled_model(path), None
    else:
        model, stored = load_model(path)
        if not isinstance(model, BaseModel):
            raise ValueError(f"{path}: a {type(model).__name__}, which is no language model")
    if vocabulary is not None:
        _, found = load_text(vocabulary, level=level or "word")
    elif stored is None:
        what = "a pickle" if pickled else "the file"
        raise ValueError(
            f"{path}: {what} has no vocabulary; name the text that the model was trained on "
            "with --vocabulary"
        )
    else:
        header = load_header(path)
        found = VOCABULARIES[header.level](stored, header.unknown)
        found.prime = header.prime or []
    size = model.sizes["vocab_size"]
    if len(found) != size:
        raise ValueError(
            f"{vocabulary or path}: the vocabulary has {len(found):,} tokens, the model {size:,}"
        )
    return model, found


def _pickled_model(path):
    """The book's model whose parameters have the shapes in a pickle, with these."""
    shapes = [array.shape for array in load_pickle(path)]
    sizes = {6: [2, 2, 2, 1, 2, 1], 8: [2, 2, 2, 1, 2, 2, 1, 1], 9: [2, 2, 2, 1, 2, 2, 1, 2, 1]}
    if [len(shape) for shape in shapes] != sizes.get(len(shapes)):
        raise ValueError(f"{path}: not the weights of one of the book's language models: {shapes}")
    (V, D), (H, width) = shapes[0], shapes[2]
    name = "BetterRnnlm" if len(shapes) > 6 else "Rnnlm" if width == 4 * H else "SimpleRnnlm"
    try:
        model = getattr(models, name)(V, D, H, rng=Blank(sum(map(math.prod, shapes))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    model.load_params(path)
    return model


def encode(vocabulary, text, unknown=None, where=""):
    """vocabulary.encode whose error, after `where`, says which option helps."""
    try:
        return vocabulary.encode(text, unknown)
    except ValueError as error:
        unit, stand_in = UNITS[vocabulary.level], vocabulary.stand_in
        remedy = f"--unknown skip leaves unknown {unit} out"
        if stand_in is not None:
            remedy += f", --unknown map reads them as {stand_in!r}"
        remedy += "; `rnnfast train --min-count 2` teaches a model a token for them"
        raise ValueError(f"{where}{error}: {remedy}") from None


def prime_ids(prime, vocabulary, unknown=None):
    """The ids that a model reads before a text: those of `prime`, "@FILE" the last of a file's.

    None: those that its weight file has, as `rnnfast train` leaves them there.
    """
    if prime is None:
        return np.array(vocabulary.prime, np.int32)
    if prime.startswith("@"):
        file = prime[1:]
        return encode(vocabulary, read_text(file), unknown, f"{file}: ")[-PRIME:]
    return encode(vocabulary, prime, unknown, "--prime: ")


def ids_before(prime, vocabulary, unknown):
    """The ids that a text is taken to follow, if the vocabulary has some.

    A prime of the caller's; else that of the weight file, and the end of a line.
    """
    ids = prime_ids(prime, vocabulary, unknown)
    token = {"char": "\n", "word": EOS}[vocabulary.level]
    if prime or token not in vocabulary.token_to_id:
        return ids
    return np.append(ids, np.int32(vocabulary.token_to_id[token]))


def given_text(text):
    """TEXT itself, or what stdin has for "-"."""
    if text != "-":
        return text
    if sys.stdin is None:
        raise ValueError("TEXT is - but stdin is closed")
    return sys.stdin.read()


def unknowns(vocabulary, ids, text, unknown):
    """What became of the tokens that are not known, if there are any."""
    if unknown is not None:
        count = vocabulary.count_unknown(text)
        done = "left out" if unknown == "skip" else f"read as {vocabulary.stand_in!r}"
        return f", {count:,} unknown ones {done}" if count else ""
    if vocabulary.unknown is None:
        return ""
    count = int((ids == vocabulary.token_to_id[vocabulary.unknown]).sum())
    return f", {count:,} of them {vocabulary.unknown}" if count else ""


def load_ids(path, vocabulary, unknown=None, text=None):
    """The ids of a text file, of which `text` is there already if it is not None."""
    ids = encode(vocabulary, read_text(path) if text is None else text, unknown, f"{path}: ")
    if len(ids) < 2:
        raise ValueError(f"{path}: needs at least 2 {UNITS[vocabulary.level]}, got {len(ids)}")
    return ids


def bits(level, ppl):
    return f" ({math.log2(ppl):.3f} bits per character)" if level == "char" else ""
