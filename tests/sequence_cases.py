"""The sequence models, one case a kind."""

import numpy as np

from rnnfast.sequences import (
    AttentionSeq2seq,
    PeekySeq2seq,
    Seq2seq,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    VectorToSequence,
)

N, T, D, V, H, K = 3, 4, 2, 6, 3, 4
SIZES = {
    SequenceClassifier: (D, H, K),
    VectorToSequence: (D, V, 2, H),
    SequenceTagger: (V, 2, H, K),
    SequenceRegressor: (D, H, 2),
    Seq2seq: (V, 2, H),
    PeekySeq2seq: (V, 2, H),
    AttentionSeq2seq: (V, 2, H),
}
CASES = {
    "classifier": (SequenceClassifier, {}),
    "classifier, deep, both": (
        SequenceClassifier,
        {"cell": "gru", "layers": 2, "bidirectional": True, "dropout": 0.3},
    ),
    "classifier, both": (SequenceClassifier, {"bidirectional": True, "dropout": 0.3}),
    "vector": (VectorToSequence, {}),
    "vector, deep": (VectorToSequence, {"cell": "lstm", "layers": 2}),
    "tagger": (SequenceTagger, {}),
    "tagger, deep": (SequenceTagger, {"cell": "rnn", "layers": 2, "dropout": 0.4}),
    "tagger, one way": (SequenceTagger, {"cell": "gru", "bidirectional": False}),
    "regressor": (SequenceRegressor, {}),
    "regressor, both": (SequenceRegressor, {"bidirectional": True, "dropout": 0.2}),
    "seq2seq": (Seq2seq, {}),
    "seq2seq, cells": (Seq2seq, {"pass_cell": True, "layers": 2}),
    "seq2seq, rnn": (Seq2seq, {"cell": "rnn", "reverse": True}),
    "seq2seq, lstmp": (Seq2seq, {"cell": "lstmp", "pass_cell": True, "layers": 2}),
    "classifier, lstmp": (SequenceClassifier, {"cell": "lstmp", "bidirectional": True}),
    "peeky": (PeekySeq2seq, {}),
    "peeky, cells": (PeekySeq2seq, {"pass_cell": True, "layers": 2, "reverse": True}),
    "peeky, gru": (PeekySeq2seq, {"cell": "gru"}),
    "attention": (AttentionSeq2seq, {}),
    "attention, cells": (AttentionSeq2seq, {"pass_cell": True, "layers": 2, "reverse": True}),
    "attention, gru": (AttentionSeq2seq, {"cell": "gru"}),
    "attention, lstmp": (AttentionSeq2seq, {"cell": "lstmp", "pass_cell": True}),
}


def batch(kind, seed=0, n=N, t=T):
    rng = np.random.default_rng(seed)
    reals, ids = rng.normal(size=(n, t, D)), rng.integers(0, V, (n, t))
    answers = rng.integers(0, V, (n, t + 1))
    return {
        SequenceClassifier: (reals, rng.integers(0, K, n)),
        VectorToSequence: (reals[:, 0], answers),
        SequenceTagger: (ids, rng.integers(0, K, (n, t))),
        SequenceRegressor: (reals, rng.normal(size=(n, t, 2))),
    }.get(kind, (ids, answers))
