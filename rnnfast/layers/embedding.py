"""Embedding: rows of a matrix, looked up by id. Deep Learning from Scratch 2, chapters 4 and 5.

N batch, T time, V vocabulary, D width of a row.
"""

from rnnfast import checks
from rnnfast.layers.base import Layer, param


class Embedding(Layer):
    """Row idx of W (V, D), for integer ids of any shape; each id in [0, V), else ValueError."""

    def __init__(self, W, *, device=None):
        owner = type(self).__name__
        W = checks.adopt(owner, "W", W)
        shape = checks.matrix(owner, "W", W, "(V, D)")
        super().__init__(device, (W,), (("W", shape, "(V, D)"),))

    def forward(self, idx, *, train=True):
        """idx (...) integers -> (..., D)."""
        return self._forward("idx", idx, train)

    def _forward(self, name, ids, train):
        (W,) = self._checked_params()
        V, D = W.shape
        ids = checks.integers(self._name, name, ids)
        checks.fits(self._name, "(..., D)", *ids.shape, D)
        checks.in_range(self._name, name, ids, V)
        out = self._kernel.embedding_forward(ids, W)
        self.cache = ids if train else None
        return out

    def backward(self, dout):
        """dout (..., D); writes all of grads[0], where the gradients of a repeated id add up."""
        ids = self._pending()
        (dW,) = self._checked_grads()
        self._check_dout(dout, (*ids.shape, dW.shape[1]))
        self._kernel.embedding_backward(checks.cast(dout, self.dtype), ids, dW)


class TimeEmbedding(Embedding):
    """Embedding of xs (N, T)."""

    W = param(0)

    def forward(self, xs, *, train=True):
        """xs (N, T) integers -> (N, T, D)."""
        xs = checks.integers(self._name, "xs", xs)
        if xs.ndim != 2:
            raise checks.shape_error(self._name, "xs", "(N, T)", xs)
        return self._forward("xs", xs, train)
