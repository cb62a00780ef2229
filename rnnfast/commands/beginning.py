"""The weights from which `rnnfast train --init` starts."""

from rnnfast.commands.inputs import check_finite
from rnnfast.models import LanguageModelBase, load_model, start_from
from rnnfast.text.base import Vocabulary


def start_from_file(path: str, model: LanguageModelBase, vocabulary: Vocabulary) -> None:
    """Copy the weights of a file into a model, for --init.

    Parameters
    ----------
    path : str
        A weight file or a checkpoint with the same tokens, and as many recurrent layers or fewer:
        then the layers above keep the weights that they have.
    model : LanguageModelBase
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
    if not isinstance(loaded, LanguageModelBase):
        raise ValueError(f"--init: {path} must be a language model, found {type(loaded).__name__}")
    if tokens is None:
        raise ValueError(f"--init: {path} must have a vocabulary, found none")
    if tokens != list(vocabulary.tokens):
        raise ValueError(f"--init: {path} has other tokens than the training text")
    check_finite(loaded, f"--init: {path}")
    start_from(model, loaded, path)
