"""A sequence to sequence model with attention: AttentionSeq2seq and its two halves. Chapter 8.

See rnnfast.sequences for their common arguments.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.layers.alone import one_at_a_time
from rnnfast.layers.recurrent import checked_lengths
from rnnfast.layers.time_attention import TimeAttention
from rnnfast.models.building import filled
from rnnfast.models.coders import Decoder, Encoder
from rnnfast.models.seq2seq import Seq2seq


class _Read(NamedTuple):
    """What a decoder attends to, and the list to which it appends its weights, if there is one."""

    hs: Any
    lengths: Any
    weights: list[Any] | None


class AttentionEncoder(Encoder):
    """An Encoder that gives the h of all steps: ids (N, T) -> hs (N, T, H).

    See `Encoder` for the arguments.

    References
    ----------
    Deep Learning from Scratch 2, chapter 8.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import AttentionEncoder
    >>> encoder = AttentionEncoder(vocab_size=5, wordvec_size=3, hidden_size=4, rng=0)
    >>> encoder.forward(np.array([[0, 1, 2], [2, 3, 4]])).shape
    (2, 3, 4)
    """

    def forward(self, xs: Any, *, train: bool = True, lengths: Any = None) -> Any:
        """Read a batch of ids.

        Parameters
        ----------
        xs : array of int, (N, T)
        train : bool
            Keep what backward needs.
        lengths : array_like of int, (N,), optional
            See rnnfast.sequences.

        Returns
        -------
        array, (N, T, H)
            The h of the last layer; `state` has the final states of all layers. hs[:, t] belongs to
            xs[:, t] also with `reverse`.
        """
        xs = self.embed.forward(xs, train=train)
        return self.recurrent.forward(xs, train=train, lengths=lengths)

    def backward(self, dhs: Any, *dstate: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fill `grads`.

        Parameters
        ----------
        dhs : array, (N, T, H)
            The gradient of the output.
        *dstate : array or None
            The gradients of `state`, in its order; None or missing ones are zero.
        """
        self.embed.backward(self.recurrent.backward(dhs, *filled(dstate, self.recurrent)))


class AttentionDecoder(Decoder):
    """A Decoder whose affine layer also reads, at every step, what it attends to in the encoder.

    See `Decoder` for the arguments.

    Attributes
    ----------
    attention : TimeAttention
        Its `attention_weights` are those of the last forward.
    dhs : array, (N, T, H)
        After backward: the gradient of the encoder's hs.

    References
    ----------
    Deep Learning from Scratch 2, chapter 8.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import AttentionDecoder
    >>> sizes = {"vocab_size": 5, "wordvec_size": 3, "hidden_size": 4}
    >>> decoder = AttentionDecoder(**sizes, rng=0, device="cpu")
    >>> hs = np.zeros((2, 7, 4), np.float32)
    >>> decoder.forward(np.array([[0, 1, 2], [2, 3, 4]]), hs, hs[:, -1]).shape
    (2, 3, 5)
    >>> decoder.generate(hs, (hs[:, -1],), start_id=0, sample_size=6).shape
    (2, 6)
    """

    attends = True
    dhs: Any
    _read: _Read | None = None

    def __init__(
        self, vocab_size: int, wordvec_size: int, hidden_size: int, **options: Any
    ) -> None:
        super().__init__(vocab_size, wordvec_size, hidden_size, **options)
        self.attention = TimeAttention(device=self.affine.device)

    def forward(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, xs: Any, hs: Any, *state: Any, train: bool = True, lengths: Any = None
    ) -> Any:
        """Compute the scores of the ids that follow.

        Parameters
        ----------
        xs : array of int, (N, T')
        hs : array, (N, T, H)
            The encoder's h.
        *state : array or None
            The first state, as of `Decoder.forward`.
        train : bool
            Keep what backward needs.
        lengths : array_like of int, (N,), optional
            The number of steps of hs that count; the others have the weight 0.

        Returns
        -------
        array, (N, T', V)
        """
        with self.attending_to(hs, lengths):
            return super().forward(xs, *state, train=train)

    def backward(self, dscore: Any) -> Any:
        """Fill `grads`, `dhs` and `dstate`.

        Parameters
        ----------
        dscore : array, (N, T', V)

        Returns
        -------
        array, (N, T, H)
            dhs. Those of the first state are in `dstate`.
        """
        super().backward(dscore)
        return self.dhs

    def generate(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hs: Any,
        state: tuple[Any, ...],
        start_id: int,
        sample_size: int,
        lengths: Any = None,
    ) -> NDArray[Any]:
        """Generate ids greedily: the most probable id of each step is the input of the next one.

        Parameters
        ----------
        hs : array, (N, T, H)
            The encoder's h.
        state, start_id, sample_size
            As of `Decoder.generate`.
        lengths : array_like of int, (N,), optional
            As in `forward`.

        Returns
        -------
        ndarray of int64, (N, sample_size)
        """
        weights: list[Any] = []
        with self.attending_to(hs, lengths, weights):
            found = super().generate(state, start_id, sample_size)
        self.attention.attention_weights = weights
        return found

    @contextmanager
    def attending_to(
        self, hs: Any, lengths: Any, weights: list[Any] | None = None
    ) -> Iterator[None]:
        """Attend to hs in one block, and append the weights of each forward to a list."""
        self._read = _Read(hs, lengths, weights)
        try:
            yield
        finally:
            self._read = None

    def _hidden(
        self, xs: Any, state: tuple[Any, ...], train: bool, peeked: tuple[Any, ...] | None = None
    ) -> Any:
        assert self._read is not None  # within attending_to
        hs, lengths, weights = self._read
        hs_dec = super()._hidden(xs, state, train)
        cs = self.attention.forward(hs, hs_dec, train=train, lengths=lengths)
        if weights is not None:
            weights += self.attention.attention_weights or []
        return checks.namespace(cs).concatenate((cs, hs_dec), axis=2)

    def _hidden_back(self, dhs: Any) -> None:
        H = self.sizes["hidden_size"]
        self.dhs, dhs_dec = self.attention.backward(dhs[:, :, :H])
        super()._hidden_back(dhs_dec + dhs[:, :, H:])


class AttentionSeq2seq(Seq2seq):
    """A Seq2seq whose decoder attends to all steps of the encoder.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size, pass_cell, reverse, cell, layers, rng, dtype, device
        See `Seq2seq`.

    Notes
    -----
    The weights of the last forward or generation are ``decoder.attention.attention_weights``, an
    array (N, T) for each step of the decoder; those of the padding are 0. With `reverse` they
    belong to xs as it is, not turned.

    References
    ----------
    Bahdanau et al. 2014, https://arxiv.org/abs/1409.0473; Luong et al. 2015,
    https://arxiv.org/abs/1508.04025. Deep Learning from Scratch 2, chapter 8.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import AttentionSeq2seq
    >>> model = AttentionSeq2seq(vocab_size=5, wordvec_size=4, hidden_size=6, rng=0)
    >>> len(model.generate(np.array([[0, 1, 2]]), start_id=4, sample_size=3))
    3
    >>> [weights.shape for weights in model.decoder.attention.attention_weights]
    [(1, 3), (1, 3), (1, 3)]
    """

    encoder_class = AttentionEncoder
    decoder_class = AttentionDecoder
    decoder: Any  # an AttentionDecoder

    @one_at_a_time
    def forward(self, xs: Any, ts: Any, train_flg: bool = True, lengths: Any = None) -> Any:
        """Compute the loss; see `Seq2seq.forward`."""
        hs, state, lengths = self._encoded(xs, train_flg, lengths)
        with self.decoder.attending_to(hs, lengths):
            return self._loss(state, ts, train_flg)

    def backward(self, dout: float = 1) -> None:
        """Fill `grads`.

        Parameters
        ----------
        dout : float
            The gradient of the loss.
        """
        dstate = self._only_passed(self._loss_back(dout))
        self.encoder.backward(self.decoder.dhs, *dstate)

    @one_at_a_time
    def generate_batch(
        self, xs: Any, start_id: int, sample_size: int, lengths: Any = None
    ) -> NDArray[Any]:
        """Generate as `generate` does, for a batch; see `Seq2seq.generate_batch`."""
        hs, state, lengths = self._encoded(xs, False, lengths)
        decoder: AttentionDecoder = self.decoder
        return decoder.generate(hs, state, start_id, sample_size, lengths)

    def _encoded(self, xs: Any, train: bool, lengths: Any) -> tuple[Any, tuple[Any, ...], Any]:
        """The encoder's hs, the decoder's first state, and lengths, once they are checked."""
        hs = self.encoder.forward(xs, train=train, lengths=lengths)
        if lengths is not None:
            lengths = checked_lengths(type(self).__name__, lengths, *hs.shape[:2])
        return hs, self._only_passed(self.encoder.state), lengths
