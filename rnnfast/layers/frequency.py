"""FRAGE: word vectors that do not show how frequent a word is.

V vocabulary, D width of a word vector.
"""

from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer, Spec
from rnnfast.layers.embedding import Embedding
from rnnfast.typing import Array

POPULAR = 0.2  # the share of the vocabulary that counts as popular


class FrequencyDiscriminator(Layer):
    """A penalty on word vectors from which a discriminator can tell popular words from rare ones.

    Parameters
    ----------
    embedding : Embedding
        The layer with the word vectors E, its W (V, D).
    W : array (D, 1)
        Weights of the discriminator.
    b : array (1,)
        Its bias.
    factor : float
        lambda, from 0 up; 0.02 in the authors' language models.
    rate : float
        The learning rate of the discriminator, from 0 up; 0.02 there, too.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    loss : float
        The penalty of the last forward, which is negative; a 0-d array on a GPU.

    Notes
    -----
    The discriminator is one logistic unit, as in the authors' language models. Popular are the 20%
    of the vocabulary that are most frequent in the training text, all others are rare::

        q    = sigmoid(E W + b)               the probability that a word is popular, (V, 1)
        L    = mean(-log q) over the popular words + mean(-log(1 - q)) over the rare words
        loss = -factor L

    The discriminator minimises L, the word vectors maximise it. Each forward makes a step of SGD of
    the discriminator, ``W -= rate dL/dW`` and the same for b, and then computes the penalty. So no
    other optimiser must change W and b: their `grads` are always 0. backward gives the gradient of
    the penalty by E.

    References
    ----------
    Gong et al. 2018, https://arxiv.org/abs/1809.06858.

    Examples
    --------
    >>> from rnnfast import Embedding
    >>> from rnnfast.layers import FrequencyDiscriminator
    >>> words = Embedding(np.array([[1.0], [0.0], [0.0], [-1.0], [0.0]]), device="cpu")
    >>> layer = FrequencyDiscriminator(words, np.zeros((1, 1)), np.zeros(1), factor=0.5, rate=0.8)
    >>> layer.count_words(np.array([0, 0, 0, 3, 2]))  # word 0 is popular
    >>> round(layer.forward(), 4)  # of chance: -0.5 * 2 log(2) = -0.6931
    -0.5562
    >>> layer.W.round(2), layer.backward().round(2).T
    (array([[0.5]]), array([[ 0.09, -0.03, -0.03, -0.02, -0.03]]))
    """

    loss: Any

    def __init__(
        self,
        embedding: Embedding,
        W: Array,
        b: Array,
        *,
        factor: float = 0.02,
        rate: float = 0.02,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        factor = checks.nonnegative(owner, "factor", factor)
        rate = checks.nonnegative(owner, "rate", rate)
        checks.of_kind(owner, "embedding", embedding, Embedding)
        V, D = embedding.params[0].shape
        if V < 2:
            raise ValueError(f"{owner}: embedding must have at least 2 words, got {V}")
        W, b = checks.adopt(owner, "W", W), checks.adopt(owner, "b", b)
        W = checks.exactly(owner, "W", W, embedding.dtype, (D, 1), "(D, 1)")
        specs: list[Spec] = [("W", (D, 1), "(D, 1)"), ("b", (1,), "(1,)")]
        super().__init__(device, (W, b), specs)
        self.embedding = embedding
        self.factor, self.rate = factor, rate
        self.loss = 0.0
        self._popular: Any = None  # (V, 1), bool
        self._share: Any = None  # (V, 1), 1 / (how many words are popular, or are not)

    @property
    def W(self) -> Any:
        """The weights of the discriminator."""
        return self.params[0]

    def count_words(self, ids: Any) -> None:
        """Find the popular words. It must be called before the first forward.

        Parameters
        ----------
        ids : array of int
            The training text, each id in [0, V).

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.

        Notes
        -----
        Of words that are equally frequent, those with the smaller ids count as more popular.
        """
        E = self.embedding._checked_params()[0]
        V = len(E)
        ids = checks.integers(self._name, "ids", ids)
        checks.in_range(self._name, "ids", ids, V)
        on_host = ids if checks.is_numpy(ids) else ids.get()
        counts = np.bincount(on_host.ravel(), minlength=V)
        count = min(max(round(POPULAR * V), 1), V - 1)
        popular = np.zeros((V, 1), bool)
        popular[np.argsort(-counts, kind="stable")[:count]] = True
        share = np.where(popular, 1 / count, 1 / (V - count)).astype(self.dtype)
        self._popular, self._share = checks.beside(E, popular), checks.beside(E, share)

    def check_counted(self) -> None:
        """RuntimeError unless `count_words` was called."""
        if self._popular is None:
            raise RuntimeError(
                f"{self._name}: training needs the frequencies of words; call count_words first"
            )

    def forward(self, *, train: bool = True) -> Any:
        """Make a step of the discriminator, and compute the penalty.

        Parameters
        ----------
        train : bool
            False makes no step; the penalty is 0.

        Returns
        -------
        float
            The penalty, also `loss`.

        Raises
        ------
        RuntimeError
            Without `count_words` before it.
        """
        if train:
            self.check_counted()
        W, b = self._checked_params()
        for name, array in (("W", W), ("b", b)):
            if train and self.rate and not checks.writeable(array):
                raise ValueError(f"{self._name}: {name} must be writeable, got read-only")
        self.cache, self.loss = None, 0.0
        if not train:
            return self.loss
        E = self.embedding._checked_params()[0]
        xp, ops = checks.namespace(E), self._kernel
        if self.rate:
            dW, db = xp.empty_like(W), xp.empty_like(b)
            ops.affine_backward(self._dscores(ops.affine_forward(E, W, b)), E, W, dW, db)
            W -= self.rate * dW
            b -= self.rate * db
        scores = ops.affine_forward(E, W, b)
        signed = xp.where(self._popular, -scores, scores).astype(np.float64)
        loss = (xp.logaddexp(0.0, signed) * self._share).sum()
        self.loss = checks.scalar(-self.factor * loss)
        self.cache = self._dscores(scores)
        return self.loss

    def backward(self, dout: float = 1.0) -> Any:
        """Compute the gradient of the penalty by the word vectors.

        It may be called once after each forward.

        Parameters
        ----------
        dout : float
            The gradient of the penalty.

        Returns
        -------
        array (V, D)
            Add it to grads[0] of the embedding.

        Raises
        ------
        RuntimeError
            Without a forward before it.
        """
        dscores = self._pending()
        dout = checks.number(self._name, "dout", dout)
        self.cache = None
        return dscores * (-self.factor * dout) * self._checked_params()[0].T

    def _dscores(self, scores: Any) -> Any:
        """The gradient of L by the scores E W + b."""
        xp = checks.namespace(scores)
        return (0.5 * (1 + xp.tanh(0.5 * scores)) - self._popular) * self._share

    def _sizes(self) -> list[str]:
        V, D = self.embedding.params[0].shape
        return [f"V={V}", f"D={D}"]

    def _choices(self) -> list[str]:
        return [f"factor={self.factor}", f"rate={self.rate}"]
