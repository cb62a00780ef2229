"""Dropout, for a batch and for a sequence. Deep Learning from Scratch 2, chapter 6."""

import math
from typing import Any, overload

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer
from rnnfast.layers.shares import current_share
from rnnfast.typing import A, Floats, Integers


class Dropout(Layer):
    """Dropout without scaling in training, as in the book.

    Parameters
    ----------
    dropout_ratio : float
        The probability that an element is dropped, in [0, 1).
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    In training the output is x * mask with ``mask = np.random.rand(*x.shape) > dropout_ratio``,
    else x * (1 - dropout_ratio).

    References
    ----------
    Srivastava et al. 2014, https://arxiv.org/abs/1207.0580.

    Examples
    --------
    >>> from rnnfast import Dropout
    >>> Dropout(0.25).forward(np.ones(3), train_flg=False)
    array([0.75, 0.75, 0.75])
    """

    def __init__(self, dropout_ratio: float = 0.5, *, device: str | None = None) -> None:
        super().__init__(device)
        checks.ratio(self._name, "dropout_ratio", dropout_ratio)
        self.dropout_ratio = dropout_ratio

    @overload
    def forward(self, x: Integers, train_flg: bool = True) -> Floats: ...
    @overload
    def forward(self, x: A, train_flg: bool = True) -> A: ...
    def forward(self, x: Any, train_flg: bool = True) -> Any:
        """Drop elements of x.

        Parameters
        ----------
        x : array
            The input, of any shape.
        train_flg : bool
            False scales x instead.

        Returns
        -------
        array like x
        """
        given = checks.real(self._name, "x", x)
        ratio = checks.ratio(self._name, "dropout_ratio", self.dropout_ratio)
        given = checks.floating(given)
        self.cache = None
        if not train_flg:
            return given * (1 - ratio)
        whole, rows = _of_the_batch(self._name, given.shape)
        mask = np.asarray(np.random.random_sample(whole) > ratio)[rows]  # = rand(*x.shape)
        mask = checks.beside(given, mask)
        self.cache = mask, given.shape
        return given * mask

    def backward(self, dout: A) -> A:
        """Compute the gradient of the input.

        Parameters
        ----------
        dout : array like the output
            The gradient of the output.

        Returns
        -------
        array like x
            dx.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        mask, shape = self._pending()
        if shape is not None:
            dout = self._checked_dout(dout, shape)
        dx: A = dout * mask
        return dx

    @property
    def mask(self) -> Any:
        """The mask of the last forward of training, by which it multiplied; None without one.

        A class that extends this one and has a forward of its own may set it for backward.
        """
        cache = self.cache
        return None if cache is None else cache[0]

    @mask.setter
    def mask(self, mask: Any) -> None:
        self.cache = None if mask is None else (mask, None)

    def _choices(self) -> list[str]:
        return [f"dropout_ratio={self.dropout_ratio}"]


class TimeDropout(Dropout):
    """Dropout of a sequence, scaled in training, reproducible by a seed.

    Parameters
    ----------
    dropout_ratio : float
        The probability that an element is dropped, in [0, 1).
    rng : int or tuple of int, optional
        A seed, or (seed, layer) to give layers different masks. Without it the mask is
        ``np.random.rand(*xs.shape) > dropout_ratio``.
    variational : bool
        Draw one mask (N, 1, D) for xs (N, T, D), the same at every step.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    train_flg : bool
        False, or forward(xs, train=False), makes forward return xs itself.
    step : int
        The number of masks drawn so far.

    Notes
    -----
    In training an element is 0 with probability dropout_ratio, else it is multiplied by
    1 / (1 - dropout_ratio). With rng the mask comes from Philox with the seed, the layer and `step`
    as its key: the same mask on every device.

    References
    ----------
    variational: Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287.
    Deep Learning from Scratch 2, chapter 6.

    Examples
    --------
    >>> from rnnfast import TimeDropout
    >>> drop = TimeDropout(0.5, rng=0)
    >>> xs = np.ones((2, 3, 4))
    >>> sorted(set(drop.forward(xs).ravel().tolist()))
    [0.0, 2.0]
    >>> drop.forward(xs, train=False) is xs
    True
    """

    _key: tuple[int, int] | None

    def __init__(
        self,
        dropout_ratio: float = 0.5,
        rng: int | tuple[int, int] | None = None,
        *,
        variational: bool = False,
        device: str | None = None,
    ) -> None:
        super().__init__(dropout_ratio, device=device)
        self.variational = checks.flag(self._name, "variational", variational)
        self._key = None if rng is None else self._philox_key(rng)
        self.step = 0
        self.train_flg = True

    # The book passes train_flg to Dropout.forward and makes it an attribute of TimeDropout.
    def forward(self, xs: A, *, train: bool = True) -> A:  # type: ignore[override]
        """Drop elements of xs.

        Parameters
        ----------
        xs : array
            The input; (N, T, D) if the layer is variational.
        train : bool
            False returns xs itself.

        Returns
        -------
        array like xs
        """
        given = checks.real(self._name, "xs", xs)
        if self.variational and given.ndim != 3:
            raise checks.shape_error(self._name, "xs", "(N, T, D), variational", given)
        checks.ratio(self._name, "dropout_ratio", self.dropout_ratio)
        self.cache = None
        output: A
        if not (self.train_flg and train):
            output = given
            return output
        given = checks.floating(given)
        shape = given.shape
        mask = self.draw(given, (shape[0], 1, shape[2]) if self.variational else shape)
        self.cache = mask, shape
        output = given * mask
        return output

    def draw(self, xs: A, shape: tuple[int, ...], *, of_samples: bool = True) -> A:
        """Draw the next mask, for example (N, H) for the `h_mask` of a recurrent layer.

        Parameters
        ----------
        xs : array
            The mask lies on the device of xs and has its dtype.
        shape : tuple of int
            The shape of the mask.
        of_samples : bool
            Whether the first axis is that of the samples. If they are a share of a batch (see
            `rnnfast.layers.shares`), the mask is their part of the batch's mask. False is for
            masks of weights.

        Returns
        -------
        array
            0, or 1 / (1 - dropout_ratio).

        Raises
        ------
        TypeError, ValueError
            If shape is not a tuple of sizes.
        """
        ratio = checks.ratio(self._name, "dropout_ratio", self.dropout_ratio)
        given = checks.real(self._name, "xs", xs)
        if not isinstance(shape, tuple):
            kind = type(shape).__name__
            raise TypeError(f"{self._name}: shape must be a tuple of sizes, got {kind}")
        shape = tuple(checks.integer(self._name, "shape", size) for size in shape)
        if any(size < 0 for size in shape):
            raise ValueError(f"{self._name}: shape must not be negative, got {shape}")
        dtype = given.dtype if given.dtype in checks.FLOATS else checks.floating(given[:0]).dtype
        whole, rows = _of_the_batch(self._name, shape) if of_samples else (shape, ...)
        if self._key is None:
            mask = np.asarray(np.random.random_sample(whole) > ratio)[rows].astype(dtype)
            mask *= 1 / (1 - ratio)
        else:
            first = (0 if rows is ... else rows.start or 0) * math.prod(shape[1:])
            numbers = ratio, self._key, self.step, dtype, first
            mask = self._column(given).dropout_mask(shape, *numbers)
        self.step += 1
        output: A = checks.beside(given, mask)
        return output

    def mask_state(self) -> tuple[int, tuple[int, int] | None]:
        """Return what the masks to come depend on, beside np.random: the number of masks, and rng.

        Returns
        -------
        tuple
            (step, (seed, layer)), or (step, None) without rng. Checkpoints keep it.
        """
        return self.step, self._key

    def set_mask_state(self, step: int, key: tuple[int, int] | None) -> None:
        """Go on with the masks of another layer, given its `mask_state`.

        Parameters
        ----------
        step : int
            The number of masks drawn so far.
        key : tuple of int or None
            (seed, layer).
        """
        step = checks.count(self._name, "step", step, least=0)
        self.step, self._key = step, None if key is None else self._philox_key(key)

    def _before(self) -> tuple[Any, int]:
        """What `_restore` needs after a call that failed."""
        return self.cache, self.step

    def _restore(self, before: tuple[Any, int]) -> None:
        """Be as before that call."""
        self.cache, self.step = before

    def _philox_key(self, rng: Any) -> tuple[int, int]:
        """(seed, layer), checked."""
        key = rng if isinstance(rng, tuple) else (rng, 0)
        if len(key) != 2:
            raise ValueError(f"{self._name}: rng must be a seed or (seed, layer), got {rng}")
        seed, layer = (checks.integer(self._name, "rng", k) for k in key)
        if not all(0 <= k < 2**64 for k in (seed, layer)):
            raise ValueError(f"{self._name}: rng must be in [0, 2**64), got {rng}")
        return seed, layer

    def _choices(self) -> list[str]:
        shown = super()._choices()
        if self._key is not None:
            seed, layer = self._key
            shown.append(f"rng={self._key if layer else seed}")
        shown += ["variational=True"] if self.variational else []
        return shown + ([] if self.train_flg else ["train_flg=False"])


def _of_the_batch(owner: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
    """The shape of the whole batch's mask, and its rows for samples of this shape."""
    share = current_share()
    if share is None:
        return shape, ...
    if not shape or shape[0] != share.size:
        raise ValueError(
            f"{owner}: the first axis of a mask must be the {share.size} samples of this share of "
            f"a batch, got {shape}"
        )
    return (share.total, *shape[1:]), share.rows
