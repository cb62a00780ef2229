"""Attention: which steps of an encoder a step of a decoder looks at. Chapter 8.

N batch, T steps of the encoder, T' of the decoder, H units. hs (N, T, H) are the h of the encoder,
h (N, H) is that of the decoder. The weight of a step is the softmax, over the encoder's steps, of
its inner product with h; the context is the sum of hs with these weights. `TimeAttention` computes
all steps of the decoder at once, as products of matrices of each sample::

    scores = hs_dec hs_enc^T        (N, T', T)
    a = softmax(scores)
    cs = a hs_enc                   (N, T', H)

With `lengths`, steps of the encoder from a sample's length on have the weight 0, and their values
are not used; a sample of length 0 has the context 0. Inputs, errors and `train=False` are as for
the recurrent layers (rnnfast.layers.recurrent). Arrays may be NumPy's or CuPy's.
"""

from typing import Any, NamedTuple

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer
from rnnfast.layers.recurrent import Lengths, checked_lengths
from rnnfast.typing import Array


class _Kept(NamedTuple):
    """What a forward keeps: hs (N, T, H), the decoder's h (N, T', H), the weights (N, T', T)."""

    hs: Any
    h: Any
    a: Any


class _Attention(Layer):
    """What the layers of attention share. They have no weights of their own."""

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__(device)

    def _inputs(self, hs: Any, name: str, h: Any, form: str) -> tuple[Any, Any]:
        """hs and another array, checked and of one floating dtype.

        form: the sides of the other array; those that hs has too must be equal.
        """
        hs, h = checks.real(self._name, "hs", hs), checks.real(self._name, name, h)
        if hs.ndim != 3:
            raise checks.shape_error(self._name, "hs", "(N, T, H)", hs)
        if checks.is_cupy(hs) != checks.is_cupy(h):
            kinds = ["CuPy" if checks.is_cupy(x) else "NumPy" for x in (hs, h)]
            raise TypeError(
                f"{self._name}: {name} must be in the memory where hs is ({kinds[0]}), "
                f"got a {kinds[1]} array"
            )
        sides: dict[str, int] = dict(zip(("N", "T", "H"), hs.shape, strict=True))
        letters = form.split(", ")
        wanted = [sides.get(letter) for letter in letters]
        if h.ndim != len(wanted) or any(
            side is not None and side != got for side, got in zip(wanted, h.shape, strict=True)
        ):
            known = ", ".join(
                str(side or letter) for side, letter in zip(wanted, letters, strict=True)
            )
            raise checks.shape_error(self._name, name, f"({form}) = ({known})", h)
        hs, h = checks.floating(hs), checks.floating(h)
        dtype = np.promote_types(hs.dtype, h.dtype)
        return checks.cast(hs, dtype), checks.cast(h, dtype)

    def _attend(self, hs: Any, h: Any, lengths: Any) -> _Kept:
        """The weights of the steps of hs for each step of h."""
        real = None
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *hs.shape[:2])
        if lengths is not None:
            xp = checks.namespace(hs)
            real = checks.beside(hs, np.arange(hs.shape[1]) < lengths[:, np.newaxis])
            hs = xp.where(real[:, :, np.newaxis], hs, hs.dtype.type(0))  # may be no numbers there
        return _Kept(hs, h, _softmax(h @ hs.swapaxes(1, 2), real))

    def _gradients(self, kept: _Kept, da: Any) -> tuple[Any, Any]:
        """The gradients of hs and h by that of the weights."""
        dscores = kept.a * da
        dscores -= kept.a * dscores.sum(axis=2, keepdims=True)
        return dscores.swapaxes(1, 2) @ kept.h, dscores @ kept.hs

    def _of_output(self, name: str, dout: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """The gradient of an output of this shape."""
        dout = checks.real(self._name, name, dout)
        if dout.shape != shape:
            raise checks.shape_error(self._name, name, f"like the output, {shape}", dout)
        return checks.cast(dout, dtype)


def _softmax(scores: Any, real: Any) -> Any:
    """The softmax over the last axis (N, T', T); real (N, T) is False where the weight is 0."""
    if scores.size == 0:
        return scores
    if real is None:
        a = np.exp(scores - scores.max(axis=2, keepdims=True))
        a /= a.sum(axis=2, keepdims=True)
        return a
    xp, real = checks.namespace(scores), real[:, np.newaxis]
    scores = xp.where(real, scores, scores.dtype.type(-np.inf))
    highest = scores.max(axis=2, keepdims=True)
    a = np.exp(scores - xp.where(np.isinf(highest), scores.dtype.type(0), highest))
    a /= np.maximum(a.sum(axis=2, keepdims=True), np.finfo(a.dtype).tiny)  # no step: no weight
    return a


class WeightSum(_Attention):
    """The weighted sum of an encoder's steps.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 8, ch08/attention_layer.py.

    Examples
    --------
    >>> from rnnfast import WeightSum
    >>> hs = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> WeightSum().forward(hs, np.array([[0.5, 0.5]]))
    array([[2., 3.]])
    """

    def forward(self, hs: Array, a: Array, *, train: bool = True) -> Any:
        """Compute the sum of a[:, t] hs[:, t].

        Parameters
        ----------
        hs : array (N, T, H)
            The steps.
        a : array (N, T)
            Their weights.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        array (N, H)
            The context.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        hs, a = self._inputs(hs, "a", a, "N, T")
        self.cache = _Kept(hs, None, a) if train else None
        return (a[:, np.newaxis] @ hs)[:, 0]

    def backward(self, dc: Array) -> tuple[Any, Any]:
        """Compute the gradients of the steps and of their weights.

        Parameters
        ----------
        dc : array (N, H)
            The gradient of the context.

        Returns
        -------
        dhs : array (N, T, H)
        da : array (N, T)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            Without the forward of a training step before it.
        """
        hs, _, a = self._pending()
        dc = self._of_output("dc", dc, (hs.shape[0], hs.shape[2]), hs.dtype)
        return a[:, :, np.newaxis] * dc[:, np.newaxis], (hs @ dc[:, :, np.newaxis])[:, :, 0]


class AttentionWeight(_Attention):
    """The weights of an encoder's steps for one step of a decoder.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 8, ch08/attention_layer.py.

    Examples
    --------
    >>> from rnnfast import AttentionWeight
    >>> hs = np.array([[[0.0, 0.0], [np.log(3), 0.0]]])
    >>> AttentionWeight().forward(hs, np.array([[1.0, 5.0]]))
    array([[0.25, 0.75]])
    """

    def forward(self, hs: Array, h: Array, *, train: bool = True, lengths: Lengths = None) -> Any:
        """Compute softmax(hs h).

        Parameters
        ----------
        hs : array (N, T, H)
            The h of the encoder.
        h : array (N, H)
            That of the decoder.
        train : bool
            False keeps nothing for a backward.
        lengths : array_like of int (N,), optional
            Steps of the encoder that count.

        Returns
        -------
        array (N, T)
            The weights.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        hs, h = self._inputs(hs, "h", h, "N, H")
        kept = self._attend(hs, h[:, np.newaxis], lengths)
        self.cache = kept if train else None
        return kept.a[:, 0].copy()

    def backward(self, da: Array) -> tuple[Any, Any]:
        """Compute the gradients of the encoder's h and of the decoder's.

        Parameters
        ----------
        da : array (N, T)
            The gradient of the weights.

        Returns
        -------
        dhs : array (N, T, H)
        dh : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            Without the forward of a training step before it.
        """
        kept = self._pending()
        da = self._of_output("da", da, kept.hs.shape[:2], kept.hs.dtype)
        dhs, dh = self._gradients(kept, da[:, np.newaxis])
        return dhs, dh[:, 0]
