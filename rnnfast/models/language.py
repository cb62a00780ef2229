"""Language models as stacks of layers (chapters 5, 6 and 7).

LanguageModel is all of them; SimpleRnnlm, Rnnlm and BetterRnnlm are the book's, with its arguments.
"""

from contextlib import closing
from itertools import islice

import numpy as np

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.cells import RECURRENT, check_cell
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.embedding import TimeEmbedding
from rnnfast.layers.initial import Initializer
from rnnfast.layers.losses import TimeAffineSoftmaxWithLoss
from rnnfast.models.model import Model, chosen
from rnnfast.text import sampling


class BaseModel(Model):
    """Layers in a row, the last one affine, and its softmax loss.

    Training goes from the last but one layer straight to the loss, which computes the affine
    layer's scores and gradients itself: see losses.TimeAffineSoftmaxWithLoss.

    `drop_layers` has every dropout layer, in the order of `layers`, then those of `h_drops` and
    `Wh_drops`: one for each of recurrent_layers, which draws its h_mask or its Wh_mask in training
    (empty: there is none). Their `step` counts the masks drawn so far.
    """

    def __init__(self, layers, param_names, sizes, device, h_drops=(), Wh_drops=()):
        super().__init__(layers, param_names, sizes)
        self.loss_layer = TimeAffineSoftmaxWithLoss(layers[-1], device=device)
        self.recurrent_layers = [layer for layer in layers if hasattr(layer, "reset_state")]
        self.h_drops, self.Wh_drops = list(h_drops), list(Wh_drops)
        in_depth = [layer for layer in layers if isinstance(layer, TimeDropout)]
        self.drop_layers = in_depth + self.h_drops + self.Wh_drops

    @property
    def vocab_size(self):
        return self.layers[-1].params[0].shape[1]

    def predict(self, xs, train_flg=False):
        """Ids (N, T) -> scores (N, T, V). Keeps no activations unless `train_flg` is set.

        NumPy's where the ids are, wherever the weights are.
        """
        scores = self.layers[-1].forward(self._hidden(xs, train_flg), train=train_flg)
        return self._beside(xs, scores)

    def forward(self, xs, ts, train_flg=True):
        """Ids and targets (N, T) -> mean cross entropy in nats, a float (0-d on a GPU)."""
        return self.loss_layer.forward(self._hidden(xs, train_flg), ts, train=train_flg)

    def _hidden(self, xs, train_flg):
        """What the affine layer reads."""
        h_drops, Wh_drops = iter(self.h_drops), iter(self.Wh_drops)
        for layer in self.layers[:-1]:
            masks = {}
            if train_flg and layer in self.recurrent_layers:
                drop = next(h_drops, None)
                if drop is not None and drop.train_flg:
                    masks["h_mask"] = drop.draw(xs, (len(xs), layer.Wh.shape[0]))
                drop = next(Wh_drops, None)
                if drop is not None and drop.train_flg:
                    masks["Wh_mask"] = drop.draw(xs, layer.Wh.shape)
            xs = layer.forward(xs, train=train_flg, **masks)
        return xs

    def next_scores(self, xs):
        """Ids (N, T) -> scores (N, V), NumPy's, of what follows; goes on from the current state."""
        last = self._hidden(xs, False)[:, -1:]
        return to_numpy(self.layers[-1].forward(last, train=False)[:, 0])

    def backward(self, dout=1):
        """Fill `grads`. Needs the forward pass to have run with `train_flg`."""
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers[:-1]):
            dout = layer.backward(dout)
        return dout

    def reset_state(self):
        for layer in self.recurrent_layers:
            layer.reset_state()

    def get_state(self):
        """The state of every recurrent layer, a list of (h,) or (h, c); None where it is zero."""
        return [
            (layer.h, layer.c) if hasattr(layer, "c") else (layer.h,)
            for layer in self.recurrent_layers
        ]

    def set_state(self, states):
        """Take what get_state gave; ValueError unless it is a state for every recurrent layer."""
        if len(states) != len(self.recurrent_layers):
            count = len(self.recurrent_layers)
            raise ValueError(f"set_state: states must be one a layer, {count}, got {len(states)}")
        pairs = list(zip(self.recurrent_layers, states, strict=True))
        for layer, state in pairs:
            layer._adopted_states(*state)
        for layer, state in pairs:
            layer.set_state(*state)

    def generate(self, start_id, skip_ids=None, sample_size=100):
        """`sample_size` ids, the first of them start_id, the others drawn with np.random.

        Goes on from the model's current state, and leaves it where the last id but one took it.
        The book's method (chapter 7); sampling.generate and sampling.stream can do more.
        """
        count = sampling.check_size("generate", sample_size) - 1
        with closing(sampling.stream(self, [start_id], skip_ids=skip_ids)) as ids:
            return [int(start_id), *islice(ids, max(count, 0))]


class LanguageModel(BaseModel):
    """Embedding, `layers` recurrent layers of one kind, affine; ids (N, T) -> scores (N, T, V).

    cell: "rnn", "lstm" or "gru". dropout: the ratio of the elements dropped after the embedding,
    between the recurrent layers and before the affine layer, in training (Zaremba et al. 2014,
    https://arxiv.org/abs/1409.2329). variational_dropout: each of these masks is one for the whole
    sequence, and h gets one too before it meets Wh (Gal and Ghahramani 2016,
    https://arxiv.org/abs/1512.05287). weight_drop: the ratio of the elements of every Wh dropped in
    training, the same for a whole sequence (AWD-LSTM: Merity et al. 2017,
    https://arxiv.org/abs/1708.02182). tie_weights: the affine layer's W is the embedding's,
    transposed, which asks for hidden_size = wordvec_size (Press and Wolf 2016,
    https://arxiv.org/abs/1608.05859).

    Weights are normal, divided by 100 (embedding) or the square root of the rows, biases zero.
    They are drawn in the order of the layers, the book's, from np.random, or from `rng`, a seed or
    a Generator. Masks are Philox's (TimeDropout), keyed by a seed, the layer and the step: the seed
    is `rng` if that is one, else drawn from the same source after the weights. All arrays are
    `dtype`, float32 or float64. Wrong arguments are a TypeError or a ValueError.
    """

    def __init__(
        self,
        vocab_size,
        wordvec_size,
        hidden_size,
        *,
        cell="lstm",
        layers=1,
        dropout=0.0,
        variational_dropout=False,
        weight_drop=0.0,
        tie_weights=False,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        owner = type(self).__name__
        sizes = {
            "vocab_size": checks.count(owner, "vocab_size", vocab_size),
            "wordvec_size": checks.count(owner, "wordvec_size", wordvec_size),
            "hidden_size": checks.count(owner, "hidden_size", hidden_size),
            "cell": cell,
            "layers": checks.count(owner, "layers", layers),
            "dropout": checks.ratio(owner, "dropout", dropout),
            "variational_dropout": checks.flag(owner, "variational_dropout", variational_dropout),
            "weight_drop": checks.ratio(owner, "weight_drop", weight_drop),
            "tie_weights": checks.flag(owner, "tie_weights", tie_weights),
        }
        V, D, H, _, layers, dropout, variational, weight_drop, tied = sizes.values()
        check_cell(owner, cell)
        if tied and D != H:
            raise ValueError(f"{owner}: hidden_size must be wordvec_size = {D}, tied, got {H}")
        draw = Initializer(owner, rng, dtype, device)
        device = draw.device

        embed_W = draw.normal(V, D, 100)
        weights = [draw.recurrent(RECURRENT[cell].gates, d, H) for d in (D, *[H] * (layers - 1))]
        affine_W = embed_W.T if tied else draw.normal(H, V)

        stack = [TimeEmbedding(embed_W, device=device)]
        for w in weights:
            stack.append(RECURRENT[cell](*w, stateful=True, device=device))
        h_drops = Wh_drops = ()
        if dropout or weight_drop:  # else nothing more is drawn from np.random than the book draws
            seed = draw.seed()
        if dropout:
            drops = [
                TimeDropout(dropout, (seed, key), variational=variational, device=device)
                for key in range(2 * layers + 1)
            ]
            stack = [layer for pair in zip(stack, drops, strict=False) for layer in pair]
            h_drops = drops[layers + 1 :] if variational else ()
        if weight_drop:
            Wh_drops = [
                TimeDropout(weight_drop, (seed, 2 * layers + 1 + key), device=device)
                for key in range(layers)
            ]
        stack.append(TimeAffine(affine_W, draw.zeros(V), device=device))

        numbers = [""] if layers == 1 else range(1, layers + 1)
        names = [f"{cell}_{name}{k}" for k in numbers for name in ("Wx", "Wh", "b")]
        ends = [None if tied else "affine_W", "affine_b"]  # embed_W.T is in the file once
        names = ["embed_W", *names, *ends]
        super().__init__(stack, names, sizes, device, h_drops, Wh_drops)


class SimpleRnnlm(LanguageModel):
    """Embedding, one RNN, affine: the language model of chapter 5; `rnn_layer` is the RNN.

    See LanguageModel: the same seed of np.random draws the book's weights.
    """

    def __init__(
        self, vocab_size, wordvec_size, hidden_size, *, rng=None, dtype=np.float32, device=None
    ):
        sizes = vocab_size, wordvec_size, hidden_size
        super().__init__(*sizes, cell="rnn", rng=rng, dtype=dtype, device=device)
        self.rnn_layer = self.recurrent_layers[0]
        self.sizes = chosen(self.sizes, "vocab_size", "wordvec_size", "hidden_size")


class Rnnlm(LanguageModel):
    """Embedding, one LSTM, affine: the language model of chapter 6; `lstm_layer` is the LSTM.

    See LanguageModel: the same seed of np.random draws the book's weights.
    """

    def __init__(
        self,
        vocab_size=10000,
        wordvec_size=100,
        hidden_size=100,
        *,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        sizes = vocab_size, wordvec_size, hidden_size
        super().__init__(*sizes, cell="lstm", rng=rng, dtype=dtype, device=device)
        self.lstm_layer = self.recurrent_layers[0]
        self.sizes = chosen(self.sizes, "vocab_size", "wordvec_size", "hidden_size")


class BetterRnnlm(LanguageModel):
    """Embedding, two LSTM, affine with the embedding's weights; dropout between all of them.

    The second language model of chapter 6; `lstm_layers` are its LSTM. hidden_size has to be
    wordvec_size, since one array serves both ends. See LanguageModel: the same seed of np.random
    draws the book's weights, but the masks are not the book's.
    """

    def __init__(
        self,
        vocab_size=10000,
        wordvec_size=650,
        hidden_size=650,
        dropout_ratio=0.5,
        *,
        rng=None,
        dtype=np.float32,
        device=None,
    ):
        super().__init__(
            vocab_size,
            wordvec_size,
            hidden_size,
            cell="lstm",
            layers=2,
            dropout=checks.ratio(type(self).__name__, "dropout_ratio", dropout_ratio),
            tie_weights=True,
            rng=rng,
            dtype=dtype,
            device=device,
        )
        self.lstm_layers = self.recurrent_layers[:]
        ratio = self.sizes["dropout"]
        self.sizes = chosen(self.sizes, "vocab_size", "wordvec_size", "hidden_size")
        self.sizes["dropout_ratio"] = ratio
