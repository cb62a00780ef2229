"""Penalties on activations: layers that pass on their input and add to its gradient.

N batch, T time, H units.
"""

from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer
from rnnfast.typing import A


class _Regularization(Layer):
    """A layer without weights whose output is its input. In training it computes a penalty."""

    _argument = "alpha"  # the name of the factor, as the paper has it

    loss: Any

    def __init__(self, factor: float, *, device: str | None = None) -> None:
        super().__init__(device)
        self._factor = checks.nonnegative(self._name, self._argument, factor)
        self.loss = 0.0

    def forward(self, xs: A, *, train: bool = True) -> A:
        """Return xs. In training, compute the penalty: `loss`.

        Parameters
        ----------
        xs : array (N, T, H)
            Activations. They must not change until backward.
        train : bool
            False computes no penalty.

        Returns
        -------
        array
            xs itself.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        given = checks.real(self._name, "xs", xs)
        if given.ndim != 3:
            raise checks.shape_error(self._name, "xs", "(N, T, H)", given)
        self.cache, self.loss = None, 0.0
        if train:
            values = self._measured(checks.floating(given))
            if values.size:
                squares = self._column(values).sum_of_squares(values)
                self.loss = self._factor / values.size * squares
            self.cache = values, given.shape
        return xs

    def backward(self, dout: A, dloss: float = 1.0) -> A:
        """Add the gradient of the penalty to that of the output.

        Parameters
        ----------
        dout : array (N, T, H)
            The gradient of the output. It is not changed.
        dloss : float
            The gradient of the penalty.

        Returns
        -------
        array (N, T, H)
            The gradient of xs.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            Without the forward of a training step before it.
        """
        values, shape = self._pending()
        dout = self._checked_dout(dout, shape)
        dloss = checks.number(self._name, "dloss", dloss)
        if not values.size:
            return dout
        dxs: A = self._added(dout, values * (2.0 * self._factor * dloss / values.size))
        return dxs

    def _measured(self, xs: Any) -> Any:
        """The values whose squares are penalised."""
        return xs

    def _added(self, dout: Any, dvalues: Any) -> Any:
        """dout, and the gradient of xs by that of the values."""
        return dout + dvalues

    def _choices(self) -> list[str]:
        return [f"{self._argument}={self._factor}"]


class ActivationRegularization(_Regularization):
    """Activation regularisation (AR): a penalty on large activations.

    Parameters
    ----------
    alpha : float
        The factor, from 0 up.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    loss : float
        The penalty of the last forward, 0 without training; a 0-d array on a GPU.

    Notes
    -----
    loss = alpha mean(xs^2), over all N T H elements. AWD-LSTM puts it after the dropout of the
    last recurrent layer.

    References
    ----------
    Merity et al. 2017, https://arxiv.org/abs/1708.01009 and https://arxiv.org/abs/1708.02182.

    Examples
    --------
    >>> from rnnfast import ActivationRegularization
    >>> layer = ActivationRegularization(2.0)
    >>> xs = np.array([[[1.0, 2.0], [1.0, 0.0]]])
    >>> layer.forward(xs) is xs, layer.loss
    (True, 3.0)
    >>> layer.backward(np.zeros_like(xs))
    array([[[1., 2.],
            [1., 0.]]])
    """

    def __init__(self, alpha: float, *, device: str | None = None) -> None:
        super().__init__(alpha, device=device)


class TemporalActivationRegularization(_Regularization):
    """Temporal activation regularisation (TAR): a penalty on changes from step to step.

    Parameters
    ----------
    beta : float
        The factor, from 0 up.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    loss : float
        The penalty of the last forward, 0 without training; a 0-d array on a GPU.

    Notes
    -----
    loss = beta mean((xs[:, 1:] - xs[:, :-1])^2), over all N (T - 1) H elements; 0 if T is 1.
    AWD-LSTM puts it before the dropout of the last recurrent layer.

    References
    ----------
    Merity et al. 2017, https://arxiv.org/abs/1708.01009 and https://arxiv.org/abs/1708.02182.

    Examples
    --------
    >>> from rnnfast import TemporalActivationRegularization
    >>> layer = TemporalActivationRegularization(1.0)
    >>> xs = np.array([[[1.0, 2.0], [1.0, 0.0]]])
    >>> layer.forward(xs) is xs, layer.loss
    (True, 2.0)
    >>> layer.backward(np.zeros_like(xs))
    array([[[ 0.,  2.],
            [ 0., -2.]]])
    """

    _argument = "beta"

    def __init__(self, beta: float, *, device: str | None = None) -> None:
        super().__init__(beta, device=device)

    def _measured(self, xs: Any) -> Any:
        return xs[:, 1:] - xs[:, :-1]

    def _added(self, dout: Any, dvalues: Any) -> Any:
        dxs = dout.astype(np.result_type(dout.dtype, dvalues.dtype))
        dxs[:, 1:] += dvalues
        dxs[:, :-1] -= dvalues
        return dxs
