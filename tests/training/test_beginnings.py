"""Where a text begins: zero states in training, and what is read before a text that is measured.

A model that was always trained from state to state may run off from a zero state, which it never
saw, and not come back. `runs_off` is such a model, made by hand.
"""

import math
import os
from collections import Counter

import numpy as np
import pytest
from shell import QUIET, SMALL, failing, naive_logs, no_such_file, ok, read_log
from tiny import TEXT, TS, XS, N, T, V, train

from rnnfast import data
from rnnfast.commands import inputs
from rnnfast.data import CharVocabulary
from rnnfast.models import Rnnlm, load_model
from rnnfast.optim import SGD
from rnnfast.trainer import PerplexityWarning, eval_accuracy, eval_perplexity
from rnnfast.training import scoring

LETTERS = "nab\nz"


def runs_off():
    """A model that for good believes in z where the first thing it reads is n, and not if it is a.

    Its one unit adds up g = tanh(3 x + 6 h): x is 1 for a, -1 for n, else 0; after a few letters
    what it has chosen is stronger than any letter.
    """
    model = Rnnlm(len(LETTERS), 1, 1, rng=0)
    embed_W, Wx, Wh, b, affine_W, affine_b = model.params
    embed_W[:, 0] = [-1, 1, 0, 0, 0]
    Wx[...], Wh[...], b[...] = [[0, 3, 0, 0]], [[0, 6, 0, 0]], [10, 0, 10, 10]
    affine_W[...] = [[0, 0, 0, 0, -20]]
    affine_b[...] = 0
    return model


TEXT_OF_N = "nab\nb" * 8


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "runs_off.safetensors"
    runs_off().save_params(path, CharVocabulary(LETTERS))
    return str(path)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT_OF_N, encoding="utf-8")
    return str(path)


def perplexity_in(lines):
    (line,) = [line for line in lines if line.startswith("perplexity: ")]
    return float(line.split()[1].rstrip(","))


# Training


def log_p(model, ids):
    scores = model.predict(np.asarray(ids)[np.newaxis])[0]
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_each_sample_restarts_once_in_so_many_iterations(every):
    """With a learning rate of 0, against each sample on its own."""
    trainer, steps = train(optimizer=SGD(0.0), epochs=2, restart_every=every)
    model, expected = trainer.model, np.zeros((len(steps), N))
    for n in range(N):
        model.reset_state()
        for k in range(len(steps)):
            if (k + n) % every == 0:
                model.reset_state()
            at = (n * (len(XS) // N) + k * T + np.arange(T)) % len(XS)
            expected[k, n] = -log_p(model, XS[at])[np.arange(T), TS[at]].mean()
    found = [step.loss for step in steps]
    np.testing.assert_allclose(found, expected.mean(axis=1), rtol=0, atol=1e-12)


def test_nothing_restarts_unless_it_is_asked_for():
    losses = [step.loss for step in train(epochs=2)[1]]
    assert losses == [step.loss for step in train(epochs=2, restart_every=None)[1]]
    assert losses != [step.loss for step in train(epochs=2, restart_every=2)[1]]
    with pytest.raises(ValueError, match="fit: restart_every must be from 1 up, got 0"):
        train(restart_every=0)


def unigram(text, held_out):
    """The perplexity of each character's frequency in a text."""
    counts, size = Counter(text), len(text) + len(set(text + held_out))
    logs = [math.log((counts[c] + 1) / size) for c in held_out]
    return math.exp(-sum(logs) / len(logs))


def check_short_run(path, text, out, capsys, *arguments):
    path.write_text(text, encoding="utf-8")
    ok(capsys, "train", str(path), "--out", str(out), "--epochs", "1", *arguments, *QUIET)
    held_out = text[-(len(text) // 20) :]
    expected = unigram(text[: -len(held_out)], held_out)
    assert read_log(out)[-1]["perplexity"] < expected
    # and what the weight file says of the same text, by itself
    path.write_text(held_out, encoding="utf-8")
    lines = ok(capsys, "eval", str(out / "Rnnlm.safetensors"), str(path))
    assert perplexity_in(lines) < expected


def test_a_short_run_beats_a_unigram_model(tmp_path, capsys):
    text = data.python_docs()[:60_000]
    check_short_run(tmp_path / "docs.txt", text, tmp_path / "out", capsys, "--hidden", "128")


@pytest.mark.parametrize("seed", ["0", "1"])
def test_a_short_run_on_tiny_shakespeare_beats_a_unigram_model(tmp_path, seed, capsys):
    """From a zero state these are at 299,481 and 2,541 without restarts and a prime."""
    folder = os.environ.get("RNNFAST_TEST_DATA")
    if not folder:
        pytest.skip("RNNFAST_TEST_DATA with tinyshakespeare.txt is not set")
    text = data.read_text(os.path.join(folder, "tinyshakespeare.txt"))[:60_000]
    check_short_run(tmp_path / "text.txt", text, tmp_path / "out", capsys, "--seed", seed)


# Evaluation


@pytest.mark.parametrize(("batch_size", "time_size", "n"), [(1, 7, 5), (3, 7, 20), (3, 9, 1)])
def test_primed_evaluation(batch_size, time_size, n):
    """Each sample reads the prime, then the n ids right before it, and neither is counted."""
    model = train()[0].model
    prime, corpus = TEXT[100 : 100 + n], TEXT[150:]
    whole, losses, right = np.concatenate((prime, corpus)), [], []
    xs = len(corpus) - 1
    steps = xs // (batch_size * time_size) * time_size
    for sample in range(batch_size):
        start = n + sample * (xs // batch_size)
        model.reset_state()
        ids = np.concatenate((prime, whole[start - n : start], whole[start : start + steps]))
        found = log_p(model, ids)[2 * n :]
        ts = whole[start + 1 : start + steps + 1]
        losses.append(-found[np.arange(steps), ts].mean())
        right.append((found.argmax(axis=1) == ts).mean())
    sizes = batch_size, time_size
    ppl = eval_perplexity(model, corpus, *sizes, prime=prime)
    assert ppl == pytest.approx(math.exp(np.mean(losses)), rel=1e-12)
    assert eval_accuracy(model, corpus, *sizes, prime=prime) == pytest.approx(np.mean(right))
    assert model.get_state()[0][0] is None
    plain = eval_perplexity(model, corpus, *sizes)
    assert eval_perplexity(model, corpus, *sizes, prime=prime[:0]) == plain != ppl
    with pytest.raises(ValueError, match=r"eval_perplexity: prime must be integer ids \(length,\)"):
        eval_perplexity(model, corpus, *sizes, prime=prime / 2)


def test_a_perplexity_above_the_vocabularys_size_is_warned_of():
    model, ids = runs_off(), CharVocabulary(LETTERS).encode(TEXT_OF_N)
    with pytest.warns(PerplexityWarning, match=r"[\d,.]+ is above the vocabulary's 5: .*prime="):
        assert eval_perplexity(model, ids, 1, 5) > 1e6
    assert eval_perplexity(model, ids, 1, 5, prime=np.array([1])) < 5
    assert eval_perplexity(Rnnlm(V, 5, 8, rng=1), TEXT, 2, 7) == pytest.approx(V, rel=0.01)


def test_eval_score_and_generate_take_a_prime(weights, text, tmp_path, capsys):
    wrong = "is above the vocabulary's 5: worse than a blind guess (from a zero state; prime="
    assert perplexity_in(ok(capsys, "eval", weights, text, warning=wrong)) > 1e6
    assert perplexity_in(ok(capsys, "eval", weights, text, "--prime", "a")) < 5
    before = tmp_path / "before.txt"
    before.write_text("a" + "b" * (inputs.PRIME - 1), encoding="utf-8")
    lines = ok(capsys, "eval", weights, text, "--prime", f"@{before}")
    assert perplexity_in(lines) < 5
    before.write_text("na" + "b" * (inputs.PRIME - 1), encoding="utf-8")  # its end, without the n
    assert ok(capsys, "eval", weights, text, "--prime", f"@{before}") == lines

    ids = [0, 1, 2, 3]
    found = ok(capsys, "score", weights, "nab\n", warning=wrong[:-7])
    assert perplexity_in(found) > 1e4
    logs = naive_logs(runs_off(), [1, *ids])
    found = ok(capsys, "score", weights, "nab\n", "--prime", "a")
    assert found[:4] == [
        f"{v:10.4f}  {c}" for v, c in zip(logs, ['"n"', '"a"', '"b"', '"\\n"'], strict=True)
    ]

    arguments = ["generate", weights, "--length", "40", "--seed", "1", "--prompt", "nnn"]
    assert "\n".join(ok(capsys, *arguments)) == "nnn" + "z" * 40
    primed = "\n".join(ok(capsys, *arguments, "--prime", "aaa"))
    assert primed.startswith("nnn") and "z" not in primed
    assert f"{tmp_path / 'none'}: {no_such_file()}" in failing(
        capsys, *arguments, "--prime", f"@{tmp_path / 'none'}"
    )


def test_a_weight_file_has_what_to_read_first(weights, text, capsys):
    """As `rnnfast train` leaves it there: the training text's end, begun where it begins well."""
    model, vocabulary = runs_off(), CharVocabulary(LETTERS)
    training = vocabulary.encode("nab\nb" * 40)
    model.set_state([(np.full((1, 1), 0.5, "f"), np.full((1, 1), 2, "f"))])
    prime = scoring.ending(model, training)
    vocabulary.set_prime(prime)
    assert model.get_state()[0][1] == 2
    assert 64 <= len(prime) <= 128 and prime == training[-len(prime) :].tolist()
    assert prime[0] != 0 and scoring.log_probabilities(model, np.array(prime)).mean() > -2
    model.save_params(weights, vocabulary)
    assert inputs.open_model(weights)[1].prime == prime
    assert perplexity_in(ok(capsys, "eval", weights, text)) < 5
    assert perplexity_in(ok(capsys, "score", weights, "nab\n")) < 5
    generated = "\n".join(ok(capsys, "generate", weights, "--seed", "1", "--prompt", "nnn"))
    assert "z" not in generated
    wrong = "is above the vocabulary's 5"
    assert perplexity_in(ok(capsys, "eval", weights, text, "--prime", "", warning=wrong)) > 1e6
    vocabulary.prime = [5]  # unchecked
    with pytest.raises(ValueError, match="prime must be ids of a vocabulary of 5, got int 5"):
        model.save_params(weights, vocabulary)


def test_training_measures_with_the_text_before(tmp_path, capsys):
    text = "she sells sea shells by the sea shore.\n" * 50
    path, out = tmp_path / "text.txt", tmp_path / "out"
    path.write_text(text, encoding="utf-8")
    ok(capsys, "train", str(path), "--out", str(out), *SMALL, "--epochs", "2", *QUIET)
    model, _ = load_model(out / "Rnnlm.safetensors")
    _, vocabulary = inputs.open_model(out / "Rnnlm.safetensors")
    ids, prime = vocabulary.encode(text), np.array(vocabulary.prime)
    held_out = ids[-97:]
    np.testing.assert_array_equal(prime, ids[:-97][-len(prime) :])
    entry = read_log(out)[-1]
    assert entry["perplexity"] == eval_perplexity(model, held_out, 1, 10, prime=prime)
    assert entry["accuracy"] == eval_accuracy(model, held_out, 1, 10, prime=prime)
