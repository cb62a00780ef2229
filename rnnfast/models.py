"""Language models as stacks of layers (chapters 5 and 6)."""

import os

import numpy as np

from rnnfast import io, sampling
from rnnfast.layers import TimeAffine, TimeEmbedding
from rnnfast.losses import TimeSoftmaxWithLoss
from rnnfast.recurrent import TimeLSTM


class BaseModel:
    """Layers in a row and a loss at the end.

    `params` and `grads` list the layers' arrays in order, `param_names` their names in weight
    files, `sizes` the constructor's arguments that rebuild the model.
    """

    def __init__(self, layers, loss_layer, param_names, sizes):
        self.layers = layers
        self.loss_layer = loss_layer
        self.recurrent_layers = [layer for layer in layers if hasattr(layer, "reset_state")]
        self.params = [param for layer in layers for param in layer.params]
        self.grads = [grad for layer in layers for grad in layer.grads]
        self.param_names = param_names
        self.sizes = sizes

    def predict(self, xs, train_flg=False):
        """Ids (N, T) -> scores (N, T, V). Keeps no activations unless `train_flg` is set."""
        for layer in self.layers:
            xs = layer.forward(xs, train=train_flg)
        return xs

    def forward(self, xs, ts, train_flg=True):
        """Ids and targets (N, T) -> mean cross entropy in nats, a float."""
        return self.loss_layer.forward(self.predict(xs, train_flg), ts, train=train_flg)

    def backward(self, dout=1):
        """Fill `grads`. Needs the forward pass to have run with `train_flg`."""
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
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
        params = dict(zip(self.param_names, self.params, strict=True))
        weights = io.Weights(params, type(self).__name__, self.sizes, vocabulary)
        io.save_weights(file_name or self._default_file(), weights)

    def load_params(self, file_name=None):
        """Copy weights into `params`; ValueError, and nothing changed, if they do not fit."""
        file_name = file_name or self._default_file()
        params = dict(zip(self.param_names, self.params, strict=True))
        io.copy_into(params, io.load_weights(file_name).params, file_name)

    def _default_file(self):
        return type(self).__name__ + ".safetensors"


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

        def normal(rows, columns, divisor):
            return (rng.standard_normal((rows, columns)) / divisor).astype(dtype)

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
            loss_layer=TimeSoftmaxWithLoss(device=device),
            param_names=["embed_W", "lstm_Wx", "lstm_Wh", "lstm_b", "affine_W", "affine_b"],
            sizes={"vocab_size": V, "wordvec_size": D, "hidden_size": H},
        )


MODELS = {model.__name__: model for model in (Rnnlm,)}


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
    names = dict(zip(model.param_names, model.params, strict=True))
    io.copy_into(names, weights.params, os.fspath(file_name))
    if weights.vocabulary is not None and len(weights.vocabulary) != model.sizes["vocab_size"]:
        raise ValueError(f"{file_name}: the vocabulary does not have the model's size")
    return model, weights.vocabulary
