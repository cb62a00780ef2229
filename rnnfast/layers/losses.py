"""Loss layers: forward(scores, targets) -> loss, backward(dout=1) -> the gradient of the scores.

The loss is a Python float (with scores on a GPU a 0-d array there), summed in float64. For an empty
batch, or a batch in which all targets are ignored, the loss is 0.0 and the gradients are zero.
Scores are float32 or float64, and the gradient has the same dtype; other real dtypes are cast. The
caller may change the arguments of a forward before the backward, except the xs of
TimeAffineSoftmaxWithLoss. N batch, T time, V classes.

Deep Learning from Scratch 2, chapters 1, 4 and 5. The cross entropies are computed from the scores
by log-sum-exp, not from probabilities with 1e-7 added, so they stay right where a probability
underflows.
"""

from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.functions import sigmoid
from rnnfast.layers.shares import counted_steps
from rnnfast.layers.softmax_losses import Simple_TimeSoftmaxWithLoss as Simple_TimeSoftmaxWithLoss
from rnnfast.layers.softmax_losses import SoftmaxWithLoss as SoftmaxWithLoss
from rnnfast.layers.softmax_losses import TimeAffineSoftmaxWithLoss as TimeAffineSoftmaxWithLoss
from rnnfast.layers.softmax_losses import TimeSoftmaxWithLoss as TimeSoftmaxWithLoss
from rnnfast.layers.softmax_losses import _Loss
from rnnfast.typing import Array


class SigmoidWithLoss(_Loss):
    """Sigmoid and binary cross entropy: the mean over all elements.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    y, t, loss
        The probabilities, targets and loss of the last forward of training; None without one.

    Notes
    -----
    loss = mean of -log sigmoid(x) where t is 1 and -log sigmoid(-x) where t is 0;
    dx = dout (sigmoid(x) - t) / size.

    References
    ----------
    Deep Learning from Scratch 2, chapter 4.

    Examples
    --------
    >>> from rnnfast import SigmoidWithLoss
    >>> loss = SigmoidWithLoss()
    >>> round(loss.forward(np.zeros(2), np.array([1, 0])), 4)
    0.6931
    >>> loss.backward()
    array([-0.25,  0.25])
    """

    axes: str | None = None
    of_cache = ("y", "t", "loss")
    y: Any
    t: Any
    loss: Any

    def forward(self, x: Array, t: Array, *, train: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        x : array (N,)
            Scores of class 1.
        t : array of int or bool (N,)
            Targets, 0 or 1.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError
            For a wrong dtype.
        ValueError
            For a wrong shape, or a target that is not 0 or 1.
        """
        return self._forward("x", x, "t", t, train)

    def backward(self, dout: float | Array = 1) -> Any:
        """Compute the gradient of the scores. It may be called again.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array like the scores
            dout (sigmoid(x) - t) / size.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        y, t, _ = self._pending()
        error = (y - t).astype(y.dtype, copy=False)
        return error * (checks.number(self._name, "dout", dout) / max(error.size, 1))

    def _of_cache(self, name: str, cache: Any) -> Any:
        return cache[self.of_cache.index(name)]

    def _forward(self, x_name: str, x: Any, t_name: str, t: Any, train: bool) -> Any:
        """forward of arguments with these names."""
        x = checks.real(self._name, x_name, x)
        if self.axes and x.ndim != self.axes.count(",") + 1:
            raise checks.shape_error(self._name, x_name, f"({self.axes})", x)
        if getattr(getattr(t, "dtype", None), "kind", None) == "b":
            t = t.astype(np.int8)
        t = checks.integers(self._name, t_name, t)
        if t.shape != x.shape:
            raise checks.shape_error(self._name, t_name, x.shape, t)
        checks.in_range(self._name, t_name, t, 2)
        x = checks.floating(x)
        y = sigmoid(x) if train else None
        x = x.astype(np.float64)
        # -log sigmoid(x) = log(1 + exp(-x)) for t = 1, and the same of -x for t = 0
        xp = checks.namespace(x)
        losses = xp.logaddexp(0, xp.where(t, -x, x))
        loss = checks.scalar(losses.mean()) if x.size else 0.0
        self.cache = (y, t.astype(np.int8), loss) if train else None
        return loss


class TimeSigmoidWithLoss(SigmoidWithLoss):
    """`SigmoidWithLoss` of every step: the mean over N and T.

    Examples
    --------
    >>> from rnnfast import TimeSigmoidWithLoss
    >>> round(TimeSigmoidWithLoss().forward(np.zeros((1, 2)), np.array([[1, 0]])), 4)
    0.6931
    """

    axes = "N, T"

    # The book names scores and targets x and t in a batch, xs and ts in a sequence.
    def forward(self, xs: Array, ts: Array, *, train: bool = True) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the loss.

        Parameters
        ----------
        xs : array (N, T)
            Scores of class 1.
        ts : array of int or bool (N, T)
            Targets, 0 or 1.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            As in `SigmoidWithLoss.forward`.
        """
        return self._forward("xs", xs, "ts", ts, train)


class TimeSquaredLoss(_Loss):
    """Half the squared error, summed over the features: the mean over the N*T steps.

    Parameters
    ----------
    ignore_nan : bool
        Whether a target of NaN is a missing one, which does not count. Steps without any target do
        not count in the mean. The attribute of this name may be changed.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    loss = sum((xs - ts)^2) / (2 N T); dxs = dout (xs - ts) / (N T).

    Examples
    --------
    >>> from rnnfast import TimeSquaredLoss
    >>> loss = TimeSquaredLoss()
    >>> loss.forward(np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]))
    1.25
    >>> loss.backward()
    array([[0.5, 1. ]])
    >>> TimeSquaredLoss(ignore_nan=True).forward(np.array([[1.0, 3.0]]), np.array([[0.0, np.nan]]))
    0.5
    """

    def __init__(self, *, ignore_nan: bool = False, device: str | None = None) -> None:
        super().__init__(device=device)
        self.ignore_nan = checks.flag(self._name, "ignore_nan", ignore_nan)

    def _choices(self) -> list[str]:
        return ["ignore_nan=True"] if self.ignore_nan else []

    def forward(self, xs: Array, ts: Array, *, train: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs, ts : array (N, T, D), or (N, T) for one feature
            Outputs and targets, real numbers.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype or shape.
        """
        x = checks.real(self._name, "xs", xs)
        t = checks.real(self._name, "ts", ts)
        if x.ndim not in (2, 3):
            raise checks.shape_error(self._name, "xs", "(N, T, D) or (N, T)", x)
        if t.shape != x.shape:
            raise checks.shape_error(self._name, "ts", f"like xs, {x.shape}", t)
        x = checks.floating(x)
        error, count = x - checks.cast(t, x.dtype), max(x.shape[0] * x.shape[1], 1)
        if checks.flag(self._name, "ignore_nan", self.ignore_nan):
            missing, xp = np.isnan(t), checks.namespace(x)
            error = xp.where(missing, error.dtype.type(0), error)
            count = checks.scalar(xp.maximum(counted_steps(t).sum(), 1))
        self.cache = (error, count) if train else None
        total = np.square(error, dtype=np.float64).sum()
        return checks.scalar(total) / (2 * count)

    def backward(self, dout: float | Array = 1) -> Any:
        """Compute the gradient of xs. It may be called again.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array like xs
            dout (xs - ts) / (N T), 0 where a target is missing.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        error, count = self._pending()
        dout = checks.number(self._name, "dout", dout)
        return error * (dout / count)
