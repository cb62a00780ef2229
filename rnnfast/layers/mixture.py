"""Mixtures of softmaxes: the last layer of a language model. Its loss is in mixture_loss.

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

    def drop_latents(self, drop: TimeDropout | None) -> None:
        """Drop the latent vectors in training, or with None keep all of them, from now on."""
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
        _, _, hs, prior = self._latents(inputs, train)
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

    def _latents(self, inputs: list[Any], train: bool) -> tuple[Any, Any, Any, Any]:
        """tanh of all latent vectors (N, T, K D), their mask, hs (N T, K, D), prior (N T, K)."""
        _, _, prior_W, *latents = self._checked_params()
        N, T, _ = inputs[-1].shape
        made = [
            self._kernel.affine_forward(rows(x), W, b)
            for x, W, b in zip(inputs, latents[::2], latents[1::2], strict=True)
        ]
        xp = checks.namespace(made[0])
        for h in made:
            xp.tanh(h, out=h)
        flat = xp.concatenate(made, axis=1) if len(made) > 1 else made[0]
        hs = raw = flat.reshape(N, T, flat.shape[1])
        drop, mask = self.drop, None
        if drop is not None and drop.train_flg and train:
            mask = drop.draw(raw, (N, 1 if drop.variational else T, raw.shape[2]))
            hs = raw * mask
        prior = self._kernel.affine_forward(rows(inputs[-1]), prior_W, None)
        return raw, mask, hs.reshape(N * T, prior.shape[1], self.params[0].shape[0]), prior

    def _latents_back(
        self, inputs: list[Any], kept: tuple[Any, Any], dhs: Any, dprior: Any, grads: list[Any]
    ) -> list[Any]:
        """Write the gradients of prior_W and of the latents' weights; return those of the inputs.

        kept: the first two that `_latents` has returned.
        """
        _, _, prior_W, *latents = self._checked_params()
        raw, mask = kept
        d = dhs.reshape(raw.shape) if mask is None else dhs.reshape(raw.shape) * mask
        d = rows(d * (1 - raw * raw))
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
