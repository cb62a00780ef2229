"""Dropout, for a batch and for a sequence. Deep Learning from Scratch 2, chapter 6."""

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer


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
