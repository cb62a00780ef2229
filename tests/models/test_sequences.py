"""Models that read and write sequences: gradients, lengths, states, generating, files."""

import copy
import io
import pickle

import numpy as np
import pytest
from on_host import assert_allclose
from sequence_cases import CASES, SIZES, H, K, N, T, V, batch

from rnnfast import optim
from rnnfast.checks import beside
from rnnfast.commands import info, inputs
from rnnfast.io import to_numpy
from rnnfast.kernels import CELLS
from rnnfast.models import load_model
from rnnfast.sequences import (
    Decoder,
    Encoder,
    PeekyDecoder,
    PeekySeq2seq,
    Seq2seq,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    VectorToSequence,
)
from rnnfast.trainer import Trainer, eval_exact, eval_labels, eval_seq2seq

every = pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES.keys())
reading = {name: case for name, case in CASES.items() if case[0] is not VectorToSequence}
with_lengths = pytest.mark.parametrize(("kind", "options"), reading.values(), ids=reading.keys())


def make(kind, options, rng=1, dtype=np.float64, **more):
    """A model whose biases and embedding are no smaller than the rest."""
    model = kind(*SIZES[kind], **options, rng=rng, dtype=dtype, **more)
    source = np.random.default_rng(7)
    for param in model.params:
        param += beside(param, source.normal(size=param.shape, scale=0.3))
    return model


def loss_of(model, xs, ts, **more):
    """The loss, with the same dropout masks at every call."""
    for layer in getattr(model, "drop_layers", ()):
        layer.step = 0
    return model.forward(xs, ts, **more)


def check_gradient(loss, array, grad, name=""):
    """Along random directions: grad against the difference of the losses on both sides."""
    rng, value, step = np.random.default_rng(9), array.copy(), 1e-5
    for _ in range(3):
        direction = rng.normal(size=array.shape)
        losses = []
        for side in (step, -step):
            array[...] = value + side * direction
            losses.append(loss())
        array[...] = value
        slope = (losses[0] - losses[1]) / (2 * step)
        assert abs(slope) > 1e-5, name  # else an empty gradient could not be told
        assert (grad * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-9), name


# Gradients


@every
def test_gradients_by_differences(kind, options):
    model = make(kind, options, device="reference")
    xs, ts = batch(kind)
    loss_of(model, xs, ts)
    dxs = model.backward(2.0)
    for name, param, grad in zip(model.param_names, model.params, model.grads, strict=True):
        check_gradient(lambda: loss_of(model, xs, ts), param, grad / 2, name)
    if xs.dtype == np.float64:
        check_gradient(lambda: loss_of(model, xs, ts), xs, dxs / 2)
    else:
        assert dxs is None


@with_lengths
def test_gradients_by_differences_with_lengths(kind, options):
    model = make(kind, options, device="reference")
    xs, ts = batch(kind)
    lengths = np.array([2, T, 1])
    loss_of(model, xs, ts, lengths=lengths)
    model.backward()
    for name, param, grad in zip(model.param_names, model.params, model.grads, strict=True):
        check_gradient(lambda: loss_of(model, xs, ts, lengths=lengths), param, grad, name)


@every
def test_every_device_gives_the_reference(kind, options, device):
    wanted, model = (make(kind, options, device=name) for name in ("reference", device))
    for seed, lengths in ((0, None), (1, None), (2, [2, T, 1])):
        xs, ts = batch(kind, seed)
        more = {} if kind is VectorToSequence else {"lengths": lengths}
        loss = float(model.forward(xs, ts, **more))
        assert loss == pytest.approx(wanted.forward(xs, ts, **more), rel=1e-12)
        model.backward()
        wanted.backward()
        for grad, expected in zip(model.grads, wanted.grads, strict=True):
            assert_allclose(grad, expected, rtol=0, atol=1e-12)


# Padding


@with_lengths
def test_padding_changes_nothing(kind, options, device):
    """Each sample alone, without its padding, against a padded batch of them."""
    options = {**options}
    options.pop("dropout", None)  # its masks would be others
    model = make(kind, options)
    xs, ts = batch(kind)
    lengths = np.array([3, T, 1])
    per_step = kind in (SequenceTagger, SequenceRegressor)
    weight = lengths / lengths.sum() if per_step else np.full(N, 1 / N)
    loss, grads = 0.0, [np.zeros(grad.shape) for grad in model.grads]
    for n, length in enumerate(lengths):
        one = xs[n : n + 1, :length], ts[n : n + 1, :length] if per_step else ts[n : n + 1]
        loss += weight[n] * float(model.forward(*one))
        model.backward()
        for total, grad in zip(grads, model.grads, strict=True):
            total += weight[n] * to_numpy(grad)
    for padding in (0, 1):
        for n, length in enumerate(lengths):
            xs[n, length:] = padding
            if per_step:
                ts[n, length:] = padding
        assert float(model.forward(xs, ts, lengths=lengths)) == pytest.approx(loss, rel=1e-12)
        dxs = model.backward()
        for grad, expected in zip(model.grads, grads, strict=True):
            assert_allclose(grad, expected, rtol=0, atol=1e-13)
        if dxs is not None:
            assert not any(dxs[n, length:].any() for n, length in enumerate(lengths))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
def test_padding_may_be_no_numbers(kind, bad, cell, device):
    """Of inputs and of targets: loss and gradients are those of any other padding."""
    options = {"cell": cell, "layers": 2, "bidirectional": cell == "gru", "dropout": 0.3}
    model, (xs, ts), results = make(kind, options), batch(kind), []
    for value in 1.0, bad:
        for array in (xs, ts) if kind is SequenceRegressor else (xs,):
            array[0, 1:], array[2] = value, value
        loss = loss_of(model, xs, ts, lengths=[1, T, 0])
        found = model.backward(), *model.grads
        results.append([float(loss), *(to_numpy(array).copy() for array in found)])
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
        assert np.isfinite(got).all()


@with_lengths
def test_full_lengths_are_none(kind, options, device):
    model = make(kind, options)
    xs, ts = batch(kind)
    assert loss_of(model, xs, ts, lengths=[T] * N) == loss_of(model, xs, ts)


def test_a_tag_that_is_ignored(device):
    model = make(SequenceTagger, {})
    xs, ts = batch(SequenceTagger)
    lengths = [2, T, 1]
    ignored = np.where(np.arange(T) < np.array(lengths)[:, np.newaxis], ts, -1)
    scores = to_numpy(model.predict(xs))
    log_p = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    kept = ignored >= 0
    picked = np.take_along_axis(log_p, ts[..., np.newaxis], axis=2)[..., 0]
    assert float(model.forward(xs, ignored)) == pytest.approx(-picked[kept].mean(), rel=1e-12)


# The state, by hand


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(xs, Wx, Wh, b, h, c):
    """hs (N, T, H) and the last c, by the chapter's formulas."""
    hs = []
    for t in range(xs.shape[1]):
        f, g, i, o = np.split(xs[:, t] @ Wx + h @ Wh + b, 4, axis=1)
        c = c * sigmoid(f) + np.tanh(g) * sigmoid(i)
        h = np.tanh(c) * sigmoid(o)
        hs.append(h)
    return np.stack(hs, axis=1), c


@pytest.mark.parametrize("pass_cell", [False, True])
@pytest.mark.parametrize("kind", [Seq2seq, PeekySeq2seq])
def test_seq2seq_by_hand(kind, pass_cell, device):
    """The decoder starts from the encoder's h, and from its c only where that is asked for."""
    model = make(kind, {"pass_cell": pass_cell})
    xs, ts = batch(kind)
    embed, *weights, embed2, Wx, Wh, b, affine_W, affine_b = map(to_numpy, model.params)
    zeros = np.zeros((N, H))
    hs, c = lstm(embed[xs], *weights, zeros, zeros)
    h = hs[:, -1]
    inputs = embed2[ts[:, :-1]]
    peeked = np.repeat(h, T, axis=0).reshape(N, T, H)  # the book's
    if kind is PeekySeq2seq:
        inputs = np.concatenate((peeked, inputs), axis=2)
    hs, _ = lstm(inputs, Wx, Wh, b, h, c if pass_cell else zeros)
    if kind is PeekySeq2seq:
        hs = np.concatenate((peeked, hs), axis=2)
    scores = hs @ affine_W + affine_b
    log_p = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    expected = -np.take_along_axis(log_p, ts[:, 1:, np.newaxis], axis=2).mean()
    assert float(model.forward(xs, ts)) == pytest.approx(expected, rel=1e-12)


def test_a_vector_is_the_first_h():
    model = make(VectorToSequence, {})
    xs, ts = batch(VectorToSequence)
    W, b, embed, Wx, Wh, bias, affine_W, affine_b = model.params
    hs, _ = lstm(embed[ts[:, :-1]], Wx, Wh, bias, np.tanh(xs @ W + b), np.zeros((N, H)))
    scores = hs @ affine_W + affine_b
    log_p = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    expected = -np.take_along_axis(log_p, ts[:, 1:, np.newaxis], axis=2).mean()
    assert model.forward(xs, ts) == pytest.approx(expected, rel=1e-12)


def test_the_classifier_reads_both_final_states():
    model = make(SequenceClassifier, {"bidirectional": True})
    xs, _ = batch(SequenceClassifier)
    zeros = np.zeros((N, H))
    ahead, _ = lstm(xs, *model.params[:3], zeros, zeros)
    back, _ = lstm(xs[:, ::-1], *model.params[3:6], zeros, zeros)
    h = np.concatenate((ahead[:, -1], back[:, -1]), axis=1)
    W, b = model.params[6:]
    np.testing.assert_allclose(model.predict(xs), h @ W + b, rtol=0, atol=1e-13)


def test_reversed_input(device):
    xs, ts = batch(Seq2seq)
    usual, reverse = (make(Seq2seq, {"reverse": r}) for r in (False, True))
    assert reverse.forward(xs, ts) == usual.forward(xs[:, ::-1], ts)
    lengths = np.array([2, T, 1])
    turned = xs.copy()
    for row, length in zip(turned, lengths, strict=True):
        row[:length] = row[:length][::-1]
    expected = usual.forward(turned, ts, lengths=lengths)
    assert reverse.forward(xs, ts, lengths=lengths) == expected


def test_encoder_and_decoder_alone(device):
    """As the book uses them: h out of the one, into the other, and dh back."""
    encoder = Encoder(V, 2, H, rng=1, dtype=np.float64)
    for kind in (Decoder, PeekyDecoder):
        decoder = kind(V, 2, H, rng=2, dtype=np.float64)
        xs, ts = batch(Seq2seq)
        h = encoder.forward(xs)
        scores = decoder.forward(ts, h)
        assert h.shape == (N, H) and scores.shape == (N, T + 1, V)
        dh = decoder.backward(scores)
        encoder.backward(dh)
        assert dh.shape == (N, H)
        assert all(grad.any() for grad in encoder.grads + decoder.grads)


# Generating


@pytest.mark.parametrize("kind", [Seq2seq, PeekySeq2seq, VectorToSequence])
@pytest.mark.parametrize("layers", [1, 2])
def test_generate_is_step_by_step(kind, layers, device):
    """Each id is the most probable one behind all before, read anew from the start."""
    model = make(kind, {"layers": layers})
    for param in model.params:
        param *= 3
    xs, _ = batch(kind, n=6)
    found = model.generate_batch(xs, 2, 5)
    assert found.shape == (6, 5) and found.dtype == np.int64
    ids = np.full((6, 1), 2)
    for _ in range(5):
        more = (None,) if isinstance(model, Seq2seq) else ()
        scores = model.decoder.forward(ids, *model._state(xs, False, *more), train=False)
        ids = np.concatenate((ids, to_numpy(scores)[:, -1:].argmax(axis=2)), axis=1)
    np.testing.assert_array_equal(found, ids[:, 1:])
    assert len(np.unique(found)) > 1  # else a wrong state could not be told
    one = model.generate(xs[:1], 2, 5)
    assert one == found[0].tolist() and all(type(i) is int for i in one)
    assert model.generate(xs[:1], 2, 0) == []
    with pytest.raises(ValueError, match=f"{kind.__name__}: generate takes a batch of 1, got 6"):
        model.generate(xs, 2, 5)


def test_generate_with_padding(device):
    model = make(Seq2seq, {})
    xs, _ = batch(Seq2seq)
    found = model.generate_batch(xs, 2, 5, lengths=[2, T, 1])
    for n, length in enumerate([2, T, 1]):
        assert model.generate(xs[n : n + 1, :length], 2, 5) == found[n].tolist()
    assert model.generate(xs[:1], 2, 5, lengths=[2]) == found[0].tolist()


# Weights, files, training


@pytest.mark.parametrize("kind", [Seq2seq, PeekySeq2seq])
def test_weights_are_the_books_for_the_same_seed(kind):
    peeked = H if kind is PeekySeq2seq else 0
    rn = np.random.randn
    np.random.seed(5)
    expected = []
    for width in (0, peeked):
        expected += [rn(V, 2) / 100, rn(width + 2, 4 * H) / np.sqrt(width + 2)]
        expected += [rn(H, 4 * H) / np.sqrt(H), np.zeros(4 * H)]
    expected += [rn(H + peeked, V) / np.sqrt(H + peeked), np.zeros(V)]
    after = np.random.rand()
    np.random.seed(5)
    model = kind(V, 2, H)
    assert np.random.rand() == after
    for param, wanted in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(param, wanted.astype("f"))


@pytest.mark.parametrize("kind", [Seq2seq, PeekySeq2seq])
def test_the_books_pickle(kind, tmp_path):
    """Its save_params: all arrays in order, half precision."""
    path, other = tmp_path / "book.pkl", make(kind, {}, rng=2)
    path.write_bytes(pickle.dumps([param.astype(np.float16) for param in other.params]))
    model = make(kind, {})
    model.load_params(path)
    for param, wanted in zip(model.params, other.params, strict=True):
        np.testing.assert_array_equal(param, wanted.astype(np.float16))


@every
def test_weights_follow_the_seed(kind, options):
    xs, ts = batch(kind)
    losses = [kind(*SIZES[kind], **options, rng=seed).forward(xs, ts) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@every
def test_in_a_file(kind, options, tmp_path):
    model, path = make(kind, options, dtype=np.float32), tmp_path / "model.safetensors"
    model.save_params(path)
    loaded, vocabulary = load_model(path)
    assert (type(loaded), vocabulary) == (kind, None)
    assert (loaded.sizes, loaded.param_names) == (model.sizes, model.param_names)
    assert len(set(model.param_names)) == len(model.params)
    for param, wanted in zip(loaded.params, model.params, strict=True):
        np.testing.assert_array_equal(param, wanted)
    xs, ts = batch(kind)
    assert loaded.forward(xs, ts, train_flg=False) == model.forward(xs, ts, train_flg=False)
    other = kind(*SIZES[kind], **options, rng=3)
    other.load_params(path)
    np.testing.assert_array_equal(other.params[-2], model.params[-2])


@pytest.mark.parametrize("name", ["classes", "input_size", "hidden_size", "layers", "cell", "x"])
def test_a_damaged_header_makes_no_large_model(name, tmp_path):
    model, path = make(SequenceClassifier, {}), tmp_path / "model.safetensors"
    model.sizes[name] = 10**6
    model.save_params(path)
    with pytest.raises(ValueError, match=r"model.safetensors: sizes .* do not fit"):
        load_model(path)


def test_the_commands_know_a_language_model_from_others(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    make(Seq2seq, {}).save_params(path, list("abcdef"))
    with pytest.raises(ValueError, match="a Seq2seq, which is no language model"):
        inputs.open_model(path)
    info.info(path)
    assert "encoder_lstm_Wx float64 (2, 12)" in capsys.readouterr().out
    assert load_model(path)[1] == list("abcdef")


@every
def test_inference_keeps_nothing_and_copies_train_on(kind, options):
    model = make(kind, options)
    xs, ts = batch(kind)
    model.forward(xs, ts, train_flg=False)
    with pytest.raises(RuntimeError):
        model.backward()
    loss = loss_of(model, xs, ts)
    model.backward()
    other = copy.deepcopy(model)
    assert loss_of(other, xs, ts) == loss
    other.backward()
    assert len(other.grads) == len(model.grads)
    for a, b in zip(other.grads, model.grads, strict=True):
        np.testing.assert_array_equal(a, b)


@every
def test_the_trainer_trains_it(kind, options, tmp_path):
    """The loss on a few samples falls; a stopped run goes on with the same losses."""
    xs, ts = batch(kind, n=8)

    def trainer():
        np.random.seed(0)
        model = make(kind, options, dtype=np.float32)
        return Trainer(model, optim.Adam(0.03), write=lambda line: None)

    def fit(made):
        made.fit(xs, ts, max_epoch=30, batch_size=4, max_grad=5.0, eval_interval=1)
        return made.loss_list

    losses = fit(trainer())
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    stopped = trainer()
    stopped.callbacks = [lambda step: stopped.stop() if step.epoch == 15 else None]
    fit(stopped)
    stopped.save_checkpoint(tmp_path / "checkpoint")
    resumed = trainer()
    resumed.load_checkpoint(tmp_path / "checkpoint")
    assert fit(resumed) == losses


# Accuracy


@pytest.mark.parametrize("kind", [Seq2seq, PeekySeq2seq, VectorToSequence])
def test_exact_matches(kind):
    model = make(kind, {})
    xs, ts = batch(kind, n=5)
    ts[:, 0] = 3
    ts[:, 1:] = model.generate_batch(xs, 3, T)
    assert eval_exact(model, xs, ts, batch_size=2) == 1
    ts[1, 2] = (ts[1, 2] + 1) % V
    ts[3, 1:] = (ts[3, 1:] + 1) % V
    assert eval_exact(model, xs, ts) == pytest.approx(3 / 5)
    ts[0, 0] = 0
    with pytest.raises(
        ValueError, match=r"eval_exact: ts must all begin with the same id, got \[0, 3\]"
    ):
        eval_exact(model, xs, ts)


class BooksModel:
    """As the book's Seq2seq, which answers one question at a time."""

    def __init__(self, model):
        self.model = model

    def generate(self, xs, start_id, sample_size):
        assert xs.shape == (1, T)
        return self.model.generate(xs, start_id, sample_size)


def test_answers_of_the_books_models(capsys):
    model = make(Seq2seq, {})
    xs, ts = batch(Seq2seq, n=3)
    ts[:, 0] = 3
    ts[:, 1:] = model.generate_batch(xs, 3, T)
    ts[1, 2] = (ts[1, 2] + 1) % V
    characters = dict(enumerate("abcdefghijklmnopqrstuvwxyz"))
    assert eval_exact(BooksModel(model), xs, ts) == pytest.approx(2 / 3)
    with pytest.raises(TypeError, match=r"eval_exact: lengths need a model with generate_batch"):
        eval_exact(BooksModel(model), xs, ts, lengths=[T] * 3)
    found = [eval_seq2seq(model, xs[i : i + 1], ts[i : i + 1], characters) for i in range(3)]
    assert found == [1, 0, 1]
    assert capsys.readouterr().out == ""
    assert eval_seq2seq(BooksModel(model), xs[:1], ts[0], characters, True, True) == 1
    asked, wanted = ("".join(characters[i] for i in ids) for ids in (xs[0], ts[0, 1:]))
    assert capsys.readouterr().out == f"Q {asked[::-1]}\nT {wanted}\n☑ {wanted}\n---\n"
    with pytest.raises(ValueError, match="eval_seq2seq: correct must begin with the id"):
        eval_seq2seq(model, xs[:1], [], characters)


@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceTagger])
def test_labels_that_are_right(kind):
    model = make(kind, {})
    xs, _ = batch(kind, n=5)
    ts = model.predict(xs).argmax(axis=-1)
    assert eval_labels(model, xs, ts, batch_size=2) == 1
    right = ts.size
    ts.reshape(-1)[::2] += 1
    ts %= K
    wrong = len(ts.reshape(-1)[::2])
    assert eval_labels(model, xs, ts) == pytest.approx((right - wrong) / right)
    if kind is SequenceTagger:
        ts[0, :] = -1
        kept = ts[1:]
        share = (model.predict(xs)[1:].argmax(axis=-1) == kept).mean()
        assert eval_labels(model, xs, ts, batch_size=1) == pytest.approx(share)
        ts[:] = -1
        with pytest.raises(ValueError, match="eval_labels: ts must have a label to guess"):
            eval_labels(model, xs, ts)


@with_lengths
def test_lengths_through_trainer_and_evaluation(kind, options):
    """What stands behind them is garbage, and changes no weight and no share."""
    xs, ts = batch(kind, n=8)
    lengths = np.array([1, 2, 3, 4, 4, 3, 2, 1])
    per_step = kind in (SequenceTagger, SequenceRegressor)
    found = []
    for garbage in (0, 1):
        for n, length in enumerate(lengths):
            xs[n, length:] = garbage
            if per_step:
                ts[n, length:] = garbage
        np.random.seed(0)
        model = make(kind, options, dtype=np.float32)
        fit = Trainer(model, optim.Adam(0.03), write=lambda line: None).fit
        fit(xs, ts, max_epoch=3, batch_size=4, lengths=lengths)
        share = None
        if kind in (SequenceClassifier, SequenceTagger):
            share = eval_labels(model, xs, ts, 3, lengths=lengths)
        elif kind is not SequenceRegressor:
            ts[:, 0] = 1
            ts[:, 1:] = model.generate_batch(xs, 1, T, lengths=lengths)
            share = eval_exact(model, xs, ts, 3, lengths=lengths)
            assert share == 1
            xs, ts = batch(kind, n=8)
        found.append((share, [param.tobytes() for param in model.params]))
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"fit: lengths must be \(8,\), got \(2,\)"):
        fit(xs, ts, lengths=[1, 2])


@pytest.mark.parametrize("evaluate", [eval_exact, eval_labels])
def test_evaluation_of_nothing(evaluate):
    model = make(Seq2seq, {})
    xs, ts = batch(Seq2seq)
    with pytest.raises(ValueError, match=r"xs and ts must be equally long, got \(2, 4\) and"):
        evaluate(model, xs[:2], ts)
    with pytest.raises(ValueError, match="batch_size must be from 1 up, got 0"):
        evaluate(model, xs, ts, 0)
    with pytest.raises(ValueError, match="xs must not be empty"):
        evaluate(model, xs[:0], ts[:0])


# What is wrong


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size must be from 1 up, got 0"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size must be an integer, got float"),
        ({"layers": 0}, ValueError, "layers must be from 1 up, got 0"),
        ({"cell": "peephole"}, ValueError, "cell must be one of .*, got 'peephole'"),
        ({"dtype": "f2"}, TypeError, "dtype must be float32 or float64, got float16"),
        ({"rng": -1}, ValueError, "rng must be None, a seed from 0 up or a Generator, got -1"),
    ],
)
def test_bad_sizes(kind, change, error, message):
    before = np.random.get_state()[1].tobytes()
    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind(**(make(kind, {}).sizes | change))
    assert np.random.get_state()[1].tobytes() == before


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (SequenceClassifier, {"classes": 0}, "classes must be from 1 up, got 0"),
        (SequenceClassifier, {"input_size": -1}, "input_size must be from 1 up, got -1"),
        (SequenceClassifier, {"dropout": 1}, r"dropout must be in \[0, 1\), got 1"),
        (SequenceTagger, {"tags": 0}, "tags must be from 1 up, got 0"),
        (SequenceTagger, {"bidirectional": 1}, "bidirectional must be a bool, got int"),
        (SequenceRegressor, {"output_size": "2"}, "output_size must be an integer, got str"),
        (VectorToSequence, {"input_size": 0}, "input_size must be from 1 up, got 0"),
        (Seq2seq, {"vocab_size": 0}, "vocab_size must be from 1 up, got 0"),
        (Seq2seq, {"reverse": "yes"}, "reverse must be a bool, got str"),
        (PeekySeq2seq, {"pass_cell": 1}, "pass_cell must be a bool, got int"),
    ],
)
def test_bad_sizes_of_their_own(kind, change, message):
    with pytest.raises((TypeError, ValueError), match=f"^{kind.__name__}: {message}"):
        kind(**(make(kind, {}).sizes | change))


def test_bad_calls():
    def check(error, message, call, *args, **more):
        with pytest.raises(error, match=message):
            call(*args, **more)

    model = make(Seq2seq, {})
    xs, ts = batch(Seq2seq)
    check(
        ValueError,
        r"Seq2seq: ts must be \(N, T\) = \(3, T\), T from 1 up",
        model.forward,
        xs,
        ts[:2],
    )
    check(ValueError, r"Seq2seq: ts must be \(N, T\)", model.forward, xs, ts[:, :0])
    check(TypeError, "Seq2seq: ts must be integers", model.forward, xs, ts * 1.0)
    check(ValueError, r"xs must be in \[0, 6\), got 1", model.forward, xs + 9, ts)
    check(ValueError, r"ts must be in \[0, 6\), got", model.forward, xs, ts + 9)
    check(ValueError, r"lengths must be \(N,\) = \(3,\)", model.forward, xs, ts, lengths=[1])
    check(ValueError, r"lengths must be in \[0, 5\)", model.forward, xs, ts, lengths=[1, 2, 5])
    check(TypeError, "start_id must be an integer", model.generate, xs[:1], 1.5, 3)
    check(ValueError, r"start_id must be in \[0, 6\), got 6", model.generate, xs[:1], 6, 3)
    check(ValueError, "sample_size must not be negative", model.generate, xs[:1], 1, -1)
    peeky = make(PeekySeq2seq, {"layers": 2}).decoder
    h = np.zeros((N, H))
    check(ValueError, "state must have the last layer's h, got None", peeky.forward, ts, h)
    check(ValueError, "the states must be 4, got 5", peeky.forward, ts, *[h] * 5)

    tagger = make(SequenceTagger, {})
    xs, ts = batch(SequenceTagger)
    check(
        ValueError, r"SequenceTagger: ts must be \(N, T, ...\) = \(3, 4", tagger.forward, xs, ts[:2]
    )
    check(TypeError, "SequenceTagger: ts must be a NumPy array", tagger.forward, xs, [1])
    check(ValueError, r"ts must be in \[0, 4\), got", tagger.forward, xs, ts + 7)
    regressor = make(SequenceRegressor, {})
    xs, ts = batch(SequenceRegressor)
    check(ValueError, r"ts must be like xs, \(3, 4, 2\)", regressor.forward, xs, ts[..., :1])
    classifier = make(SequenceClassifier, {})
    check(ValueError, r"xs must be \(N, T, D\)", classifier.forward, xs[..., :1], ts)
    check(RuntimeError, "backward needs the forward", classifier.backward)


def test_marks_that_stdout_cannot_show(monkeypatch):
    class Answers:
        def generate(self, question, start_id, sample_size):
            return np.array([1])

    screen = io.TextIOWrapper(io.BytesIO(), encoding="cp949")
    monkeypatch.setattr("sys.stdout", screen)
    names = dict(enumerate("ab"))
    assert eval_seq2seq(Answers(), np.array([[0]]), np.array([0, 1]), names, verbose=True) == 1
    assert eval_seq2seq(Answers(), np.array([[0]]), np.array([0, 0]), names, verbose=True) == 0
    screen.flush()
    lines = screen.buffer.getvalue().decode().splitlines()
    assert lines == ["Q a", "T b", "O b", "---", "Q a", "T a", "X b", "---"]


@pytest.mark.parametrize("state", [(None, None), ()])
def test_a_state_that_tells_no_batch(state):
    from rnnfast.models.coders import Decoder

    decoder = Decoder(V, 4, 5, rng=0)
    with pytest.raises(ValueError, match="Decoder: state must have an array, whose length is N"):
        decoder.generate(state, 0, 3)
    c = np.zeros((2, 5), "f")
    assert decoder.generate((None, c), 0, 3).shape == (2, 3)
