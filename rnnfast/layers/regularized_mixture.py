"""The loss of a mixture of softmaxes with past decode and adversarial noise.

N batch, T time, H input, K softmaxes, D width of a latent vector, V vocabulary; M = N T rows.
"""

from typing import Any, NamedTuple

from rnnfast import checks
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.layers.mixture_loss import TimeMixtureSoftmaxWithLoss
from rnnfast.layers.past_decode import PastDecode
from rnnfast.layers.regularized_loss import check_previous, worst_noise
from rnnfast.typing import Array


class _Noisy(NamedTuple):
    """What the gradient of the cross entropy with noise needs."""

    targets: Any  # where in scores (M, V) the targets are
    noises: list[Any]  # (M, D) of each softmax
    weights: Any  # (M,), 1 / count, or 0 for ignored targets
    shares: Any  # (M, K), of each softmax in the probability of the target


class TimeRegularizedMixtureSoftmaxWithLoss(TimeMixtureSoftmaxWithLoss):
    """`TimeMixtureSoftmaxWithLoss`, in training with regularisation of the word vectors.

    Parameters
    ----------
    mixture : TimeMixtureSoftmax
        The layer whose weights are read and whose grads backward writes.
    balance : float
        As in `TimeMixtureSoftmaxWithLoss`.
    adversarial : float
        The size of the noise, as in `TimeRegularizedSoftmaxWithLoss`.
    past : PastDecode, optional
        Past decode regularisation, with the mixture as its `affine`.
    device : str, optional
        As in `TimeSoftmaxWithLoss`.

    Attributes
    ----------
    penalty : float
        What training minimises beside the loss, of the last forward, 0 without training: the
        penalties of balance and `past`, and by how much the noise raises the cross entropy. A 0-d
        array on a GPU.

    Notes
    -----
    Past decode sees the probabilities of the mixture, without noise. Each softmax has a noise of
    its own on the target's word vector w, from its latent vector h_k: ``-adversarial |w| h_k /
    |h_k|`` if w h_k > 0, else 0. So the noise is the worst one of its length for each softmax.

    References
    ----------
    As for `PastDecode`, `TimeRegularizedSoftmaxWithLoss` and `TimeMixtureSoftmax`.

    Examples
    --------
    >>> from rnnfast import TimeMixtureSoftmax
    >>> from rnnfast.layers import TimeRegularizedMixtureSoftmaxWithLoss
    >>> mixture = TimeMixtureSoftmax.create(6, 4, 10, K=3, rng=0, device="cpu", dtype="float64")
    >>> loss = TimeRegularizedMixtureSoftmaxWithLoss(mixture, adversarial=0.5)
    >>> xs, ts = np.ones((1, 2, 6)), np.array([[3, 0]])
    >>> plain = loss.forward(xs, ts)
    >>> loss.penalty > 0
    True
    """

    def __init__(
        self,
        mixture: TimeMixtureSoftmax,
        *,
        balance: float = 0.0,
        adversarial: float = 0.0,
        past: PastDecode | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(mixture, balance=balance, device=device)
        self.adversarial = checks.nonnegative(self._name, "adversarial", adversarial)
        if past is not None and past.affine is not mixture:
            raise ValueError(f"{self._name}: past must have the same mixture, got another layer")
        self.past = past
        self._previous: Any = None

    def forward(self, xs: Any, ts: Array, *, train: bool = True, previous: Any = None) -> Any:
        """Compute the loss, and in training the penalty.

        Parameters
        ----------
        xs, ts, train
            As in `TimeMixtureSoftmaxWithLoss.forward`.
        previous : array of int (N, T), optional
            The ids that were read: needed in training with `past`.

        Returns
        -------
        float
            The cross entropy, without penalty.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        if train and self.past is not None:
            shape = self.mixture._inputs(self._name, xs)[-1].shape[:2]
            previous = check_previous(self._name, previous, shape, self.mixture)
            self._previous = previous.reshape(-1)
        return super().forward(xs, ts, train=train)

    def _cross_entropy(self, hs: Any, prior: Any, t: Any, ignored: int, train: bool) -> Any:
        loss, cache = super()._cross_entropy(hs, prior, t, ignored, train)
        if not train:
            return loss, None
        W, b, *_ = self.mixture._checked_params()
        log_p = noisy = None
        if self.past is not None:
            log_p = self.mixture._kernel.mixture_softmax(hs, prior, W, b)
            counted = checks.beside(hs, t != ignored)
            self.penalty = self.penalty + self.past.forward(log_p, self._previous, counted)
        if self.adversarial:
            found, noisy = self._with_noise(hs, prior, t, ignored)
            self.penalty = self.penalty + (found - loss)
        return loss, (cache, hs, prior, log_p, noisy)

    def _with_noise(self, hs: Any, prior: Any, t: Any, ignored: int) -> tuple[Any, _Noisy]:
        """The cross entropy with noise."""
        W, b, *_ = self.mixture._checked_params()
        ops, xp = self.mixture._kernel, checks.namespace(hs)
        counted = checks.beside(hs, t != ignored)
        t = xp.where(counted, checks.beside(hs, t), 0)
        targets = xp.arange(len(hs)), t
        noises, parts = [], []
        log_pi = _log_softmax(prior)
        for k in range(hs.shape[1]):
            h = hs[:, k]
            noises.append(worst_noise(ops, h, W, t, self.adversarial))
            scores = ops.affine_forward(h, W, b)
            scores[targets] += (h * noises[-1]).sum(axis=1)
            parts.append(log_pi[:, k] + _log_softmax(scores)[targets])
        shares = xp.stack(parts, axis=1)
        highest = shares.max(axis=1)
        log_p = highest + xp.log(xp.exp(shares - highest[:, None]).sum(axis=1))
        weights = counted / xp.maximum(counted.sum(), 1)
        loss = checks.scalar(-(log_p * weights).sum())
        shares = xp.exp(shares - log_p[:, None])
        return loss, _Noisy(targets, noises, weights.astype(hs.dtype), shares)

    def _cross_entropy_back(self, cache: Any, dout: float) -> tuple[Any, Any]:
        plain, hs, prior, log_p, noisy = cache
        if self.past is not None:
            self.past._checked_grads()  # before others are written
        if noisy is None:
            dhs, dprior = super()._cross_entropy_back(plain, dout)
        else:
            dhs, dprior = self._noise_back(hs, prior, noisy, dout)
        if self.past is not None and log_p is not None:
            self._add_past(self.past, hs, prior, log_p, dhs, dprior, dout)
        return dhs, dprior

    def _noise_back(self, hs: Any, prior: Any, noisy: _Noisy, dout: float) -> tuple[Any, Any]:
        """As _cross_entropy_back, of the cross entropy with noise alone."""
        W, b, *_ = self.mixture._checked_params()
        dW, db, *_ = self.mixture._checked_grads()
        dW[...], db[...] = 0, 0
        ops, xp = self.mixture._kernel, checks.namespace(hs)
        dhs, weights = xp.zeros_like(hs), dout * noisy.weights[:, None]
        for k, noise in enumerate(noisy.noises):
            h, share = hs[:, k], noisy.shares[:, k, None] * weights
            scores = ops.affine_forward(h, W, b)
            scores[noisy.targets] += (h * noise).sum(axis=1)
            dscores = xp.exp(_log_softmax(scores)) * share
            dscores[noisy.targets] -= share[:, 0]
            self._add_back(k, dscores, hs, dhs)
            dhs[:, k] += dscores[noisy.targets][:, None] * noise
        return dhs, (xp.exp(_log_softmax(prior)) - noisy.shares) * weights

    def _add_past(
        self, past: PastDecode, hs: Any, prior: Any, log_p: Any, dhs: Any, dprior: Any, dout: float
    ) -> None:
        """Add the gradients of past decode to those of W and b, and to dhs and dprior."""
        W, b, *_ = self.mixture._checked_params()
        xp = checks.namespace(hs)
        dlog_p, dW = past.backward(dout)
        self.mixture._checked_grads()[0] += dW
        pi = xp.exp(_log_softmax(prior))
        dpi = xp.empty_like(pi)
        for k in range(hs.shape[1]):
            log_p_k = _log_softmax(self.mixture._kernel.affine_forward(hs[:, k], W, b))
            dscores = dlog_p * xp.exp(log_p_k - log_p)  # by log p_k, divided by pi_k
            dpi[:, k] = dscores.sum(axis=1)
            dscores -= xp.exp(log_p_k) * dpi[:, k, None]
            self._add_back(k, dscores * pi[:, k, None], hs, dhs)
        dprior += pi * (dpi - (pi * dpi).sum(axis=1, keepdims=True))

    def _add_back(self, k: int, dscores: Any, hs: Any, dhs: Any) -> None:
        """Add the gradients of the scores of softmax k to those of W and b, and to dhs."""
        W, _, *_ = self.mixture._checked_params()
        dW, db, *_ = self.mixture._checked_grads()
        xp = checks.namespace(hs)
        of_W, of_b = xp.empty_like(dW), xp.empty_like(db)
        dhs[:, k] += self.mixture._kernel.affine_backward(dscores, hs[:, k], W, of_W, of_b)
        dW += of_W
        db += of_b

    def _choices(self) -> list[str]:
        mixture, *shown = super()._choices()
        shown += [f"adversarial={self.adversarial}"] if self.adversarial else []
        shown += [] if self.past is None else [f"past={self.past!r}"]
        return [mixture, *shown]


def _log_softmax(scores: Any) -> Any:
    """log softmax of each row."""
    xp = checks.namespace(scores)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
