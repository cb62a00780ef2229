"""The model that a weight file describes."""

import os
import reprlib

import numpy as np

from rnnfast.io.weights import copy_into, load_weights
from rnnfast.layers.initial import Blank
from rnnfast.models.language import BetterRnnlm, LanguageModel, Rnnlm, SimpleRnnlm
from rnnfast.models.readers import SequenceClassifier, SequenceRegressor, SequenceTagger
from rnnfast.models.writers import PeekySeq2seq, Seq2seq, VectorToSequence

MODELS = {
    model.__name__: model
    for model in (
        LanguageModel,
        SimpleRnnlm,
        Rnnlm,
        BetterRnnlm,
        SequenceClassifier,
        VectorToSequence,
        SequenceTagger,
        SequenceRegressor,
        Seq2seq,
        PeekySeq2seq,
    )
}


def load_model(file_name, device=None):
    """The model that a weight file describes, with its weights -> (model, vocabulary or None).

    It is one of rnnfast.models or of rnnfast.sequences. OSError if the file cannot be read,
    ValueError if it is damaged or foreign; see rnnfast.io.
    """
    weights = load_weights(file_name)
    if weights.model not in MODELS:
        known = ", ".join(MODELS)
        raise ValueError(f"{file_name}: model {weights.model[:60]!r} is not known (known: {known})")
    dtypes = {array.dtype for array in weights.params.values()}
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ValueError(f"{file_name}: arrays must be all float32 or all float64, got {dtypes}")
    try:
        _check_sizes(weights)
        rng = Blank(sum(array.size for array in weights.params.values()))
        model = MODELS[weights.model](**weights.sizes, rng=rng, dtype=dtypes.pop(), device=device)
    except (TypeError, ValueError, MemoryError) as error:
        raise ValueError(
            f"{file_name}: sizes {reprlib.repr(weights.sizes)} do not fit ({error})"
        ) from None
    copy_into(model._named_params(), weights.params, os.fspath(file_name))
    if weights.vocabulary is not None and len(weights.vocabulary) != model.sizes.get("vocab_size"):
        raise ValueError(f"{file_name}: the vocabulary does not have the model's size")
    return model, weights.vocabulary


def _check_sizes(weights):
    """ValueError before a damaged header makes more layers than the file has arrays for."""
    layers, there = weights.sizes.get("layers", 1), len(weights.params)
    if type(layers) is int and 3 * layers > there:  # each has Wx, Wh and b
        raise ValueError(f"{there} arrays are too few")
