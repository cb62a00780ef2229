"""Affine layers, for a batch and (`Time...`) for a sequence. Chapters 1 and 5.

N batch, T time, D and M input and output width. Inputs, errors and `train=False` are as for the
recurrent layers (rnnfast.layers.recurrent).
"""

from rnnfast import checks
from rnnfast.layers.base import Layer, grad, param


class _Linear(Layer):
    def __init__(self, W, b, device):
        owner = type(self).__name__
        W, b = checks.adopt(owner, "W", W), checks.adopt(owner, "b", b)
        shape = checks.matrix(owner, "W", W, "(D, M)")
        specs = (("W", shape, "(D, M)"), ("b", shape[1:], "(M,)"))
        if b is None:
            super().__init__(device, (W,), specs[:1])
        else:
            super().__init__(device, (W, b), specs)

    def forward(self, x, *, train=True):
        """x (..., D) -> x W + b, (..., M)."""
        W, b = (*self._checked_params(), None)[:2]
        D, M = W.shape
        x = checks.real(self._name, "x", x)
        self._check_shape(x, D)
        checks.fits(self._name, "(..., max(D, M))", *x.shape[:-1], max(D, M))
        x = checks.cast(x, self.dtype)
        y = self._kernel.affine_forward(rows(x), W, b)
        self.cache = x if train else None
        return y.reshape(*x.shape[:-1], M)

    def backward(self, dout):
        """dout (..., M) -> dx (..., D)."""
        x = self._pending()
        W = self._checked_params()[0]
        self._check_dout(dout, (*x.shape[:-1], W.shape[1]))
        dW, db = (*self._checked_grads(), None)[:2]
        dy = rows(checks.cast(dout, self.dtype))
        return self._kernel.affine_backward(dy, rows(x), W, dW, db).reshape(x.shape)

    def _check_shape(self, x, D):
        if x.ndim < 1 or x.shape[-1] != D:
            raise checks.shape_error(self._name, "x", f"(..., D) = (..., {D})", x)


class MatMul(_Linear):
    """y = x W for x (..., D) and W (D, M)."""

    def __init__(self, W, *, device=None):
        super().__init__(W, None, device)


class Affine(_Linear):
    """y = x W + b for x (..., D), W (D, M) and b (M,). W stays the view it is: embed_W.T ties."""

    def __init__(self, W, b, *, device=None):
        super().__init__(W, b, device)


class TimeAffine(Affine):
    """Affine at every step of x (N, T, D)."""

    def _check_shape(self, x, D):
        if x.ndim != 3 or x.shape[2] != D:
            raise checks.shape_error(self._name, "x", f"(N, T, D) = (N, T, {D})", x)


class Simple_TimeAffine(TimeAffine):
    """TimeAffine whose arrays are also there by name: W, b, dW, db."""

    W, b = param(0), param(1)
    dW, db = grad(0), grad(1)


def rows(x):
    """x (..., D) as (M, D); the M is counted because reshape(-1, D) fails for an empty x."""
    return x.reshape(x.size // x.shape[-1], x.shape[-1])
