"""Input of the commands: weight files with their vocabularies, and texts as ids."""

import math
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import models
from rnnfast.io.book import is_pickle, load_pickle
from rnnfast.io.weights import to_numpy
from rnnfast.layers.initial import Blank
from rnnfast.models import LanguageModelBase
from rnnfast.models.loading import load_model
from rnnfast.text.base import Vocabulary, counted
from rnnfast.text.corpora import decoded, load_text, read_text
from rnnfast.text.vocabulary import EOS, UNITS, load_vocabulary

PRIME = 1024  # --prime @FILE: tokens at the end of the file that the model reads


def open_model(
    path: str | os.PathLike[str],
    vocabulary: str | None = None,
    level: str | None = None,
    precision: str | None = None,
) -> tuple[LanguageModelBase, Vocabulary]:
    """Read the model in a weight file and its vocabulary.

    Parameters
    ----------
    path : str or PathLike
        A weight file, a checkpoint or a pickle of the book.
    vocabulary : str, optional
        The training text of the model, for files without a vocabulary, such as the book's pickles.
    level : {"word", "char"}, optional
        Kind of token in `vocabulary`. None is "word".
    precision : {"bf16", "int8"}, optional
        Freeze the model with it; see `rnnfast.TimeLSTM.freeze`.

    Returns
    -------
    model : LanguageModelBase
        The language model.
    vocabulary : Vocabulary
        A vocabulary of `rnnfast.data`.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is damaged or no language model, or the vocabulary has another size than the
        model.
    """
    path = os.fspath(path)
    stored: list[str] | None = None
    if pickled := is_pickle(path):
        model = _pickled_model(path)
    else:
        model, stored = load_model(path)
        if not isinstance(model, LanguageModelBase):
            raise ValueError(f"{path}: a {type(model).__name__}, which is no language model")
    if vocabulary is None and level is not None:
        raise ValueError("--level needs --vocabulary, the text whose tokens they are")
    if stored is not None:
        found = load_vocabulary(path)
        if vocabulary is not None:
            _, other = load_text(vocabulary, level=level or found.level)
            if other.tokens != found.tokens:
                raise ValueError(f"{path}: has a vocabulary of its own; leave --vocabulary out")
    elif vocabulary is not None:
        _, found = load_text(vocabulary, level=level or "word")
    else:
        what = "a pickle" if pickled else "the file"
        raise ValueError(
            f"{path}: {what} has no vocabulary; name the text that the model was trained on "
            "with --vocabulary"
        )
    size = model.sizes["vocab_size"]
    if len(found) != size:
        raise ValueError(
            f"{vocabulary or path}: the vocabulary has {len(found):,} tokens, the model {size:,}"
        )
    check_finite(model, path)
    if precision is not None:
        model.freeze(precision)
    return model, found


def check_finite(model: LanguageModelBase, where: str) -> None:
    """ValueError, which begins with `where`, if a weight is NaN or infinite."""
    for name, param in model._named_params().items():
        if not np.isfinite(to_numpy(param)).all():
            raise ValueError(f"{where}: {name} has weights that are not finite")


def _pickled_model(path: str) -> LanguageModelBase:
    """The book's model whose parameters have the shapes of the arrays in a pickle, with them."""
    shapes = [array.shape for array in load_pickle(path)]
    sizes = {6: [2, 2, 2, 1, 2, 1], 8: [2, 2, 2, 1, 2, 2, 1, 1], 9: [2, 2, 2, 1, 2, 2, 1, 2, 1]}
    if [len(shape) for shape in shapes] != sizes.get(len(shapes)):
        raise ValueError(f"{path}: not the weights of one of the book's language models: {shapes}")
    (V, D), (H, width) = shapes[0], shapes[2]
    name = "BetterRnnlm" if len(shapes) > 6 else "Rnnlm" if width == 4 * H else "SimpleRnnlm"
    try:
        model: LanguageModelBase = getattr(models, name)(
            V, D, H, rng=Blank(sum(map(math.prod, shapes)))
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    model.load_params(path)
    return model


def encode(
    vocabulary: Vocabulary, text: str, unknown: str | None = None, where: str = ""
) -> NDArray[np.int32]:
    """vocabulary.encode; its error begins with `where` and names the option that helps."""
    try:
        return vocabulary.encode(text, unknown)
    except ValueError as error:
        unit, stand_in = UNITS[vocabulary.level], vocabulary.stand_in
        remedy = f"--unknown skip leaves unknown {unit} out"
        if stand_in is not None:
            remedy += f", --unknown map reads them as {stand_in!r}"
        remedy += "; `rnnfast train --min-count 2` teaches a model a token for them"
        raise ValueError(f"{where}{error}: {remedy}") from None


def prime_ids(
    prime: str | None, vocabulary: Vocabulary, unknown: str | None = None
) -> NDArray[np.int32]:
    """The ids that a model reads before a text.

    prime: the text of these ids; "@FILE" is the end of a file; None takes the ids that
    `rnnfast train` stored in the weight file.
    """
    if prime is None:
        return np.array(vocabulary.prime, np.int32)
    if prime.startswith("@"):
        file = prime[1:]
        return encode(vocabulary, read_text(file), unknown, f"{file}: ")[-PRIME:]
    return encode(vocabulary, prime, unknown, "--prime: ")


def ids_before(prime: str | None, vocabulary: Vocabulary, unknown: str | None) -> NDArray[np.int32]:
    """The ids before a text: of `prime`, if it is given.

    Else those of the weight file, and the end of a line, if the vocabulary has one.
    """
    ids = prime_ids(prime, vocabulary, unknown)
    token = {"char": "\n", "word": EOS}[vocabulary.level]
    if prime is not None or token not in vocabulary.token_to_id:
        return ids
    return np.append(ids, np.int32(vocabulary.token_to_id[token]))


def given_text(text: str, name: str = "TEXT") -> str:
    """The text itself; "-" reads stdin. name: that of the argument, for the error."""
    if text != "-":
        return text
    if sys.stdin is None:
        raise ValueError(f"{name} is - but stdin is closed")
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None or sys.stdin.isatty():
        return sys.stdin.read()
    return decoded(raw, f"{name}: stdin")


def unknowns(vocabulary: Vocabulary, ids: NDArray[Any], text: str, unknown: str | None) -> str:
    """For the output: the number of unknown tokens and their treatment; "" if there are none."""
    if unknown is not None:
        count = vocabulary.count_unknown(text)
        done = "left out" if unknown == "skip" else f"read as {vocabulary.stand_in!r}"
        return f", {counted(count, 'unknown one')} {done}" if count else ""
    if vocabulary.unknown is None:
        return ""
    count = int((ids == vocabulary.token_to_id[vocabulary.unknown]).sum())
    return f", {count:,} of them {vocabulary.unknown}" if count else ""


def load_ids(
    path: str, vocabulary: Vocabulary, unknown: str | None = None, text: str | None = None
) -> NDArray[np.int32]:
    """The ids of a text file. Give `text` if the file has been read already."""
    ids = encode(vocabulary, read_text(path) if text is None else text, unknown, f"{path}: ")
    if len(ids) < 2:
        raise ValueError(f"{path}: needs at least 2 {UNITS[vocabulary.level]}, got {len(ids)}")
    return ids


def bits(level: str, ppl: float) -> str:
    """For the output: bits per character after a perplexity; "" for words."""
    return f" ({math.log2(ppl):.3f} bits per character)" if level == "char" else ""
