"""Models that write a sequence: VectorToSequence, Seq2seq, PeekySeq2seq (chapter 7).

rnnfast.sequences says what their arguments have in common.
"""

import numpy as np

from rnnfast import checks
from rnnfast.layers.affine import Affine
from rnnfast.layers.initial import Initializer
from rnnfast.layers.losses import TimeAffineSoftmaxWithLoss
from rnnfast.models.building import coder_sizes, h_places
from rnnfast.models.coders import Decoder, Encoder, PeekyDecoder
from rnnfast.models.model import Model


class _Writer(Model):
    """A decoder with its loss, and what its first state comes from."""

    def __init__(self, below, names, decoder, sizes):
        self.decoder = decoder
        self.loss_layer = TimeAffineSoftmaxWithLoss(decoder.affine, device=decoder.affine.device)
        names = names + [f"decoder_{name}" for name in decoder.param_names]
        super().__init__(below + decoder.layers, names, sizes)

    def _loss(self, state, ts, train):
        owner, N = type(self).__name__, len(state[0])
        ts = checks.integers(owner, "ts", ts)
        if ts.ndim != 2 or len(ts) != N or ts.shape[1] == 0:
            raise checks.shape_error(owner, "ts", f"(N, T) = ({N}, T), T from 1 up", ts)
        checks.in_range(owner, "ts", ts, self.sizes["vocab_size"])
        hs = self.decoder._hidden(ts[:, :-1], state, train)
        return self.loss_layer.forward(hs, ts[:, 1:], train=train)

    def _loss_back(self, dout):
        """-> the gradients of the state that the decoder started from."""
        self.decoder._hidden_back(self.loss_layer.backward(dout))
        return self.decoder.dstate

    def _one(self, ids):
        """The ids of a batch of one, as a list."""
        if len(ids) != 1:
            owner = type(self).__name__
            raise ValueError(
                f"{owner}: generate takes a batch of 1, got {len(ids)}; see generate_batch"
            )
        return ids[0].tolist()


class VectorToSequence(_Writer):
    """A vector xs (N, D), affine and tanh, is the first h of a decoder that writes ids.

    Of several layers it is the first one's. forward takes ts (N, T), which begin with the id that
    `generate` is started with. A target that is loss_layer.ignore_label, -1 or what it is set to,
    is not learned; among ts it has to be an id. options: see rnnfast.sequences.
    """

    def __init__(
        self,
        input_size,
        vocab_size,
        wordvec_size,
        hidden_size,
        *,
        cell="lstm",
        layers=1,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        owner = type(self).__name__
        sizes = {"input_size": checks.count(owner, "input_size", input_size)}
        sizes |= coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        D, V, M, H, layers, _ = sizes.values()
        draw = Initializer(owner, rng, dtype, device)
        self.affine = Affine(draw.normal(D, H), draw.zeros(H), device=draw.device)
        options = {"cell": cell, "layers": layers, "rng": draw.rng, "dtype": dtype}
        decoder = Decoder(V, M, H, **options, device=draw.device)
        super().__init__([self.affine], ["state_W", "state_b"], decoder, sizes)

    def _state(self, xs, train):
        h = self.affine.forward(xs, train=train)
        h = checks.namespace(h).tanh(h)
        self._h = h if train else None
        return (h,)

    def forward(self, xs, ts, train_flg=True):
        """xs (N, D) real, ts (N, T) ids -> mean cross entropy in nats of ts[:, 1:]."""
        return self._loss(self._state(xs, train_flg), ts, train_flg)

    def backward(self, dout=1):
        """Fill `grads` -> dxs (N, D)."""
        dh = self._loss_back(dout)[0]
        return self.affine.backward(dh * (1 - self._h**2))

    def generate(self, xs, start_id, sample_size):
        """xs (1, D) -> the most probable ids behind start_id, a list of sample_size."""
        return self._one(self.generate_batch(xs, start_id, sample_size))

    def generate_batch(self, xs, start_id, sample_size):
        """xs (N, D) -> ids (N, sample_size), as `generate` gives them for each row."""
        return self.decoder.generate(self._state(xs, False), start_id, sample_size)


class Seq2seq(_Writer):
    """An Encoder reads ids xs (N, T), a Decoder writes others, from the state it ended in.

    As in the book the decoder gets the h, of every layer, and zeros as c; pass_cell=True hands
    the c of an LSTM over, too. reverse=True reads xs backwards, which is x[:, ::-1] of the book but
    for `lengths`, of which it begins at the last id that counts.

    forward takes ts (N, T), which begin with the id that `generate` is started with; the rest is
    learned. A target that is loss_layer.ignore_label, -1 or what it is set to, is not; among ts it
    has to be an id. The same seed of np.random draws the book's weights, and load_params reads
    what the book's save_params pickled. (Sutskever et al. 2014, https://arxiv.org/abs/1409.3215)
    """

    decoder_class = Decoder

    def __init__(
        self,
        vocab_size,
        wordvec_size,
        hidden_size,
        *,
        cell="lstm",
        layers=1,
        pass_cell=False,
        reverse=False,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        owner = type(self).__name__
        sizes = coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        V, D, H, layers, _ = sizes.values()
        sizes["pass_cell"] = checks.flag(owner, "pass_cell", pass_cell)
        sizes["reverse"] = checks.flag(owner, "reverse", reverse)
        draw = Initializer(owner, rng, dtype, device)
        options = {"cell": cell, "layers": layers, "rng": draw.rng, "dtype": dtype}
        options["device"] = draw.device
        self.encoder = Encoder(V, D, H, reverse=reverse, **options)
        decoder = self.decoder_class(V, D, H, **options)
        names = [f"encoder_{name}" for name in self.encoder.param_names]
        super().__init__(self.encoder.layers[:], names, decoder, sizes)
        places = h_places(self.encoder.recurrent, cell)
        self._passed = range(len(self.encoder.state)) if pass_cell else places

    def _state(self, xs, train, lengths):
        self.encoder.forward(xs, train=train, lengths=lengths)
        return self._only_passed(self.encoder.state)

    def _only_passed(self, values):
        return tuple(value if k in self._passed else None for k, value in enumerate(values))

    def forward(self, xs, ts, train_flg=True, lengths=None):
        """Ids xs (N, T), ts (N, T of their own) -> mean cross entropy in nats of ts[:, 1:]."""
        return self._loss(self._state(xs, train_flg, lengths), ts, train_flg)

    def backward(self, dout=1):
        """Fill `grads`."""
        self.encoder.backward(*self._only_passed(self._loss_back(dout)))

    def generate(self, xs, start_id, sample_size, lengths=None):
        """xs (1, T) -> the most probable ids behind start_id, a list of sample_size."""
        return self._one(self.generate_batch(xs, start_id, sample_size, lengths))

    def generate_batch(self, xs, start_id, sample_size, lengths=None):
        """xs (N, T) -> ids (N, sample_size), as `generate` gives them for each row."""
        return self.decoder.generate(self._state(xs, False, lengths), start_id, sample_size)


class PeekySeq2seq(Seq2seq):
    """A Seq2seq whose decoder sees the encoder's last h at every step: see PeekyDecoder."""

    decoder_class = PeekyDecoder
