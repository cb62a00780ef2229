"""The base of a reader's own models, the book's common/base_model.py."""

from typing import Any

from rnnfast.io.files import StrPath
from rnnfast.io.weights import Weights, load_into, save_weights


class BaseModel:
    """Base class of all models: it keeps weights in files.

    A subclass sets `params` and `grads`, and has forward and backward.

    Attributes
    ----------
    params, grads : list of array
        The arrays of the layers, in order.

    References
    ----------
    Deep Learning from Scratch 2, chapter 6, common/base_model.py.

    Examples
    --------
    >>> from rnnfast import TimeAffine, models
    >>> class Mine(models.BaseModel):
    ...     def __init__(self, W, b):
    ...         self.layer = TimeAffine(W, b)
    ...         self.params, self.grads = self.layer.params, self.layer.grads
    >>> Mine(np.ones((2, 3)), np.zeros(3)).param_names
    ['param_0', 'param_1']
    """

    params: list[Any]
    grads: list[Any]

    def __init__(self) -> None:
        self.params, self.grads = [], []

    def forward(self, *args: Any, **options: Any) -> Any:
        """Not here: a subclass has it."""
        raise NotImplementedError(f"{type(self).__name__} must have a forward of its own")

    def backward(self, *args: Any, **options: Any) -> Any:
        """Not here: a subclass has it."""
        raise NotImplementedError(f"{type(self).__name__} must have a backward of its own")

    @property
    def param_names(self) -> list[Any]:
        """The names of `params` in weight files."""
        return [f"param_{i}" for i in range(len(self.params))]

    def save_params(self, file_name: StrPath | None = None, vocabulary: Any = None) -> None:
        """Write the weights to a file, in full precision.

        Parameters
        ----------
        file_name : str or PathLike, optional
            By default ``<Class>.safetensors``.
        vocabulary : Vocabulary or list of str, optional
            Saved with the weights.

        Raises
        ------
        ValueError
            If the name ends with .pkl or .pickle, or the vocabulary is no list of distinct strings.
        OSError
            If the file cannot be written.
        """
        weights = Weights(self._named_params(), type(self).__name__, self._sizes(), vocabulary)
        save_weights(file_name or self._default_file(), weights)

    def load_params(self, file_name: StrPath | None = None) -> None:
        """Copy the weights in a file into `params`.

        Parameters
        ----------
        file_name : str or PathLike, optional
            By default ``<Class>.safetensors``. It may be a list of arrays that the book's
            save_params pickled (float16, in the order of `params`).

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the weights do not fit. Nothing has been changed then.
        """
        load_into(file_name or self._default_file(), self.param_names, self.params)

    def _named_params(self) -> dict[str, Any]:
        """Name -> parameter, without views."""
        named = zip(self.param_names, self.params, strict=True)
        return {name: param for name, param in named if name is not None}

    def _sizes(self) -> dict[str, Any]:
        """What rebuilds the model: the arguments of the constructor, where they are known."""
        return {}

    def _default_file(self) -> str:
        """The file name of save_params and load_params."""
        return type(self).__name__ + ".safetensors"
