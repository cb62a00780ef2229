"""Language models as stacks of layers (chapters 5 and 6)."""

import os

import numpy as np

from rnnfast import io, sampling
from rnnfast.layers import TimeAffine, TimeDropout, TimeEmbedding
from rnnfast.losses import TimeAffineSoftmaxWithLoss
from rnnfast.recurrent import TimeLSTM


class BaseModel:
    """Layers in a row, the last one affine, and its softmax loss.

    `params` and `grads` list the layers' arrays in order, `param_names` their names in weight
    files (None for one that is another's view), `sizes` the constructor's arguments that rebuild
    the model. Training goes from the last but one layer straight to the loss, which computes the
    affine layer's scores and gradients itself: see losses.TimeAffineSoftmaxWithLoss.
    """

    def __init__(self, layers, param_names, sizes, device):
        self.layers = layers
        self.loss_layer = TimeAffineSoftmaxWithLoss(layers[-1], device=device)
        self.recurrent_layers = [layer for layer in layers if hasattr(layer, "reset_state")]
        self.params = [param for layer in layers for param in layer.params]
        self.grads = [grad for layer in layers for grad in layer.grads]
        self.param_names = param_names
        self.sizes = sizes

    def predict(self, xs, train_flg=False):
        """Ids (N, T) -> scores (N, T, V). Keeps no activations unless `train_flg` is set."""
        return self.layers[-1].forward(self._hidden(xs, train_flg), train=train_flg)

    def forward(self, xs, ts, train_flg=True):
        """Ids and targets (N, T) -> mean cross entropy in nats, a float."""
        return self.loss_layer.forward(self._hidden(xs, train_flg), ts, train=train_flg)

    def _hidden(self, xs, train_flg):
        """What the affine layer reads."""
        for layer in self.layers[:-1]:
            xs = layer.forward(xs, train=train_flg)
        return xs

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
        for layer, state in zip(self.recurrent_layers, states, strict=True):
            layer.set_state(*state)

    def generate(self, start_id, skip_ids=None, sample_size=100):
        """`sample_size` ids from `start_id` on, drawn with np.random (chapter 7).

        Goes on from the model's current state, and leaves it where the last id took it.
        """
        ids = sampling.stream(self, [start_id], skip_ids=skip_ids)
        return [start_id, *(next(ids) for _ in range(sample_size - 1))]

    def save_params(self, file_name=None, vocabulary=None):
        """Write the weights, by default to `<Class>.safetensors`; see rnnfast.io."""
        weights = io.Weights(self._named_params(), type(self).__name__, self.sizes, vocabulary)
        io.save_weights(file_name or self._default_file(), weights)

    def load_params(self, file_name=None):
        """Copy weights into `params`; ValueError, and nothing changed, if they do not fit.

        The file may be one that the book's save_params pickled; see io.load_into.
        """
        io.load_into(file_name or self._default_file(), self.param_names, self.params)

    def _named_params(self):
        named = zip(self.param_names, self.params, strict=True)
        return {name: param for name, param in named if name is not None}

    def _default_file(self):
        return type(self).__name__ + ".safetensors"


def _normal(rng, dtype):
    """normal(rows, columns, divisor): weights drawn as the book draws them, as dtype."""

    def normal(rows, columns, divisor):
        return (rng.standard_normal((rows, columns)) / divisor).astype(dtype)

    return normal


class Rnnlm(BaseModel):
    """Embedding, one LSTM, affine: the language model of chapter 6.

    Drawn in the book's order from np.random, or from `rng` (a seed or a Generator), so that the
    same seed makes the same weights. All arrays are `dtype`, float32 or float64.
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
        V, D, H = vocab_size, wordvec_size, hidden_size
        rng = np.random if rng is None else np.random.default_rng(rng)
        normal = _normal(rng, dtype)

        embed_W = normal(V, D, 100)
        lstm_Wx = normal(D, 4 * H, np.sqrt(D))
        lstm_Wh = normal(H, 4 * H, np.sqrt(H))
        lstm_b = np.zeros(4 * H, dtype)
        affine_W = normal(H, V, np.sqrt(H))
        affine_b = np.zeros(V, dtype)

        self.lstm_layer = TimeLSTM(lstm_Wx, lstm_Wh, lstm_b, stateful=True, device=device)
        super().__init__(
            layers=[
                TimeEmbedding(embed_W, device=device),
                self.lstm_layer,
                TimeAffine(affine_W, affine_b, device=device),
            ],
            param_names=["embed_W", "lstm_Wx", "lstm_Wh", "lstm_b", "affine_W", "affine_b"],
            sizes={"vocab_size": V, "wordvec_size": D, "hidden_size": H},
            device=device,
        )


class BetterRnnlm(BaseModel):
    """Embedding, two LSTM, affine with the embedding's weights; dropout between all of them.

    The second language model of chapter 6 (Zaremba et al. 2014, https://arxiv.org/abs/1409.2329;
    tied weights: Press and Wolf 2016, https://arxiv.org/abs/1608.05859). hidden_size has to be
    wordvec_size, since one array serves both ends. Weights are drawn as for Rnnlm. With a seed as
    `rng` the dropout masks are reproducible too (TimeDropout); otherwise np.random draws them.
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
        V, D, H = vocab_size, wordvec_size, hidden_size
        if D != H:
            raise ValueError(f"BetterRnnlm: hidden_size must be wordvec_size = {D}, got {H}")
        seed = rng if isinstance(rng, (int, np.integer)) else None
        rng = np.random if rng is None else np.random.default_rng(rng)
        normal = _normal(rng, dtype)

        embed_W = normal(V, D, 100)
        lstm_weights = [
            (normal(H, 4 * H, np.sqrt(H)), normal(H, 4 * H, np.sqrt(H)), np.zeros(4 * H, dtype))
            for _ in range(2)
        ]
        if seed is None and rng is not np.random:
            seed = int(rng.integers(2**63))  # a Generator seeds the masks too
        self.lstm_layers = [TimeLSTM(*w, stateful=True, device=device) for w in lstm_weights]
        self.drop_layers = [
            TimeDropout(dropout_ratio, None if seed is None else (seed, layer), device=device)
            for layer in range(3)
        ]
        super().__init__(
            layers=[
                TimeEmbedding(embed_W, device=device),
                self.drop_layers[0],
                self.lstm_layers[0],
                self.drop_layers[1],
                self.lstm_layers[1],
                self.drop_layers[2],
                TimeAffine(embed_W.T, np.zeros(V, dtype), device=device),
            ],
            param_names=[
                "embed_W",
                *(f"lstm_{name}{i}" for i in (1, 2) for name in ("Wx", "Wh", "b")),
                None,  # embed_W.T
                "affine_b",
            ],
            sizes={
                "vocab_size": V,
                "wordvec_size": D,
                "hidden_size": H,
                "dropout_ratio": dropout_ratio,
            },
            device=device,
        )


MODELS = {model.__name__: model for model in (Rnnlm, BetterRnnlm)}


def load_model(file_name, device=None):
    """The model that a weight file describes, with its weights -> (model, vocabulary or None).

    OSError if the file cannot be read, ValueError if it is damaged or foreign; see rnnfast.io.
    """
    weights = io.load_weights(file_name)
    if weights.model not in MODELS:
        known = ", ".join(MODELS)
        raise ValueError(f"{file_name}: model {weights.model!r} is not known (known: {known})")
    dtypes = {array.dtype for array in weights.params.values()}
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ValueError(f"{file_name}: arrays must be all float32 or all float64, got {dtypes}")
    try:
        model = MODELS[weights.model](**weights.sizes, rng=0, dtype=dtypes.pop(), device=device)
    except (TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"{file_name}: sizes {weights.sizes} do not fit ({error})") from None
    io.copy_into(model._named_params(), weights.params, os.fspath(file_name))
    if weights.vocabulary is not None and len(weights.vocabulary) != model.sizes["vocab_size"]:
        raise ValueError(f"{file_name}: the vocabulary does not have the model's size")
    return model, weights.vocabulary
