"""Loss layers: forward(scores, targets) -> loss, backward(dout=1) -> the scores' gradient.

The loss is a Python float, summed in float64; an empty batch, or one in which every target is
ignored, has loss 0.0 and zero gradients. Scores are float32 or float64, which is also the dtype
of the gradient; other real ones are cast. What is handed to a forward may be changed before the
backward (but the xs of TimeAffineSoftmaxWithLoss). N batch, T time, V classes.

Deep Learning from Scratch 2, chapters 1, 4 and 5. The cross entropies are computed from the
scores by log-sum-exp, not from probabilities with 1e-7 added, so they stay right where a
probability underflows.
"""

import numpy as np

from rnnfast import checks
from rnnfast.kernels import load, resolve
from rnnfast.layers.affine import rows
from rnnfast.layers.base import Layer
from rnnfast.layers.functions import sigmoid


class _Loss(Layer):
    def __init__(self, *, device=None):
        super().__init__(device)


class SoftmaxWithLoss(_Loss):
    """Softmax and cross entropy: the mean of -log softmax(x)[t] over the batch.

    x (N, V) scores; t (N,) class ids, each in [0, V), or one-hot (N, V).
    """

    axes = "N, V"
    ignore_label = None

    def forward(self, x, t, *, train=True):
        return self._forward("x", x, "t", t, train)

    def backward(self, dout=1):
        """dout (softmax(x) - onehot(t)) / N; may be called again."""
        ops, cache, shape = self._pending()
        dout = checks.number(self._name, "dout", dout)
        return ops.softmax_loss_backward(cache, dout).reshape(shape)

    def _forward(self, x_name, x, t_name, t, train):
        x = checks.real(self._name, x_name, x)
        ts = self._targets(x_name, x, t_name, t)
        ignored = self._ignore(t_name, ts, x.shape[-1])
        ops = self._kernel or load("ops", resolve(self.device, x))
        xs = checks.floating(x).reshape(ts.size, x.shape[-1])
        if train:
            xs, ts = checks.own(xs, x), checks.own(ts, t)
        loss, cache = ops.softmax_loss_forward(xs, ts, ignore_label=ignored)
        self.cache = (ops, cache, x.shape) if train else None
        return loss

    def _targets(self, x_name, x, t_name, t):
        """The targets as ids in one row."""
        axes = self.axes
        if x.ndim != axes.count(",") + 1 or x.shape[-1] == 0:
            raise checks.shape_error(self._name, x_name, f"({axes}), V from 1 up", x)
        t = checks.real(self._name, t_name, t)
        if t.shape == x.shape:
            return t.argmax(axis=-1).reshape(-1)
        if t.shape != x.shape[:-1]:
            expected = f"ids {x.shape[:-1]} or one-hot ({axes}) = {x.shape}"
            raise checks.shape_error(self._name, t_name, expected, t)
        t = checks.integers(self._name, t_name, t)
        return t.reshape(-1)

    def _ignore(self, t_name, ts, V):
        """Every target has to be a class; what to ignore is then any number that is none."""
        checks.in_range(self._name, t_name, ts, V)
        return -1


class Simple_TimeSoftmaxWithLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss of every step, the mean over N and T. xs (N, T, V), ts (N, T) or one-hot."""

    axes = "N, T, V"

    def forward(self, xs, ts, *, train=True):
        return self._forward("xs", xs, "ts", ts, train)


class TimeSoftmaxWithLoss(Simple_TimeSoftmaxWithLoss):
    """The mean of -log softmax(xs)[ts] over the targets that are not `ignore_label`.

    xs (N, T, V) scores; ts (N, T) ids, each in [0, V) or equal to ignore_label, or one-hot
    (N, T, V). ignore_label is -1 and may be changed.
    """

    def __init__(self, *, device=None):
        super().__init__(device=device)
        self.ignore_label = -1

    def _ignore(self, t_name, ts, V):
        ignored = checks.integer(self._name, "ignore_label", self.ignore_label)
        checks.in_range(self._name, t_name, ts[ts != ignored], V)
        return ignored


class TimeAffineSoftmaxWithLoss(TimeSoftmaxWithLoss):
    """TimeSoftmaxWithLoss of what a TimeAffine layer would give, without handing the scores over.

    affine: the layer whose weights are read and whose grads backward writes. The scores are kept
    once, between forward and backward, in memory that the next iteration uses again; their
    gradient is never stored. Inference stores none. For models that own both layers. xs and the
    weights have to stay as they are until backward.
    """

    def __init__(self, affine, *, device=None):
        super().__init__(device=device)
        self.affine = affine
        self._spent = None  # the last consumed cache: its memory is used again

    def forward(self, xs, ts, *, train=True):
        """xs (N, T, H), targets ts (N, T), or one-hot (N, T, V) -> the loss."""
        affine = self.affine
        W, b = affine._checked_params()
        H, V = W.shape
        xs = checks.real(self._name, "xs", xs)
        affine._check_shape(xs, H)
        N, T, _ = xs.shape
        checks.fits(self._name, "(N, T, max(H, V))", N, T, max(H, V))
        given = ts = checks.real(self._name, "ts", ts)
        if ts.shape == (N, T, V):
            ts = ts.argmax(axis=2)
        if ts.shape != (N, T):
            expected = f"ids {(N, T)} or one-hot (N, T, V) = {(N, T, V)}"
            raise checks.shape_error(self._name, "ts", expected, ts)
        ts = checks.integers(self._name, "ts", ts)
        ignored = self._ignore("ts", ts, V)
        xs, ts = checks.cast(xs, affine.dtype), checks.own(ts, given)
        spent, self._spent = self._spent, None
        loss, cache = affine._kernel.affine_softmax_loss_forward(
            rows(xs), W, b, ts.reshape(-1), ignore_label=ignored, train=train, spent=spent
        )
        self.cache = (cache, xs.shape) if train else None
        return loss

    def backward(self, dout=1):
        """dxs (N, T, H); fills the affine layer's grads. Once a forward."""
        cache, shape = self._pending()
        dout = checks.number(self._name, "dout", dout)
        dW, db = self.affine._checked_grads()
        dx = self.affine._kernel.affine_softmax_loss_backward(cache, dW, db, dout)
        self.cache, self._spent = None, cache
        return dx.reshape(shape)

    def __getstate__(self):
        return super().__getstate__() | {"_spent": None}


class SigmoidWithLoss(_Loss):
    """Sigmoid and binary cross entropy, the mean over all elements.

    x (N,) scores of class 1; t (N,) targets, integers 0 or 1.
    """

    axes: str | None = None

    def forward(self, x, t, *, train=True):
        return self._forward("x", x, "t", t, train)

    def backward(self, dout=1):
        """dout (sigmoid(x) - t) / size; may be called again."""
        error = self._pending()
        return error * (checks.number(self._name, "dout", dout) / max(error.size, 1))

    def _forward(self, x_name, x, t_name, t, train):
        x = checks.real(self._name, x_name, x)
        if self.axes and x.ndim != self.axes.count(",") + 1:
            raise checks.shape_error(self._name, x_name, f"({self.axes})", x)
        t = checks.integers(self._name, t_name, t)
        if t.shape != x.shape:
            raise checks.shape_error(self._name, t_name, x.shape, t)
        checks.in_range(self._name, t_name, t, 2)
        x = checks.floating(x)
        self.cache = (sigmoid(x) - t).astype(x.dtype, copy=False) if train else None
        x = x.astype(np.float64)
        # -log sigmoid(x) = log(1 + exp(-x)) for t = 1, and the same of -x for t = 0
        xp = checks.namespace(x)
        losses = xp.logaddexp(0, xp.where(t, -x, x))
        return checks.scalar(losses.mean()) if x.size else 0.0


class TimeSigmoidWithLoss(SigmoidWithLoss):
    """SigmoidWithLoss of every step, the mean over N and T. xs, ts (N, T)."""

    axes = "N, T"

    def forward(self, xs, ts, *, train=True):
        return self._forward("xs", xs, "ts", ts, train)


class TimeSquaredLoss(_Loss):
    """Half the squared error, summed over the features, the mean over the N*T steps.

    xs, ts (N, T, D) real numbers, or (N, T) for a single feature:

        loss = sum((xs - ts)^2) / (2 N T)        dxs = dout (xs - ts) / (N T)
    """

    def forward(self, xs, ts, *, train=True):
        xs = checks.real(self._name, "xs", xs)
        ts = checks.real(self._name, "ts", ts)
        if xs.ndim not in (2, 3):
            raise checks.shape_error(self._name, "xs", "(N, T, D) or (N, T)", xs)
        if ts.shape != xs.shape:
            raise checks.shape_error(self._name, "ts", f"like xs, {xs.shape}", ts)
        xs = checks.floating(xs)
        error = xs - checks.cast(ts, xs.dtype)
        self.cache = error if train else None
        total = np.square(error, dtype=np.float64).sum()
        return checks.scalar(total) / (2 * max(xs.shape[0] * xs.shape[1], 1))

    def backward(self, dout=1):
        """dout (xs - ts) / (N T); may be called again."""
        error = self._pending()
        dout = checks.number(self._name, "dout", dout)
        return error * (dout / max(error.shape[0] * error.shape[1], 1))
