"""A script of the book changes one import, and its numbers stay the same.

The models below are those of chapters 5 to 8, written as such scripts are. Each is built twice
from the same weights, with `L` the layers of naive.py and with rnnfast.time_layers, and trained
by the same steps; losses and every gradient have to agree all along.
"""

import naive
import numpy as np
import pytest
from cases import assert_close

import rnnfast
from rnnfast import time_layers

V, D, H, N, T = 13, 7, 7, 4, 6
# between two ways to sum the same numbers, over ten updates
TOLERANCE = {"f4": 1e-5, "f8": 1e-11}


pytestmark = pytest.mark.usefixtures("device")


class Weights:
    """Random arrays at the book's scale, the same ones in every model made from this seed."""

    def __init__(self, dtype):
        self.rng, self.dtype = np.random.default_rng(4), dtype

    def __call__(self, *shape):
        scale = np.sqrt(shape[0]) if len(shape) == 2 else 5
        return (self.rng.normal(size=shape) / scale).astype(self.dtype)

    def cell(self, gates, inputs=D):
        return self(inputs, gates * H), self(H, gates * H), self(gates * H)


class LanguageModel:
    """Layers in a row: chapters 5 and 6."""

    def __init__(self, L, layers):
        self.layers, self.loss_layer = layers, L.TimeSoftmaxWithLoss()
        self.params = [p for layer in layers for p in layer.params]
        self.grads = [g for layer in layers for g in layer.grads]

    def forward(self, xs, ts, train_flg=True):
        for layer in self.layers:
            layer.train_flg = train_flg
            xs = layer.forward(xs)
        return self.loss_layer.forward(xs, ts)

    def backward(self):
        dout = self.loss_layer.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)


def simple_rnnlm(L, w):
    rnn = L.TimeRNN(*w.cell(1), stateful=True)
    return LanguageModel(L, [L.TimeEmbedding(w(V, D)), rnn, L.TimeAffine(w(H, V), w(V))])


def rnnlm(L, w):
    lstm = L.TimeLSTM(*w.cell(4), stateful=True)
    return LanguageModel(L, [L.TimeEmbedding(w(V, D)), lstm, L.TimeAffine(w(H, V), w(V))])


def gru_rnnlm(L, w):
    gru = L.TimeGRU(*w.cell(3), stateful=True)
    return LanguageModel(L, [L.TimeEmbedding(w(V, D)), gru, L.TimeAffine(w(H, V), w(V))])


def better_rnnlm(L, w):
    """Chapter 6: two LSTM, dropout between all layers, the embedding's weights used twice."""
    embed_W = w(V, D)
    layers = [
        L.TimeEmbedding(embed_W),
        L.TimeDropout(0.4),
        L.TimeLSTM(*w.cell(4), stateful=True),
        L.TimeDropout(0.4),
        L.TimeLSTM(*w.cell(4), stateful=True),
        L.TimeDropout(0.4),
        L.TimeAffine(embed_W.T, w(V)),
    ]
    return LanguageModel(L, layers)


class Seq2seq:
    """Chapter 7: the encoder's last h starts the decoder."""

    decoder_input, decoder_output = D, H

    def __init__(self, L, w):
        self.encoder = [L.TimeEmbedding(w(V, D)), L.TimeLSTM(*w.cell(4), stateful=False)]
        self.decoder = [
            L.TimeEmbedding(w(V, D)),
            L.TimeLSTM(*w.cell(4, self.decoder_input), stateful=True),
            L.TimeAffine(w(self.decoder_output, V), w(V)),
        ]
        self.softmax, self.L = L.TimeSoftmaxWithLoss(), L
        layers = self.encoder + self.decoder
        self.params = [p for layer in layers for p in layer.params]
        self.grads = [g for layer in layers for g in layer.grads]

    def forward(self, xs, ts):
        embed, lstm = self.encoder
        self.hs = lstm.forward(embed.forward(xs))
        score = self.decode(ts[:, :-1], self.hs[:, -1])
        return self.softmax.forward(score, ts[:, 1:])

    def backward(self):
        dhs = np.zeros_like(self.hs)
        self.decode_back(self.softmax.backward(), dhs)
        embed, lstm = self.encoder
        embed.backward(lstm.backward(dhs))

    def decode(self, xs, h):
        embed, lstm, affine = self.decoder
        lstm.set_state(h)
        return affine.forward(lstm.forward(embed.forward(xs)))

    def decode_back(self, dscore, dhs):
        embed, lstm, affine = self.decoder
        embed.backward(lstm.backward(affine.backward(dscore)))
        dhs[:, -1] += lstm.dh


class PeekySeq2seq(Seq2seq):
    """The decoder's LSTM and affine layers see the encoder's last h at every step."""

    decoder_input, decoder_output = H + D, H + H

    def decode(self, xs, h):
        embed, lstm, affine = self.decoder
        lstm.set_state(h)
        peek = np.repeat(h[:, np.newaxis], xs.shape[1], axis=1)
        out = lstm.forward(np.concatenate((peek, embed.forward(xs)), axis=2))
        return affine.forward(np.concatenate((peek, out), axis=2))

    def decode_back(self, dscore, dhs):
        embed, lstm, affine = self.decoder
        dout = affine.backward(dscore)
        dxs = lstm.backward(dout[:, :, H:])
        embed.backward(dxs[:, :, H:])
        dhs[:, -1] += lstm.dh + (dout[:, :, :H] + dxs[:, :, :H]).sum(axis=1)


class AttentionSeq2seq(Seq2seq):
    """Chapter 8: each step of the decoder weights all the encoder's hs by their products."""

    decoder_output = 2 * H

    def decode(self, xs, h):
        embed, lstm, affine = self.decoder
        lstm.set_state(h)
        out = lstm.forward(embed.forward(xs))
        self.attention, context = [], []
        for t in range(out.shape[1]):
            softmax = self.L.Softmax()
            a = softmax.forward(np.einsum("nth,nh->nt", self.hs, out[:, t]))
            context.append(np.einsum("nt,nth->nh", a, self.hs))
            self.attention.append((softmax, a, out[:, t].copy()))
        return affine.forward(np.concatenate((np.stack(context, axis=1), out), axis=2))

    def decode_back(self, dscore, dhs):
        embed, lstm, affine = self.decoder
        dcontext, dout = np.split(affine.backward(dscore), 2, axis=2)
        dout = dout.copy()
        for t, (softmax, a, h) in enumerate(self.attention):
            ds = softmax.backward(np.einsum("nh,nth->nt", dcontext[:, t], self.hs))
            dhs += a[:, :, np.newaxis] * dcontext[:, t, np.newaxis]
            dhs += ds[:, :, np.newaxis] * h[:, np.newaxis]
            dout[:, t] += np.einsum("nt,nth->nh", ds, self.hs)
        embed.backward(lstm.backward(dout))
        dhs[:, -1] += lstm.dh


def merged(params, grads):
    """One entry per weight: the gradients of a second use (tied) are added into the first's."""
    kept = []
    for p, g in zip(params, grads, strict=True):
        for q, total in kept:
            if p is q:
                total += g
                break
            if p.ndim == q.ndim == 2 and p.shape == q.T.shape and np.all(p == q.T):
                total += g.T
                break
        else:
            kept.append((p, g))
    return kept


def update(model, lr=1.0, max_grad=0.25):
    """Clipped SGD, in place as the book's optimizers do it."""
    kept = merged(model.params, model.grads)
    norm = np.sqrt(sum(np.sum(g**2) for _, g in kept))
    rate = min(max_grad / (norm + 1e-6), 1)
    for p, g in kept:
        g *= rate
        p -= lr * g


def batch(k, model):
    rng = np.random.default_rng(k)
    xs, ts = rng.integers(0, V, (N, T)), rng.integers(0, V, (N, T))
    if isinstance(model, LanguageModel):
        if k == 3:
            ts[1, 2:] = ts[3] = -1
        return xs.astype("i4"), ts.astype("i4")
    return xs[:, ::-1], ts  # the input reversed, as chapter 7 has it


def train(L, make, dtype, steps=10):
    """What a script would see: losses, every gradient, the weights at the end."""
    np.random.seed(6)  # for dropout
    model = make(L, Weights(dtype))
    losses, grads = [], []
    for k in range(steps):
        losses.append(model.forward(*batch(k, model)))
        model.backward()
        grads.append([g.copy() for g in model.grads])
        update(model)
    if isinstance(model, LanguageModel):
        losses.append(model.forward(*batch(0, model), train_flg=False))
    return losses, grads, model.params


def distance(a, b):
    return np.linalg.norm(a.astype("f8") - b) / np.linalg.norm(b)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "make",
    [
        simple_rnnlm,
        rnnlm,
        gru_rnnlm,
        better_rnnlm,
        Seq2seq,
        PeekySeq2seq,
        AttentionSeq2seq,
    ],
    ids=lambda make: make.__name__,
)
def test_a_model_of_the_book_trains_to_the_same_numbers(make, dtype):
    losses, grads, params = train(time_layers, make, dtype)
    expected_losses, expected_grads, expected_params = train(naive, make, dtype)
    assert expected_losses[-2] < expected_losses[0] + 0.5  # it trains, it does not run away
    np.testing.assert_allclose(losses, expected_losses, rtol=TOLERANCE[dtype])
    for k, pair in enumerate(zip(grads, expected_grads, strict=True)):
        for i, (g, ref) in enumerate(zip(*pair, strict=True)):
            assert g.dtype == dtype and np.any(ref)
            assert distance(g, ref) < TOLERANCE[dtype], f"gradient {i} of step {k}"
    for p, ref in zip(params, expected_params, strict=True):
        assert distance(p, ref) < TOLERANCE[dtype]


FUNCTIONS = {"sigmoid", "softmax", "cross_entropy_error", "relu"}
SEQUENCE_LAYERS = {
    *("RNN", "TimeRNN", "LSTM", "TimeLSTM", "TimeBiLSTM", "GRU", "TimeGRU"),
    *("TimeEmbedding", "TimeAffine", "TimeDropout", "TimeSoftmaxWithLoss", "TimeSigmoidWithLoss"),
    *("Simple_TimeSoftmaxWithLoss", "Simple_TimeAffine"),
}
PLAIN_LAYERS = {"MatMul", "Affine", "Softmax", "Sigmoid", "Dropout", "Embedding"}
PLAIN_LAYERS |= {"SoftmaxWithLoss", "SigmoidWithLoss"}


def test_names_of_the_star_import():
    namespace = {}
    exec("from rnnfast.time_layers import *", namespace)
    del namespace["__builtins__"]
    assert namespace.pop("np") is np and namespace.pop("GPU") is False
    assert set(namespace) == FUNCTIONS | SEQUENCE_LAYERS | PLAIN_LAYERS
    assert all(value is getattr(rnnfast, name) for name, value in namespace.items())


def test_every_public_name_is_there():
    assert len(set(rnnfast.__all__)) == len(rnnfast.__all__)
    assert all(hasattr(rnnfast, name) for name in rnnfast.__all__)
    own = {"TimeBiRNN", "TimeBiGRU", "TimeSquaredLoss", "device", "devices", "show_config"}
    assert own | FUNCTIONS | SEQUENCE_LAYERS | PLAIN_LAYERS < set(rnnfast.__all__)


# What scripts do with the layers beside forward and backward


def test_attributes_that_scripts_read():
    rng = np.random.default_rng(0)
    x, W, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    ids, labels = np.array([2, 0, 1]), np.array([4, 0, 2])
    affine, matmul = rnnfast.Affine(W, b), rnnfast.MatMul(W)
    embedding, softmax, sigmoid = rnnfast.Embedding(W), rnnfast.Softmax(), rnnfast.Sigmoid()
    loss, binary = rnnfast.SoftmaxWithLoss(), rnnfast.SigmoidWithLoss()
    assert affine.x is matmul.x is embedding.idx is softmax.out is sigmoid.out is None
    assert loss.y is loss.t is binary.y is binary.t is binary.loss is None

    scores = affine.forward(x)
    np.testing.assert_array_equal(affine.x, x)
    matmul.forward(x)
    np.testing.assert_array_equal(matmul.x, x)
    embedding.forward(ids)
    np.testing.assert_array_equal(embedding.idx, ids)
    np.testing.assert_array_equal(softmax.forward(x), softmax.out)
    np.testing.assert_array_equal(sigmoid.forward(x), sigmoid.out)

    loss.forward(scores, labels)
    assert_close(loss.y, softmax.forward(scores))
    np.testing.assert_array_equal(loss.t, labels)
    loss.forward(scores, np.eye(5)[labels])  # one-hot
    np.testing.assert_array_equal(loss.t, labels)
    found = binary.forward(x, x > 0.5)
    assert binary.loss == found
    assert_close(binary.y, sigmoid.forward(x))
    np.testing.assert_array_equal(binary.t, x > 0.5)

    sequence = rnnfast.TimeSoftmaxWithLoss()
    sequence.forward(scores[np.newaxis], labels[np.newaxis])
    assert_close(sequence.y, softmax.forward(scores)[np.newaxis])
    np.testing.assert_array_equal(sequence.t, labels[np.newaxis])
    fused = rnnfast.layers.losses.TimeAffineSoftmaxWithLoss(rnnfast.TimeAffine(W, b))
    fused.forward(x[np.newaxis], labels[np.newaxis])
    assert not hasattr(fused, "y") and not hasattr(fused, "t")
    mixture = rnnfast.TimeMixtureSoftmax.create(4, 4, 5, K=2, rng=0, dtype="f8")
    mixed = rnnfast.TimeMixtureSoftmaxWithLoss(mixture)
    mixed.forward(x[np.newaxis], labels[np.newaxis])
    with pytest.raises(AttributeError, match="'TimeMixtureSoftmaxWithLoss' object has no attr"):
        _ = mixed.y


def test_a_property_that_fails_says_why():
    class Mine(rnnfast.Affine):
        @property
        def scaled(self):
            return self.kept * 2

    with pytest.raises(AttributeError, match="no attribute 'kept'"):
        _ = Mine(np.ones((D, H)), np.zeros(H)).scaled


def test_there_is_no_layer_of_each_step():
    layer = rnnfast.TimeLSTM.create(D, H, rng=0)
    layer.forward(np.ones((N, T, D), "f"))
    with pytest.raises(
        AttributeError, match=r"no attribute 'layers': all steps are computed at once"
    ):
        layer.layers[0]
    with pytest.raises(AttributeError, match=r"^'TimeLSTM' object has no attribute 'gates_of'$"):
        _ = layer.gates_of


def test_a_dropout_layer_with_a_mask_of_its_own():
    """The exercise of chapter 6: one mask for all steps."""

    class VariationalDropout(time_layers.TimeDropout):
        def forward(self, xs):
            kept = np.random.rand(xs.shape[0], 1, xs.shape[2]) > self.dropout_ratio
            self.mask = kept.astype("f") / (1 - self.dropout_ratio)
            return xs * self.mask

    np.random.seed(0)
    layer, xs = VariationalDropout(0.5), np.ones((N, T, D), "f")
    ys = layer.forward(xs)
    np.testing.assert_array_equal(layer.backward(xs), ys)
    assert (ys == ys[:, :1]).all() and set(np.unique(ys)) == {0, 2}


def test_a_forward_that_does_not_call_the_one_it_overrides():
    class Positional(time_layers.TimeEmbedding):
        def forward(self, xs):
            return self.params[0][xs] + 1

    layer = Positional(np.ones((V, D), "f"))
    ys = layer.forward(np.zeros((N, T), int))
    with pytest.raises(
        RuntimeError, match=r"backward; a forward of Positional has to call that of"
    ):
        layer.backward(ys)


def test_ids_in_lists():
    embedding = rnnfast.Embedding(np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(embedding.forward([2, 0]), [[4, 5], [0, 1]])
    np.testing.assert_array_equal(embedding.forward(1), [2, 3])
    embedding.backward(np.ones(2))
    np.testing.assert_array_equal(embedding.grads[0], [[0, 0], [1, 1], [0, 0]])
    assert embedding.forward([]).shape == (0, 2)
    sequence = rnnfast.TimeEmbedding(*embedding.params)
    assert sequence.forward([[1, 2], [0, 0]]).shape == (2, 2, 2)
    for wrong, error, message in [
        ([[1, 2], [0]], ValueError, "TimeEmbedding: xs must be one array, got a ragged list"),
        ([[1.0]], TypeError, "TimeEmbedding: xs must be integers, got float64"),
        ([1], ValueError, r"TimeEmbedding: xs must be \(N, T\), got \(1,\)"),
        ([[3]], ValueError, r"TimeEmbedding: xs must be in \[0, 3\), got 3"),
    ]:
        with pytest.raises(error, match=message):
            sequence.forward(wrong)


def test_both_parts_of_a_state_are_of_one_batch():
    layer = rnnfast.TimeLSTM.create(D, H, rng=0, stateful=True)
    with pytest.raises(
        ValueError, match="TimeLSTM: h, c must be of one batch, got 2 and 3 samples"
    ):
        layer.set_state(np.ones((3, H)), np.ones((2, H)))
    assert layer.state == (None, None)


def test_a_class_may_have_these_attributes_itself():
    class Mine(rnnfast.Affine):
        def __init__(self, W, b):
            super().__init__(W, b)
            self.x = "mine"

        def forward(self, x):
            self.y, self.idx, self.out = x, None, 0
            return super().forward(x)

    layer = Mine(np.ones((D, H)), np.zeros(H))
    layer.forward(np.ones((N, D)))
    assert layer.x == "mine"
    loss = rnnfast.SoftmaxWithLoss()
    loss.y = loss.t = 1
    assert loss.y == loss.t == 1
