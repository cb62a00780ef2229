"""The texts of one `rnnfast train` as ids, and the evaluation of a model on them."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnfast.commands.inputs import bits, load_ids
from rnnfast.commands.settings import Settings
from rnnfast.models import LanguageModelBase
from rnnfast.text.base import Vocabulary
from rnnfast.text.corpora import python_docs, read_text
from rnnfast.text.vocabulary import UNITS, VOCABULARIES
from rnnfast.training.evaluation import eval_accuracy, eval_perplexity, evaluate
from rnnfast.training.scoring import ending


def _digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class Texts:
    """The texts of a run as ids, checked.

    Parameters
    ----------
    settings : Settings
        The settings of the run.

    Attributes
    ----------
    name : str
        The training file, or "Python's documentation".
    vocabulary : Vocabulary
        The tokens of the training text. `prime_with` sets its prime.
    corpus : ndarray of int32
        The training text.
    xs, ts : ndarray of int32
        Inputs and targets: the part of `corpus` that is trained on, and the same one later.
    held_out, valid, test : ndarray of int32 or None
        The end of `corpus` that is not trained on, if there is no validation text; the validation
        text; the test text.
    digests : list of (str or None)
        SHA-256 of the training, validation and test text.

    Raises
    ------
    OSError, ValueError
        If a text cannot be read, is too short, or has characters that the vocabulary lacks.
    """

    name: str
    vocabulary: Vocabulary
    corpus: NDArray[np.int32]
    xs: NDArray[np.int32]
    ts: NDArray[np.int32]
    held_out: NDArray[np.int32] | None
    valid: NDArray[np.int32] | None
    test: NDArray[np.int32] | None
    digests: list[str | None]

    def __init__(self, settings: Settings) -> None:
        file = settings.file
        self.name = "Python's documentation" if file is None else file
        text = python_docs() if file is None else read_text(file)
        vocabulary = VOCABULARIES[settings.level]
        # Validation and test texts may have characters that the training text does not have.
        open_ended = settings.valid or settings.test or settings.min_count > 1
        unknown: str | None = vocabulary.default_unknown
        if settings.level == "char" and not open_ended:
            unknown = None
        try:
            self.vocabulary = vocabulary.from_text(
                text, unknown=unknown, min_count=settings.min_count
            )
            self.corpus = corpus = self.vocabulary.encode(text)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.digests = [_digest(text)]
        del text  # frees its memory before the next text is read
        self.held_out = None
        if settings.valid is None:
            self.held_out = corpus[-max(2, len(corpus) // 20) :]
            self.xs = corpus[: -len(self.held_out) - 1]
            self.ts = corpus[1 : -len(self.held_out)]
        else:
            self.xs, self.ts = corpus[:-1], corpus[1:]
        N, T = settings.batch_size, settings.time_size
        if len(self.xs) < N * T:
            raise ValueError(
                f"{self.name}: {len(corpus):,} {UNITS[settings.level]} are too few for batches of "
                f"{N} x {T}; try a longer text or a smaller --batch-size or --time-size"
            )
        self.valid, self.test = self._other(settings.valid), self._other(settings.test)
        self._paths = self.name, settings.valid, settings.test

    def _other(self, path: str | None) -> NDArray[np.int32] | None:
        """The ids of a validation or test text, None without a path."""
        if path is None:
            self.digests.append(None)
            return None
        text = read_text(path)
        self.digests.append(_digest(text))
        return load_ids(path, self.vocabulary, text=text)

    def prime_with(self, model: LanguageModelBase) -> None:
        """Store the end of the training text as the prime of the vocabulary and of weight files."""
        self.vocabulary.set_prime(ending(model, self.ts))

    def measured(
        self,
        model: LanguageModelBase,
        ids: NDArray[Any],
        batch_size: int | None = None,
        time_size: int | None = None,
        comm: Any = None,
    ) -> "Result":
        """Evaluate a model on ids that follow the training text; comm: see `eval_perplexity`."""
        self.prime_with(model)
        prime = np.array(self.vocabulary.prime)
        ppl, accuracy = (
            evaluate(model, ids, batch_size, time_size, measure, prime=prime, comm=comm)
            for measure in (eval_perplexity, eval_accuracy)
        )
        return Result(self.vocabulary.level, ppl, accuracy)

    def check_same(self, digests: Sequence[str | None], checkpoint: str) -> None:
        """ValueError unless these are the texts of the run that made the checkpoint."""
        for path, mine, stored in zip(self._paths, self.digests, digests, strict=True):
            if mine != stored:
                raise ValueError(f"{path}: not the text that {checkpoint} was made with")


class Result(NamedTuple):
    """Perplexity and accuracy on a text; str gives the printed form."""

    level: str
    ppl: float
    accuracy: float

    def __str__(self) -> str:
        return f"{self.ppl:.2f}{bits(self.level, self.ppl)}, accuracy {self.accuracy:.2%}"

    @property
    def fields(self) -> dict[str, float | None]:
        """Fields of the log. JSON has no infinity: an infinite perplexity is None."""
        ppl = self.ppl if math.isfinite(self.ppl) else None
        return {"perplexity": ppl, "accuracy": self.accuracy}
