"""Learning-rate schedules: their values, alone and composed, in training and after a resumption."""

import math

import numpy as np
import pytest
from tiny import CLASSES, POINTS, TS, XS, N, T, TwoLayerNet, V

from rnnfast.models import Rnnlm
from rnnfast.optim import SGD, Adam, Cosine, Schedule, StepDecay, WarmUp
from rnnfast.trainer import Plateau, RnnlmTrainer, Trainer

BOTH = WarmUp(0.5, start=0.2).then(Cosine(2.5, last=0.1)) * StepDecay(2, 0.5)


def test_values_by_hand():
    assert [WarmUp(4, start=0.0)(e) for e in (0, 1, 3.5, 4, 9)] == [0, 0.25, 0.875, 1, 1]
    for epoch in (0, 0.3, 1, 2.7, 3, 8):
        share = min(epoch / 3, 1)
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2
        assert Cosine(3, last=0.1)(epoch) == pytest.approx(expected, rel=1e-14)
    assert [StepDecay(1.5, 0.2)(e) for e in (0, 1.4, 1.5, 2.9, 3.0)] == pytest.approx(
        [1, 1, 0.2, 0.2, 0.04]
    )


def test_one_after_the_other():
    chain = WarmUp(2, start=0.5).then(StepDecay(3, 0.5))
    assert [chain(e) for e in (0, 1, 2, 4.9, 5)] == [0.5, 0.75, 1.0, 1.0, 0.5]
    assert WarmUp(2).then(Cosine(3)).epochs == 5 and chain.epochs == math.inf
    third = WarmUp(1, start=0.5).then(Cosine(2)).then(WarmUp(1, start=0.0))
    assert [third(e) for e in (0.5, 2, 3, 3.25)] == pytest.approx([0.75, 0.5, 0, 0.25])


def test_both_at_the_same_time():
    for epoch in (0, 0.2, 1, 1.9, 2, 7):
        one, other = WarmUp(0.5, start=0.2).then(Cosine(2.5, last=0.1)), StepDecay(2, 0.5)
        assert BOTH(epoch) == one(epoch) * other(epoch)


def test_repr():
    text = "WarmUp(epochs=0.5, start=0.2).then(Cosine(epochs=2.5, last=0.1)) * "
    text += "StepDecay(every=2, factor=0.5)"
    assert repr(BOTH) == text
    names = {"WarmUp": WarmUp, "Cosine": Cosine, "StepDecay": StepDecay}
    again = (WarmUp(1) * Cosine(2)).then(Cosine(1))
    for schedule in (BOTH, again):
        made = eval(repr(schedule), names)
        assert [made(e / 8) for e in range(40)] == [schedule(e / 8) for e in range(40)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WarmUp(0), ValueError, "WarmUp: epochs must be finite, above 0, got 0"),
        (lambda: WarmUp(1, 1.5), ValueError, r"WarmUp: start must be in \[0, 1\], got 1.5"),
        (lambda: Cosine(math.inf), ValueError, "Cosine: epochs must be finite, above 0, got inf"),
        (lambda: Cosine(1, -0.1), ValueError, r"Cosine: last must be in \[0, 1\], got -0.1"),
        (lambda: StepDecay("1"), TypeError, "StepDecay: every must be a real number, got str"),
        (lambda: StepDecay(1, 2), ValueError, r"StepDecay: factor must be in \[0, 1\], got 2"),
        (lambda: StepDecay(1).then(WarmUp(1)), ValueError, "then: the first schedule must end"),
        (lambda: WarmUp(1).then(0.5), TypeError, "then: the second must be a schedule .* float"),
        (lambda: WarmUp(1) * 0.5, TypeError, r"\*: the second must be a schedule .* got float"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def language(schedule=BOTH, optimizer=Adam, **options):
    np.random.seed(1)
    model = Rnnlm(V, 5, 8, rng=1, dtype=np.float64)
    return RnnlmTrainer(
        model, optimizer(0.1), schedule=schedule, write=lambda line: None, **options
    )


def fit(trainer, epochs=3, **options):
    """-> the steps of a fit."""
    steps = []
    trainer.callbacks = [*trainer.callbacks, steps.append]
    trainer.fit(XS, TS, epochs, N, T, 0.25, eval_interval=4, **options)
    return steps


def test_every_iteration_has_its_own_rate():
    """As with an optimiser whose rate a script sets before each iteration."""
    trainer = language()
    steps = fit(trainer)
    assert [step.lr for step in steps] == [0.1 * BOTH(i // 10 + i % 10 / 10) for i in range(30)]
    assert trainer.optimizer.lr == 0.1

    by_hand = language(schedule=None)

    def set_rate(i):
        by_hand.optimizer.lr = 0.1 * BOTH(i // 10 + i % 10 / 10)

    set_rate(0)
    by_hand.callbacks = [lambda step: set_rate((step.epoch - 1) * 10 + step.iter)]
    assert [step.loss for step in fit(by_hand)] == [step.loss for step in steps]


def test_fits_count_on():
    trainer, one = language(), language()
    steps = [step for _ in range(3) for step in fit(trainer, 1)]
    assert [step.lr for step in fit(one)] == [step.lr for step in steps][:30]


def test_lengths_that_vary_scale_it_too():
    steps = fit(language(), length_seed=3)
    plain = fit(language(schedule=None), length_seed=3)
    ratios = [step.lr / other.lr for step, other in zip(steps, plain, strict=True)]
    assert ratios == pytest.approx([BOTH(i // 10 + i % 10 / 10) for i in range(30)], rel=1e-14)
    assert len({step.lr for step in plain}) > 1


def test_a_plateau_divides_the_rate_below():
    trainer = language(schedule=StepDecay(1, 0.5))
    plateau = Plateau(trainer.optimizer, 4.0, best=1.0)
    trainer.callbacks = [lambda step: step.iter == 10 and plateau.update(2.0)]
    rates = [step.lr for step in fit(trainer)]
    assert rates[::10] == pytest.approx([0.1, 0.1 / 4 * 0.5, 0.1 / 16 * 0.25], rel=1e-14)


@pytest.mark.parametrize("stop_after", [1, 10, 13])
@pytest.mark.parametrize("options", [{}, {"length_seed": 3}], ids=["", "lengths vary"])
def test_a_resumed_run_continues_it(tmp_path, stop_after, options):
    expected = [(step.loss, step.lr) for step in fit(language(), **options)]
    first = language()

    def stop(step):
        if (step.epoch - 1) * 10 + step.iter == stop_after:
            first.save_checkpoint(tmp_path / "checkpoint")
            first.stop()

    first.callbacks = [stop]
    steps = fit(first, **options)
    assert len(steps) == stop_after
    second = language()
    np.random.seed(5)
    second.load_checkpoint(tmp_path / "checkpoint")
    steps += fit(second, **options)
    assert [(step.loss, step.lr) for step in steps] == expected


def test_the_trainer_of_samples_and_a_function():
    seen = []
    trainer = Trainer(
        TwoLayerNet(),
        SGD(2.0),
        callbacks=[lambda step: seen.append(step.lr)],
        schedule=lambda epoch: 1 / (1 + epoch),
    )
    trainer.fit(POINTS, CLASSES, 2, batch_size=25, eval_interval=None)
    assert seen == [2.0, 2 / 1.5, 1.0, 2 / 2.5]


def test_bad_schedules():
    with pytest.raises(TypeError, match=r"Trainer: schedule must be a function .* got float"):
        Trainer(TwoLayerNet(), SGD(), schedule=0.5)

    class NoRate:
        def update(self, params, grads):
            pass

    with pytest.raises(TypeError, match="needs an optimizer with lr, got a NoRate without"):
        Trainer(TwoLayerNet(), NoRate(), schedule=WarmUp(1))
    with pytest.raises(NotImplementedError):
        Schedule()(0)
    for value, error, got in ((-1, ValueError, "from 0 up, got -1"), ("1", TypeError, "got str")):
        trainer = language(schedule=lambda epoch, value=value: value)
        before = [param.copy() for param in trainer.model.params]
        with pytest.raises(error, match=f"schedule: the factor of epoch 0 must be .*{got}"):
            fit(trainer)
        assert trainer.optimizer.lr == 0.1
        for param, old in zip(trainer.model.params, before, strict=True):
            np.testing.assert_array_equal(param, old)
