"""Models that read ids and generate others: Seq2seq, PeekySeq2seq (chapter 7).

See rnnfast.sequences for their common arguments.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnnfast.layers.alone import one_at_a_time
from rnnfast.layers.initial import Initializer
from rnnfast.models.building import checked_sizes, h_places
from rnnfast.models.coders import Decoder, Encoder, PeekyDecoder
from rnnfast.models.writers import Writer


class Seq2seq(Writer):
    """Many to many: an Encoder reads ids (N, T), a Decoder generates ids from its final state.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H, of both halves.
    pass_cell : bool
        Also pass the c of an LSTM to the decoder. By default, as in the book, the decoder gets the
        h of every layer, and zeros as c.
    reverse : bool
        Read xs backwards, like x[:, ::-1] in the book. With `lengths`, reading starts at the last
        id that counts.
    cell, layers, rng, dtype, device
        See rnnfast.sequences.

    Notes
    -----
    The targets ts (N, T) begin with the id with which `generate` is started; the others are
    learned. A target equal to ``loss_layer.ignore_label`` (-1 by default) does not count in the
    loss. All of ts must be ids of the vocabulary, so to ignore one, set ignore_label to it.

    The same seed of np.random draws the book's weights. load_params also reads files that the
    book's save_params pickled.

    References
    ----------
    Sutskever et al. 2014, https://arxiv.org/abs/1409.3215.
    Deep Learning from Scratch 2, chapter 7.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import Seq2seq
    >>> model = Seq2seq(vocab_size=5, wordvec_size=4, hidden_size=6, rng=0)
    >>> len(model.generate(np.array([[0, 1, 2]]), start_id=4, sample_size=3))
    3
    """

    encoder_class: type[Encoder] = Encoder
    decoder_class: type[Decoder] = Decoder

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        layers: int = 1,
        pass_cell: bool = False,
        reverse: bool = False,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        common = checked_sizes(
            owner,
            vocab_size=vocab_size,
            wordvec_size=wordvec_size,
            hidden_size=hidden_size,
            layers=layers,
            cell=cell,
        )
        own = checked_sizes(owner, pass_cell=pass_cell, reverse=reverse)
        draw = Initializer(owner, rng, dtype, device)
        options: dict[str, Any] = {"rng": draw.rng, "dtype": dtype, "device": draw.device}
        self.encoder = self.encoder_class(**common, reverse=own["reverse"], **options)
        decoder = self.decoder_class(**common, **options)
        names = [f"encoder_{name}" for name in self.encoder.param_names]
        super().__init__(self.encoder.layers[:], names, decoder, common | own)
        places = h_places(self.encoder.recurrent, common["cell"])
        self._passed = range(len(self.encoder.state)) if own["pass_cell"] else places

    def _state(self, xs: Any, train: bool, lengths: Any) -> tuple[Any, ...]:
        """The decoder's first state."""
        self.encoder.forward(xs, train=train, lengths=lengths)
        return self._only_passed(self.encoder.state)

    def _only_passed(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The states that the decoder gets; None for the others."""
        return tuple(value if k in self._passed else None for k, value in enumerate(values))

    @one_at_a_time
    def forward(self, xs: Any, ts: Any, train_flg: bool = True, lengths: Any = None) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs : array of int, (N, T)
            The ids to read.
        ts : array of int, (N, T')
            The ids to generate.
        train_flg : bool
            Keep what backward needs.
        lengths : array_like of int, (N,), optional
            See rnnfast.sequences.

        Returns
        -------
        float
            Mean cross entropy of ts[:, 1:], in nats; a 0-d array on a GPU.
        """
        return self._loss(self._state(xs, train_flg, lengths), ts, train_flg)

    def backward(self, dout: float = 1) -> None:
        """Fill `grads`.

        Parameters
        ----------
        dout : float
            The gradient of the loss.
        """
        self.encoder.backward(*self._only_passed(self._loss_back(dout)))

    def generate(self, xs: Any, start_id: int, sample_size: int, lengths: Any = None) -> list[int]:
        """Generate the most probable ids for one sequence.

        Parameters
        ----------
        xs : array of int, (1, T)
        start_id : int
            The decoder's first input.
        sample_size : int
        lengths : array_like of int, (1,), optional
            See rnnfast.sequences.

        Returns
        -------
        list of int
            Of length sample_size, without start_id.

        Raises
        ------
        ValueError
            For a batch; see `generate_batch`.
        """
        return self._one(self.generate_batch(xs, start_id, sample_size, lengths))

    @one_at_a_time
    def generate_batch(
        self, xs: Any, start_id: int, sample_size: int, lengths: Any = None
    ) -> NDArray[np.int64]:
        """Generate as `generate` does, for a batch.

        Parameters
        ----------
        xs : array of int, (N, T)
        start_id, sample_size : int
        lengths : array_like of int, (N,), optional

        Returns
        -------
        ndarray of int64, (N, sample_size)
        """
        return self.decoder.generate(self._state(xs, False, lengths), start_id, sample_size)


class PeekySeq2seq(Seq2seq):
    """A Seq2seq whose decoder reads the encoder's last h at every step.

    See `Seq2seq` for the arguments.

    References
    ----------
    Cho et al. 2014, https://arxiv.org/abs/1406.1078.
    Deep Learning from Scratch 2, chapter 7.
    """

    decoder_class = PeekyDecoder
