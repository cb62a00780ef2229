"""Past decode regularisation: the word before is decoded from the distribution of the next one.

M rows (a sequence is flattened to M = N T), H hidden, V vocabulary.
"""

from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.activations import Softmax
from rnnfast.layers.affine import Affine, TimeAffine
from rnnfast.layers.base import Layer, Spec
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.layers.softmax_losses import only_counted
from rnnfast.typing import Array


class PastDecode(Layer):
    """A penalty: the cross entropy of the word that was read, decoded from the prediction.

    Parameters
    ----------
    affine : TimeAffine or TimeMixtureSoftmax
        The output layer, whose W (H, V) is read as the word vectors. The scores of a mixture are
        its log probabilities.
    W : array (H, H)
        Weights of the hidden layer.
    b : array (H,)
        Its bias.
    c : array (V,)
        The bias of the decoder.
    factor : float
        The factor of the penalty, from 0 up; 0.001 in the paper.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    loss : float
        The penalty of the last forward in training; a 0-d array on a GPU.

    Notes
    -----
    With the word vectors E = affine.W^T (V, H)::

        P = softmax(scores)                  the predicted distribution, (M, V)
        v = P E                              its mean word vector, (M, H)
        u = tanh(v W + b)
        loss = factor mean(-log softmax(u E^T + c)[previous])

    Only training uses it, so a trained model has the same predictions without it.

    References
    ----------
    Brahma 2018, https://arxiv.org/abs/1808.05908.

    Examples
    --------
    >>> from rnnfast import TimeAffine
    >>> from rnnfast.layers import PastDecode
    >>> affine = TimeAffine(np.zeros((2, 4)), np.zeros(4), device="cpu")
    >>> past = PastDecode(affine, np.zeros((2, 2)), np.zeros(2), np.zeros(4), factor=0.5)
    >>> round(past.forward(np.zeros((3, 4)), np.array([0, 1, 2])), 4)  # 0.5 log(4)
    0.6931
    >>> dscores, dW = past.backward()
    >>> dscores.shape, dW.shape
    ((3, 4), (2, 4))
    """

    loss: Any

    def __init__(
        self,
        affine: TimeAffine | TimeMixtureSoftmax,
        W: Array,
        b: Array,
        c: Array,
        *,
        factor: float = 0.001,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        factor = checks.nonnegative(owner, "factor", factor)
        checks.of_kind(owner, "affine", affine, TimeAffine, Affine, TimeMixtureSoftmax)
        W, b, c = (checks.adopt(owner, n, x) for n, x in (("W", W), ("b", b), ("c", c)))
        H, V = affine.params[0].shape
        W = checks.exactly(owner, "W", W, affine.dtype, (H, H), "(H, H)")
        specs: list[Spec] = [("W", (H, H), "(H, H)"), ("b", (H,), "(H,)"), ("c", (V,), "(V,)")]
        super().__init__(device, (W, b, c), specs)
        self.affine = affine
        self.factor = factor
        self.loss = 0.0
        self._softmax = Softmax(device=self.device)

    def forward(self, scores: Any, previous: Any, counted: Any = None) -> Any:
        """Compute the penalty.

        Parameters
        ----------
        scores : array (M, V)
            Scores of the next word.
        previous : array of int (M,)
            The ids that were read last, each in [0, V).
        counted : array of bool (M,), optional
            The rows that have a part in the penalty, whose mean is over these; None is all of them.

        Returns
        -------
        float
            The penalty, also `loss`.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        W, b, c = self._checked_params()
        E = self.affine._checked_params()[0].T
        scores = checks.real(self._name, "scores", scores)
        if scores.ndim != 2 or scores.shape[1] != len(E):
            raise checks.shape_error(self._name, "scores", f"(M, V) = (M, {len(E)})", scores)
        previous = checks.integers(self._name, "previous", previous)
        if previous.shape != (len(scores),):
            raise checks.shape_error(self._name, "previous", f"(M,) = ({len(scores)},)", previous)
        checks.in_range(self._name, "previous", previous, len(E))
        xp, ops = checks.namespace(scores), self._kernel
        scores = checks.cast(scores, self.dtype)
        if counted is not None:
            scores, previous = self._only(counted, scores, previous)
        P = self._softmax.forward(scores)
        v = ops.affine_forward(P, E, None)
        u = xp.tanh(ops.affine_forward(v, W, b))
        loss, cache = ops.affine_softmax_loss_forward(u, E.T, c, previous)
        self.loss = self.factor * loss
        self.cache = P, v, u, cache
        return self.loss

    def _only(self, counted: Any, scores: Any, previous: Any) -> tuple[Any, Any]:
        """scores with zeros, and previous with -1, in the rows that have no part."""
        counted = checks.real(self._name, "counted", counted)
        if counted.dtype != bool:
            raise TypeError(f"{self._name}: counted must be bool, got {counted.dtype}")
        if counted.shape != previous.shape:
            raise checks.shape_error(self._name, "counted", f"(M,) = {previous.shape}", counted)
        beside = checks.beside(previous, counted)
        previous = checks.namespace(previous).where(beside, previous.astype(np.intp), -1)
        return only_counted(scores, counted), previous

    def backward(self, dout: float = 1.0) -> tuple[Any, Any]:
        """Compute the gradients; the grads of this layer are written in place.

        It may be called once after each forward.

        Parameters
        ----------
        dout : float
            The gradient of the penalty.

        Returns
        -------
        dscores : array (M, V)
        dW : array (H, V)
            The gradient of the affine layer's W through the word vectors. Add it to grads[0] of
            that layer.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        P, v, u, cache = self._pending()
        dout = checks.number(self._name, "dout", dout)
        (W, _, _), (dW, db, dc) = self._checked_params(), self._checked_grads()
        E = self.affine._checked_params()[0].T
        xp, ops = checks.namespace(u), self._kernel
        dE, d_decoder = xp.empty(E.shape, self.dtype), xp.empty(E.T.shape, self.dtype)
        du = ops.affine_softmax_loss_backward(cache, d_decoder, dc, self.factor * dout)
        dv = ops.affine_backward(du * (1 - u * u), v, W, dW, db)
        dP = ops.affine_backward(dv, P, E, dE, None)
        self.cache = None
        d_decoder += dE.T
        return self._softmax.backward(dP), d_decoder

    def _sizes(self) -> list[str]:
        return [f"H={self._specs[0][1][0]}", f"V={self._specs[2][1][0]}"]

    def _choices(self) -> list[str]:
        return [f"factor={self.factor}"]
