"""`pack` for all cells. NumPy needs no other layout, so packed weights are copies.

With a precision the copies are rounded, and so is what they are multiplied with:

    bf16    x W = sum of bf16(x) bf16(W)
    int8    x W = s_x s_W sum of q(x) q(W)    q(v) = v 127 / max |v|, an integer in [-127, 127]
                                              s_v = max |v| / 127

Products of float32 matrices in bfloat16 (set_float32_matmul_precision("medium")) are those of bf16,
and so are the ones of backward: dA W^T, x^T dA and h^T dA round both factors.

The maximum is that of a column of W and of a row of x. For h, and r h of a gru, it is a number that
they never exceed: the largest of 1 and |h| of the initial state, in a gru also of candidate_mask,
times that of h_mask, if there is one.
"""

import numpy as np

from rnnfast.kernels import get_float32_matmul_precision

MOST_OF_INT8 = 2**16  # numbers whose products are summed up in 32 bits
UNBOUNDED = 'rnn: precision \'int8\' is for nonlinearity="tanh", got "relu"'


class Packed(tuple):
    """Packed params, which forward accepts if train=False."""


def pack(params, *, precision=None, **options):
    """See rnnfast.kernels."""
    if precision is not None:
        raise ValueError(f"precision must be None for this cell, got {precision!r}")
    return Packed(None if p is None else p.copy() for p in params)


def pack_reduced(cell, params, precision, *, bounded=True):
    """`pack` of a cell whose Wx and Wh may have a precision; bounded: whether its h is."""
    if precision is None:
        return pack(params)
    if precision not in ("bf16", "int8"):
        raise ValueError(f"{cell}: precision must be None, 'bf16' or 'int8', got {precision!r}")
    if params[0].dtype != np.float32:
        raise TypeError(
            f"{cell}: precision {precision!r} is for float32 params, got {params[0].dtype}"
        )
    if len(params) > 3 and params[3] is not None and params[3].ndim == 3:
        raise ValueError(f"{cell}: precision must be None with Wp (3, H, H), got {precision!r}")
    if precision == "int8" and not bounded:
        raise ValueError(UNBOUNDED)
    K = max(params[0].shape[0], params[1].shape[0])
    if precision == "int8" and K > MOST_OF_INT8:
        raise ValueError(
            f"{cell}: D and H must be up to {MOST_OF_INT8} with precision 'int8', got {K}"
        )
    make = Bf16 if precision == "bf16" else Int8
    return Packed((make(params[0]), make(params[1]), *pack(params[2:])))


def weights(params, train, count, cell="reference"):
    """The params, extended to `count` with None.

    Packed params with train=True are a TypeError.
    """
    if train and isinstance(params, Packed):
        raise TypeError(f"{cell}: packed params are for train=False")
    return (*params, *(None,) * (count - len(params)))


def right_side_for(params):
    """What turns a matrix into the right side of a product, by the precision set now.

    It is `Bf16`, for float32 params that are not packed, or leaves the matrix as it is.
    """
    low = get_float32_matmul_precision() == "medium" and params[0].dtype == np.float32
    return Bf16 if low and not isinstance(params, Packed) else as_it_is


def as_it_is(W):
    """W."""
    return W


def bounded(Wh, state, h_mask, candidate_mask=None):
    """Wh for products with an h that begins with `state`: with its bound, if Wh has use for it."""
    if not isinstance(Wh, Int8):
        return Wh
    bound = np.ones((1, 1), np.float32)
    if state is not None:
        bound = np.maximum(bound, bound_of(state[0]))
    if candidate_mask is not None:
        bound = np.maximum(bound, bound_of(candidate_mask.reshape(len(candidate_mask), -1)))
    return Wh.bounded(bound if h_mask is None else bound * bound_of(h_mask))


class Bf16:
    """A matrix in bfloat16. x @ it rounds x, too."""

    __array_ufunc__ = None  # NumPy leaves x @ it to this class
    dtype = np.dtype(np.float32)

    def __init__(self, W):
        self.W = bf16(W).astype(np.float64)
        self.shape = W.shape

    def __getitem__(self, columns):
        part = object.__new__(type(self))
        part.W = self.W[columns]
        part.shape = part.W.shape
        return part

    @property
    def T(self):
        turned = object.__new__(type(self))
        turned.W = self.W.T
        turned.shape = turned.W.shape
        return turned

    def __rmatmul__(self, x):
        return (bf16(x) @ self.W).astype(np.float32)


class Int8:
    """A matrix of integers, with a scale for each column. x @ it makes integers of x, too."""

    __array_ufunc__ = None
    dtype = np.dtype(np.float32)

    def __init__(self, W):
        bound = bound_of(W, axis=0)
        self.q, self.scales, self.shape = integers(W, bound), scale_of(bound)[0], W.shape
        self.bound = None

    def __getitem__(self, columns):
        return self._with(self.q[columns], self.scales[columns[1]], self.bound)

    def bounded(self, bound):
        """The same, for the rows of an x whose bounds are known."""
        return self._with(self.q, self.scales, bound)

    def _with(self, q, scales, bound):
        part = object.__new__(type(self))
        part.q, part.scales, part.shape, part.bound = q, scales, q.shape, bound
        return part

    def __rmatmul__(self, x):
        bound = bound_of(x) if self.bound is None else self.bound
        exact = integers(x, bound) @ self.q
        return exact.astype(np.float32) * (scale_of(bound) * self.scales)


def bf16(x):
    """x rounded to the nearest bfloat16, to even between two; a NaN stays one."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32))


def bound_of(x, axis=1):
    """max |x|; NaN where a number is not finite."""
    finite = np.isfinite(x).all(axis, keepdims=True)
    return np.where(finite, np.abs(x).max(axis, initial=0, keepdims=True), np.float32(np.nan))


def scale_of(bound):
    """What 1 stands for."""
    return bound / np.float32(127)


def integers(x, bound):
    """x as integers, in float64, so that sums of their products are exact. 0 for a NaN."""
    with np.errstate(all="ignore"):
        inverse = np.where(bound > 0, np.float32(127) / bound, np.float32(0))
        q = np.rint(np.clip(x * inverse, -127, 127))
    return np.where(np.isnan(q), 0, q).astype(np.float64)
