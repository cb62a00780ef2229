"""The texts of one `rnnfast train` as ids, and what a model makes of them."""

import hashlib
import math
from typing import NamedTuple

import numpy as np

from rnnfast.commands.inputs import bits, load_ids
from rnnfast.text.corpora import python_docs, read_text
from rnnfast.text.vocabulary import UNITS, VOCABULARIES
from rnnfast.training.evaluation import eval_accuracy, eval_perplexity, evaluate
from rnnfast.training.scoring import ending


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


class Texts:
    """The texts of a run as ids, checked: corpus, xs and ts; valid or held_out; test."""

    def __init__(self, settings):
        file = settings.file
        self.name = "Python's documentation" if file is None else file
        text = python_docs() if file is None else read_text(file)
        vocabulary = VOCABULARIES[settings.level]
        # Validation and test texts may have characters that the training text does not have.
        open_ended = settings.valid or settings.test or settings.min_count > 1
        unknown = vocabulary.default_unknown
        if settings.level == "char" and not open_ended:
            unknown = None
        try:
            options = {"unknown": unknown, "min_count": settings.min_count}
            self.vocabulary = vocabulary.from_text(text, **options)
            self.corpus = corpus = self.vocabulary.encode(text)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.digests = [_digest(text)]
        del text  # the next one's turn
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
        self.valid, self.test = map(self._other, (settings.valid, settings.test))
        self._paths = self.name, settings.valid, settings.test

    def _other(self, path):
        """The ids of a validation or test text."""
        text = None if path is None else read_text(path)
        self.digests.append(None if text is None else _digest(text))
        return None if text is None else load_ids(path, self.vocabulary, text=text)

    def prime_with(self, model):
        """Let the vocabulary, and so weight files, have the end of the training text as prime."""
        self.vocabulary.prime = ending(model, self.ts)

    def measured(self, model, ids, *sizes):
        """What a model makes of ids that follow the training text: a _Result."""
        self.prime_with(model)
        prime = np.array(self.vocabulary.prime)
        found = (
            evaluate(model, ids, *sizes, measure=measure, prime=prime)
            for measure in (eval_perplexity, eval_accuracy)
        )
        return Result(self.vocabulary.level, *found)

    def check_same(self, digests, checkpoint):
        """ValueError unless these are the texts of the run."""
        for path, mine, stored in zip(self._paths, self.digests, digests, strict=True):
            if mine != stored:
                raise ValueError(f"{path}: not the text that {checkpoint} was made with")


class Result(NamedTuple):
    """What a model makes of a text; as a str the perplexity and all that is printed beside it."""

    level: str
    ppl: float
    accuracy: float

    def __str__(self):
        return f"{self.ppl:.2f}{bits(self.level, self.ppl)}, accuracy {self.accuracy:.2%}"

    @property
    def fields(self):
        """For the log, which is JSON."""
        ppl = self.ppl if math.isfinite(self.ppl) else None
        return {"perplexity": ppl, "accuracy": self.accuracy}
