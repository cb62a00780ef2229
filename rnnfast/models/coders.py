"""The halves of a Seq2seq: an Encoder reads ids, a Decoder writes them. Chapter 7."""

import numpy as np

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.embedding import TimeEmbedding
from rnnfast.layers.initial import Initializer
from rnnfast.layers.stacks import TimeReverse, TimeStack
from rnnfast.models.building import coder_sizes, filled, h_places, recurrent_layers
from rnnfast.models.model import Model
from rnnfast.text import sampling


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
        sizes = coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        sizes["reverse"] = checks.flag(owner, "reverse", reverse)
        V, D, H, layers, *_ = sizes.values()
        draw = Initializer(owner, rng, dtype, device)
        self.embed = TimeEmbedding(draw.normal(V, D, 100), device=draw.device)
        made, names = recurrent_layers(draw, cell, D, H, layers)
        self.recurrent = TimeStack(map(TimeReverse, made) if reverse else made)
        self._last = h_places(self.recurrent, cell)[-1]
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
        self.embed.backward(self.recurrent.backward(None, *filled(dstate, self.recurrent)))


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
        sizes = coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell)
        V, D, H, layers, _ = sizes.values()
        peeked = H if self.peeky else 0
        draw = Initializer(owner, rng, dtype, device)
        self.embed = TimeEmbedding(draw.normal(V, D, 100), device=draw.device)
        made, names = recurrent_layers(draw, cell, peeked + D, H, layers, stateful=True)
        self.recurrent = TimeStack(made)
        W = draw.normal(peeked + H, V)
        self.affine = TimeAffine(W, draw.zeros(V), device=draw.device)
        self._last = h_places(self.recurrent, cell)[-1]
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
            found.append(to_numpy(ids))
            state = self.recurrent.state
        return np.concatenate(found, axis=1)

    def _hidden(self, xs, state, train, peeked=None):
        """What the affine layer reads. peeked: the state that a peeky decoder looks at."""
        self.recurrent.set_state(*filled(state, self.recurrent))
        xs = self.embed.forward(xs, train=train)
        if not self.peeky:
            return self.recurrent.forward(xs, train=train)
        h = filled(peeked or state, self.recurrent)[self._last]
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
