"""Softmax with cross entropy: the losses of a batch, of a sequence, and with its affine layer.

The common rules of all losses are in rnnfast.layers.losses. N batch, T time, V classes.
"""

from typing import Any, NamedTuple

from rnnfast import checks
from rnnfast.layers.affine import Affine, TimeAffine, rows, with_bias
from rnnfast.layers.base import Layer
from rnnfast.layers.functions import softmax
from rnnfast.typing import Array

NO_TARGET = -(2**63)  # an id that no target can be


class _Kept(NamedTuple):
    """What a forward keeps: what backward needs, and the scores (M, V) and ids (M,)."""

    ops: Any
    cache: Any
    shape: tuple[int, ...]  # of the caller's scores
    xs: Any
    ts: Any


class _Loss(Layer):
    """A layer without weights whose output is a loss."""

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__(device)


class SoftmaxWithLoss(_Loss):
    """Softmax and cross entropy, for a batch.

    Parameters
    ----------
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    y : array or None
        The probabilities of the last forward of training, computed when they are asked for.
    t : array or None
        Its targets, as class ids.

    Notes
    -----
    loss = mean of -log softmax(x)[t] over the batch; dx = dout (softmax(x) - onehot(t)) / N.

    References
    ----------
    Deep Learning from Scratch 2, chapter 1.

    Examples
    --------
    >>> from rnnfast import SoftmaxWithLoss
    >>> loss = SoftmaxWithLoss()
    >>> round(loss.forward(np.zeros((2, 4)), np.array([3, 0])), 4)
    1.3863
    >>> loss.backward()
    array([[ 0.125,  0.125,  0.125, -0.375],
           [-0.375,  0.125,  0.125,  0.125]])
    """

    axes = "N, V"
    ignore_label: int | None = None
    of_cache: tuple[str, ...] = ("y", "t")
    y: Any
    t: Any

    def forward(self, x: Array, t: Array, *, train: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        x : array (N, V)
            Scores.
        t : array of int (N,), or one-hot (N, V)
            Class ids, each in [0, V).
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
            For a wrong shape, or an id outside [0, V).
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
            dout (softmax(x) - onehot(t)) / count, with the count of targets that are not ignored.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        ops, cache, shape, *_ = self._pending()
        dout = checks.number(self._name, "dout", dout)
        return ops.softmax_loss_backward(cache, dout).reshape(shape)

    def _forward(self, x_name: str, x: Any, t_name: str, t: Any, train: bool) -> Any:
        """forward of arguments with these names."""
        x = checks.real(self._name, x_name, x)
        ts = self._targets(x_name, x, t_name, t)
        ignored = self._ignore(t_name, ts, x.shape[-1])
        ops = self._column(x)
        xs = checks.floating(x).reshape(ts.size, x.shape[-1])
        if train:
            xs, ts = checks.own(xs, x), checks.own(ts, t)
        loss, cache = ops.softmax_loss_forward(xs, ts, ignore_label=ignored)
        self.cache = _Kept(ops, cache, x.shape, xs, ts) if train else None
        return loss

    def _of_cache(self, name: str, cache: Any) -> Any:
        if name == "t":
            return cache.ts.reshape(cache.shape[:-1])
        return softmax(cache.xs).reshape(cache.shape)

    def _targets(self, x_name: str, x: Any, t_name: str, t: Any) -> Any:
        """The targets as ids with one axis."""
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

    def _ignore(self, t_name: str, ts: Any, V: int) -> int:
        """The id to ignore. Here every target must be a class: one that no target is."""
        checks.in_range(self._name, t_name, ts, V)
        return NO_TARGET


class Simple_TimeSoftmaxWithLoss(SoftmaxWithLoss):
    """`SoftmaxWithLoss` of every step: the mean over N and T.

    Examples
    --------
    >>> from rnnfast import Simple_TimeSoftmaxWithLoss
    >>> loss = Simple_TimeSoftmaxWithLoss()
    >>> round(loss.forward(np.zeros((1, 2, 4)), np.array([[3, 0]])), 4)
    1.3863
    """

    axes = "N, T, V"

    # The book names scores and targets x and t in a batch, xs and ts in a sequence.
    def forward(self, xs: Array, ts: Array, *, train: bool = True) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the loss.

        Parameters
        ----------
        xs : array (N, T, V)
            Scores.
        ts : array of int (N, T), or one-hot (N, T, V)
            Class ids, each in [0, V).
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            As in `SoftmaxWithLoss.forward`.
        """
        return self._forward("xs", xs, "ts", ts, train)


class TimeSoftmaxWithLoss(Simple_TimeSoftmaxWithLoss):
    """Softmax and cross entropy of every step: the mean over the targets that are not ignored.

    Attributes
    ----------
    ignore_label : int
        Targets equal to it are ignored. It is -1 and may be changed.

    Notes
    -----
    loss = mean of -log softmax(xs)[ts]. xs is (N, T, V); ts is (N, T), each in [0, V) or equal to
    ignore_label, or one-hot (N, T, V).

    References
    ----------
    Deep Learning from Scratch 2, chapter 5.

    Examples
    --------
    >>> from rnnfast import TimeSoftmaxWithLoss
    >>> loss = TimeSoftmaxWithLoss()
    >>> round(loss.forward(np.zeros((1, 2, 4)), np.array([[3, -1]])), 4)
    1.3863
    >>> loss.backward()
    array([[[ 0.25,  0.25,  0.25, -0.75],
            [ 0.  ,  0.  ,  0.  ,  0.  ]]])
    """

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__(device=device)
        self.ignore_label = -1

    def _ignore(self, t_name: str, ts: Any, V: int) -> int:
        """ignore_label; all other targets must be classes."""
        ignored = checks.integer(self._name, "ignore_label", self.ignore_label)
        if not checks.is_cupy(ts):  # else it would have to synchronize
            checks.in_range(self._name, t_name, ts[ts != ignored], V)
        return ignored

    def _class_ids(self, ts: Any, N: int, T: int, V: int) -> tuple[Any, int]:
        """Checked ids (N T,) for a loss that makes its own scores, and the id to ignore."""
        given = t = checks.real(self._name, "ts", ts)
        if t.shape == (N, T, V):
            t = t.argmax(axis=2)
        if t.shape != (N, T):
            expected = f"ids {(N, T)} or one-hot (N, T, V) = {(N, T, V)}"
            raise checks.shape_error(self._name, "ts", expected, t)
        t = checks.integers(self._name, "ts", t)
        ignored = self._ignore("ts", t, V)
        return checks.own(t, given).reshape(-1), ignored

    def _choices(self) -> list[str]:
        return [] if self.ignore_label == -1 else [f"ignore_label={self.ignore_label}"]


def only_counted(x: Any, counted: Any) -> Any:
    """x (N, T, K) or (N T, K) with zeros where a target is ignored; counted: (N T,).

    0 times a NaN there would reach gradients, and the NaN itself penalties.
    """
    if not checks.is_cupy(counted) and counted.all():  # else it would have to synchronize
        return x
    counted = checks.beside(x, counted).reshape(*x.shape[:-1], 1)
    return checks.namespace(x).where(counted, x, x.dtype.type(0))


def check_device(owner: str, device: str | None, layer: Layer) -> None:
    """Check the device of a loss that computes where the weights of another layer are."""
    if device not in (None, "auto", layer.device):
        raise ValueError(f"{owner}: device must be the weights', {layer.device!r}, got {device!r}")


class TimeAffineSoftmaxWithLoss(TimeSoftmaxWithLoss):
    """`TimeAffine` and `TimeSoftmaxWithLoss` in one layer, for models that own both.

    Parameters
    ----------
    affine : TimeAffine
        The layer whose weights are read and whose grads backward writes.
    device : str, optional
        That of the affine layer; no other is possible.

    Notes
    -----
    The scores are stored once, between forward and backward, in memory that the next iteration uses
    again. Their gradient is never stored. With train=False no scores are stored. xs and the weights
    must not change until backward.

    Examples
    --------
    >>> from rnnfast import TimeAffine
    >>> affine = TimeAffine(np.zeros((3, 4)), np.zeros(4), device="cpu")
    >>> loss = TimeAffineSoftmaxWithLoss(affine)
    >>> round(loss.forward(np.ones((1, 2, 3)), np.array([[3, 0]])), 4)
    1.3863
    >>> loss.backward().shape
    (1, 2, 3)
    """

    of_cache = ()  # it keeps no scores of its own

    def __init__(self, affine: TimeAffine, *, device: str | None = None) -> None:
        super().__init__(device="auto")
        self.affine = checks.of_kind(self._name, "affine", affine, TimeAffine, Affine)
        check_device(self._name, device, affine)
        self._spent: Any = None  # the last consumed cache: its memory is used again

    def forward(self, xs: Array, ts: Array, *, train: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs : array (N, T, H)
            The input of the affine layer.
        ts : array of int (N, T), or one-hot (N, T, V)
            Class ids, each in [0, V) or equal to ignore_label.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            As in `SoftmaxWithLoss.forward`.
        """
        x, t, ignored = self._checked_inputs(xs, ts)
        W, b = with_bias(self.affine._checked_params())
        spent, self._spent = self._spent, None
        loss, cache = self.affine._kernel.affine_softmax_loss_forward(
            rows(x), W, b, t, ignore_label=ignored, train=train, spent=spent
        )
        self.cache = (cache, x.shape) if train else None
        return loss

    def _checked_inputs(self, xs: Any, ts: Any) -> tuple[Any, Any, int]:
        """The arguments of forward: xs (N, T, H), ids (N T,), and the id to ignore."""
        affine = self.affine
        H, V = affine._checked_params()[0].shape
        x = checks.real(self._name, "xs", xs)
        affine._check_shape(x, H)
        N, T, _ = x.shape
        checks.fits(self._name, "(N, T, max(H, V))", N, T, max(H, V))
        t, ignored = self._class_ids(ts, N, T, V)
        return checks.cast(x, affine.dtype), t, ignored

    def backward(self, dout: float | Array = 1) -> Any:
        """Compute the gradients; the grads of the affine layer are written in place.

        It may be called once after each forward.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array (N, T, H)
            dxs.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        cache, shape = self._pending()
        dout = checks.number(self._name, "dout", dout)
        dW, db = with_bias(self.affine._checked_grads())
        dx = self.affine._kernel.affine_softmax_loss_backward(cache, dW, db, dout)
        self.cache, self._spent = None, cache
        return dx.reshape(shape)

    def _choices(self) -> list[str]:
        return [repr(self.affine), *super()._choices()]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_spent": None}
