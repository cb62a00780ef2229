"""Averaged SGD and its trigger against algorithm 1 of the AWD-LSTM paper."""

import numpy as np
import pytest
from tiny import TEXT, TS, XS, N, T, V

from rnnfast.models import BetterRnnlm
from rnnfast.optim import ASGD, NTASGD, SGD
from rnnfast.trainer import RnnlmTrainer, eval_perplexity


def arrays(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in [(3, 4), (4,)]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [0, 3])
def test_means_are_those_of_the_updates(dtype, start):
    """The updates are SGD's, bit for bit; the means are exact, also in float32."""
    params, expected, history = arrays(0, dtype), arrays(0, dtype), []
    tested, plain = ASGD(0.5, start=start), SGD(0.5)
    for step in range(1, 9):
        tested.update(params, arrays(step, dtype))
        plain.update(expected, arrays(step, dtype))
        history.append([param.astype(np.float64) for param in expected])
        for a, b in zip(params, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        if step <= start:
            assert tested.mean is None
            continue
        for mean, *values in zip(tested.mean, *history[start:], strict=True):
            assert mean.dtype == np.float64
            np.testing.assert_allclose(mean, np.mean(values, axis=0), rtol=0, atol=1e-13)
    with tested.averaged(params):
        for param, mean in zip(params, tested.mean, strict=True):
            assert param.dtype == dtype
            np.testing.assert_array_equal(param, mean.astype(dtype))
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weights_are_back_after_an_error():
    params, tested = arrays(0), ASGD(0.5)
    tested.update(params, arrays(1))
    tested.update(params, arrays(2))
    before = [param.copy() for param in params]
    with pytest.raises(KeyError), tested.averaged(params):
        raise KeyError
    for a, b in zip(params, before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="not those of the first update"):
        tested.write_averages(params[:1])


def test_tied_weights_are_averaged_once():
    W, tested = np.ones((2, 3)), ASGD(1.0)
    for _ in range(2):
        tested.update([W, W.T], [np.ones((2, 3)), np.ones((3, 2))])
    assert (W == -3).all() and len(tested.mean) == 1
    with tested.averaged([W, W.T]):
        assert (W == -2).all()
    assert (W == -3).all()


def algorithm_1(ppls, n):
    """The index of the check at which averaging begins, None if at none: the paper's words."""
    logs = []
    for t, v in enumerate(ppls):
        if t > n and v > min(logs[: t - n]):
            return t
        logs.append(v)
    return None


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_trigger_is_that_of_the_paper(n):
    rng = np.random.default_rng(n)
    found = set()
    for _ in range(60):
        ppls = 100 - np.arange(14) + 4 * rng.standard_normal(14)
        tested = NTASGD(1.0, interval=n)
        begun = [tested.check(ppl) for ppl in ppls]
        at = begun.index(True) if True in begun else None
        assert at == algorithm_1(ppls.tolist(), n)
        assert sum(begun) == (at is not None) == tested.averaging
        found.add(at)
    assert len(found) > 1


def test_the_trigger_averages_from_the_next_update_on():
    params, tested, history = arrays(0), NTASGD(0.5, interval=1), []
    for step in range(6):
        tested.update(params, arrays(step))
        history.append(params[0].copy())
        tested.check([3.0, 2.0, 2.5, 2.4, 2.6, 2.0][step])
    assert tested.start == 4  # 2.5 is worse than the check right before it only
    np.testing.assert_allclose(tested.mean[0], np.mean(history[4:], axis=0), rtol=0, atol=1e-14)


def test_a_model_is_evaluated_with_the_means_and_goes_on_without_them():
    model, other = BetterRnnlm(V, 6, 6, rng=1), BetterRnnlm(V, 6, 6, rng=1)
    optimizer = ASGD(0.5)
    fit = {"max_epoch": 1, "batch_size": N, "time_size": T, "eval_interval": None}
    RnnlmTrainer(model, optimizer).fit(XS, TS, **fit)
    RnnlmTrainer(other, SGD(0.5)).fit(XS, TS, **fit)
    plain = eval_perplexity(other, TEXT, 2, 7)
    assert eval_perplexity(model, TEXT, 2, 7) == plain
    with optimizer.averaged(model.params):
        assert eval_perplexity(model, TEXT, 2, 7) != plain
    assert eval_perplexity(model, TEXT, 2, 7) == plain


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ASGD(1.0, start=-1), ValueError, "ASGD: start must be from 0 up, got -1"),
        (lambda: ASGD(1.0, start=0.5), TypeError, "ASGD: start must be an integer, got float"),
        (lambda: ASGD(-1.0), ValueError, "ASGD: lr must be finite, from 0 up, got -1.0"),
        (lambda: NTASGD(1.0, interval=0), ValueError, "NTASGD: interval must be from 1 up, got 0"),
        (lambda: NTASGD().check("90"), TypeError, "NTASGD: ppl must be a real number, got str"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


@pytest.mark.parametrize("change", [{"ppls": 3.0}, {"ppls": ["a"]}, {"start": -1}, {"interval": 0}])
def test_wrong_states(change):
    tested = NTASGD()
    before = tested.state_dict()
    with pytest.raises(ValueError, match=r"^NTASGD: (ppls|start|interval) must be"):
        tested.load_state_dict(before | change)
    assert tested.state_dict() == before
