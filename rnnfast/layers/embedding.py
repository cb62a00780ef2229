"""Embedding: rows of a matrix, looked up by id. Deep Learning from Scratch 2, chapters 4 and 5.

N batch, T time, V vocabulary, D width of a row.
"""

from typing import Any, Self, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnnfast import checks
from rnnfast.layers.base import Layer, param
from rnnfast.layers.initial import Initializer
from rnnfast.typing import Array


class Embedding(Layer):
    """Rows of W, looked up by id.

    Parameters
    ----------
    W : array (V, D)
        One row for each id.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    idx : array or None
        The ids of the last forward of training.

    References
    ----------
    Deep Learning from Scratch 2, chapter 4.

    Examples
    --------
    >>> from rnnfast import Embedding
    >>> embedding = Embedding(np.arange(6.0).reshape(3, 2), device="cpu")
    >>> embedding.forward(np.array([2, 0]))
    array([[4., 5.],
           [0., 1.]])
    """

    of_cache = ("idx",)
    idx: Any

    def __init__(self, W: Array, *, device: str | None = None) -> None:
        owner = type(self).__name__
        W = checks.adopt(owner, "W", W)
        shape = checks.matrix(owner, "W", W, "(V, D)")
        super().__init__(device, (W,), (("W", shape, "(V, D)"),))

    @classmethod
    def create(
        cls,
        V: int,
        D: int,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
    ) -> Self:
        """Make a layer from its sizes, with the initial weights of the book.

        Parameters
        ----------
        V, D : int
            The number of ids and the width of a row.
        rng : int or numpy.random.Generator, optional
            A seed or a generator. The default is `np.random`.
        dtype : {"float32", "float64"}
            The dtype of the weights.
        device : str, optional
            With "auto" (see `rnnfast.get_device`) the weights lie on the GPU if one is usable.

        Returns
        -------
        layer
            An instance of this class.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument. No number has been drawn then.

        Notes
        -----
        W is normal / 100 (Deep Learning from Scratch 2, chapter 5).

        Examples
        --------
        >>> from rnnfast import TimeEmbedding
        >>> TimeEmbedding.create(10000, 100, rng=0, device="cpu")
        TimeEmbedding(V=10000, D=100, float32, cpu)
        """
        owner = cls.__name__
        V, D = checks.count(owner, "V", V), checks.count(owner, "D", D)
        checks.fits(owner, "(V, D)", V, D)
        draw = Initializer(owner, rng, dtype, device)
        return cls(draw.normal(V, D, 100), device=draw.device)

    @overload
    def forward(
        self, idx: NDArray[Any], *, train: bool = True, word_mask: Array | None = None
    ) -> NDArray[Any]: ...
    @overload
    def forward(self, idx: Array, *, train: bool = True, word_mask: Array | None = None) -> Any: ...

    def forward(self, idx: Any, *, train: bool = True, word_mask: Any = None) -> Any:
        """Look up the rows.

        Parameters
        ----------
        idx : array of int (...), list or int
            Ids, each in [0, V), of any shape.
        train : bool
            False keeps nothing for a backward.
        word_mask : array (V,), optional
            Multiplies row v of W by word_mask[v] in this call: embedding dropout, which drops
            whole words (`TimeDropout.draw` makes a mask).

        Returns
        -------
        array (..., D)
            W[idx], times word_mask[idx].

        Raises
        ------
        TypeError
            If the ids are not integers.
        ValueError
            For an id outside [0, V), or a mask of another shape. On a GPU ids are not checked.
            NumPy takes -1 for the last row; here padding needs an id of its own.

        References
        ----------
        word_mask: Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287;
        Merity et al. 2017, https://arxiv.org/abs/1708.02182.
        """
        return self._forward("idx", idx, train, word_mask)

    def _forward(self, name: str, ids: Any, train: bool, word_mask: Any) -> Any:
        """forward of an argument with this name."""
        (W,) = self._checked_params()
        V, D = W.shape
        if type(ids) is not np.ndarray:
            ids = checks.listed(self._name, name, ids)
        ids = checks.integers(self._name, name, ids)
        checks.fits(self._name, "(..., D)", *ids.shape, D)
        checks.in_range(self._name, name, ids, V)
        scale = None
        if word_mask is not None:
            word_mask = checks.real(self._name, "word_mask", word_mask)
            if word_mask.shape != (V,):
                raise checks.shape_error(self._name, "word_mask", f"(V,) = ({V},)", word_mask)
            # Only the rows that occur are scaled: never a whole W
            scale = checks.cast(word_mask, self.dtype)[checks.beside(word_mask, ids)][..., None]
        out = self._kernel.embedding_forward(ids, W)
        if scale is not None:
            out *= checks.beside(out, scale)
        self.cache = (ids, scale) if train else None
        return out

    def backward(self, dout: Array) -> None:
        """Compute the gradient of W; all of grads[0] is written.

        The gradients of a repeated id are summed.

        Parameters
        ----------
        dout : array (..., D)
            The gradient of the output.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        ids, scale = self._pending()
        (dW,) = self._checked_grads()
        dout = self._checked_dout(dout, (*ids.shape, dW.shape[1]))
        dout = checks.cast(dout, self.dtype)
        if scale is not None:
            dout = dout * checks.beside(dout, scale)
        self._kernel.embedding_backward(dout, ids, dW)

    def _of_cache(self, name: str, cache: Any) -> Any:
        return cache[0]

    def _sizes(self) -> list[str]:
        V, D = self._specs[0][1]
        return [f"V={V}", f"D={D}"]


class TimeEmbedding(Embedding):
    """`Embedding` of xs (N, T).

    Parameters
    ----------
    W, device
        As in `Embedding`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 5.

    Examples
    --------
    >>> from rnnfast import TimeEmbedding
    >>> TimeEmbedding.create(10, 3, rng=0, device="cpu").forward(np.array([[2, 0, 2]])).shape
    (1, 3, 3)
    """

    W = param(0)

    # The book names ids idx in a batch and xs in a sequence.
    @overload
    def forward(
        self, xs: NDArray[Any], *, train: bool = True, word_mask: Array | None = None
    ) -> NDArray[Any]: ...
    @overload
    def forward(self, xs: Array, *, train: bool = True, word_mask: Array | None = None) -> Any: ...

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, xs: Any, *, train: bool = True, word_mask: Any = None
    ) -> Any:
        """Look up the rows.

        Parameters
        ----------
        xs : array of int (N, T)
            Ids, each in [0, V).
        train : bool
            False keeps nothing for a backward.
        word_mask : array (V,), optional
            As in `Embedding.forward`.

        Returns
        -------
        array (N, T, D)
            W[xs], times word_mask[xs].

        Raises
        ------
        TypeError, ValueError
            As in `Embedding.forward`, and for another number of axes.
        """
        if type(xs) is not np.ndarray:
            xs = checks.listed(self._name, "xs", xs)
        xs = checks.integers(self._name, "xs", xs)
        if xs.ndim != 2:
            raise checks.shape_error(self._name, "xs", "(N, T)", xs)
        return self._forward("xs", xs, train, word_mask)
