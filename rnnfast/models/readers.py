"""Models that read a sequence: SequenceClassifier, SequenceTagger, SequenceRegressor.

rnnfast.sequences says what their arguments have in common.
"""

import numpy as np

from rnnfast import checks
from rnnfast.layers.affine import Affine, TimeAffine
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.embedding import TimeEmbedding
from rnnfast.layers.initial import Initializer
from rnnfast.layers.losses import SoftmaxWithLoss, TimeSoftmaxWithLoss, TimeSquaredLoss
from rnnfast.layers.recurrent import checked_lengths
from rnnfast.layers.stacks import TimeStack
from rnnfast.models.building import checked_sizes, h_places, recurrent_layers
from rnnfast.models.model import Model


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
        sizes = checked_sizes(owner, cell, {**sizes, "layers": layers})
        sizes["bidirectional"] = checks.flag(owner, "bidirectional", bidirectional)
        sizes["dropout"] = checks.ratio(owner, "dropout", dropout)
        H, layers = sizes["hidden_size"], sizes["layers"]
        directions = 2 if bidirectional else 1
        draw = Initializer(owner, rng, dtype, device)

        self.embed = None
        names = []
        if "vocab_size" in sizes:
            D = sizes["wordvec_size"]
            self.embed = TimeEmbedding(draw.normal(sizes["vocab_size"], D, 100), device=draw.device)
            names.append("embed_W")
        else:
            D = sizes["input_size"]
        made, more = recurrent_layers(draw, cell, D, H, layers, bidirectional=bidirectional)
        W = draw.normal(H * directions, sizes[outputs])
        self.affine = self.affine_layer(W, draw.zeros(sizes[outputs]), device=draw.device)
        seed = draw.seed() if dropout else None
        self.recurrent = TimeStack(made, dropout, rng=seed)
        self.drop_layers = self.recurrent.drop_layers[:]
        if dropout:
            self.drop_layers.append(TimeDropout(dropout, (seed, layers - 1)))
        self.loss_layer = loss_layer(device=draw.device)
        self._last = list(h_places(self.recurrent, cell))[-directions:]

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
