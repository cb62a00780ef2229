"""The model that a weight file describes."""

import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rnnfast.io.book import is_pickle
from rnnfast.io.files import StrPath, path_text
from rnnfast.io.weights import Weights, copy_into, load_weights
from rnnfast.kernels import get_device
from rnnfast.layers.initial import Blank
from rnnfast.models.attention import AttentionSeq2seq
from rnnfast.models.language import LanguageModel
from rnnfast.models.readers import SequenceClassifier
from rnnfast.models.rnnlm import BetterRnnlm, Rnnlm, SimpleRnnlm
from rnnfast.models.seq2seq import PeekySeq2seq, Seq2seq
from rnnfast.models.step_readers import SequenceRegressor, SequenceTagger
from rnnfast.models.writers import VectorToSequence

MODELS: dict[str, Callable[..., Any]] = {
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
        AttentionSeq2seq,
    )
}


def load_model(file_name: StrPath, device: str | None = None) -> tuple[Any, list[str] | None]:
    """Make the model that a weight file describes, with its weights.

    Parameters
    ----------
    file_name : str or PathLike
        A weight file, or a checkpoint of one of rnnfast's models.
    device : str, optional
        See `LanguageModel`.

    Returns
    -------
    model : Model
        One of rnnfast.models or of rnnfast.sequences.
    vocabulary : list of str or None
        The tokens.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or was not written by rnnfast.

    Examples
    --------
    >>> import os, tempfile
    >>> from rnnfast.models import Rnnlm
    >>> model = Rnnlm(vocab_size=3, wordvec_size=4, hidden_size=4, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "Rnnlm.safetensors")
    ...     model.save_params(file, ["a", "b", "c"])
    ...     loaded, vocabulary = load_model(file)
    >>> type(loaded).__name__, vocabulary
    ('Rnnlm', ['a', 'b', 'c'])
    """
    if is_pickle(path_text(file_name)):
        raise ValueError(
            f"{file_name}: a pickle has no model, but its arrays alone; make the model, then call "
            "its load_params"
        )
    weights = load_weights(file_name)
    if device is None:
        get_device()  # a wrong RNNFAST_DEVICE is no fault of the file
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
    copy_into(model._named_params(), weights.params, path_text(file_name))
    return model, weights.vocabulary


def _check_sizes(weights: Weights) -> None:
    """ValueError for more layers than the file has arrays for, before they are made."""
    layers, there = weights.sizes.get("layers", 1), len(weights.params)
    if type(layers) is int and 3 * layers > there:  # each has Wx, Wh and b
        raise ValueError(f"{there} arrays are too few")
