"""Attention as a whole: the contexts of one step of a decoder, and of all its steps. Chapter 8.

See rnnfast.layers.attention.
"""

from typing import Any

import numpy as np

from rnnfast.layers.attention import _Attention
from rnnfast.layers.recurrent import Lengths
from rnnfast.typing import Array


class Attention(_Attention):
    """The context of one step of a decoder: `AttentionWeight`, then `WeightSum`.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    attention_weight : array (N, T) or None
        The weights of the last forward.

    References
    ----------
    Deep Learning from Scratch 2, chapter 8, ch08/attention_layer.py.

    Examples
    --------
    >>> from rnnfast import Attention
    >>> hs = np.array([[[0.0, 4.0], [np.log(3), 8.0]]])
    >>> attention = Attention()
    >>> attention.forward(hs, np.array([[1.0, 0.0]]))[0, 1], attention.attention_weight
    (np.float64(7.0), array([[0.25, 0.75]]))
    """

    attention_weight: Any

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__(device=device)
        self.attention_weight = None

    def forward(self, hs: Array, h: Array, *, train: bool = True, lengths: Lengths = None) -> Any:
        """Compute the context.

        Parameters
        ----------
        hs, h, train, lengths
            As in `AttentionWeight.forward`, with the same errors.

        Returns
        -------
        array (N, H)
            The context.
        """
        hs, h = self._inputs(hs, "h", h, "N, H")
        kept = self._attend(hs, h[:, np.newaxis], lengths)
        self.cache = kept if train else None
        self.attention_weight = kept.a[:, 0].copy()
        return (kept.a @ kept.hs)[:, 0]

    def backward(self, dout: Array) -> tuple[Any, Any]:
        """Compute the gradients; see `AttentionWeight.backward`.

        Parameters
        ----------
        dout : array (N, H)
            The gradient of the context.

        Returns
        -------
        dhs : array (N, T, H)
        dh : array (N, H)
        """
        kept = self._pending()
        dout = self._of_output("dout", dout, (kept.h.shape[0], kept.h.shape[2]), kept.hs.dtype)
        dc = dout[:, np.newaxis]
        dhs, dh = self._gradients(kept, dc @ kept.hs.swapaxes(1, 2))
        dhs += kept.a.swapaxes(1, 2) * dc
        return dhs, dh[:, 0]


class TimeAttention(_Attention):
    """The contexts of all steps of a decoder.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    attention_weights : list of array (N, T) or None
        The weights of the last forward, one array for each step of the decoder.

    References
    ----------
    Luong et al. 2015, https://arxiv.org/abs/1508.04025 (the score "dot").
    Deep Learning from Scratch 2, chapter 8, ch08/attention_layer.py.

    Examples
    --------
    >>> from rnnfast import TimeAttention
    >>> attention = TimeAttention()
    >>> hs_enc, hs_dec = np.ones((2, 5, 3)), np.ones((2, 4, 3))
    >>> attention.forward(hs_enc, hs_dec).shape
    (2, 4, 3)
    >>> len(attention.attention_weights), attention.attention_weights[0][1]
    (4, array([0.2, 0.2, 0.2, 0.2, 0.2]))
    """

    attention_weights: list[Any] | None

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__(device=device)
        self.attention_weights = None

    def forward(
        self, hs_enc: Array, hs_dec: Array, *, train: bool = True, lengths: Lengths = None
    ) -> Any:
        """Compute the contexts.

        Parameters
        ----------
        hs_enc : array (N, T, H)
            The h of the encoder.
        hs_dec : array (N, T', H)
            Those of the decoder.
        train : bool
            False keeps nothing for a backward.
        lengths : array_like of int (N,), optional
            Steps of the encoder that count.

        Returns
        -------
        array (N, T', H)
            The contexts.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        hs, h = self._inputs(hs_enc, "hs_dec", hs_dec, "N, T', H")
        kept = self._attend(hs, h, lengths)
        self.cache = kept if train else None
        self.attention_weights = list(kept.a.swapaxes(0, 1).copy())
        return kept.a @ kept.hs

    def backward(self, dout: Array) -> tuple[Any, Any]:
        """Compute the gradients of the encoder's h and of the decoder's.

        Parameters
        ----------
        dout : array (N, T', H)
            The gradient of the contexts.

        Returns
        -------
        dhs_enc : array (N, T, H)
        dhs_dec : array (N, T', H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            Without the forward of a training step before it.
        """
        kept = self._pending()
        dout = self._of_output("dout", dout, kept.h.shape, kept.hs.dtype)
        dhs, dh = self._gradients(kept, dout @ kept.hs.swapaxes(1, 2))
        dhs += kept.a.swapaxes(1, 2) @ dout
        return dhs, dh
