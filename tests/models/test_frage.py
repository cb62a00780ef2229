"""FRAGE: a discriminator of popular and rare words, against a module of PyTorch, to 1e-10."""

import copy
import pickle

import numpy as np
import pytest

from rnnfast import optim
from rnnfast.layers import Embedding, FrequencyDiscriminator
from rnnfast.models import LanguageModel, load_model
from rnnfast.optim import SGD, remove_duplicate
from rnnfast.trainer import RnnlmTrainer, eval_perplexity
from rnnfast.training.optimizers import OPTIMIZERS

V, D, H, N, T = 11, 4, 5, 2, 3
CLOSE = {"rtol": 0, "atol": 1e-10}
FRAGE = {"frage": 0.7, "frage_rate": 0.3}
CASES = {
    "alone": {},
    "tied": {"layers": 2, "tie_weights": True},
    "all that AWD-LSTM has": {
        "layers": 2,
        "tie_weights": True,
        "variational_dropout": True,
        "input_dropout": 0.3,
        "embedding_dropout": 0.4,
        "weight_drop": 0.5,
        "alpha": 2.0,
        "beta": 1.0,
        "past_decode": 0.3,
        "adversarial": 0.2,
    },
    "mixture": {"mixtures": 2, "tie_weights": True, "balance": 0.1},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
# Word 7 is the most frequent one, then 3; of those with one occurrence 0 is the first
TEXT = np.array([7, 3, 7, 3, 7, 0, 1, 2, 4, 5, 6, 8, 9, 10])


def made(options, **more):
    sizes = {"rng": 3, "dtype": np.float64}
    return LanguageModel(V, D, H, **(sizes | options | more))


def batch(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (N, T)), rng.integers(0, V, (N, T))


@cases
def test_steps_and_gradients_are_those_of_pytorch(options):
    torch = pytest.importorskip("torch")
    model, plain = made(options | FRAGE), made(options)
    count = len(plain.params)
    model.count_words(TEXT)
    popular = torch.zeros(V, dtype=torch.bool)
    popular[[7, 3]] = True  # a fifth of 11 words
    judge = torch.nn.Linear(D, 1, dtype=torch.float64)
    with torch.no_grad():
        judge.weight.copy_(torch.tensor(model.params[-2].T))
        judge.bias.copy_(torch.tensor(model.params[-1]))
    learning = torch.optim.SGD(judge.parameters(), lr=0.3)
    binary = torch.nn.functional.binary_cross_entropy_with_logits

    def judged(E):
        scores = judge(E)[:, 0]
        both = scores[popular], scores[~popular]
        return binary(both[0], torch.ones(2).double()) + binary(both[1], torch.zeros(9).double())

    for step in range(4):
        xs, ts = batch(step)
        E = torch.tensor(model.params[0], requires_grad=True)
        learning.zero_grad()
        judged(E).backward()
        learning.step()
        E.grad = None
        penalty = -0.7 * judged(E)
        penalty.backward()
        assert model.forward(xs, ts) == pytest.approx(plain.forward(xs, ts), abs=1e-12)
        assert model.penalty - plain.penalty == pytest.approx(penalty.item(), abs=1e-10)
        assert penalty.item() < 0
        factor = 1.0 if step < 2 else -1.5
        for net in (model, plain):
            net.backward(factor)
        judge_W, judge_b = judge.weight.detach().numpy().T, judge.bias.detach().numpy()
        np.testing.assert_allclose(model.params[-2], judge_W, **CLOSE)
        np.testing.assert_allclose(model.params[-1], judge_b, **CLOSE)
        wanted = [grad.copy() for grad in plain.grads]
        wanted[0] += factor * E.grad.numpy()
        for name, a, b in zip(model.param_names, model.grads, wanted, strict=False):
            np.testing.assert_allclose(a, b, err_msg=str(name), **CLOSE)
        assert not model.grads[-2].any() and not model.grads[-1].any()
        params, grads = remove_duplicate(model.params, model.grads)
        SGD(0.5).update(params, grads)
        for param, other in zip(plain.params, model.params[:count], strict=True):
            param[...] = other
    model.forward(xs, ts, train_flg=False)
    assert model.adversary.loss == 0


def test_which_words_are_popular():
    for size, text, expected in [
        (11, TEXT, [3, 7]),
        (10, [9, 9, 8], [8, 9]),
        (4, [2], [2]),  # less than a fifth: one word
        (2, [], [0]),
        (15, [[1, 14], [14, 2]], [1, 2, 14]),
    ]:
        words, ones = Embedding(np.zeros((size, 1))), np.ones((1, 1))
        layer = FrequencyDiscriminator(words, ones, np.zeros(1), rate=0.0)
        layer.count_words(np.array(text, int))
        layer.forward()
        found = layer.backward()[:, 0] > 0  # descent makes these words look rare
        assert np.flatnonzero(found).tolist() == expected


def test_word_vectors_hide_what_the_discriminator_learns():
    """It finds popular words while vectors stand still; with FRAGE they move until it cannot."""
    rng = np.random.default_rng(0)
    E, popular = rng.standard_normal((50, 3)), np.arange(50) < 10
    E[popular] += 3
    losses = {}
    for rate in (0.0, 0.5):  # of the vectors
        words = Embedding(E.copy())
        layer = FrequencyDiscriminator(words, np.zeros((3, 1)), np.zeros(1), factor=1.0, rate=0.5)
        layer.count_words(np.flatnonzero(popular))
        for _ in range(500):
            losses[rate] = -layer.forward()
            words.params[0][...] -= rate * layer.backward()
    assert losses[0.0] < 0.2
    assert losses[0.5] > 1.3  # chance: 2 log(2) = 1.386


@cases
def test_the_columns_agree(options):
    results = {}
    for device in "reference", "cpu":
        model = made(options | FRAGE, device=device)
        model.count_words(TEXT)
        for step in range(2):
            model.forward(*batch(step))
            model.backward()
        results[device] = [model.penalty, *model.grads, *model.params[-2:]]
    for a, b in zip(*results.values(), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_no_optimiser_changes_the_discriminator(rule):
    model = made(FRAGE | {"frage_rate": 0.0, "tie_weights": True, "layers": 2}, dtype=np.float32)
    model.params[-1][...] = 0.3
    before = [param.copy() for param in model.params]
    optimizer = OPTIMIZERS[rule](0.1)
    trainer = RnnlmTrainer(model, optimizer, write=lambda line: None)
    trainer.fit(TEXT[:-1], TEXT[1:], 3, 2, 3, 0.25)
    assert (model.params[0] != before[0]).any()
    for param, old in zip(model.params[-2:], before[-2:], strict=True):
        np.testing.assert_array_equal(param, old)
    if isinstance(optimizer, optim.ASGD):
        optimizer.write_averages(model.params)
        for param, old in zip(model.params[-2:], before[-2:], strict=True):
            np.testing.assert_array_equal(param, old)


def test_the_trainer_counts_words_and_checkpoints_keep_the_discriminator(tmp_path):
    def trainer(options=FRAGE):
        return RnnlmTrainer(made(options), SGD(1.0), write=lambda line: None)

    fit = {"xs": TEXT[:-1], "ts": TEXT[1:], "batch_size": 2, "time_size": 3, "max_grad": 0.25}
    whole, half = trainer(), trainer()
    whole.fit(max_epoch=4, **fit)
    half.callbacks = [lambda step: half.stop() if (step.epoch, step.iter) == (2, 1) else None]
    half.fit(max_epoch=4, **fit)
    assert half.current_epoch == 1
    half.save_checkpoint(tmp_path / "checkpoint")
    other = trainer()
    other.load_checkpoint(tmp_path / "checkpoint")
    other.fit(max_epoch=4, **fit)
    for a, b in zip(whole.model.params, other.model.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole.model.params[-2] != made(FRAGE).params[-2]).any()
    loaded, _ = load_model(tmp_path / "checkpoint")
    assert loaded.param_names[-2:] == ["frage_W", "frage_b"]
    np.testing.assert_array_equal(loaded.params[-2], half.model.params[-2])
    assert "FrequencyDiscriminator: frage_W (4, 1), frage_b (1,), 5 parameters" in repr(loaded)
    for copying in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        copied = copying(whole.model)
        for net in (copied, whole.model):
            net.reset_state()
            net.forward(*batch(0))
            net.backward()
        assert copied.adversary.embedding is copied.layers[0]
        for a, b in zip(copied.grads, whole.model.grads, strict=True):
            np.testing.assert_array_equal(a, b)
    assert eval_perplexity(whole.model, TEXT, 1, 3) > 1


def test_without_the_frequencies_nothing_is_trained():
    model = made(FRAGE | {"dropout": 0.5})
    with pytest.raises(RuntimeError, match="needs the frequencies of words; call count_words"):
        model.forward(*batch(0))
    assert model.get_state()[0][0] is None and model.drop_layers[0].step == 0
    assert model.forward(*batch(0), train_flg=False) > 0
    with pytest.raises(ValueError, match=r"FrequencyDiscriminator: ids must be .*11"):
        model.count_words(np.array([11]))
    made({}).count_words(np.array([99]))  # without FRAGE it does not matter


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"frage": -1}, ValueError, "LanguageModel: frage must be finite, from 0 up, got -1"),
        ({"frage_rate": 1.0}, ValueError, "LanguageModel: frage_rate must be None without frage"),
        ({"frage": "x"}, TypeError, "LanguageModel: frage must be"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        made(options)


def test_wrong_arguments():
    words = Embedding(np.zeros((5, 2)))
    W, b = np.zeros((2, 1)), np.zeros(1)
    for arguments, options, message in [
        ((words, np.zeros((3, 1)), b), {}, r"W must be \(D, 1\) = \(2, 1\)"),
        ((words, W, b), {"rate": -1}, "rate must be finite, from 0 up, got -1"),
        ((Embedding(np.zeros((1, 2))), W, b), {}, "embedding must have at least 2 words, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            FrequencyDiscriminator(*arguments, **options)
    layer = FrequencyDiscriminator(words, W, b)
    with pytest.raises(RuntimeError, match="backward needs the forward"):
        layer.backward()
    assert made({"frage": 0.0}).adversary is None
