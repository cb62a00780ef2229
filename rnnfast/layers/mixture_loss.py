"""The cross entropy of a mixture of softmaxes, in one layer with it.

N batch, T time, H input, K softmaxes, V vocabulary.
"""

from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.layers.shares import over_the_batch
from rnnfast.layers.softmax_losses import TimeSoftmaxWithLoss, check_device, only_counted
from rnnfast.typing import Array


class TimeMixtureSoftmaxWithLoss(TimeSoftmaxWithLoss):
    """`TimeMixtureSoftmax` with its cross entropy: the mean over the targets not ignored.

    Parameters
    ----------
    mixture : TimeMixtureSoftmax
        The layer whose weights are read and whose grads backward writes.
    balance : float
        The factor of the penalty that keeps the mixture weights balanced, from 0 up.
    device : str, optional
        As in `TimeSoftmaxWithLoss`.

    Attributes
    ----------
    penalty : float
        The penalty of the last forward, 0 without training; on a GPU a 0-d array there.

    Notes
    -----
    With r_k = pi_k p_k[t] / p[t], the share of softmax k in the probability of the target, the
    gradient of the scores of softmax k is r_k (p_k - onehot(t)) / count, and that of the scores
    of pi is (pi - r) / count.

    The penalty is balance (std(B) / mean(B))^2 where B_k is the sum of pi_k over the targets that
    are not ignored. forward returns the cross entropy alone, so that exp(loss) is the perplexity;
    backward differentiates loss + penalty.

    No array (N, T, K, V) is ever made. xs and the weights must not change until backward.

    References
    ----------
    As for `TimeMixtureSoftmax`; the penalty: Takase et al. 2018, section 3.

    Examples
    --------
    >>> from rnnfast import TimeMixtureSoftmax, TimeMixtureSoftmaxWithLoss
    >>> mixture = TimeMixtureSoftmax.create(6, 4, 10, K=3, rng=0, device="cpu")
    >>> loss = TimeMixtureSoftmaxWithLoss(mixture)
    >>> round(loss.forward(np.zeros((1, 2, 6), "f"), np.array([[3, 0]])), 4)
    2.3026
    >>> loss.backward().shape
    (1, 2, 6)
    """

    of_cache = ()  # as TimeAffineSoftmaxWithLoss

    def __init__(
        self, mixture: TimeMixtureSoftmax, *, balance: float = 0.0, device: str | None = None
    ) -> None:
        super().__init__(device="auto")
        self.mixture = checks.of_kind(self._name, "mixture", mixture, TimeMixtureSoftmax)
        check_device(self._name, device, mixture)
        self.balance = checks.nonnegative(self._name, "balance", balance)
        self.penalty: Any = 0.0

    def forward(self, xs: Any, ts: Array, *, train: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs : array (N, T, H), or sequence of such arrays
            As in `TimeMixtureSoftmax.forward`.
        ts : array of int (N, T), or one-hot (N, T, V)
            Class ids, each in [0, V) or equal to ignore_label.
        train : bool
            False keeps nothing for a backward, and drops nothing.

        Returns
        -------
        float
            The cross entropy, without the penalty.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        mixture = self.mixture
        V = mixture._checked_params()[0].shape[1]
        inputs = mixture._inputs(self._name, xs)
        N, T, _ = inputs[-1].shape
        t, ignored = self._class_ids(ts, N, T, V)
        if train:
            inputs = [only_counted(x, t != ignored) for x in inputs]
        *kept, hs, prior = mixture._latents(inputs, train)
        self.cache = None
        self.penalty = 0.0
        loss, cache = self._cross_entropy(hs, prior, t, ignored, train)
        if train:
            dprior = None
            if self.balance:
                counted = checks.beside(prior, t != ignored)
                beta, dprior = _balance(prior, counted)
                self.penalty = self.penalty + checks.scalar(self.balance * beta)
                dprior = self.balance * dprior
            several = isinstance(xs, (list, tuple))
            self.cache = cache, inputs, several, kept, dprior
        return loss

    def backward(self, dout: float | Array = 1) -> Any:
        """Compute the gradients of loss + penalty; the mixture's grads are written in place.

        It may be called once after each forward.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array (N, T, H), or list of such arrays
            dxs, as forward was given xs.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        cache, inputs, several, kept, of_penalty = self._pending()
        dout = checks.number(self._name, "dout", dout)
        mixture = self.mixture
        grads = mixture._checked_grads()
        dhs, dprior = self._cross_entropy_back(cache, dout)
        self.cache = None
        if of_penalty is not None:
            dprior += (dout * of_penalty).astype(dprior.dtype)
        dxs = mixture._latents_back(inputs, kept, dhs, dprior, grads)
        return dxs if several else dxs[0]

    def _cross_entropy(
        self, hs: Any, prior: Any, t: Any, ignored: int, train: bool
    ) -> tuple[Any, Any]:
        """The loss of the latent vectors hs (M, K, D), and what its gradient needs."""
        W, b, *_ = self.mixture._checked_params()
        made: tuple[Any, Any] = self.mixture._kernel.mixture_softmax_loss_forward(
            hs, prior, W, b, t, ignore_label=ignored, train=train
        )
        return made

    def _cross_entropy_back(self, cache: Any, dout: float) -> tuple[Any, Any]:
        """Write the gradients of W and b; return those of hs and prior."""
        dW, db, *_ = self.mixture._checked_grads()
        made: tuple[Any, Any] = self.mixture._kernel.mixture_softmax_loss_backward(
            cache, dW, db, dout
        )
        return made

    def _choices(self) -> list[str]:
        balance = [f"balance={self.balance}"] if self.balance else []
        return [repr(self.mixture), *balance, *super()._choices()]


def _balance(prior: Any, counted: Any) -> tuple[Any, Any]:
    """(std(B) / mean(B))^2, where B is the sum of softmax(prior) over rows that count.

    Also its gradient by prior (M, K). mean(B) is a constant: every row of pi has the sum 1. B is
    that of the whole batch; of a share of it the gradient is divided by the part of the rows that
    count, because all gradients of a share are multiplied by that.
    """
    xp = checks.namespace(prior)
    if not prior.size:
        return xp.zeros(()), xp.zeros(prior.shape)
    a = prior.astype(np.float64)
    pi = xp.exp(a - a.max(axis=1, keepdims=True))
    pi /= pi.sum(axis=1, keepdims=True)
    pi = xp.where(counted[:, np.newaxis], pi, 0.0)
    here, K = counted.sum(), pi.shape[1]
    B, count = over_the_batch(pi.sum(axis=0), here)
    mean = xp.maximum(count, 1) / K
    away = (B - count / K) / mean
    dB = 2 * away / (K * mean)
    if count is not here:
        dB *= count / max(here, 1)
    return (away * away).mean(), pi * (dB - (pi * dB).sum(axis=1, keepdims=True))
