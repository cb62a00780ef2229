"""AttentionSeq2seq: the chapter's formulas, PyTorch, padding, generating, weights, files."""

import numpy as np
import pytest
from sequence_cases import H, N, T, V, batch

from rnnfast import convert, optim
from rnnfast.inspection import gradient_check
from rnnfast.io import to_numpy
from rnnfast.layers.cells import RECURRENT
from rnnfast.models import load_model
from rnnfast.sequences import AttentionDecoder, AttentionEncoder, AttentionSeq2seq
from rnnfast.trainer import Trainer, eval_exact

LENGTHS = [T, 2, 1]


def make(**options):
    """A model whose embeddings and biases are no smaller than the rest."""
    given = {"rng": 1, "dtype": "float64"} | options
    model = AttentionSeq2seq(V, 2, H, **given)
    source = np.random.default_rng(7)
    for param in model.params:
        param += source.normal(size=param.shape, scale=0.3)
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, Wx, Wh, b):
    f, g, i, o = np.split(x @ Wx + h @ Wh + b, 4)
    c = c * sigmoid(f) + np.tanh(g) * sigmoid(i)
    return np.tanh(c) * sigmoid(o), c


def by_hand(model, x, t, length):
    """The log-probabilities of each answer, and the weights, one sample and step at a time."""
    embed, Wx, Wh, b, embed2, Wx2, Wh2, b2, W, bias = model.params
    h, c, hs = np.zeros(H), np.zeros(H), []
    for k in x[:length]:
        h, c = lstm(embed[k], h, c, Wx, Wh, b)
        hs.append(h)
    c, logs, weights = np.zeros(H), [], []
    for k in t:
        h, c = lstm(embed2[k], h, c, Wx2, Wh2, b2)
        e = np.exp([h @ one for one in hs])
        a = e / e.sum()
        context = sum(share * one for share, one in zip(a, hs, strict=True))
        scores = np.concatenate((context, h)) @ W + bias
        logs.append(scores - np.log(np.exp(scores).sum()))
        weights.append(np.append(a, np.zeros(len(x) - length)))
    return np.array(logs), np.array(weights)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["", "lengths"])
def test_the_chapters_formulas(lengths):
    model = make(device="cpu")
    xs, ts = batch(AttentionSeq2seq)
    rows = [
        by_hand(model, x, t[:-1], n) for x, t, n in zip(xs, ts, lengths or [T] * N, strict=True)
    ]
    picked = [logs[np.arange(len(logs)), t[1:]] for (logs, _), t in zip(rows, ts, strict=True)]
    assert model.forward(xs, ts, lengths=lengths) == pytest.approx(-np.mean(picked), rel=1e-12)
    found = np.stack(model.decoder.attention.attention_weights, axis=1)
    np.testing.assert_allclose(found, [weights for _, weights in rows], rtol=0, atol=1e-13)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["", "lengths"])
def test_generating_is_greedy(lengths):
    """Each id is the likeliest one after those before it; the weights are those of these steps."""
    model = make(device="cpu")
    xs, _ = batch(AttentionSeq2seq)
    found = model.generate_batch(xs, 3, 6, lengths=lengths)
    weights = np.stack(model.decoder.attention.attention_weights, axis=1)
    assert found.shape == (N, 6) and weights.shape == (N, 6, T)
    for x, ids, length, own in zip(xs, found, lengths or [T] * N, weights, strict=True):
        logs, expected = by_hand(model, x, [3, *ids[:-1]], length)
        assert logs.argmax(axis=1).tolist() == ids.tolist()
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-13)
    n = 1
    alone = None if lengths is None else lengths[n : n + 1]
    assert model.generate(xs[n : n + 1], 3, 6, alone) == found[n].tolist()


def test_a_pytorch_model():
    torch = pytest.importorskip("torch")
    model = make(device="cpu", pass_cell=True)
    xs, ts = batch(AttentionSeq2seq)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.embed2 = (torch.nn.Embedding(V, 2) for _ in range(2))
            self.encoder, self.decoder = (torch.nn.LSTM(2, H, batch_first=True) for _ in range(2))
            self.affine = torch.nn.Linear(2 * H, V)

        def forward(self, xs, ts, lengths):
            pack = torch.nn.utils.rnn.pack_padded_sequence
            packed = pack(self.embed(xs), lengths, batch_first=True, enforce_sorted=False)
            hs, state = self.encoder(packed)
            hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, batch_first=True, total_length=T)
            hs_dec, _ = self.decoder(self.embed2(ts[:, :-1]), state)
            scores = hs_dec @ hs.transpose(1, 2)
            past = torch.arange(T) >= lengths[:, None]
            a = scores.masked_fill(past[:, None], -torch.inf).softmax(dim=2)
            scores = self.affine(torch.cat((a @ hs, hs_dec), dim=2))
            return torch.nn.functional.cross_entropy(scores.flatten(0, 1), ts[:, 1:].flatten())

    net = Net().double()
    embed, embed2, (W, bias) = model.params[0], model.params[4], model.params[8:]
    with torch.no_grad():
        for param, array in (
            (net.embed.weight, embed),
            (net.embed2.weight, embed2),
            (net.affine.weight, W.T),
            (net.affine.bias, bias),
        ):
            param.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    for module, half in ((net.encoder, model.encoder), (net.decoder, model.decoder)):
        state = convert.to_torch(half.recurrent)
        module.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()})
    loss = net(torch.from_numpy(xs), torch.from_numpy(ts), torch.tensor(LENGTHS))
    loss.backward()
    assert model.forward(xs, ts, lengths=LENGTHS) == pytest.approx(loss.item(), abs=1e-10)
    model.backward()
    for grad, param in (
        (model.grads[0], net.embed.weight),
        (model.grads[4], net.embed2.weight),
        (model.grads[8].T, net.affine.weight),
        (model.grads[9], net.affine.bias),
        (model.grads[3].reshape(4, H).sum(axis=0), net.encoder.bias_ih_l0),
    ):
        expected = param.grad.numpy()
        if expected.shape != grad.shape:  # gates have another order
            expected = expected.reshape(4, H).sum(axis=0)
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-10)


def test_reversed_weights_belong_to_what_was_read():
    xs, ts = batch(AttentionSeq2seq)
    usual, reverse = make(device="cpu"), make(reverse=True, device="cpu")
    assert reverse.forward(xs, ts) == pytest.approx(usual.forward(xs[:, ::-1], ts), rel=1e-13)
    pairs = zip(
        reverse.decoder.attention.attention_weights,
        usual.decoder.attention.attention_weights,
        strict=True,
    )
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs[:, ::-1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("cell", RECURRENT)
@pytest.mark.one_in(4)
def test_any_cell(cell, tmp_path):
    """Gradients by differences with padding; a file has all of the model."""
    model = make(cell=cell, layers=2, device="cpu")
    xs, ts = batch(AttentionSeq2seq)
    report = gradient_check(model, xs, ts, elements=3, lengths=LENGTHS)
    assert report.passed, report
    model.save_params(tmp_path / "model.safetensors")
    loaded, _ = load_model(tmp_path / "model.safetensors", device="cpu")
    assert type(loaded) is AttentionSeq2seq
    found = loaded.generate_batch(xs, 0, 3, LENGTHS)
    np.testing.assert_array_equal(found, model.generate_batch(xs, 0, 3, LENGTHS))


def test_it_learns_to_shuffle():
    rng = np.random.default_rng(0)
    xs = rng.integers(1, 5, (200, 3))
    ts = np.concatenate((np.zeros((200, 1), int), xs[:, [2, 0, 1]]), axis=1)
    model = AttentionSeq2seq(5, 8, 24, rng=0, dtype="float32", device="cpu")
    np.random.seed(0)
    fit = Trainer(model, optim.Adam(0.02), write=lambda line: None).fit
    fit(xs, ts, 30, 50, 5.0, None)
    assert eval_exact(model, xs, ts) > 0.9


def test_the_halves_alone(device):
    """The decoder over all steps gives what the model gives; gradients go to hs and the state."""
    sizes = {"vocab_size": V, "wordvec_size": 2, "hidden_size": H, "dtype": "float64"}
    encoder, decoder = AttentionEncoder(**sizes, rng=1), AttentionDecoder(**sizes, rng=2)
    xs, ts = batch(AttentionSeq2seq)
    hs = encoder.forward(xs, lengths=LENGTHS)
    scores = decoder.forward(ts[:, :-1], hs, encoder.state[0], lengths=LENGTHS)
    assert scores.shape == (N, T, V)
    found = to_numpy(scores).argmax(axis=2)
    dhs = decoder.backward(scores)
    assert dhs.shape == hs.shape and not to_numpy(dhs)[1, 2:].any()
    assert decoder.dstate[0].shape == (N, H)
    encoder.backward(dhs, decoder.dstate[0])
    assert to_numpy(encoder.grads[0]).any()
    ids = decoder.generate(hs, (encoder.state[0],), int(ts[0, 0]), 1, LENGTHS)
    assert ids[0, 0] == found[0, 0]


def test_bad_arguments():
    model = make(device="cpu")
    xs, ts = batch(AttentionSeq2seq)
    with pytest.raises(ValueError, match=r"lengths must be \(N,\) = \(3,\), got \(2,\)"):
        model.forward(xs, ts, lengths=[1, 2])
    with pytest.raises(ValueError, match=r"AttentionDecoder: start_id must be in \[0, 6\), got 6"):
        model.generate_batch(xs, 6, 2)
    with pytest.raises(ValueError, match="AttentionSeq2seq: hidden_size must be from 1 up, got 0"):
        AttentionSeq2seq(V, 2, 0)
    hs = np.zeros((N, T, H + 1))
    with pytest.raises(ValueError, match="TimeAttention: hs_dec must be"):
        model.decoder.forward(ts, hs)
