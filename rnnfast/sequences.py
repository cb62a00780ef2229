"""Models that read a sequence, write one, or both (chapter 7).

    SequenceClassifier     many to one: real vectors -> a class
    VectorToSequence       one to many: a real vector -> ids
    SequenceTagger         many to many: ids -> a tag for each of them
    SequenceRegressor      many to many: real vectors -> numbers for each of them
    Seq2seq, PeekySeq2seq  many to many, of another length: ids -> ids, the book's

forward(xs, ts) gives the loss, backward() fills `grads`; with `params` that is what trainer.Trainer
asks of a model. Every forward starts from a zero state. Arguments that models have in common:

    cell           "rnn", "lstm" (as if nothing is said) or "gru"
    layers         how many of them are on top of each other; 1
    bidirectional  whether they read the sequence from both ends
    dropout        the ratio dropped of what each layer gives, in training; 0
    rng            a seed or Generator for weights and masks; None draws from np.random
    dtype, device  float32 or float64; as in models.LanguageModel

lengths (N,), integers: how many steps of each sample of xs count. What stands behind them is
padding, any number or id of the vocabulary: it changes neither loss nor gradients nor what is
generated.

Arrays may be NumPy's wherever the weights are: what `predict` and `generate` give is then, too.
Weights are drawn as in models.LanguageModel. N batch, T time, D input, H hidden, V vocabulary;
wrong arguments are a TypeError or a ValueError.
"""

import numpy as np

from rnnfast import checks, io, sampling
from rnnfast.layers import Affine, TimeAffine, TimeDropout, TimeEmbedding
from rnnfast.losses import (
    SoftmaxWithLoss,
    TimeAffineSoftmaxWithLoss,
    TimeSoftmaxWithLoss,
    TimeSquaredLoss,
)
from rnnfast.models import RECURRENT, Model, Weights, _size, check_cell
from rnnfast.recurrent import checked_lengths
from rnnfast.stacks import TimeBiGRU, TimeBiLSTM, TimeBiRNN, TimeReverse, TimeStack

BIDIRECTIONAL = {"rnn": TimeBiRNN, "lstm": TimeBiLSTM, "gru": TimeBiGRU}


def _recurrent_layers(draw, cell, D, H, layers, *, bidirectional=False, stateful=False):
    """The layers of a stack that reads D numbers, and the names of their weights."""
    kind = (BIDIRECTIONAL if bidirectional else RECURRENT)[cell]
    directions = ("forward_", "backward_") if bidirectional else ("",)
    made, names = [], []
    for k in range(1, layers + 1):
        weights = [W for _ in directions for W in draw.recurrent(cell, D, H)]
        made.append(kind(*weights, stateful=stateful, device=draw.device))
        D = H * len(directions)
        number = "" if layers == 1 else k
        for direction in directions:
            names += [f"{direction}{cell}_{name}{number}" for name in ("Wx", "Wh", "b")]
    return made, names


def _h_places(stack, cell):
    """Where the h are in the state of a stack; the last ones are the last layer's."""
    return range(0, len(stack.state), len(RECURRENT[cell].states))


def _sizes(owner, cell, sizes):
    sizes = {name: _size(owner, name, value) for name, value in sizes.items()}
    check_cell(owner, cell)
    return sizes | {"cell": cell}


# Models that read


class _Reader(Model):
    """Recurrent layers, under them an embedding where ids are read, on top an affine layer."""

    affine_layer = TimeAffine

    def __init__(
        self,
        sizes,
        outputs,
        loss_layer,
        *,
        cell="lstm",
        layers=1,
        bidirectional=False,
        dropout=0.0,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        owner = type(self).__name__
        sizes = _sizes(owner, cell, {**sizes, "layers": layers})
        sizes["bidirectional"] = checks.flag(owner, "bidirectional", bidirectional)
        sizes["dropout"] = checks.ratio(owner, "dropout", dropout)
        H, layers = sizes["hidden_size"], sizes["layers"]
        directions = 2 if bidirectional else 1
        draw = Weights(owner, rng, dtype, device)

        self.embed = None
        names = []
        if "vocab_size" in sizes:
            D = sizes["wordvec_size"]
            self.embed = TimeEmbedding(draw.normal(sizes["vocab_size"], D, 100), device=draw.device)
            names.append("embed_W")
        else:
            D = sizes["input_size"]
        made, more = _recurrent_layers(draw, cell, D, H, layers, bidirectional=bidirectional)
        W = draw.normal(H * directions, sizes[outputs])
        self.affine = self.affine_layer(W, draw.zeros(sizes[outputs]), device=draw.device)
        seed = draw.seed() if dropout else None
        self.recurrent = TimeStack(made, dropout, rng=seed)
        self.drop_layers = self.recurrent.drop_layers[:]
        if dropout:
            self.drop_layers.append(TimeDropout(dropout, (seed, layers - 1)))
        self.loss_layer = loss_layer(device=draw.device)
        self._last = list(_h_places(self.recurrent, cell))[-directions:]

        parts = [self.embed, self.recurrent, self.affine]
        names += [*more, "affine_W", "affine_b"]
        super().__init__([layer for layer in parts if layer is not None], names, sizes)

    def _read(self, xs, train, lengths):
        """-> hs of the last layer; the state has been left in `recurrent`."""
        if self.embed is not None:
            xs = self.embed.forward(xs, train=train)
        return self.recurrent.forward(xs, train=train, lengths=lengths)

    def _read_back(self, dhs, *dstate):
        dxs = self.recurrent.backward(dhs, *dstate)
        return dxs if self.embed is None else self.embed.backward(dxs)

    def _drop(self, hs, train):
        return self.drop_layers[-1].forward(hs, train=train) if self.drop_layers else hs

    def _drop_back(self, dhs):
        used = self.drop_layers and self.drop_layers[-1].train_flg
        return self.drop_layers[-1].backward(dhs) if used else dhs


class SequenceClassifier(_Reader):
    """Recurrent layers, whose final state an affine layer reads: xs (N, T, D) -> a class of each.

    Of two directions it reads both final states. options: see rnnfast.sequences.
    """

    affine_layer = Affine

    def __init__(self, input_size, hidden_size, classes, **options):
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "classes": classes}
        super().__init__(sizes, "classes", SoftmaxWithLoss, **options)

    def predict(self, xs, train_flg=False, lengths=None):
        """xs (N, T, D) -> scores (N, classes). Keeps nothing unless `train_flg` is set."""
        return self._beside(xs, self._scores(xs, train_flg, lengths))

    def _scores(self, xs, train_flg, lengths):
        self._read(xs, train_flg, lengths)
        final = [self.recurrent.state[place] for place in self._last]
        h = checks.namespace(final[0]).concatenate(final, axis=1)
        return self.affine.forward(self._drop(h, train_flg), train=train_flg)

    def forward(self, xs, ts, train_flg=True, lengths=None):
        """xs (N, T, D), ts (N,) classes -> mean cross entropy in nats."""
        return self.loss_layer.forward(self._scores(xs, train_flg, lengths), ts, train=train_flg)

    def backward(self, dout=1):
        """Fill `grads` -> dxs (N, T, D)."""
        dh = self._drop_back(self.affine.backward(self.loss_layer.backward(dout)))
        dstate = [None] * len(self.recurrent.state)
        parts = checks.namespace(dh).split(dh, len(self._last), axis=1)
        for place, part in zip(self._last, parts, strict=True):
            dstate[place] = part
        return self._read_back(None, *dstate)


class _StepReader(_Reader):
    """One output for every step."""

    _real = None  # (N, T), True where a step is no padding; None: everywhere

    def predict(self, xs, train_flg=False, lengths=None):
        """xs -> (N, T, outputs); behind `lengths` it says nothing. Keeps nothing for backward."""
        hs = self._drop(self._read(xs, train_flg, lengths), train_flg)
        return self._beside(xs, self.affine.forward(hs, train=train_flg))

    def forward(self, xs, ts, train_flg=True, lengths=None):
        """xs and its targets ts -> the loss, the mean over all steps that are no padding."""
        owner = type(self).__name__
        hs = self._drop(self._read(xs, train_flg, lengths), train_flg)
        N, T, _ = hs.shape
        ts = checks.real(owner, "ts", ts)
        if ts.shape[:2] != (N, T):
            raise checks.shape_error(owner, "ts", f"(N, T, ...) = ({N}, {T}, ...)", ts)
        if lengths is not None:
            lengths = checked_lengths(owner, lengths, N, T)
        ts, self._real = checks.beside(hs, ts), None
        if lengths is not None:  # the affine layer and the loss see the real steps alone, in a row
            real = checks.beside(hs, np.arange(T) < lengths[:, np.newaxis])
            hs, ts, self._real = hs[real][np.newaxis], ts[real][np.newaxis], real
        ys = self.affine.forward(hs, train=train_flg)
        return self.loss_layer.forward(ys, ts, train=train_flg)

    def backward(self, dout=1):
        """Fill `grads` -> dxs (N, T, D), None where ids were read."""
        dhs = self.affine.backward(self.loss_layer.backward(dout))
        if self._real is not None:
            whole = checks.namespace(dhs).zeros((*self._real.shape, dhs.shape[2]), dhs.dtype)
            whole[self._real] = dhs[0]
            dhs = whole
        return self._read_back(self._drop_back(dhs))


class SequenceTagger(_StepReader):
    """Embedding, recurrent layers of both directions, affine: ids (N, T) -> a tag of each.

    forward takes tags ts (N, T). One that is loss_layer.ignore_label, -1, is not learned.
    options: see rnnfast.sequences.
    """

    def __init__(
        self, vocab_size, wordvec_size, hidden_size, tags, *, bidirectional=True, **options
    ):
        sizes = {
            "vocab_size": vocab_size,
            "wordvec_size": wordvec_size,
            "hidden_size": hidden_size,
            "tags": tags,
        }
        options["bidirectional"] = bidirectional
        super().__init__(sizes, "tags", TimeSoftmaxWithLoss, **options)


class SequenceRegressor(_StepReader):
    """Recurrent layers, affine: xs (N, T, D) -> numbers (N, T, output_size), TimeSquaredLoss.

    To forecast a series is to have ts[:, t] = xs[:, t + 1]. options: see rnnfast.sequences.
    """

    def __init__(self, input_size, hidden_size, output_size=1, **options):
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
        super().__init__(sizes, "output_size", TimeSquaredLoss, **options)


# Models that write


class Encoder(Model):
    """Embedding and recurrent layers: ids (N, T) -> the state they end in.

    reverse: the ids of each sample are read from the last one to the first.
    """

    def __init__(
        self,
        vocab_size,
        wordvec_size,
        hidden_size,
        *,
        cell="lstm",
        layers=1,
        reverse=False,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        owner = type(self).__name__
        sizes = _coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        sizes["reverse"] = checks.flag(owner, "reverse", reverse)
        V, D, H, layers, *_ = sizes.values()
        draw = Weights(owner, rng, dtype, device)
        self.embed = TimeEmbedding(draw.normal(V, D, 100), device=draw.device)
        made, names = _recurrent_layers(draw, cell, D, H, layers)
        self.recurrent = TimeStack(map(TimeReverse, made) if reverse else made)
        self._last = _h_places(self.recurrent, cell)[-1]
        super().__init__([self.embed, self.recurrent], ["embed_W", *names], sizes)

    @property
    def state(self):
        """The final states of the layers, as set_state of a TimeStack takes them."""
        return self.recurrent.state

    def forward(self, xs, *, train=True, lengths=None):
        """xs (N, T) -> h (N, H) of the last layer; `state` has all there is."""
        self.recurrent.forward(self.embed.forward(xs, train=train), train=train, lengths=lengths)
        return self.state[self._last]

    def backward(self, *dstate):
        """dstate: the gradients of `state` in its order; those left out are zero."""
        self.embed.backward(self.recurrent.backward(None, *_filled(dstate, self.recurrent)))


class Decoder(Model):
    """Embedding, recurrent layers that start from a given state, affine."""

    peeky = False

    def __init__(
        self,
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
        sizes = _coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        V, D, H, layers, _ = sizes.values()
        peeked = H if self.peeky else 0
        draw = Weights(owner, rng, dtype, device)
        self.embed = TimeEmbedding(draw.normal(V, D, 100), device=draw.device)
        made, names = _recurrent_layers(draw, cell, peeked + D, H, layers, stateful=True)
        self.recurrent = TimeStack(made)
        W = draw.normal(peeked + H, V)
        self.affine = TimeAffine(W, draw.zeros(V), device=draw.device)
        self._last = _h_places(self.recurrent, cell)[-1]
        names = ["embed_W", *names, "affine_W", "affine_b"]
        super().__init__([self.embed, self.recurrent, self.affine], names, sizes)

    def forward(self, xs, *state, train=True):
        """Ids xs (N, T) -> scores (N, T, V). state: h (N, H), or that of all layers, in order."""
        return self.affine.forward(self._hidden(xs, state, train), train=train)

    def backward(self, dscore):
        """dscore (N, T, V) -> dh (N, H), the gradient of the first h; `dstate` has all there is."""
        self._hidden_back(self.affine.backward(dscore))
        return self.dstate[0]

    def generate(self, state, start_id, sample_size):
        """The most probable ids (N, sample_size) behind start_id, each of which is then read.

        state: a tuple, as `forward` takes it. The result is a NumPy array of int64.
        """
        owner, V = type(self).__name__, self.sizes["vocab_size"]
        start_id = checks.integer(owner, "start_id", start_id)
        if not 0 <= start_id < V:
            raise ValueError(f"{owner}: start_id must be in [0, {V}), got {start_id}")
        ids = np.full((len(state[0]), 1), start_id)
        found = [np.empty((len(ids), 0), np.int64)]
        first = state
        for _ in range(sampling.check_size(owner, sample_size)):
            hs = self._hidden(ids, state, False, peeked=first)
            ids = self.affine.forward(hs, train=False).argmax(axis=2)
            found.append(io.to_numpy(ids))
            state = self.recurrent.state
        return np.concatenate(found, axis=1)

    def _hidden(self, xs, state, train, peeked=None):
        """What the affine layer reads. peeked: the state that a peeky decoder looks at."""
        self.recurrent.set_state(*_filled(state, self.recurrent))
        xs = self.embed.forward(xs, train=train)
        if not self.peeky:
            return self.recurrent.forward(xs, train=train)
        h = _filled(peeked or state, self.recurrent)[self._last]
        if h is None:
            raise ValueError(f"{type(self).__name__}: state must have the last layer's h, got None")
        xp = checks.namespace(xs)
        hs = xp.broadcast_to(h[:, np.newaxis], (*xs.shape[:2], h.shape[1]))
        above = self.recurrent.forward(xp.concatenate((hs, xs), axis=2), train=train)
        return xp.concatenate((hs, above), axis=2)

    def _hidden_back(self, dhs):
        H = self.sizes["hidden_size"] if self.peeky else 0
        dxs = self.recurrent.backward(dhs[:, :, H:])
        self.embed.backward(dxs[:, :, H:])
        dstate = list(self.recurrent.dstate)
        if self.peeky:
            dstate[self._last] = (
                dstate[self._last] + dhs[:, :, :H].sum(axis=1) + dxs[:, :, :H].sum(axis=1)
            )
        self.dstate = tuple(dstate)


class PeekyDecoder(Decoder):
    """A Decoder whose recurrent and affine layers see the first h at every step, beside the rest.

    Of several layers it is the last one's h. (Cho et al. 2014, https://arxiv.org/abs/1406.1078)
    """

    peeky = True


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
        sizes = {"input_size": _size(owner, "input_size", input_size)}
        sizes |= _coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        D, V, M, H, layers, _ = sizes.values()
        draw = Weights(owner, rng, dtype, device)
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
        sizes = _coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        V, D, H, layers, _ = sizes.values()
        sizes["pass_cell"] = checks.flag(owner, "pass_cell", pass_cell)
        sizes["reverse"] = checks.flag(owner, "reverse", reverse)
        draw = Weights(owner, rng, dtype, device)
        options = {"cell": cell, "layers": layers, "rng": draw.rng, "dtype": dtype}
        options["device"] = draw.device
        self.encoder = Encoder(V, D, H, reverse=reverse, **options)
        decoder = self.decoder_class(V, D, H, **options)
        names = [f"encoder_{name}" for name in self.encoder.param_names]
        super().__init__(self.encoder.layers[:], names, decoder, sizes)
        places = _h_places(self.encoder.recurrent, cell)
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


def _coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell):
    sizes = {
        "vocab_size": vocab_size,
        "wordvec_size": wordvec_size,
        "hidden_size": hidden_size,
        "layers": layers,
    }
    return _sizes(owner, cell, sizes)


def _filled(state, stack):
    """state with None, zeros, for what is not given."""
    return (*state, *[None] * (len(stack.state) - len(state)))


MODELS = {
    model.__name__: model
    for model in (
        SequenceClassifier,
        VectorToSequence,
        SequenceTagger,
        SequenceRegressor,
        Seq2seq,
        PeekySeq2seq,
    )
}
