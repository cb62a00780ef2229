"""Affine, embedding, dropout and activation layers: for a batch, and (Time...) for a sequence.

N batch, T time, D and M input and output width, V vocabulary. What the recurrent layers say of
inputs and errors (rnnfast.recurrent) holds here too. forward(..., train=False) keeps nothing for
a backward. Deep Learning from Scratch 2, chapters 1, 3, 4 and 6.
"""

import numpy as np

from rnnfast import checks
from rnnfast.base import Layer, grad, param
from rnnfast.functions import sigmoid, softmax


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
        y = self._kernel.affine_forward(_rows(x), W, b)
        self.cache = x if train else None
        return y.reshape(*x.shape[:-1], M)

    def backward(self, dout):
        """dout (..., M) -> dx (..., D)."""
        x = self._pending()
        W = self._checked_params()[0]
        self._check_dout(dout, (*x.shape[:-1], W.shape[1]))
        dW, db = (*self._checked_grads(), None)[:2]
        dy = _rows(checks.cast(dout, self.dtype))
        return self._kernel.affine_backward(dy, _rows(x), W, dW, db).reshape(x.shape)

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


class Dropout(Layer):
    """Training: each element is 0 with probability dropout_ratio. Else: x * (1 - dropout_ratio).

    The mask is np.random.rand(*x.shape) > dropout_ratio. (Srivastava et al. 2014,
    https://arxiv.org/abs/1207.0580)
    """

    def __init__(self, dropout_ratio=0.5, *, device=None):
        super().__init__(device)
        checks.ratio(self._name, "dropout_ratio", dropout_ratio)
        self.dropout_ratio = dropout_ratio

    def forward(self, x, train_flg=True):
        x = checks.real(self._name, "x", x)
        ratio = checks.ratio(self._name, "dropout_ratio", self.dropout_ratio)
        x = checks.floating(x)
        self.cache = None
        if not train_flg:
            return x * (1 - ratio)
        mask = np.random.random_sample(x.shape) > ratio  # = rand(*x.shape)
        mask = checks.beside(x, mask)
        self.cache = mask, x.shape
        return x * mask

    def backward(self, dout):
        mask, shape = self._pending()
        self._check_dout(dout, shape)
        return dout * mask


class TimeDropout(Dropout):
    """Training: 0 with probability dropout_ratio, else scaled by 1 / (1 - dropout_ratio).

    With train_flg False (or forward(xs, train=False)) forward gives xs itself. Without rng the
    mask is np.random.rand(*xs.shape) > dropout_ratio. rng=seed, or rng=(seed, layer) where layers
    are to differ, draws it from Philox, keyed by the seed, the layer and `step`, the number of
    masks so far: the same mask on every device.

    variational=True draws one mask (N, 1, D) for xs (N, T, D), shared by all its steps; `draw`
    gives the mask alone, (N, H), for the h_mask of a recurrent layer. (Gal and Ghahramani 2016,
    https://arxiv.org/abs/1512.05287)
    """

    def __init__(self, dropout_ratio=0.5, rng=None, *, variational=False, device=None):
        super().__init__(dropout_ratio, device=device)
        self.variational = checks.flag(self._name, "variational", variational)
        self._key = None if rng is None else self._philox_key(rng)
        self.step = 0
        self.train_flg = True

    def forward(self, xs, *, train=True):
        xs = checks.real(self._name, "xs", xs)
        if self.variational and xs.ndim != 3:
            raise checks.shape_error(self._name, "xs", "(N, T, D), variational", xs)
        checks.ratio(self._name, "dropout_ratio", self.dropout_ratio)
        self.cache = None
        if not (self.train_flg and train):
            return xs
        xs = checks.floating(xs)
        mask = self.draw(xs, (xs.shape[0], 1, xs.shape[2]) if self.variational else xs.shape)
        self.cache = mask, xs.shape
        return xs * mask

    def draw(self, xs, shape):
        """The next mask, an array of `shape` beside xs: on its device, of its dtype."""
        ratio = checks.ratio(self._name, "dropout_ratio", self.dropout_ratio)
        xs = checks.real(self._name, "xs", xs)
        if not isinstance(shape, tuple):
            kind = type(shape).__name__
            raise TypeError(f"{self._name}: shape must be a tuple of sizes, got {kind}")
        shape = tuple(checks.integer(self._name, "shape", size) for size in shape)
        if any(size < 0 for size in shape):
            raise ValueError(f"{self._name}: shape must not be negative, got {shape}")
        dtype = xs.dtype if xs.dtype in checks.FLOATS else checks.floating(xs[:0]).dtype
        if self._key is None:
            mask = (np.random.random_sample(shape) > ratio).astype(dtype)
            mask *= 1 / (1 - ratio)
        else:
            mask = self._column(xs).dropout_mask(shape, ratio, self._key, self.step, dtype)
        self.step += 1
        return checks.beside(xs, mask)

    def _philox_key(self, rng):
        key = rng if isinstance(rng, tuple) else (rng, 0)
        if len(key) != 2:
            raise ValueError(f"{self._name}: rng must be a seed or (seed, layer), got {rng}")
        key = tuple(checks.integer(self._name, "rng", k) for k in key)
        if not all(0 <= k < 2**64 for k in key):
            raise ValueError(f"{self._name}: rng must be in [0, 2**64), got {rng}")
        return key


class Softmax(Layer):
    """softmax over the last axis of x."""

    def __init__(self, *, device=None):
        super().__init__(device)

    def forward(self, x, *, train=True):
        x = checks.real(self._name, "x", x)
        out = softmax(checks.floating(x))
        self.cache = out.copy() if train else None  # the caller may change what was returned
        return out

    def backward(self, dout):
        out = self._pending()
        self._check_dout(dout, out.shape)
        dx = out * dout
        dx -= out * dx.sum(axis=-1, keepdims=True)
        return dx


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def __init__(self, *, device=None):
        super().__init__(device)

    def forward(self, x, *, train=True):
        x = checks.real(self._name, "x", x)
        out = sigmoid(checks.floating(x))
        self.cache = out.copy() if train else None
        return out

    def backward(self, dout):
        out = self._pending()
        self._check_dout(dout, out.shape)
        return dout * (1.0 - out) * out


def _rows(x):
    """x (..., D) as (M, D); the M is counted because reshape(-1, D) fails for an empty x."""
    return x.reshape(x.size // x.shape[-1], x.shape[-1])
