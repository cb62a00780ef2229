"""Language models as stacks of layers (chapters 5, 6 and 7).

LanguageModel is all of them; SimpleRnnlm, Rnnlm and BetterRnnlm are the book's, with its arguments.
"""

import os
import reprlib
from contextlib import closing
from itertools import islice

import numpy as np

from rnnfast import checks, io, kernels, sampling
from rnnfast.kernels import CELLS
from rnnfast.layers import TimeAffine, TimeDropout, TimeEmbedding
from rnnfast.losses import TimeAffineSoftmaxWithLoss
from rnnfast.recurrent import TimeGRU, TimeLSTM, TimeRNN

RECURRENT = {"rnn": TimeRNN, "lstm": TimeLSTM, "gru": TimeGRU}


class Model:
    """`params` and `grads` list the layers' arrays in order, `sizes` the constructor's arguments
    that rebuild the model. Copies and pickles keep what is tied: see __getstate__.
    """

    def __init__(self, layers, param_names, sizes):
        self.layers = layers
        self.params = [param for layer in layers for param in layer.params]
        self.grads = [grad for layer in layers for grad in layer.grads]
        self._names = param_names
        self.sizes = sizes

    @property
    def param_names(self):
        """The names of params in weight files; None for one that is another's view.

        One that was tied to another and is not any more has a name of its own: none is left out.
        """
        named = [param for name, param in zip(self._names, self.params, strict=True) if name]
        return [
            f"untied_{i}" if name is None and _whose(param, named) is None else name
            for i, (name, param) in enumerate(zip(self._names, self.params, strict=True))
        ]

    def __getstate__(self):
        """What is copied and pickled, with who is tied to whom: NumPy makes every view an array."""
        ties = {i: _whose(param, self.params[:i]) for i, param in enumerate(self.params)}
        return self.__dict__ | {"_ties": {i: tie for i, tie in ties.items() if tie is not None}}

    def __setstate__(self, state):
        ties = state.pop("_ties")
        self.__dict__.update(state)
        for i, (j, turned) in ties.items():
            view = self.params[j].T if turned else self.params[j]
            if checks.place(self.params[i]) != checks.place(view):
                self._put(i, view)

    def _put(self, i, array):
        """array in the place of params[i], in every layer that has it."""
        old = self.params[i]
        for params in (self.params, *(part.params for part in _all_parts(self.layers))):
            params[:] = [array if param is old else param for param in params]

    def save_params(self, file_name=None, vocabulary=None):
        """Write the weights, by default to `<Class>.safetensors`; see rnnfast.io."""
        weights = io.Weights(self._named_params(), type(self).__name__, self.sizes, vocabulary)
        io.save_weights(file_name or self._default_file(), weights)

    def load_params(self, file_name=None):
        """Copy weights into `params`; ValueError, and nothing changed, if they do not fit.

        The file may be one that the book's save_params pickled; see io.load_into.
        """
        io.load_into(file_name or self._default_file(), self.param_names, self.params)

    def _beside(self, xs, ys):
        """ys for whoever handed xs in: NumPy's, where xs is, else where the weights are."""
        return io.to_numpy(ys) if checks.is_numpy(xs) else ys

    def _named_params(self):
        named = zip(self.param_names, self.params, strict=True)
        return {name: param for name, param in named if name is not None}

    def _default_file(self):
        return type(self).__name__ + ".safetensors"


class Blank:
    """As rng: the matrices will be read from a file, which has `size` numbers.

    They are zeros until then, and seeds are as for rng=0. ValueError for many more than there are;
    for a few, whoever reads them names the array.
    """

    def __init__(self, size):
        self.size, self.left = size, max(size, 2**20)

    def take(self, count):
        self.left -= count
        if self.left < 0:
            raise ValueError(f"{self.size:,} numbers are too few")


def _whose(param, others):
    """(j, turned): param is others[j] itself, or turned its transpose, by memory; else None."""
    where, turned = checks.place(param), checks.place(param.T)
    for j, other in enumerate(map(checks.place, others)):
        if other in (where, turned):
            return j, other != where
    return None


def _all_parts(layers):
    """The layers, and all that they are made of."""
    for layer in layers:
        yield layer
        yield from _all_parts(getattr(layer, "parts", ()))


class Weights:
    """Draws the weights of a model's layers as the book does, in the order they are asked for.

    rng: a seed or a Generator, None for np.random. All arrays are `dtype`, float32 or float64, and
    lie where layers of `device` want them. `owner` names the model in errors.
    """

    def __init__(self, owner, rng, dtype, device):
        self.blank = rng if isinstance(rng, Blank) else None
        if self.blank:
            rng = 0
        self.dtype = np.dtype(dtype)
        if self.dtype not in checks.FLOATS:
            raise TypeError(f"{owner}: dtype must be float32 or float64, got {self.dtype}")
        self.source = sampling.generator(owner, rng)
        self.device = kernels.home(device)
        # for another one that is to go on from here
        self.rng = self.blank or (rng if rng is None else self.source)
        self._rng = rng

    def normal(self, rows, columns, divisor=None):
        """(rows, columns), normal, divided by the square root of the rows if by nothing else."""
        if self.blank:
            self.blank.take(rows * columns)
            return self.zeros((rows, columns))
        W = self.source.standard_normal((rows, columns))
        W = (W / (np.sqrt(rows) if divisor is None else divisor)).astype(self.dtype)
        return kernels.move(W, self.device)

    def zeros(self, size):
        return kernels.move(np.zeros(size, self.dtype), self.device)

    def recurrent(self, cell, D, H):
        """(Wx, Wh, b) of a layer that reads D numbers and has H units."""
        GH = RECURRENT[cell].gates * H
        return self.normal(D, GH), self.normal(H, GH), self.zeros(GH)

    def seed(self):
        """A seed for dropout: `rng` where that is one, else drawn as the weights are."""
        return sampling.seed(self._rng, self.source)


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
        return io.to_numpy(self.layers[-1].forward(last, train=False)[:, 0])

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
            "vocab_size": _size(owner, "vocab_size", vocab_size),
            "wordvec_size": _size(owner, "wordvec_size", wordvec_size),
            "hidden_size": _size(owner, "hidden_size", hidden_size),
            "cell": cell,
            "layers": _size(owner, "layers", layers),
            "dropout": checks.ratio(owner, "dropout", dropout),
            "variational_dropout": checks.flag(owner, "variational_dropout", variational_dropout),
            "weight_drop": checks.ratio(owner, "weight_drop", weight_drop),
            "tie_weights": checks.flag(owner, "tie_weights", tie_weights),
        }
        V, D, H, _, layers, dropout, variational, weight_drop, tied = sizes.values()
        check_cell(owner, cell)
        if tied and D != H:
            raise ValueError(f"{owner}: hidden_size must be wordvec_size = {D}, tied, got {H}")
        draw = Weights(owner, rng, dtype, device)
        device = draw.device

        embed_W = draw.normal(V, D, 100)
        weights = [draw.recurrent(cell, d, H) for d in (D, *[H] * (layers - 1))]
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
        self.sizes = _chosen(self.sizes, "vocab_size", "wordvec_size", "hidden_size")


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
        self.sizes = _chosen(self.sizes, "vocab_size", "wordvec_size", "hidden_size")


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
        self.sizes = _chosen(self.sizes, "vocab_size", "wordvec_size", "hidden_size")
        self.sizes["dropout_ratio"] = ratio


def check_cell(owner, cell):
    if not isinstance(cell, str) or cell not in CELLS:
        raise ValueError(f"{owner}: cell must be one of {CELLS}, got {cell!r}")


def _size(owner, name, value):
    value = checks.integer(owner, name, value)
    if value < 1:
        raise ValueError(f"{owner}: {name} must be from 1 up, got {value}")
    return value


def _chosen(sizes, *names):
    return {name: sizes[name] for name in names}


MODELS = {model.__name__: model for model in (LanguageModel, SimpleRnnlm, Rnnlm, BetterRnnlm)}


def load_model(file_name, device=None):
    """The model that a weight file describes, with its weights -> (model, vocabulary or None).

    It is one of this module or of rnnfast.sequences. OSError if the file cannot be read, ValueError
    if it is damaged or foreign; see rnnfast.io.
    """
    from rnnfast import sequences  # here: it imports this module

    models = MODELS | sequences.MODELS
    weights = io.load_weights(file_name)
    if weights.model not in models:
        known = ", ".join(models)
        raise ValueError(f"{file_name}: model {weights.model[:60]!r} is not known (known: {known})")
    dtypes = {array.dtype for array in weights.params.values()}
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ValueError(f"{file_name}: arrays must be all float32 or all float64, got {dtypes}")
    try:
        _check_sizes(weights)
        rng = Blank(sum(array.size for array in weights.params.values()))
        model = models[weights.model](**weights.sizes, rng=rng, dtype=dtypes.pop(), device=device)
    except (TypeError, ValueError, MemoryError) as error:
        raise ValueError(
            f"{file_name}: sizes {reprlib.repr(weights.sizes)} do not fit ({error})"
        ) from None
    io.copy_into(model._named_params(), weights.params, os.fspath(file_name))
    if weights.vocabulary is not None and len(weights.vocabulary) != model.sizes.get("vocab_size"):
        raise ValueError(f"{file_name}: the vocabulary does not have the model's size")
    return model, weights.vocabulary


def _check_sizes(weights):
    """ValueError before a damaged header makes more layers than the file has arrays for."""
    layers, there = weights.sizes.get("layers", 1), len(weights.params)
    if type(layers) is int and 3 * layers > there:  # each has Wx, Wh and b
        raise ValueError(f"{there} arrays are too few")
