"""Models that generate a sequence: what they share, and VectorToSequence.

See rnnfast.sequences for their common arguments.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnnfast import checks
from rnnfast.layers.affine import Affine
from rnnfast.layers.alone import one_at_a_time
from rnnfast.layers.initial import Initializer
from rnnfast.layers.losses import TimeAffineSoftmaxWithLoss
from rnnfast.models.building import checked_sizes
from rnnfast.models.coders import Decoder
from rnnfast.models.model import Model


class Writer(Model):
    """A decoder with its loss, and the layers that compute its first state."""

    decoder: Decoder

    def __init__(
        self, below: list[Any], names: list[str], decoder: Decoder, sizes: dict[str, Any]
    ) -> None:
        self.decoder = decoder
        self.loss_layer = TimeAffineSoftmaxWithLoss(decoder.affine, device=decoder.affine.device)
        names = names + [f"decoder_{name}" for name in decoder.param_names]
        super().__init__(below + decoder.layers, names, sizes)

    def counted_targets(self, ts: Any, lengths: Any = None) -> Any:
        """How many targets of each sample count: the first one of ts is no target."""
        return super().counted_targets(ts[:, 1:])

    def _loss(self, state: tuple[Any, ...], ts: Any, train: bool) -> Any:
        """The loss of ts[:, 1:] for inputs ts[:, :-1] and a first state."""
        owner, N = type(self).__name__, len(state[0])
        ts = checks.integers(owner, "ts", ts)
        if ts.ndim != 2 or len(ts) != N or ts.shape[1] == 0:
            raise checks.shape_error(owner, "ts", f"(N, T) = ({N}, T), T from 1 up", ts)
        checks.in_range(owner, "ts", ts, self.sizes["vocab_size"])
        hs = self.decoder._hidden(ts[:, :-1], state, train)
        return self.loss_layer.forward(hs, ts[:, 1:], train=train)

    def _loss_back(self, dout: float) -> tuple[Any, ...]:
        """The gradients of the decoder's first state."""
        self.decoder._hidden_back(self.loss_layer.backward(dout))
        return self.decoder.dstate

    def _one(self, ids: NDArray[np.int64]) -> list[int]:
        """The ids of a batch of one, as a list."""
        if len(ids) != 1:
            owner = type(self).__name__
            raise ValueError(
                f"{owner}: generate takes a batch of 1, got {len(ids)}; see generate_batch"
            )
        found: list[int] = ids[0].tolist()
        return found


class VectorToSequence(Writer):
    """One to many: a vector (N, D) -> ids. Affine and tanh give a decoder's first h.

    With several layers it is the h of the first one.

    Parameters
    ----------
    input_size : int
        D.
    vocab_size, wordvec_size, hidden_size : int
        V, the width of the embedding, and H.
    cell, layers, rng, dtype, device
        See rnnfast.sequences.

    Notes
    -----
    The targets ts (N, T) begin with the id with which `generate` is started. A target equal to
    ``loss_layer.ignore_label`` (-1 by default) does not count in the loss. All of ts must be ids of
    the vocabulary, so to ignore one, set ignore_label to it.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import VectorToSequence
    >>> model = VectorToSequence(3, vocab_size=5, wordvec_size=4, hidden_size=6, rng=0)
    >>> len(model.generate(np.ones((1, 3)), start_id=0, sample_size=7))
    7
    """

    _h: Any

    def __init__(
        self,
        input_size: int,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        layers: int = 1,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        sizes = checked_sizes(owner, input_size=input_size)
        common = checked_sizes(
            owner,
            vocab_size=vocab_size,
            wordvec_size=wordvec_size,
            hidden_size=hidden_size,
            layers=layers,
            cell=cell,
        )
        draw = Initializer(owner, rng, dtype, device)
        H = common["hidden_size"]
        W = draw.normal(sizes["input_size"], H)
        self.affine = Affine(W, draw.zeros(H), device=draw.device)
        decoder = Decoder(**common, rng=draw.rng, dtype=dtype, device=draw.device)
        super().__init__([self.affine], ["state_W", "state_b"], decoder, sizes | common)

    def _state(self, xs: Any, train: bool) -> tuple[Any, ...]:
        """The decoder's first state: tanh(xs W + b)."""
        h = self.affine.forward(xs, train=train)
        h = checks.namespace(h).tanh(h)
        self._h = h if train else None
        return (h,)

    @one_at_a_time
    def forward(self, xs: Any, ts: Any, train_flg: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs : array of real numbers, (N, D)
        ts : array of int, (N, T)
            Ids.
        train_flg : bool
            Keep what backward needs.

        Returns
        -------
        float
            Mean cross entropy of ts[:, 1:], in nats; a 0-d array on a GPU.
        """
        return self._loss(self._state(xs, train_flg), ts, train_flg)

    def backward(self, dout: float = 1) -> Any:
        """Fill `grads`.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array, (N, D)
            dxs.
        """
        dh = self._loss_back(dout)[0]
        return self.affine.backward(dh * (1 - self._h**2))

    def generate(self, xs: Any, start_id: int, sample_size: int) -> list[int]:
        """Generate the most probable ids for one vector.

        Parameters
        ----------
        xs : array, (1, D)
        start_id : int
            The decoder's first input.
        sample_size : int

        Returns
        -------
        list of int
            Of length sample_size, without start_id.

        Raises
        ------
        ValueError
            For a batch; see `generate_batch`.
        """
        return self._one(self.generate_batch(xs, start_id, sample_size))

    @one_at_a_time
    def generate_batch(self, xs: Any, start_id: int, sample_size: int) -> NDArray[np.int64]:
        """Generate as `generate` does, for a batch.

        Parameters
        ----------
        xs : array, (N, D)
        start_id, sample_size : int

        Returns
        -------
        ndarray of int64, (N, sample_size)
        """
        return self.decoder.generate(self._state(xs, False), start_id, sample_size)
