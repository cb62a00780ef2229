"""The weights from which `rnnfast train --init` starts."""

from rnnfast.io.weights import copy_into
from rnnfast.models import BaseModel, load_model
from rnnfast.text.base import Vocabulary


def start_from(path: str, model: BaseModel, vocabulary: Vocabulary) -> None:
    """Copy the weights of a file into a model, for --init.

    Parameters
    ----------
    path : str
        A weight file or a checkpoint with the same tokens.
    model : BaseModel
        The model of the run.
    vocabulary : Vocabulary
        The tokens of the run.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If its tokens or its weights are not those of the model. Nothing has been changed then.
    """
    loaded, tokens = load_model(path, device="cpu")
    if tokens != list(vocabulary.tokens):
        raise ValueError(f"--init: {path} has other tokens than the training text")
    copy_into(model._named_params(), loaded._named_params(), path)
