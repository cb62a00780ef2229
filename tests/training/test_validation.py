"""Validation within fit, and early stopping: what is measured, when it ends, what is kept."""

import math

import numpy as np
import pytest
from tiny import CLASSES, POINTS, TEXT, TS, XS, N, T, TwoLayerNet, V

from rnnfast import io
from rnnfast.models import Rnnlm
from rnnfast.optim import ASGD, NTASGD, SGD, Adam
from rnnfast.sequences import SequenceClassifier, SequenceRegressor, SequenceTagger
from rnnfast.trainer import RnnlmTrainer, Trainer, eval_labels, eval_loss, eval_perplexity
from rnnfast.training.validation import epochs_without_improvement

rng = np.random.default_rng(3)
IDS, LENGTHS = rng.integers(0, 6, (11, 5)), rng.integers(1, 6, 11)
TAGS = np.where(rng.random((11, 5)) < 0.3, -1, IDS % 3)
VECTORS = rng.normal(size=(11, 5, 2))

SAMPLES = {
    "tagger": (lambda: SequenceTagger(6, 2, 4, 3, rng=0, dtype="float64"), IDS, TAGS),
    "regressor": (lambda: SequenceRegressor(2, 4, 2, rng=0, dtype="float64"), VECTORS, VECTORS**2),
    "classifier": (
        lambda: SequenceClassifier(2, 4, 3, dropout=0.4, rng=0, dtype="float64"),
        VECTORS,
        IDS[:, 0] % 3,
    ),
}


# The loss of samples


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["", "lengths"])
@pytest.mark.parametrize(("make", "xs", "ts"), SAMPLES.values(), ids=SAMPLES)
def test_batches_do_not_matter(make, xs, ts, lengths):
    model = make()
    expected = float(model.forward(xs, ts, False, lengths))
    for batch_size in (1, 4, 11, 500):
        found = eval_loss(model, xs, ts, batch_size, lengths=lengths)
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_model_of_the_book():
    net = TwoLayerNet()
    expected = net.forward(POINTS, CLASSES)
    assert eval_loss(net, POINTS, CLASSES, 7) == pytest.approx(expected, rel=1e-12)


def test_samples_that_cannot_be_measured():
    with pytest.raises(ValueError, match=r"eval_loss: xs and ts must be equally long, got \(50, 2"):
        eval_loss(TwoLayerNet(), POINTS, CLASSES[1:])
    model = SAMPLES["tagger"][0]()
    with pytest.raises(ValueError, match="eval_loss: ts must have a target that counts, got none"):
        eval_loss(model, IDS, np.full_like(TAGS, -1))


@pytest.mark.parametrize("lengths", [None, [5, 3, 0, 2, 5, 1]])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_missing_numbers_do_not_count(lengths, batch_size):
    rng = np.random.default_rng(0)
    model = SequenceRegressor(3, 4, 2, rng=0, dtype="f8")
    model.loss_layer.ignore_nan = True
    xs, ts = rng.normal(size=(6, 5, 3)), rng.normal(size=(6, 5, 2))
    ts[rng.random(ts.shape) < 0.4] = np.nan
    ts[0] = np.nan
    real = np.arange(5) < np.array(lengths or [5] * 6)[:, np.newaxis]
    errors = np.nan_to_num((model.predict(xs, lengths=lengths) - ts)[real])
    steps = (~np.isnan(ts[real])).any(axis=1).sum()
    found = eval_loss(model, xs, ts, batch_size, lengths=lengths)
    assert found == pytest.approx((errors**2).sum() / 2 / steps)


@pytest.mark.parametrize("name", ["xs", "ts"])
def test_masked_and_ragged_samples(name):
    """Training and evaluation would compute with the numbers under a mask."""
    model = SAMPLES["tagger"][0]()
    given = {"xs": IDS, "ts": TAGS}
    masked = given | {name: np.ma.masked_equal(given[name], given[name][0, 0])}
    ragged = given | {name: [[1, 2], [3]]}
    fit = Trainer(model, SGD(0.1), write=None).fit
    fits = {"xs": "x", "ts": "t"}[name]
    for call, argument in (eval_loss, name), (eval_labels, name), (fit, fits):
        owner = call.__name__
        first, second = (model,) if call is not fit else (), masked.values()
        with pytest.raises(TypeError, match=f"{owner}: {argument} must not be masked, got a Mask"):
            call(*first, *second)
        with pytest.raises(
            ValueError, match=f"{owner}: {argument} must be one array, got a ragged"
        ):
            call(*first, *ragged.values())


# Within fit


class Scripted(TwoLayerNet):
    """A net, and a measure with given values."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)
        self.seen = []

    def measure(self):
        self.seen.append([param.copy() for param in self.params])
        return next(self.values)


def fit(values, epochs=10, optimizer=None, **options):
    """-> the trainer, its steps and lines."""
    net, steps, lines = Scripted(values), [], []
    np.random.seed(2)
    trainer = Trainer(net, optimizer or SGD(0.5), callbacks=[steps.append], write=lines.append)
    trainer.fit(POINTS, CLASSES, epochs, 10, eval_interval=None, valid=net.measure, **options)
    return trainer, steps, lines


def assert_params(model, expected):
    for param, other in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(param, other)


def test_after_each_epoch():
    trainer, steps, lines = fit([0.5, 0.25, 0.75], 3)
    assert trainer.valid_list == [0.5, 0.25, 0.75]
    assert [step.valid for step in steps if step.iter == 5] == trainer.valid_list
    assert all(step.valid is None for step in steps if step.iter < 5)
    assert lines == [
        f"| epoch {k} | validation loss {v:.4f}" for k, v in ((1, 0.5), (2, 0.25), (3, 0.75))
    ]
    assert_params(trainer.model, trainer.model.seen[-1])  # without patience the last weights


def test_it_changes_nothing_of_training():
    """Losses, weights and np.random are those without validation."""
    found = []
    for valid in None, (POINTS[:20], CLASSES[:20]):
        np.random.seed(2)
        net, losses = TwoLayerNet(), []
        trainer = Trainer(net, Adam(0.1), callbacks=[lambda s, to=losses: to.append(s.loss)])
        trainer.fit(POINTS, CLASSES, 3, 8, eval_interval=None, valid=valid)
        found.append([losses, np.random.random(), *(param.tolist() for param in net.params)])
    assert found[0] == found[1]
    expected = eval_loss(net, POINTS[:20], CLASSES[:20])
    assert trainer.valid_list[-1] == expected


def test_lengths_of_validation_samples():
    make, xs, ts = SAMPLES["tagger"]
    trainer = Trainer(make(), SGD(0.1))
    trainer.fit(xs, ts, 1, 4, lengths=LENGTHS, eval_interval=None, valid=(xs, ts, LENGTHS))
    assert trainer.valid_list == [eval_loss(trainer.model, xs, ts, lengths=LENGTHS)]


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([3.0, 2.0, 2.5, 2.0, 9.0], 2, 4, 1),  # an equal value is no improvement
        ([3.0, 2.0, 2.5, 1.0, 1.5, 1.5, 9.0], 2, 6, 3),
        ([3.0, 4.0, 9.0], 1, 2, 0),
        ([3.0, 2.0, 1.0], 1, 3, 2),  # the last epoch is the best one
        ([math.nan, math.nan, 9.0], 2, 2, None),
        ([math.nan, 3.0, math.nan, 2.0, 4.0, math.nan], 2, 6, 3),
        ([3.0, 1.0, 2.0, 2.0], 3, 4, 1),  # max_epoch comes first
    ],
)
def test_patience(values, patience, epochs, best):
    trainer, _, lines = fit(values, min(10, len(values)), patience=patience)
    assert trainer.current_epoch == epochs == len(trainer.valid_list)
    assert_params(trainer.model, trainer.model.seen[-1 if best is None else best])
    worn_out = epochs_without_improvement(values[:epochs]) >= patience
    what = "1 epoch" if patience == 1 else f"{patience} epochs"
    assert (f"| epoch {epochs} | no improvement in {what}" in lines) == worn_out
    assert not trainer.stopped


def test_patience_is_of_one_fit():
    net = Scripted([1.0, 2.0, 5.0, 4.0, 3.0])
    trainer = Trainer(net, SGD(0.5), write=lambda line: None)
    given = {"eval_interval": None, "valid": net.measure, "patience": 1}
    trainer.fit(POINTS, CLASSES, 5, 10, **given)
    assert trainer.valid_list == [1.0, 2.0]
    trainer.fit(POINTS, CLASSES, 3, 10, **given)
    assert trainer.valid_list == [1.0, 2.0, 5.0, 4.0, 3.0] and trainer.current_epoch == 5
    assert_params(net, net.seen[-1])


@pytest.mark.parametrize("stop_after", [1, 4, 5, 9, 10, 15, 16, 20])
def test_a_resumed_run_ends_alike(tmp_path, stop_after):
    """Also where the best epoch is before the interruption."""
    values = [3.0, 1.0, 2.0, 2.0, 9.0]
    whole, steps, _ = fit(values, patience=2)
    path = tmp_path / "checkpoint"

    def run(values, load):
        net, losses = Scripted(values), []
        trainer = Trainer(net, SGD(0.5), write=lambda line: None)

        def callback(step):
            losses.append(step.loss)
            if not load and len(losses) == stop_after:
                trainer.save_checkpoint(path)
                trainer.stop()

        trainer.callbacks = [callback]
        np.random.seed(2)
        if load:
            net.params[0][...] = np.nan
            trainer.load_checkpoint(path)
        given = {"eval_interval": None, "valid": net.measure, "patience": 2}
        trainer.fit(POINTS, CLASSES, 10, 10, **given)
        return trainer, losses

    _, losses = run(values, False)
    second, more = run(values[stop_after // 5 :], True)
    assert losses + more == [step.loss for step in steps]
    assert second.valid_list == whole.valid_list and second.current_epoch == 4
    assert_params(second.model, whole.model.params)


def test_a_best_epoch_of_another_model(tmp_path):
    path = tmp_path / "checkpoint"
    net = Scripted([1.0, 2.0])
    trainer = Trainer(net, SGD(0.5), write=lambda line: None)
    trainer.callbacks = [lambda step: step.iter == 5 and trainer.save_checkpoint(path)]
    given = {"eval_interval": None, "valid": net.measure, "patience": 1}
    trainer.fit(POINTS, CLASSES, 1, 10, **given)
    arrays, header = io.load_arrays(path)
    assert sum(name.startswith("best/") for name in arrays) == len(net.params)
    io.save_arrays(path, arrays | {"best/0": np.ones((3, 3))}, header)
    before = [param.copy() for param in net.params]
    with pytest.raises(ValueError, match="the best epoch: "):
        trainer.load_checkpoint(path)
    assert_params(net, before)


def test_averages_are_measured_and_kept():
    optimizer = ASGD(0.5, start=3)
    trainer, _, _ = fit([2.0, 1.0, 3.0, 3.0], patience=2, optimizer=optimizer)
    assert_params(trainer.model, trainer.model.seen[1])
    for mean, param in zip(optimizer.mean, trainer.model.seen[-1], strict=True):
        np.testing.assert_array_equal(mean, param)


def test_ntasgd_is_triggered():
    optimizer = NTASGD(0.5, interval=1)
    fit([3.0, 2.0, 4.0, 5.0], 4, optimizer=optimizer)
    assert optimizer.ppls == (3.0, 2.0, 4.0, 5.0)
    assert optimizer.start == 15  # 4.0 is above 3.0


# Language models


def language(valid, epochs=3, **options):
    np.random.seed(1)
    lines, model = [], Rnnlm(V, 5, 8, rng=1, dtype=np.float64)
    trainer = RnnlmTrainer(model, SGD(2.0), write=lines.append)
    losses = []
    trainer.callbacks = [lambda step: losses.append(step.loss)]
    trainer.fit(XS, TS, epochs, N, T, 0.25, None, valid=valid, **options)
    return trainer, losses, lines


def test_a_language_model_goes_on_from_its_state():
    trainer, losses, lines = language(TEXT[:100])
    plain, expected, _ = language(None)
    assert losses == expected
    for mine, theirs in zip(trainer.model.get_state(), plain.model.get_state(), strict=True):
        for array, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(array, other)
    ppl = trainer.valid_list[-1]
    assert lines[-1] == f"| epoch 3 | validation perplexity {ppl:.2f}"
    assert ppl == eval_perplexity(trainer.model, TEXT[:100], 1)  # too short for ten samples


@pytest.mark.filterwarnings("ignore::rnnfast.trainer.PerplexityWarning")
def test_patience_of_a_language_model():
    """It learns a text by heart, and its validation text becomes unlikely."""
    other = np.random.default_rng(0).integers(0, V, 100)
    trainer, _, lines = language(other, 40, patience=3)
    values = trainer.valid_list
    assert epochs_without_improvement(values) == 3 and len(values) < 40
    assert lines[-1] == f"| epoch {len(values)} | no improvement in 3 epochs"
    trainer.model.reset_state()
    assert eval_perplexity(trainer.model, other, 1) == min(values)


# Bad arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"valid": POINTS}, TypeError, r"valid must be \(xs, ts\), .* got ndarray of 50"),
        ({"valid": (POINTS,)}, TypeError, r"valid must be \(xs, ts\), .* got tuple of 1"),
        ({"valid": 3}, TypeError, r"valid must be \(xs, ts\), .* or a function, got 3"),
        ({"valid": (POINTS, CLASSES[1:])}, ValueError, "valid: xs and ts must be equally long"),
        ({"valid": (POINTS[:0], CLASSES[:0])}, ValueError, "valid: xs must not be empty"),
        ({"patience": 2}, ValueError, "patience needs valid, got 2 without it"),
        ({"valid": max, "patience": 0}, ValueError, "patience must be from 1 up, got 0"),
        ({"valid": lambda: "1", "patience": 1}, TypeError, "the result of valid must be a real"),
    ],
)
def test_bad_arguments(options, error, message):
    trainer = Trainer(TwoLayerNet(), SGD(0.1))
    before = [param.copy() for param in trainer.model.params]
    with pytest.raises(error, match=f"fit: {message}"):
        trainer.fit(POINTS, CLASSES, 1, 10, eval_interval=None, **options)
    if "result" not in message:
        assert_params(trainer.model, before)


def test_bad_validation_texts():
    for valid, message in (
        ([1.5, 2.0], "valid must be integer ids"),
        ([1], "at least 2 ids, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            language(valid)


@pytest.mark.parametrize(
    ("ts", "error", "message"),
    [
        (np.zeros((4, 1), int), ValueError, "ts must be (4,), a label each, got (4, 1)"),
        (np.eye(4, 2, dtype=int), ValueError, "ts must be (4,), a label each, got (4, 2)"),
        (np.zeros(4), TypeError, "ts must be integers, got float64"),
    ],
)
def test_labels_of_another_shape(ts, error, message):
    model = SequenceClassifier(3, 4, 2, rng=0)
    with pytest.raises(error) as caught:
        eval_labels(model, np.ones((4, 5, 3), "f"), ts)
    assert str(caught.value) == f"eval_labels: {message}"


def test_prime_of_other_integers():
    model, corpus, sizes = Rnnlm(V, 5, 8, rng=0), np.asarray(TEXT), (4, 6)
    expected = eval_perplexity(model, corpus, *sizes, prime=corpus[:7])
    for kind in ("u1", "u8", ">i4"):
        assert eval_perplexity(model, corpus.astype(kind), *sizes, prime=corpus[:7]) == expected
    plain = eval_perplexity(model, corpus, *sizes)
    assert eval_perplexity(model, corpus, *sizes, prime=[]) == plain
