"""Sampling: what is drawn, from which state, and what becomes of the model meanwhile."""

import gc
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from rnnfast.models import BetterRnnlm, LanguageModel, Rnnlm
from rnnfast.sampling import generate, stream

V, D, H = 7, 3, 5


@pytest.fixture
def model():
    model = Rnnlm(V, D, H, rng=3, dtype=np.float64)
    model.params[0] *= 100  # else every id is as probable as any other
    return model


def probabilities(model, ids):
    """Of the id that follows, from a zero state; the model's own stays."""
    state = model.get_state()
    model.reset_state()
    scores = model.predict(np.array([ids]))[0, -1]
    model.reset_state()
    if state[0][0] is not None:
        model.set_state(state)
    return np.exp(scores) / np.exp(scores).sum()


def test_most_probable_id_at_temperature_zero(model):
    expected, ids = [], [1, 4]
    for _ in range(6):
        expected.append(int(probabilities(model, ids).argmax()))
        ids.append(expected[-1])
    assert generate(model, [1, 4], 6, temperature=0) == expected


def expected_probabilities(p, temperature=1.0, top_k=V, top_p=1.0, skip_ids=()):
    """By sorting and counting, one id at a time."""
    p = p ** (1 / temperature)
    p[list(skip_ids)] = 0
    p /= p.sum()
    order = sorted(range(V), key=lambda k: -p[k])[:top_k]
    kept, reached = [], 0.0
    for k in order:
        if reached >= top_p * p[order].sum():
            break
        kept.append(k)
        reached += p[k]
    q = np.zeros(V)
    q[kept] = p[kept]
    return q / q.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_k": 100},
        {"top_p": 0.6},
        {"top_p": 1.0},
        {"top_k": 4, "top_p": 0.7, "temperature": 1.5, "skip_ids": {1, 6}},
        {"skip_ids": [0, 2, 5]},
    ],
    ids=str,
)
def test_drawn_as_often_as_probable(model, options):
    p = expected_probabilities(probabilities(model, [2]), **options)
    drawn = generate(model, [[2]] * 4000, 1, rng=0, **options)
    frequencies = np.bincount(np.ravel(drawn), minlength=V) / 4000
    assert np.abs(frequencies - p).max() < 0.03  # four standard deviations
    assert (frequencies[p == 0] == 0).all()


def test_of_equal_ids_the_first_are_kept(model):
    model.params[-2][...] = 0
    model.params[-1][...] = [0, 1, 1, 2, 1, 0, 1]
    for options in {"top_k": 3}, {"top_p": 0.55}:  # e^2 + 2 e of e^2 + 4 e + 2
        assert set(generate(model, [0], 300, rng=1, **options)) == {1, 2, 3}


def test_one_choice_is_left(model):
    best = generate(model, [2], 8, temperature=0)
    assert generate(model, [2], 8, top_k=1, rng=0) == best
    assert generate(model, [2], 8, top_p=1e-9, rng=0) == best
    assert generate(model, [2], 8, temperature=1e-300, rng=0) == best


def test_generate_is_the_books_with_np_random(model):
    """Same draws as np.random.choice; the state goes on from where it was."""
    model.predict(np.array([[3, 3]]))
    state = model.get_state()
    np.random.seed(2)
    expected = [1]
    while len(expected) < 8:
        p = np.exp(model.predict(np.array([expected[-1:]])).ravel())
        expected.append(int(np.random.choice(V, p=p / p.sum())))
    after = model.get_state()
    model.set_state(state)
    np.random.seed(2)
    assert model.generate(1, sample_size=8) == expected
    for got, wanted in zip(model.get_state()[0], after[0], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert model.generate(np.int64(1), sample_size=1) == [1]
    assert set(model.generate(1, skip_ids=[1, 2, 3], sample_size=60)[1:]) <= {0, 4, 5, 6}


def test_seeds_and_state(model):
    model.predict(np.array([[1, 2], [3, 4]]))
    (before,) = model.get_state()
    first = generate(model, [0], 30, rng=1)
    assert first == generate(model, [0], 30, rng=1)
    assert first == generate(model, [0], 30, rng=np.random.default_rng(1))
    assert first != generate(model, [0], 30, rng=2)
    (after,) = model.get_state()
    for array, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(array, old)
    model.reset_state()
    assert first == generate(model, [0], 30, rng=1)
    assert model.get_state()[0][0] is None
    np.random.seed(1)
    free = generate(model, [0], 30)
    np.random.seed(1)
    assert free == generate(model, [0], 30)


def test_a_stop_id_is_the_last(model):
    free = generate(model, [0], 200, rng=1)
    for stop_ids in ([4], {2, 5}, np.array([6])):
        end = min(free.index(k) for k in stop_ids)
        assert generate(model, [0], 200, rng=1, stop_ids=stop_ids) == free[: end + 1]
        assert list(stream(model, [0], rng=1, stop_ids=stop_ids)) == free[: end + 1]
        model.reset_state()
    assert generate(model, [0], end, rng=1, stop_ids=[6]) == free[:end]


# Many prompts at once


PROMPTS = [[1, 2, 3], [4], [0, 6, 5, 4, 3, 2], [2, 2], [5]]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_batch_is_its_prompts(cell, dtype, count):
    """Also where some of them end before the others."""
    model = LanguageModel(V, D, H, cell=cell, layers=2, rng=3, dtype=dtype)
    model.params[0] *= 100
    prompts, seeds = (PROMPTS * 4)[:count], list(range(count))
    options = {"stop_ids": [6], "temperature": 1.3, "top_k": 5}
    together = generate(model, prompts, 25, rng=seeds, **options)
    alone = [generate(model, p, 25, rng=s, **options) for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone
    assert count == 1 or len({len(ids) for ids in together}) > 1
    reference = LanguageModel(V, D, H, cell=cell, layers=2, rng=3, dtype=dtype, device="reference")
    reference.params[0] *= 100
    assert generate(reference, prompts, 25, rng=seeds, **options) == together


def test_seeds_of_a_batch(model):
    together = generate(model, PROMPTS, 12, rng=5)
    assert together == generate(model, [np.array(p) for p in PROMPTS], 12, rng=5)
    rngs = np.random.default_rng(5).spawn(len(PROMPTS))
    assert together == generate(model, PROMPTS, 12, rng=rngs)
    assert together == generate(model, PROMPTS, 12, rng=np.random.default_rng(5))
    same = generate(model, np.array([[3, 1]] * 6), 12, rng=5)  # each draws for itself
    assert len({tuple(ids) for ids in same}) > 3
    np.random.seed(1)
    free = generate(model, PROMPTS, 12)
    np.random.seed(1)
    assert free == generate(model, PROMPTS, 12)
    assert generate(model, PROMPTS, 0) == [[]] * 5
    assert generate(model, [3], 0) == []


# The weights meanwhile


def freezes(model, monkeypatch):
    """Counts the calls of freeze, by layer."""
    counts = Counter()
    for layer in model.recurrent_layers:

        def freeze(layer=layer, inner=layer.freeze):
            counts[id(layer)] += 1
            inner()

        monkeypatch.setattr(layer, "freeze", freeze)
    return counts


def frozen(model):
    flags = [layer.frozen for layer in model.recurrent_layers]
    assert all(
        layer.params[0].flags.writeable is not layer.frozen for layer in model.recurrent_layers
    )
    return flags


def test_weights_are_laid_out_once(monkeypatch):
    model = BetterRnnlm(V, H, H, rng=1)
    counts = freezes(model, monkeypatch)
    generate(model, PROMPTS, 20, rng=1)
    assert list(counts.values()) == [1, 1]
    assert frozen(model) == [False, False]
    ids = stream(model, [1], rng=1)
    assert frozen(model) == [False, False]  # not before the first id
    next(ids)
    assert frozen(model) == [True, True]
    list(islice(ids, 5))
    assert list(counts.values()) == [2, 2]
    ids.close()
    assert frozen(model) == [False, False]
    model.forward(np.array([[1, 2]]), np.array([[2, 3]]))  # training goes on


def test_a_dropped_stream_thaws(model):
    ids = stream(model, [1], rng=1)
    next(ids)
    del ids
    gc.collect()
    assert frozen(model) == [False]
    list(stream(model, [1], rng=1, stop_ids=range(V)))
    assert frozen(model) == [False]
    model.reset_state()
    model.generate(1, sample_size=3)
    assert frozen(model) == [False]


def test_an_exception_thaws(model):
    model.params[-1][2] = np.nan
    for call in (
        lambda: generate(model, [1], 3, rng=1),
        lambda: generate(model, PROMPTS, 3, rng=1),
        lambda: next(stream(model, [1], rng=1)),
        lambda: model.generate(1),
    ):
        with pytest.raises(ValueError, match="the model's scores are not finite"):
            call()
        assert frozen(model) == [False]
        model.reset_state()


def test_what_was_frozen_stays_so():
    model = BetterRnnlm(V, H, H, rng=1)
    model.recurrent_layers[1].freeze()
    generate(model, [1], 5, rng=1)
    assert frozen(model) == [False, True]
    ids = stream(model, [1], rng=1)
    next(ids)
    ids.close()
    assert frozen(model) == [False, True]


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"start_ids": []}, ValueError, r"start_ids must be at least one integer id, got \[\]"),
        ({"start_ids": ["a"]}, ValueError, "start_ids must be at least one integer id, got"),
        ({"start_ids": [0.5]}, ValueError, "start_ids must be at least one integer id, got"),
        ({"start_ids": [True]}, ValueError, "start_ids must be at least one integer id, got"),
        ({"start_ids": 3}, ValueError, "start_ids must be at least one integer id, got 3"),
        ({"start_ids": None}, ValueError, "start_ids must be at least one integer id, got None"),
        ({"start_ids": [1, [2, 3]]}, ValueError, "start_ids must be at least one integer id"),
        ({"start_ids": [V]}, ValueError, r"start_ids must be in \[0, 7\), got 7"),
        ({"start_ids": [1, -1]}, ValueError, r"start_ids must be in \[0, 7\), got -1"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite and not negative, got -1"),
        ({"temperature": np.nan}, ValueError, "temperature must be finite and not negative, got"),
        ({"temperature": np.inf}, ValueError, "temperature must be finite and not negative, got"),
        ({"temperature": "hot"}, TypeError, "temperature must be a real number, got str"),
        ({"temperature": None}, TypeError, "temperature must be a real number, got NoneType"),
        ({"top_k": 0}, ValueError, "top_k must be from 1 up, got 0"),
        ({"top_k": 2.5}, TypeError, "top_k must be an integer, got float"),
        ({"top_p": 0}, ValueError, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.1}, ValueError, r"top_p must be in \(0, 1\], got 1.1"),
        ({"top_p": np.nan}, ValueError, r"top_p must be in \(0, 1\], got nan"),
        ({"top_p": [1]}, TypeError, "top_p must be a real number, got list"),
        ({"skip_ids": 3}, TypeError, "skip_ids must be integer ids or None, got 3"),
        ({"skip_ids": "abc"}, TypeError, "skip_ids must be integer ids or None, got 'abc'"),
        ({"skip_ids": [V]}, ValueError, r"skip_ids must be in \[0, 7\), got 7"),
        ({"skip_ids": range(V)}, ValueError, "skip_ids leaves no id to draw"),
        ({"stop_ids": [1.5]}, TypeError, r"stop_ids must be integer ids or None, got \[1.5\]"),
        ({"stop_ids": [-1]}, ValueError, r"stop_ids must be in \[0, 7\), got -1"),
        ({"rng": "seed"}, TypeError, "rng must be None, a seed from 0 up or a Generator, got"),
        ({"rng": -1}, ValueError, "rng must be None, a seed from 0 up or a Generator, got -1"),
    ],
)
def test_bad_arguments(model, change, error, message):
    """At once, also of a stream, and nothing is frozen or drawn."""
    arguments = {"start_ids": [1]} | change
    with pytest.raises(error, match=f"^stream: {message}"):
        stream(model, **arguments)
    with pytest.raises(error, match=f"^generate: {message}"):
        generate(model, sample_size=3, **arguments)
    assert frozen(model) == [False]
    assert model.get_state()[0][0] is None


def test_what_is_no_model():
    for call in generate, stream:
        for wrong in None, 3, "model", np.ones(3):
            with pytest.raises(TypeError, match=r"model must be one of rnnfast.models, got"):
                call(wrong, [1], **({"sample_size": 1} if call is generate else {}))


def test_bad_arguments_of_a_batch(model):
    for prompts, message in (
        ([[1], []], r"start_ids\[1\] must be at least one integer id, got \[\]"),
        ([[1], 2], r"start_ids\[1\] must be at least one integer id, got 2"),
        ([[1], [[2]]], r"start_ids\[1\] must be at least one integer id"),
        ([[1], [2, V]], r"start_ids\[1\] must be in \[0, 7\), got 7"),
        (np.array([[1.0]]), r"start_ids\[0\] must be at least one integer id"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, prompts, 3)
    with pytest.raises(ValueError, match="rng must be one for each of 2 prompts, got 3"):
        generate(model, [[1], [2]], 3, rng=[1, 2, 3])
    with pytest.raises(TypeError, match="rng must be None, a seed from 0 up or a Generator"):
        generate(model, [[1], [2]], 3, rng=[1, "two"])
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(error, match="generate: sample_size must"):
            generate(model, [1], wrong)
        with pytest.raises(error, match="generate: sample_size must"):
            model.generate(1, sample_size=wrong)
    for wrong in (V, -1, "a", None, [1]):
        with pytest.raises((ValueError, TypeError)):
            model.generate(wrong)


def test_generators_that_cannot_spawn_and_masked_prompts():
    model = Rnnlm(vocab_size=5, wordvec_size=4, hidden_size=4, rng=0)
    rng = np.random.Generator(np.random.Philox(key=5))
    with pytest.raises(TypeError, match="generate: rng must be able to spawn generators"):
        generate(model, [[0], [1]], 3, rng=rng)
    with pytest.raises(TypeError, match="generate: start_ids must not be masked"):
        generate(model, np.ma.masked_equal([0, 1], 1), 3, rng=0)
