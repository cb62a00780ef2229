"""Threads that predict with one model: one waits for the other, and each gets its own answer."""

import copy
import os
import pickle
from functools import partial

import numpy as np
import pytest
from crowd import held_elsewhere, in_threads

from rnnfast import sampling
from rnnfast.layers.alone import lock_of
from rnnfast.models import LanguageModel
from rnnfast.sequences import (
    AttentionSeq2seq,
    Seq2seq,
    SequenceClassifier,
    SequenceTagger,
    VectorToSequence,
)

XS = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("f")
IDS = np.random.default_rng(1).integers(0, 7, (2, 3, 5))
options = {"cell": "gru", "layers": 2, "rng": 0}

MODELS = {
    "classifier": (SequenceClassifier(4, 8, 3, bidirectional=True, **options), XS, "predict", ()),
    "tagger": (SequenceTagger(7, 4, 8, 3, **options), IDS, "predict", ()),
    "seq2seq": (Seq2seq(7, 4, 8, **options), IDS, "generate_batch", (0, 4)),
    "attention": (AttentionSeq2seq(7, 4, 8, **options), IDS, "generate_batch", (0, 4)),
    "vector": (VectorToSequence(4, 7, 4, 8, **options), XS[:, :, 0], "generate_batch", (0, 4)),
}


def generate(model, prompts):
    return [sampling.generate(model, ids, 3, rng=k) for k, ids in enumerate(prompts)]


CALLS = {
    name: (lambda x, m=model, call=call, more=more: getattr(m, call)(x, *more), inputs)
    for name, (model, inputs, call, more) in MODELS.items()
}
WRITER = LanguageModel(7, 4, 8, **options)
CALLS["language model"] = lambda x: np.array(generate(WRITER, x)), IDS
OTHER, READ = LanguageModel(7, 4, 8, **options), IDS[0]


def scores_or_text(x):
    """By one thread the scores, which change the state, by the other a text."""
    if x is READ:
        return OTHER.predict(x[:1]).shape
    return np.array(generate(OTHER, x))


CALLS["two methods"] = scores_or_text, [READ, IDS[1]]


@pytest.mark.parametrize("name", CALLS)
def test_each_thread_gets_its_own_answer(name):
    call, inputs = CALLS[name]
    expected = [call(x) for x in inputs]
    wrong = [0, 0]

    def work(k):
        for _ in range(100):
            wrong[k] += not np.array_equal(call(inputs[k]), expected[k])

    errors = in_threads(partial(work, 0), partial(work, 1))
    assert wrong == [0, 0] and not errors


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_a_lock_of_its_own(duplicate):
    model = MODELS["classifier"][0]
    expected = model.predict(XS[0])
    with lock_of(model):
        other = duplicate(model)
        assert lock_of(other) is not lock_of(model)
        np.testing.assert_array_equal(other.predict(XS[0]), expected)


class Mine(SequenceClassifier):
    """With attributes of its own."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self._lock = 3

    def __getstate__(self):
        return self.__dict__.copy()

    def __setstate__(self, state):
        self.__dict__.update(state)


def test_a_class_of_ones_own():
    model = Mine(4, 8, 3)
    expected = model.predict(XS[0])
    other = copy.deepcopy(model)
    assert lock_of(other) is not lock_of(model)
    np.testing.assert_array_equal(other.predict(XS[0]), expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_lock_held_at_a_fork_does_not_bind_the_child():
    model = MODELS["classifier"][0]
    with held_elsewhere(lock_of(model)):
        pid = os.fork()
        if pid == 0:
            free = lock_of(model).acquire(blocking=False)
            os._exit(0 if free else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
