"""Dynamic evaluation and the neural cache, against the papers' equations in plain NumPy."""

import copy
import math
import os

import naive
import numpy as np
import pytest
from tiny import V

from rnnfast import data, models
from rnnfast.trainer import (
    Diverged,
    NeuralCache,
    PerplexityWarning,
    eval_cache,
    eval_dynamic,
    eval_perplexity,
    gradient_mean_squares,
)

D, H = 5, 6
# 250 words in which for 50 words each only three words of the vocabulary occur
TEXT = np.concatenate([np.random.default_rng(k).choice([k, 2 * k, 12], 50) for k in range(1, 6)])
KINDS = {
    "lstm": {},
    "rnn": {"cell": "rnn"},
    "gru, tied, dropout": {
        "cell": "gru",
        "layers": 2,
        "tie_weights": True,
        "dropout": 0.3,
        "variational_dropout": True,
        "weight_drop": 0.2,
    },
    "lstm, recurrent dropout": {"layers": 2, "recurrent_dropout": 0.2},
    "lstm, tied, all that AWD-LSTM has": {
        "layers": 2,
        "tie_weights": True,
        "variational_dropout": True,
        "input_dropout": 0.3,
        "embedding_dropout": 0.2,
        "weight_drop": 0.4,
        "alpha": 2.0,
        "beta": 1.0,
    },
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
CACHE = NeuralCache(size=17, theta=3.0, ratio=0.3)


def make(options, dtype=np.float64, **more):
    """A model whose words differ, also by their biases."""
    model = models.LanguageModel(
        V, H if options.get("tie_weights") else D, H, **options, rng=3, dtype=dtype, **more
    )
    model.params[0][...] *= 20
    model.params[-1][...] = np.log(1 + np.bincount(TEXT, minlength=V) / 20)
    return model


class Naive:
    """The layers of a model, without dropout, in plain NumPy. `pairs` are (weight, gradient)."""

    def __init__(self, model):
        params = copy.deepcopy(model).params
        self.embed = naive.TimeEmbedding(params[0].copy())
        cell = naive.TIME[model.sizes.get("cell", "lstm")]
        self.recurrent = [
            cell(*(p.copy() for p in params[i : i + 3]), stateful=True)
            for i in range(1, len(params) - 2, 3)
        ]
        self.affine = naive.TimeAffine(params[-2].copy(), params[-1].copy())
        self.layers = [self.embed, *self.recurrent, self.affine]
        self.tied = model.sizes.get("tie_weights", False)

    def forward(self, xs):
        for layer in self.layers[:-1]:
            xs = layer.forward(xs)
        return xs, self.affine.forward(xs)

    def learn(self, scores, ts):
        """The gradients of the mean loss."""
        loss = naive.TimeSoftmaxWithLoss()
        loss.forward(scores, ts)
        dout = loss.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        if self.tied:
            self.embed.grads[0] += self.affine.grads[0].T

    def pairs(self):
        found = [pair for x in self.layers for pair in zip(x.params, x.grads, strict=True)]
        return found[:-2] + found[-1:] if self.tied else found

    def retie(self):
        if self.tied:
            self.affine.params[0][...] = self.embed.params[0].T


def segments(corpus, N, T):
    each = (len(corpus) - 1) // N
    for i in range(each * N // (N * T)):
        at = (np.arange(N)[:, np.newaxis] * each + np.arange(i * T, i * T + T)) % (len(corpus) - 1)
        yield corpus[at], corpus[at + 1]


def naive_squares(model, corpus, N, T):
    net, found = Naive(model), []
    for xs, ts in segments(corpus, N, T):
        net.learn(net.forward(xs)[1], ts)
        found.append([grad**2 for _, grad in net.pairs()])
    return [np.mean(arrays, axis=0) for arrays in zip(*found, strict=True)]


def naive_dynamic(model, corpus, N, T, lr, decay, squares=None, epsilon=None, cache=None):
    """exp of the mean of -log p; each segment is measured before the weights change."""
    net, losses, memory = Naive(model), [], [[] for _ in range(N)]
    start = [param.copy() for param, _ in net.pairs()]
    if squares is not None:
        mean = np.concatenate([np.sqrt(s).ravel() for s in squares]).mean()
    for xs, ts in segments(corpus, N, T):
        hs, scores = net.forward(xs)
        p = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
        for n, t in np.ndindex(xs.shape):
            losses.append(-math.log(mixed(p[n, t], hs[n, t], memory[n], cache)[ts[n, t]]))
            memory[n].append((hs[n, t], ts[n, t]))
        net.learn(scores, ts)
        for i, (param, grad) in enumerate(net.pairs()):
            if squares is None:
                param += -lr * grad + decay * (start[i] - param)
            else:
                root = np.sqrt(squares[i])
                limited = np.minimum(root / mean, 1 / decay) if decay else 0
                param += -lr * grad / (root + epsilon) + decay * limited * (start[i] - param)
        net.retie()
    return math.exp(np.mean(losses))


def mixed(p, h, memory, cache):
    """Probabilities of the model and of its cache: a loop over what it remembers."""
    memory = memory if cache is None else memory[-cache.size :]
    if cache is None or not memory:
        return p
    of_cache = np.zeros_like(p)
    for past, word in memory:
        of_cache[word] += math.exp(cache.theta * (h @ past))
    return (1 - cache.ratio) * p + cache.ratio * of_cache / of_cache.sum()


@kinds
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("cache", [None, CACHE], ids=["", "cache"])
def test_sgd(options, N, cache):
    model = make(options)
    expected = naive_dynamic(model, TEXT, N, 7, 0.6, 0.02, cache=cache)
    found = eval_dynamic(model, TEXT, N, 7, lr=0.6, decay=0.02, cache=cache)
    assert found == pytest.approx(expected, rel=1e-10)
    if cache is None:
        assert found < eval_perplexity(model, TEXT, N, 7) - 0.3  # it has learned


@kinds
@pytest.mark.parametrize("decay", [0.0, 0.01, 0.4])
def test_rms(options, decay):
    """With the last decay, some weights would go beyond their trained values without the limit."""
    model = make(options)
    squares = gradient_mean_squares(model, TEXT, 2, 9)
    expected = naive_squares(model, TEXT, 2, 9)
    for array, right in zip(squares, expected, strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-10, atol=1e-18)
    root = np.concatenate([np.sqrt(array).ravel() for array in squares])
    assert (decay * root / root.mean() > 1).any() == (decay == 0.4)
    settings = {"lr": 0.01, "decay": decay, "epsilon": 0.002}
    expected = naive_dynamic(model, TEXT, 1, 7, squares=squares, **settings)
    found = eval_dynamic(model, TEXT, 1, 7, mean_squares=iter(squares), **settings)
    assert found == pytest.approx(expected, rel=1e-10)
    # They may have been in a file, in another precision
    rough = [array.astype(np.float32) for array in squares]
    again = eval_dynamic(model, TEXT, 1, 7, mean_squares=rough, **settings)
    assert again == pytest.approx(expected, rel=1e-5)


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rate_of_0_is_plain_evaluation(options, dtype):
    model = make(options, dtype)
    squares = gradient_mean_squares(model, TEXT, 2, 9)
    for more in ({}, {"decay": 0.3}, {"mean_squares": squares, "decay": 0.3}):
        for prime in (None, TEXT[:11]):
            found = eval_dynamic(model, TEXT, 2, 7, lr=0, prime=prime, **more)
            assert found == pytest.approx(eval_perplexity(model, TEXT, 2, 7, prime=prime), 1e-12)
    single = eval_dynamic(make(options, np.float32), TEXT, lr=0.5)
    assert single == pytest.approx(eval_dynamic(make(options), TEXT, lr=0.5), rel=1e-4)


def test_a_segment_is_measured_before_it_is_learned():
    model = make({})
    one = TEXT[:8]
    plain = eval_perplexity(model, one, 1, 7)
    assert eval_dynamic(model, one, 1, 7, lr=1) == pytest.approx(plain, rel=1e-12)
    two = TEXT[:15]
    plain = eval_perplexity(model, two, 1, 7)
    assert eval_dynamic(model, two, 1, 7, lr=1) != pytest.approx(plain, rel=1e-3)


@kinds
@pytest.mark.parametrize("end", ["usual", "Ctrl-C", "error"])
def test_the_model_is_not_changed(options, end, monkeypatch):
    model = make(options)
    model.forward(TEXT[np.newaxis, :9], TEXT[np.newaxis, 1:10])
    model.backward()
    before = [array.copy() for array in (*model.params, *model.grads)]
    state = [tuple(array.copy() for array in arrays) for arrays in model.get_state()]
    steps = [drop.step for drop in model.drop_layers]
    model.layers[1 if model.drop_layers == [] else 0].train_flg = "untouched"
    for layer in model.recurrent_layers:
        layer.freeze()
    calls = []
    backward = models.LanguageModel.backward

    def stop(self, dout=1):
        calls.append(self)
        if len(calls) == 5 and end != "usual":
            raise KeyboardInterrupt if end == "Ctrl-C" else MemoryError
        return backward(self, dout)

    monkeypatch.setattr(models.LanguageModel, "backward", stop)
    for measure in (eval_dynamic, gradient_mean_squares):
        calls.clear()
        if end == "usual":
            measure(model, TEXT, 1, 7)
        else:
            with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else MemoryError):
                measure(model, TEXT, 1, 7)
        assert len(calls) >= 5
    for array, old in zip((*model.params, *model.grads), before, strict=True):
        np.testing.assert_array_equal(array, old)
    for arrays, old in zip(model.get_state(), state, strict=True):
        np.testing.assert_array_equal(arrays, old)
    assert [drop.step for drop in model.drop_layers] == steps
    assert all(drop.train_flg for drop in model.drop_layers)
    assert all(layer.frozen for layer in model.recurrent_layers)


# The neural cache


@kinds
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("size", [1, 17, 1000])
@pytest.mark.one_in(3)
def test_cache(options, N, size):
    model, cache = make(options), NeuralCache(size, theta=3.0, ratio=0.3)
    for T in (1, 7, 40):
        expected = naive_dynamic(model, TEXT, N, T, 0, 0, cache=cache)
        assert eval_cache(model, TEXT, N, T, cache=cache) == pytest.approx(expected, rel=1e-10)
    found = eval_cache(make(options, np.float32), TEXT, N, 7, cache=cache)
    assert found == pytest.approx(eval_cache(model, TEXT, N, 7, cache=cache), rel=1e-5)
    assert model.get_state()[0][0] is None
    assert model.params[1].flags.writeable


def test_cache_without_a_share_is_plain_evaluation():
    model, cache = make({}), NeuralCache(50, theta=1.0, ratio=0.0)
    for prime in (None, TEXT[:11]):
        found = eval_cache(model, TEXT, 2, 7, cache=cache, prime=prime)
        assert found == pytest.approx(eval_perplexity(model, TEXT, 2, 7, prime=prime), 1e-12)


def test_cache_with_states_that_are_very_unlike():
    """exp(theta h . h) is beyond float64 here; only the likest state counts then."""
    found = eval_cache(make({}), TEXT, cache=NeuralCache(50, theta=1e5, ratio=0.2))
    assert 1 < found < V


# Arguments


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": -1}, ValueError, "lr must be finite, from 0 up, got -1"),
        ({"lr": math.inf}, ValueError, "lr must be finite, from 0 up, got inf"),
        ({"lr": "1"}, TypeError, "lr must be a number, got str"),
        ({"decay": 1.1}, ValueError, r"decay must be in \[0, 1\], got 1.1"),
        ({"decay": math.nan}, ValueError, r"decay must be in \[0, 1\], got nan"),
        ({"epsilon": 0}, ValueError, "epsilon must be finite, above 0, got 0"),
        ({"cache": 500}, TypeError, "cache must be a NeuralCache, got int"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 up, got 0"),
        ({"time_size": 250}, ValueError, "a batch of 1 x 250 needs at least 251 ids, got 250"),
        ({"corpus": TEXT / 2}, ValueError, "corpus must be integer ids"),
        ({"model": object()}, TypeError, "model must be one of rnnfast.models, got object"),
        ({"mean_squares": []}, ValueError, r"mean_squares must be arrays \[\(13, 5\), .* got \[\]"),
        ({"mean_squares": 0.0}, ValueError, "mean_squares must not be all 0"),
        ({"mean_squares": -1.0}, ValueError, "mean_squares must be finite, from 0 up"),
        ({"mean_squares": math.nan}, ValueError, "mean_squares must be finite, from 0 up"),
        ({"mean_squares": math.inf}, ValueError, "mean_squares must be finite, from 0 up"),
    ],
)
def test_arguments(change, error, message):
    model = make({})
    if isinstance(change.get("mean_squares"), float):
        change = {"mean_squares": [np.full_like(p, change["mean_squares"]) for p in model.params]}
    with pytest.raises(error, match=f"eval_dynamic: {message}"):
        eval_dynamic(**({"model": model, "corpus": TEXT} | change))
    if change.keys() <= {"cache", "batch_size", "time_size", "corpus", "model"}:
        with pytest.raises(error, match=f"eval_cache: {message}"):
            eval_cache(**({"model": model, "corpus": TEXT} | change))
    if change.keys() <= {"batch_size", "time_size", "corpus", "model"}:
        with pytest.raises(error, match=f"gradient_mean_squares: {message}"):
            gradient_mean_squares(**({"model": model, "corpus": TEXT, "batch_size": 1} | change))


def test_a_cache_takes_no_more_room_than_the_text_needs():
    model, found = make({}), []
    for size in len(TEXT), 10**12:
        found.append(eval_cache(model, TEXT, cache=NeuralCache(size, ratio=0.3)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be from 1 up, got 0"),
        ({"size": 1.5}, TypeError, "size must be an integer, got float"),
        ({"theta": -1}, ValueError, "theta must be finite, from 0 up, got -1"),
        ({"theta": math.inf}, ValueError, "theta must be finite, from 0 up, got inf"),
        ({"ratio": 1.0}, ValueError, r"ratio must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_of_a_cache(change, error, message):
    with pytest.raises(error, match=f"NeuralCache: {message}"):
        NeuralCache(**change)


def test_a_rate_that_is_too_large():
    message = "eval_dynamic: the perplexity is inf; try a smaller lr, got 1e[+]300"
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=message):
        eval_dynamic(make({}), TEXT, lr=1e300)
    with pytest.warns(PerplexityWarning, match="above the vocabulary's 13"):
        eval_dynamic(make({}), TEXT, lr=50.0)


def test_the_books_weights_on_penn_treebank():
    """The first 20,000 words; RNNFAST_TEST_DATA has ptb/ and Rnnlm.pkl (ch06)."""
    folder = os.environ.get("RNNFAST_TEST_DATA")
    if not folder or not os.path.exists(os.path.join(folder, "Rnnlm.pkl")):
        pytest.skip("RNNFAST_TEST_DATA with ptb and Rnnlm.pkl is not set")
    model = models.Rnnlm()
    model.load_params(os.path.join(folder, "Rnnlm.pkl"))
    corpus = data.load_ptb("test", os.path.join(folder, "ptb"))[0][:20001]
    assert eval_perplexity(model, corpus, 1, 20) == pytest.approx(122.7, abs=0.1)
    found = eval_dynamic(model, corpus, lr=0.5, decay=0.0)  # as a script with the book's code says
    assert found == pytest.approx(108.4, abs=0.1)


@pytest.mark.parametrize("below", [None, 2])
def test_mixtures_of_softmaxes(below):
    """The cache remembers the last layer's states only; dropout and the penalty are off."""
    mixture = {"mixtures": 3, "mixtures_below": below, "latent_size": D}
    model = models.LanguageModel(V, D, H, layers=2, **mixture, rng=1, dtype=np.float64)
    penalised = models.LanguageModel(
        V, D, H, layers=2, **mixture, latent_dropout=0.4, balance=5.0, rng=1, dtype=np.float64
    )
    model.params[0][...] *= 20
    penalised.params[0][...] *= 20
    sizes, alone = (1, 10), NeuralCache(size=17, ratio=0.0)
    plain = eval_perplexity(model, TEXT, *sizes)
    assert eval_cache(model, TEXT, *sizes, cache=alone) == pytest.approx(plain, rel=1e-10)
    assert eval_cache(model, TEXT, *sizes, cache=CACHE) < 0.9 * plain
    learned = eval_dynamic(model, TEXT, *sizes, cache=CACHE)
    assert learned < 0.9 * plain
    assert eval_dynamic(penalised, TEXT, *sizes, cache=CACHE) == learned


def test_regularised_outputs():
    """Past decode and noise are off, and the weights of past decode do not count."""
    options = {"layers": 2, "tie_weights": True}
    model, plain = make(options | {"past_decode": 0.3, "adversarial": 0.2}), make(options)
    for param, other in zip(plain.params, model.params[: len(plain.params)], strict=True):
        param[...] = other
    squares = gradient_mean_squares(model, TEXT, 1, 7)
    for array, other in zip(squares, gradient_mean_squares(plain, TEXT, 1, 7), strict=True):
        np.testing.assert_array_equal(array, other)
    for rule in ({}, {"mean_squares": squares}):
        found = [eval_dynamic(net, TEXT, 1, 7, cache=CACHE, **rule) for net in (model, plain)]
        assert found[0] == found[1]
