"""Affine layers, for a batch and (`Time...`) for a sequence. Chapters 1 and 5.

N batch, T time, D and M input and output width. Inputs, errors and `train=False` are as for the
recurrent layers (rnnfast.layers.recurrent).
"""

from typing import Any, Self, overload

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.base import Layer, Spec, grad, param
from rnnfast.layers.initial import Initializer
from rnnfast.typing import A, Array, Floats, Integers


class _Linear(Layer):
    """x W, or x W + b.

    Attributes
    ----------
    x : array or None
        The input of the last forward of training.
    """

    of_cache = ("x",)
    x: Any

    def __init__(self, W: Array, b: Array | None, device: str | None) -> None:
        owner = type(self).__name__
        W, b = checks.adopt(owner, "W", W), checks.adopt(owner, "b", b)
        shape = checks.matrix(owner, "W", W, "(D, M)")
        specs: tuple[Spec, ...] = (("W", shape, "(D, M)"), ("b", shape[1:], "(M,)"))
        if b is None:
            super().__init__(device, (W,), specs[:1])
        else:
            super().__init__(device, (W, b), specs)

    @overload
    def forward(self, x: Integers, *, train: bool = True) -> Floats: ...
    @overload
    def forward(self, x: A, *, train: bool = True) -> A: ...
    def forward(self, x: Any, *, train: bool = True) -> Any:
        """Compute y = x W + b (without b: x W).

        Parameters
        ----------
        x : array (..., D)
            The input; of a `Time...` layer (N, T, D).
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        array (..., M)
            y.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        W, b = with_bias(self._checked_params())
        D, M = W.shape
        given = checks.real(self._name, "x", x)
        self._check_shape(given, D)
        checks.fits(self._name, "(..., max(D, M))", *given.shape[:-1], max(D, M))
        given = checks.cast(given, self.dtype)
        y = self._kernel.affine_forward(rows(given), W, b)
        self.cache = given if train else None
        return y.reshape(*given.shape[:-1], M)

    def backward(self, dout: A) -> A:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dout : array (..., M)
            The gradient of y.

        Returns
        -------
        array (..., D)
            dx.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        x = self._pending()
        W = self._checked_params()[0]
        dout = self._checked_dout(dout, (*x.shape[:-1], W.shape[1]))
        dW, db = with_bias(self._checked_grads())
        dy = rows(checks.cast(dout, self.dtype))
        dx: A = self._kernel.affine_backward(dy, rows(x), W, dW, db).reshape(x.shape)
        return dx

    def _of_cache(self, name: str, cache: Any) -> Any:
        return cache

    def _check_shape(self, x: Array, D: int) -> None:
        """Check that x is (..., D)."""
        if x.ndim < 1 or x.shape[-1] != D:
            raise checks.shape_error(self._name, "x", f"(..., D) = (..., {D})", x)

    def _sizes(self) -> list[str]:
        D, M = self._specs[0][1]
        return [f"D={D}", f"M={M}"]


def _drawn(
    owner: str, D: int, M: int, rng: Any, dtype: DTypeLike, device: str | None
) -> tuple[Any, Any, str]:
    """W (D, M), b (M,) and the device, for `create`."""
    D, M = checks.count(owner, "D", D), checks.count(owner, "M", M)
    checks.fits(owner, "(D, M)", D, M)
    draw = Initializer(owner, rng, dtype, device)
    return draw.normal(D, M), draw.zeros(M), draw.device


class MatMul(_Linear):
    """y = x W.

    Parameters
    ----------
    W : array (D, M)
        The weights.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 1.

    Examples
    --------
    >>> from rnnfast import MatMul
    >>> MatMul(np.full((3, 2), 0.5), device="cpu").forward(np.ones((1, 3)))
    array([[1.5, 1.5]])
    """

    def __init__(self, W: Array, *, device: str | None = None) -> None:
        super().__init__(W, None, device)

    @classmethod
    def create(
        cls,
        D: int,
        M: int,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
    ) -> Self:
        """Make a layer from its sizes: W is normal / sqrt(D). See `Affine.create`.

        Examples
        --------
        >>> from rnnfast import MatMul
        >>> MatMul.create(3, 2, rng=0, device="cpu")
        MatMul(D=3, M=2, float32, cpu)
        """
        W, _, device = _drawn(cls.__name__, D, M, rng, dtype, device)
        return cls(W, device=device)


class Affine(_Linear):
    """y = x W + b.

    Parameters
    ----------
    W : array (D, M)
        The weights. A view stays a view: `embed_W.T` ties W to an embedding.
    b : array (M,)
        The bias.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 1.

    Examples
    --------
    >>> from rnnfast import Affine
    >>> affine = Affine(np.full((3, 2), 0.5), np.array([0.0, 1.0]), device="cpu")
    >>> affine.forward(np.ones((1, 3)))
    array([[1.5, 2.5]])
    >>> affine.backward(np.array([[1.0, 0.0]]))
    array([[0.5, 0.5, 0.5]])
    """

    def __init__(self, W: Array, b: Array, *, device: str | None = None) -> None:
        super().__init__(W, b, device)

    @classmethod
    def create(
        cls,
        D: int,
        M: int,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
    ) -> Self:
        """Make a layer from its sizes, with the initial weights of the book.

        Parameters
        ----------
        D, M : int
            The width of the input and of the output.
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
        W is normal / sqrt(D); b is zero (Deep Learning from Scratch 2, chapter 6).

        Examples
        --------
        >>> from rnnfast import TimeAffine
        >>> TimeAffine.create(100, 10, rng=0, device="cpu")
        TimeAffine(D=100, M=10, float32, cpu)
        """
        W, b, device = _drawn(cls.__name__, D, M, rng, dtype, device)
        return cls(W, b, device=device)

    def _choices(self) -> list[str]:
        return ["b=None"] if len(self._specs) < 2 else []


class TimeAffine(Affine):
    """`Affine` at every step of x (N, T, D).

    Parameters
    ----------
    W, b, device
        As in `Affine`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 5.

    Examples
    --------
    >>> from rnnfast import TimeAffine
    >>> TimeAffine.create(3, 2, rng=0, device="cpu").forward(np.ones((4, 5, 3), "f")).shape
    (4, 5, 2)
    """

    def _check_shape(self, x: Array, D: int) -> None:
        """Check that x is (N, T, D)."""
        if x.ndim != 3 or x.shape[2] != D:
            raise checks.shape_error(self._name, "x", f"(N, T, D) = (N, T, {D})", x)


class Simple_TimeAffine(TimeAffine):
    """`TimeAffine` with its arrays as attributes: W, b, dW, db.

    Examples
    --------
    >>> from rnnfast import Simple_TimeAffine
    >>> Simple_TimeAffine.create(3, 2, rng=0, device="cpu").dW.shape
    (3, 2)
    """

    W, b = param(0), param(1)
    dW, db = grad(0), grad(1)


def with_bias(arrays: list[Any]) -> tuple[Any, Any]:
    """The params or grads of an affine layer, W and b; None for b in one without bias."""
    W, *bias = arrays
    return W, bias[0] if bias else None


def rows(x: Any) -> Any:
    """x (..., D) as (M, D). M is counted because reshape(-1, D) fails for an empty x."""
    return x.reshape(x.size // x.shape[-1], x.shape[-1])
