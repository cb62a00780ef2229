"""Mixtures of softmaxes: the last layer of a language model, and the layer with its loss.

N batch, T time, H input, K softmaxes, D width of a latent vector, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.affine import rows
from rnnfast.layers.base import Layer, Spec
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.initial import Initializer
from rnnfast.layers.softmax_losses import TimeSoftmaxWithLoss
from rnnfast.typing import Array


class TimeMixtureSoftmax(Layer):
    """A mixture of softmaxes at every step: xs -> log probabilities (N, T, V).

    With several inputs it is the direct output connection.

    Parameters
    ----------
    W : array (D, V)
        The weights that all softmaxes share. `embed_W.T` ties them to an embedding.
    b : array (V,)
        The bias that they share.
    prior_W : array (H, K)
        Makes the mixture weights from the last input.
    latents : sequence of (array (H, K D), array (K D,))
        Weights and bias of the latent vectors, a pair for each input. Their K add up to that of
        prior_W.
    drop : TimeDropout, optional
        Drops elements of the latent vectors in training.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    mixtures : tuple of int
        The number of softmaxes of each input.
    drop : TimeDropout or None

    Notes
    -----
    With pi = softmax(x prior_W) of the last input and h_k = tanh(x latent_W + latent_b), of which
    each input makes its own::

        p = sum_k pi_k softmax(h_k W + b)

    Log probabilities are scores: their softmax is p. Gradients are made by
    `TimeMixtureSoftmaxWithLoss`.

    References
    ----------
    Yang et al. 2017, https://arxiv.org/abs/1711.03953 (mixture of softmaxes); Takase et al. 2018,
    https://arxiv.org/abs/1808.10143 (direct output connection).

    Examples
    --------
    >>> from rnnfast import TimeMixtureSoftmax
    >>> layer = TimeMixtureSoftmax.create(6, 4, 10, K=3, rng=0, device="cpu")
    >>> layer
    TimeMixtureSoftmax(H=6, K=3, D=4, V=10, float32, cpu)
    >>> log_p = layer.forward(np.ones((1, 2, 6), "f"))
    >>> np.exp(log_p).sum(axis=2).round(5)
    array([[1., 1.]], dtype=float32)
    """

    def __init__(
        self,
        W: Array,
        b: Array,
        prior_W: Array,
        latents: Sequence[tuple[Array, Array]],
        *,
        drop: TimeDropout | None = None,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        if not isinstance(latents, Sequence) or not all(
            isinstance(pair, Sequence) and len(pair) == 2 for pair in latents
        ):
            kind = type(latents).__name__
            raise TypeError(f"{owner}: latents must be a sequence of pairs (W, b), got {kind}")
        if not latents:
            raise ValueError(f"{owner}: latents must have a pair for each input, got none")
        if drop is not None and not isinstance(drop, TimeDropout):
            kind = type(drop).__name__
            raise TypeError(f"{owner}: drop must be a TimeDropout or None, got {kind}")
        W, b = checks.adopt(owner, "W", W), checks.adopt(owner, "b", b)
        prior_W = checks.adopt(owner, "prior_W", prior_W)
        D, V = checks.matrix(owner, "W", W, "(D, V)")
        H, K = checks.matrix(owner, "prior_W", prior_W, "(H, K)")
        params = [W, b, prior_W]
        specs: list[Spec] = [("W", (D, V), "(D, V)"), ("b", (V,), "(V,)")]
        specs.append(("prior_W", (H, K), "(H, K)"))
        mixtures = []
        for i, pair in enumerate(latents, start=1):
            number = "" if len(latents) == 1 else str(i)
            names = f"latent_W{number}", f"latent_b{number}"
            latent_W, latent_b = (
                checks.adopt(owner, name, p) for name, p in zip(names, pair, strict=True)
            )
            shape = checks.matrix(owner, names[0], latent_W, "(H, K D)")
            if shape[1] % D:
                expected = f"(H, K D) with D = {D}"
                raise checks.shape_error(owner, names[0], expected, latent_W)
            mixtures.append(shape[1] // D)
            params += [latent_W, latent_b]
            specs += [(names[0], shape, "(H, K D)"), (names[1], shape[1:], "(K D,)")]
        if sum(mixtures) != K:
            raise ValueError(
                f"{owner}: latents must make as many vectors as prior_W has columns, {K}, "
                f"got {sum(mixtures)}"
            )
        if specs[-2][1][0] != H:
            expected = f"(H, K D) with H = {H}, that of prior_W"
            raise checks.shape_error(owner, specs[-2][0], expected, params[-2])
        super().__init__(device, params, specs)
        self.mixtures = tuple(mixtures)
        self.drop = drop

    @classmethod
    def create(
        cls,
        H: int,
        D: int,
        V: int,
        *,
        K: int,
        drop: TimeDropout | None = None,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
    ) -> Self:
        """Make a layer with one input from its sizes.

        Parameters
        ----------
        H, D, V : int
            The width of the input and of a latent vector, and the size of the vocabulary.
        K : int
            The number of softmaxes.
        drop : TimeDropout, optional
            As in the constructor.
        rng : int or numpy.random.Generator, optional
            A seed or a generator. The default is `np.random`.
        dtype : {"float32", "float64"}
            The dtype of the weights.
        device : str, optional
            With "auto" (see `rnnfast.get_device`) the weights lie on the GPU if one is usable.

        Returns
        -------
        layer
            An instance of this class.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument. No number has been drawn then.

        Notes
        -----
        Matrices are normal, divided by the square root of the number of rows; biases are zero.
        """
        owner = cls.__name__
        sizes = {"H": H, "D": D, "V": V, "K": K}
        H, D, V, K = (checks.count(owner, name, size) for name, size in sizes.items())
        checks.fits(owner, "(max(H, D), max(V, K D))", max(H, D), max(V, K * D))
        draw = Initializer(owner, rng, dtype, device)
        weights = draw.normal(D, V), draw.zeros(V), draw.normal(H, K)
        latent = draw.normal(H, K * D), draw.zeros(K * D)
        return cls(*weights, [latent], drop=drop, device=draw.device)

    def forward(self, xs: Any, *, train: bool = False) -> Any:
        """Compute the log probabilities.

        Parameters
        ----------
        xs : array (N, T, H), or sequence of such arrays
            The input; a sequence if there are several, the last layer's last.
        train : bool
            True drops elements of the latent vectors. Nothing is kept for a backward.

        Returns
        -------
        array (N, T, V)
            log p.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        W, b, *_ = self._checked_params()
        inputs = self._inputs(self._name, xs)
        N, T, _ = inputs[-1].shape
        _, hs, prior = self._latents(inputs, train)
        log_p = self._kernel.mixture_softmax(hs, prior, W, b)
        return log_p.reshape(N, T, W.shape[1])

    def _inputs(self, owner: str, xs: Any) -> list[Any]:
        """The inputs as a list, checked."""
        count = len(self.mixtures)
        inputs = list(xs) if isinstance(xs, (list, tuple)) else [xs]
        if len(inputs) != count:
            raise ValueError(f"{owner}: xs must be {count} arrays, got {len(inputs)}")
        inputs = [checks.real(owner, "xs", x) for x in inputs]
        for x, W in zip(inputs, self.params[3::2], strict=True):
            H, KD = W.shape
            if x.ndim != 3 or x.shape[2] != H or x.shape[:2] != inputs[-1].shape[:2]:
                raise checks.shape_error(owner, "xs", f"(N, T, H) = (N, T, {H})", x)
            N, T, _ = x.shape
            checks.fits(owner, "(N, T, max(H, V, K D))", N, T, max(H, self.params[0].shape[1], KD))
        return [checks.cast(x, self.dtype) for x in inputs]

    def _latents(self, inputs: list[Any], train: bool) -> tuple[Any, Any, Any]:
        """tanh of all latent vectors (N T, K D); hs (N T, K, D), with dropout; prior (N T, K)."""
        _, _, prior_W, *latents = self._checked_params()
        N, T, _ = inputs[-1].shape
        made = [
            self._kernel.affine_forward(rows(x), W, b)
            for x, W, b in zip(inputs, latents[::2], latents[1::2], strict=True)
        ]
        xp = checks.namespace(made[0])
        for h in made:
            xp.tanh(h, out=h)
        raw = xp.concatenate(made, axis=1) if len(made) > 1 else made[0]
        hs = raw
        if self.drop is not None:
            hs = self.drop.forward(raw.reshape(N, T, raw.shape[1]), train=train)
        prior = self._kernel.affine_forward(rows(inputs[-1]), prior_W, None)
        return raw, hs.reshape(N * T, prior.shape[1], self.params[0].shape[0]), prior

    def _latents_back(
        self, inputs: list[Any], raw: Any, dhs: Any, dprior: Any, grads: list[Any]
    ) -> list[Any]:
        """Write the gradients of prior_W and of the latents' weights; those of the inputs."""
        _, _, prior_W, *latents = self._checked_params()
        N, T, _ = inputs[-1].shape
        d = dhs.reshape(raw.shape)
        if self.drop is not None and self.drop.cache is not None:
            d = self.drop.backward(d.reshape(N, T, raw.shape[1])).reshape(raw.shape)
        d = d * (1 - raw * raw)
        dxs, start = [], 0
        for i, x in enumerate(inputs):
            W, dW, db = latents[2 * i], grads[3 + 2 * i], grads[4 + 2 * i]
            part = d[:, start : start + W.shape[1]]
            dx = self._kernel.affine_backward(part, rows(x), W, dW, db)
            dxs.append(dx.reshape(x.shape))
            start += W.shape[1]
        last = rows(inputs[-1])
        dx = self._kernel.affine_backward(dprior, last, prior_W, grads[2], None)
        dxs[-1] += dx.reshape(inputs[-1].shape)
        return dxs

    def _sizes(self) -> list[str]:
        D, V = self._specs[0][1]
        widths = tuple(shape[0] for _, shape, _ in self._specs[3::2])
        Hs, Ks = (n[0] if len(n) == 1 else n for n in (widths, self.mixtures))
        return [f"H={Hs}", f"K={Ks}", f"D={D}", f"V={V}"]

    def _choices(self) -> list[str]:
        return [] if self.drop is None else [f"drop={self.drop!r}"]


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
        The penalty of the last forward in training; on a GPU a 0-d array there.

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

    def __init__(
        self, mixture: TimeMixtureSoftmax, *, balance: float = 0.0, device: str | None = None
    ) -> None:
        super().__init__(device=device)
        self.mixture = mixture
        self.balance = checks.number(self._name, "balance", balance)
        if not 0 <= self.balance < np.inf:
            raise ValueError(f"{self._name}: balance must be from 0 up, got {balance}")
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
        W, b, *_ = mixture._checked_params()
        V = W.shape[1]
        inputs = mixture._inputs(self._name, xs)
        N, T, _ = inputs[-1].shape
        given = t = checks.real(self._name, "ts", ts)
        if t.shape == (N, T, V):
            t = t.argmax(axis=2)
        if t.shape != (N, T):
            expected = f"ids {(N, T)} or one-hot (N, T, V) = {(N, T, V)}"
            raise checks.shape_error(self._name, "ts", expected, t)
        t = checks.integers(self._name, "ts", t)
        ignored = self._ignore("ts", t, V)
        t = checks.own(t, given).reshape(-1)
        raw, hs, prior = mixture._latents(inputs, train)
        loss, cache = mixture._kernel.mixture_softmax_loss_forward(
            hs, prior, W, b, t, ignore_label=ignored, train=train
        )
        self.cache = None
        if train:
            self.penalty, dprior = 0.0, None
            if self.balance:
                counted = checks.beside(prior, t != ignored)
                beta, dprior = _balance(prior, counted)
                self.penalty, dprior = checks.scalar(self.balance * beta), self.balance * dprior
            several = isinstance(xs, (list, tuple))
            self.cache = cache, inputs, several, raw, dprior
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
        cache, inputs, several, raw, of_penalty = self._pending()
        dout = checks.number(self._name, "dout", dout)
        mixture = self.mixture
        grads = mixture._checked_grads()
        dhs, dprior = mixture._kernel.mixture_softmax_loss_backward(cache, *grads[:2], dout)
        self.cache = None
        if of_penalty is not None:
            dprior += (dout * of_penalty).astype(dprior.dtype)
        dxs = mixture._latents_back(inputs, raw, dhs, dprior, grads)
        return dxs if several else dxs[0]

    def _choices(self) -> list[str]:
        balance = [f"balance={self.balance}"] if self.balance else []
        return [repr(self.mixture), *balance, *super()._choices()]


def _balance(prior: Any, counted: Any) -> tuple[Any, Any]:
    """(std(B) / mean(B))^2, where B is the sum of softmax(prior) over rows that count.

    Also its gradient by prior (M, K). mean(B) is a constant: every row of pi has the sum 1.
    """
    xp = checks.namespace(prior)
    if not prior.size:
        return xp.zeros(()), xp.zeros(prior.shape)
    a = prior.astype(np.float64)
    pi = xp.exp(a - a.max(axis=1, keepdims=True))
    pi /= pi.sum(axis=1, keepdims=True)
    pi = xp.where(counted[:, np.newaxis], pi, 0.0)
    B, K = pi.sum(axis=0), pi.shape[1]
    mean = xp.maximum(counted.sum(), 1) / K
    away = (B - counted.sum() / K) / mean
    dB = 2 * away / (K * mean)
    return (away * away).mean(), pi * (dB - (pi * dB).sum(axis=1, keepdims=True))
