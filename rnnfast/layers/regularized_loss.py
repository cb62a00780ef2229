"""The softmax loss of a language model with past decode and adversarial noise.

N batch, T time, H hidden, V vocabulary; M = N T rows.
"""

from typing import Any

from rnnfast import checks
from rnnfast.layers.affine import TimeAffine, rows, with_bias
from rnnfast.layers.past_decode import PastDecode
from rnnfast.layers.softmax_losses import TimeAffineSoftmaxWithLoss, only_counted
from rnnfast.typing import Array


class TimeRegularizedSoftmaxWithLoss(TimeAffineSoftmaxWithLoss):
    """`TimeAffineSoftmaxWithLoss`, in training with regularisation of the word vectors.

    Parameters
    ----------
    affine : TimeAffine
        The layer whose weights are read and whose grads backward writes.
    adversarial : float
        The size of the noise, a share of the length of a target's word vector, from 0 up; 0.005
        in the paper.
    past : PastDecode, optional
        Past decode regularisation, with the same affine layer.
    device : str, optional
        As in `TimeSoftmaxWithLoss`.

    Attributes
    ----------
    penalty : float
        What training minimises beside the loss, of the last forward, 0 without training: that of
        `past`, and by how much the noise raises the cross entropy. A 0-d array on a GPU.

    Notes
    -----
    For an output h, its target t and the target's word vector w, column t of W, the noise is the
    worst one of its length, in closed form::

        noise = -adversarial |w| h / |h|     if w h > 0, else 0
        score[t] = h (w + noise) + b[t]

    The noise is a constant for the gradient. The other scores have no noise. Past decode sees the
    scores without noise, of the steps whose target is not ignored. forward returns the cross
    entropy without noise.

    References
    ----------
    Wang, Gong, Liu 2019, https://arxiv.org/abs/1906.03805.

    Examples
    --------
    >>> from rnnfast import TimeAffine
    >>> from rnnfast.layers import TimeRegularizedSoftmaxWithLoss
    >>> affine = TimeAffine(np.eye(2), np.zeros(2), device="cpu")
    >>> loss = TimeRegularizedSoftmaxWithLoss(affine, adversarial=0.5)
    >>> xs, ts = np.array([[[1.0, 0.0]]]), np.array([[0]])
    >>> round(loss.forward(xs, ts), 4)  # -log(e / (e + 1))
    0.3133
    >>> round(loss.penalty, 4)  # -log(e^0.5 / (e^0.5 + 1)) is 0.4741
    0.1608
    """

    penalty: Any

    def __init__(
        self,
        affine: TimeAffine,
        *,
        adversarial: float = 0.0,
        past: PastDecode | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(affine, device=device)
        self.adversarial = checks.nonnegative(self._name, "adversarial", adversarial)
        if past is not None and past.affine is not affine:
            raise ValueError(f"{self._name}: past must have the same affine layer, got another")
        self.past = past
        self.penalty = 0.0

    def forward(self, xs: Array, ts: Array, *, train: bool = True, previous: Any = None) -> Any:
        """Compute the loss, and in training the penalty.

        Parameters
        ----------
        xs : array (N, T, H)
            The input of the affine layer.
        ts : array of int (N, T), or one-hot (N, T, V)
            Class ids, each in [0, V) or equal to ignore_label.
        train : bool
            False keeps nothing for a backward and regularises nothing.
        previous : array of int (N, T), optional
            The ids that were read: needed in training with `past`.

        Returns
        -------
        float
            The cross entropy, without penalty.

        Raises
        ------
        TypeError, ValueError
            As in `SoftmaxWithLoss.forward`, and for a wrong `previous`.
        """
        if not train:
            loss = super().forward(xs, ts, train=False)
            self.penalty = 0.0
            return loss
        x, t, ignored = self._checked_inputs(xs, ts)
        if self.past is not None:
            previous = check_previous(self._name, previous, x.shape[:2], self.affine)
        affine, ops = self.affine, self.affine._kernel
        W, b = with_bias(affine._checked_params())
        counted = t != ignored
        x2 = only_counted(rows(x), counted)
        scores = ops.affine_forward(x2, W, b)
        loss, cache = ops.softmax_loss_forward(scores, t, ignore_label=ignored)
        past = None
        if self.past is not None:
            past = self.past.forward(scores, previous.reshape(-1), counted)
        noise, penalty = None, 0.0
        if self.adversarial:
            noise, place = self._noise(x2, W, t, ignored)
            scores = scores.copy()  # PastDecode and the loss without noise have the others
            scores[place] += (x2 * noise).sum(axis=1)
            noisy, cache = ops.softmax_loss_forward(scores, t, ignore_label=ignored)
            penalty = noisy - loss
            noise = noise, place
        self.penalty = penalty if past is None else penalty + past
        self.cache = x2, x.shape, cache, noise
        return loss

    def _noise(self, x: Any, W: Any, t: Any, ignored: int) -> tuple[Any, tuple[Any, Any]]:
        """The noise of each target's vector, (M, H), and where in the scores the targets are."""
        xp = checks.namespace(x)
        t = checks.beside(x, t)
        t = xp.where(t == ignored, 0, t)
        noise = worst_noise(self.affine._kernel, x, W, t, self.adversarial)
        return noise, (xp.arange(len(x)), t)

    def backward(self, dout: float | Array = 1) -> Any:
        """Compute the gradients of loss and penalty; the grads of both layers are written in place.

        It may be called once after each forward.

        Parameters
        ----------
        dout : float
            The gradient of the loss and of the penalty.

        Returns
        -------
        array (N, T, H)
            dxs.

        Raises
        ------
        RuntimeError
            Without the forward of a training step before it.
        """
        x, shape, cache, noise = self._pending()
        of_target: Any = 0.0
        dout = checks.number(self._name, "dout", dout)
        W, (dW, db) = self.affine._checked_params()[0], with_bias(self.affine._checked_grads())
        if self.past is not None:
            self.past._checked_grads()
        ops = self.affine._kernel
        dscores = ops.softmax_loss_backward(cache, dout)
        if noise is not None:
            of_target = dscores[noise[1]]  # before those of past decode are added
        dW_past = None
        if self.past is not None:
            more, dW_past = self.past.backward(dout)
            dscores += more
        dx = ops.affine_backward(dscores, x, W, dW, db)
        if dW_past is not None:
            dW += dW_past
        if noise is not None:
            dx += of_target[:, None] * noise[0]
        self.cache = None
        return dx.reshape(shape)

    def _choices(self) -> list[str]:
        shown = super()._choices()
        shown += [f"adversarial={self.adversarial}"] if self.adversarial else []
        return shown + ([] if self.past is None else [f"past={self.past!r}"])


def check_previous(owner: str, previous: Any, shape: tuple[int, int], affine: Any) -> Any:
    """The argument `previous` of a loss, ids of the shape (N, T) that the affine layer knows."""
    previous = checks.integers(owner, "previous", previous)
    if previous.shape != shape:
        raise checks.shape_error(owner, "previous", f"(N, T) = {shape}", previous)
    checks.in_range(owner, "previous", previous, affine.params[0].shape[1])
    return previous


def worst_noise(kernel: Any, x: Any, W: Any, t: Any, size: float) -> Any:
    """The noise (M, H) on the word vectors of the targets t, for outputs x; see the class."""
    xp = checks.namespace(x)
    w = kernel.embedding_forward(t, W.T)
    lengths = xp.sqrt((x * x).sum(axis=1))
    ahead = (x * w).sum(axis=1) > 0  # so lengths are above 0, too
    sizes = size * xp.sqrt((w * w).sum(axis=1))
    share = xp.where(ahead, sizes / xp.where(ahead, lengths, 1), 0).astype(x.dtype)
    return x * -share[:, None]
