"""Softmax and sigmoid as layers. Deep Learning from Scratch 2, chapter 1."""

from typing import Any, overload

from rnnfast import checks
from rnnfast.layers.base import Layer
from rnnfast.layers.functions import sigmoid, softmax
from rnnfast.typing import A, Floats, Integers


class _Activation(Layer):
    """A layer whose cache is its output.

    Attributes
    ----------
    out : array or None
        The output of the last forward of training.
    """

    of_cache = ("out",)
    out: Any

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__(device)

    def _of_cache(self, name: str, cache: Any) -> Any:
        return cache


class Softmax(_Activation):
    """softmax over the last axis.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Examples
    --------
    >>> from rnnfast import Softmax
    >>> Softmax().forward(np.array([0.0, np.log(3)]))
    array([0.25, 0.75])
    """

    @overload
    def forward(self, x: Integers, *, train: bool = True) -> Floats: ...
    @overload
    def forward(self, x: A, *, train: bool = True) -> A: ...
    def forward(self, x: Any, *, train: bool = True) -> Any:
        """Compute y = exp(x) / sum(exp(x)).

        Parameters
        ----------
        x : array (..., K)
            Scores.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        array (..., K)
            Probabilities.
        """
        x = checks.real(self._name, "x", x)
        y = softmax(checks.floating(x))
        self.cache = y.copy() if train else None  # the caller may change the returned array
        return y

    def backward(self, dout: A) -> A:
        """Compute dx = y dout - y sum(y dout), with the sum over the last axis.

        Parameters
        ----------
        dout : array (..., K)
            The gradient of y.

        Returns
        -------
        array (..., K)
            dx.
        """
        out = self._pending()
        dout = self._checked_dout(dout, out.shape)
        share = out * dout
        share -= out * share.sum(axis=-1, keepdims=True)
        dx: A = share
        return dx


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)).

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Examples
    --------
    >>> from rnnfast import Sigmoid
    >>> Sigmoid().forward(np.array([0.0, np.log(3)]))
    array([0.5 , 0.75])
    """

    @overload
    def forward(self, x: Integers, *, train: bool = True) -> Floats: ...
    @overload
    def forward(self, x: A, *, train: bool = True) -> A: ...
    def forward(self, x: Any, *, train: bool = True) -> Any:
        """Compute y = 1 / (1 + exp(-x)).

        Parameters
        ----------
        x : array
            The input, of any shape.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        array like x
            y.
        """
        x = checks.real(self._name, "x", x)
        y = sigmoid(checks.floating(x))
        self.cache = y.copy() if train else None
        return y

    def backward(self, dout: A) -> A:
        """Compute dx = dout y (1 - y).

        Parameters
        ----------
        dout : array like the output
            The gradient of y.

        Returns
        -------
        array like x
            dx.
        """
        out = self._pending()
        dout = self._checked_dout(dout, out.shape)
        dx: A = dout * (1.0 - out) * out
        return dx
