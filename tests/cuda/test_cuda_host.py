"""The host's side of the cuda column: what users hand in and get back, and what can go wrong there.

Without a GPU on the device of tests/fake_cuda.py, with one on that.
"""

import io as files
import json
import sys
from types import SimpleNamespace

import fake_cuda
import numpy as np
import pytest

import rnnfast
from rnnfast import checks, inspection, io, kernels, models, optim, plot, sequences, trainer
from rnnfast.examples import digits, forecast, python_tokens
from rnnfast.training import scoring

IDS = np.random.default_rng(0).integers(0, 11, (4, 6))
XS = np.random.default_rng(1).standard_normal((4, 6, 3)).astype("f")


@pytest.fixture
def on_gpu(monkeypatch):
    """to_device of a device "cuda"; models are made there."""
    if "cuda" not in kernels.devices():
        fake_cuda.install(monkeypatch)
    with rnnfast.device("cuda"):
        yield kernels.load("ops", "cuda").to_device


# What goes in as NumPy comes out as NumPy


def made(name):
    """(a model, its NumPy inputs, targets of them)"""
    if name == "SequenceClassifier":
        return sequences.SequenceClassifier(3, 5, 4, rng=0), XS, IDS[:, 0] % 4
    if name == "SequenceRegressor":
        return sequences.SequenceRegressor(3, 5, 2, rng=0), XS, XS[:, :, :2]
    if name == "SequenceTagger":
        return sequences.SequenceTagger(11, 5, 5, 4, rng=0), IDS, IDS % 4
    return getattr(models, name)(11, 5, 5, rng=0), IDS, IDS


@pytest.mark.parametrize(
    "name",
    ["Rnnlm", "BetterRnnlm", *(f"Sequence{s}" for s in ("Classifier", "Regressor", "Tagger"))],
)
def test_predict_gives_what_it_was_given(on_gpu, name):
    """NumPy for NumPy, with the numbers of the CPU; on the GPU for what lies there."""
    model, xs, ts = made(name)
    assert checks.is_cupy(model.params[0])
    found = model.predict(xs)
    assert checks.is_numpy(found)
    if hasattr(model, "reset_state"):
        model.reset_state()
    there = model.predict(on_gpu(xs))
    assert checks.is_cupy(there)
    np.testing.assert_array_equal(there.get(), found)
    assert checks.is_cupy(model.forward(xs, ts))  # nothing of a training step waits
    with rnnfast.device("cpu"):
        expected = made(name)[0].predict(xs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_evaluation_reads_what_models_on_a_gpu_say(on_gpu):
    found = []
    for device in ("cuda", "cpu"):
        with rnnfast.device(device):
            tagger, classifier = made("SequenceTagger")[0], made("SequenceClassifier")[0]
            language_model = models.Rnnlm(11, 5, 5, rng=0)
            found.append(
                [
                    trainer.eval_labels(tagger, IDS, IDS % 4, lengths=[6, 2, 3, 1]),
                    trainer.eval_labels(classifier, XS, IDS[:, 0] % 4),
                    trainer.eval_accuracy(language_model, IDS.ravel(), 2, 5),
                    trainer.eval_perplexity(language_model, IDS.ravel(), 2, 5),
                    *scoring.log_probabilities(language_model, IDS[0]),
                ]
            )
    assert all(type(x) in (float, np.float64) for x in found[0])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_a_model_on_a_gpu_learns_from_what_it_is_measured_on(on_gpu):
    """Dynamic evaluation by both rules and the neural cache, with the numbers of the CPU."""
    found, ids, cache = [], np.arange(90) % 4, trainer.NeuralCache(9, 1.0, 0.2)
    for device in ("cuda", "cpu"):
        with rnnfast.device(device):
            model = models.BetterRnnlm(11, 5, 5, rng=0)
            squares = trainer.gradient_mean_squares(model, ids, 2, 5)
            assert checks.is_cupy(squares[0]) == (device == "cuda")
            rms = {"lr": 0.01, "epsilon": 0.01, "mean_squares": squares}
            found.append(
                [
                    trainer.eval_dynamic(model, ids, 2, 5, lr=0.5, decay=0.01),
                    trainer.eval_dynamic(model, ids, 2, 5, **rms),
                    trainer.eval_dynamic(model, ids, 2, 5, lr=0.5, cache=cache),
                    trainer.eval_cache(model, ids, 2, 5, cache=cache),
                ]
            )
    assert all(type(x) is float for x in found[0])
    np.testing.assert_allclose(*found, rtol=1e-5)


class Axes:
    """What examples draw on: it takes everything, and NumPy arrays alone."""

    def __call__(self, *args, **keywords):
        assert not any(map(checks.is_cupy, (*args, *keywords.values())))
        return self

    def __getattr__(self, name):
        return self

    def __iter__(self):
        return iter([self] * 24)

    def subfigures(self, *_, **__):
        return self, self

    def subplots(self, *args, **_):
        return (self, self) if args == (1, 2) else self


def test_examples_draw_what_a_model_on_a_gpu_predicts(on_gpu):
    model = sequences.SequenceClassifier(8, 5, 10, rng=0)
    digits.draw(Axes(), model, np.ones((3, 8, 8), "f"), np.array([1, 2, 3]), [0.5])
    source = "x = 1\n"
    model, vocabulary, found = python_tokens.run(train=[source * 300], test=[source], epochs=1)
    python_tokens.draw(Axes(), model, vocabulary, found, source, 0, 1)
    *series, skills = forecast.run(epochs=1, hidden=3, length=1200)
    assert all(map(checks.is_numpy, series))
    assert type(skills[0]) is float


def test_looking_inside_a_model_on_a_gpu(on_gpu):
    """Its weights and activations go where NumPy's go, with the same answers."""
    model = models.Rnnlm(11, 5, 5, rng=0)
    values = np.arange(6.0)
    here, there = (
        [put(x) for x in inspection.activations(model, IDS[0])] for put in (np.asarray, on_gpu)
    )
    assert all(map(checks.is_numpy, here))
    assert inspection.rank_units(there, on_gpu(values)) == inspection.rank_units(here, values)
    assert inspection.to_html("abcdef", on_gpu(values / 6)) == inspection.to_html(
        "abcdef", values / 6
    )
    assert np.array_equal(inspection.activations(model, on_gpu(IDS[0]))[0], here[0])
    words = [f"w{k}" for k in range(11)]
    ids, W = dict(zip(words, range(11), strict=True)), model.params[0]
    for matrix in (W, W.get()):
        assert inspection.most_similar("w3", ids, words, matrix, top=2) == inspection.most_similar(
            "w3", ids, words, W.get(), top=2
        )
    Wh = np.random.default_rng(0).standard_normal((3, 3))
    assert inspection.gradient_norms(on_gpu(Wh)) == inspection.gradient_norms(Wh)
    norms = inspection.gradient_norms(on_gpu(Wh), cell="rnn", b=on_gpu(np.ones(3)), time_size=4)
    assert norms == inspection.gradient_norms(Wh, cell="rnn", b=np.ones(3), time_size=4)


def test_a_curve_of_losses_on_a_gpu(on_gpu, tmp_path):
    pytest.importorskip("matplotlib")
    model, xs, ts = made("Rnnlm")
    losses = [model.forward(xs, ts) for _ in range(3)]
    plot.save_perplexity(tmp_path / "a.png", losses, 1)
    plot.save_perplexity(tmp_path / "b.png", [float(loss) for loss in losses], 1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_log_of_training_on_a_gpu(on_gpu):
    """Loss and norm are the host's numbers: JSON can write them, as it does on the CPU."""
    lines = []
    for device in ("cuda", "cpu"):
        with rnnfast.device(device):
            file = files.BytesIO()
            fit = trainer.RnnlmTrainer(
                models.Rnnlm(11, 5, 5, rng=0),
                optim.SGD(0.1),
                callbacks=[trainer.JsonlLog(file).step, trainer.check_divergence],
                write=lambda line: None,
            ).fit
            ids = IDS.ravel()
            fit(ids[:-1], ids[1:], 1, batch_size=2, time_size=4, max_grad=0.25, eval_interval=1)
            lines.append([json.loads(line) for line in file.getvalue().splitlines()])
    assert len(lines[0]) == 2
    for a, b in zip(*lines, strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


# Arrays of other libraries


class Lender:
    """An array of another library's; `asked` says through which interface it was had."""

    def __init__(self, array, dlpack=True, interface=True, device=2, requires_grad=False):
        self.array, self.asked, self.requires_grad = array, [], requires_grad
        if dlpack:
            self.__dlpack_device__ = lambda: (device, 0)
            self.__dlpack__ = lambda **keywords: self.lend("dlpack", **keywords)
        self.interface = interface

    def lend(self, way, **keywords):
        if self.requires_grad:
            raise RuntimeError("detach() it, and write down who needs the gradient")
        self.asked.append((way, keywords))
        return way

    @property
    def __cuda_array_interface__(self):
        if not self.interface:
            raise AttributeError("__cuda_array_interface__")
        return self.lend("interface")


@pytest.fixture
def borrowed(monkeypatch):
    """A CuPy that borrows from Lenders as the real one does."""

    def from_dlpack(x):
        x.__dlpack__(stream="the current one")
        return x.array.view(fake_cuda.Array)

    def asarray(x):
        assert x.__cuda_array_interface__ == "interface"
        return x.array.view(fake_cuda.Array)

    fake = SimpleNamespace(from_dlpack=from_dlpack, asarray=asarray, ndarray=fake_cuda.Array)
    monkeypatch.setitem(sys.modules, "cupy", fake)


def test_dlpack_goes_before_the_interface_that_knows_no_stream(borrowed):
    both, old = Lender(np.ones(3)), Lender(np.ones(3), dlpack=False)
    for lender in (both, old):
        assert checks.is_cupy(checks.adopt("f", "x", lender))
    assert both.asked == [("dlpack", {"stream": "the current one"})]
    assert old.asked[-1][0] == "interface"
    on_cpu = Lender(np.ones(3), interface=False, device=1)
    assert checks.adopt("f", "x", on_cpu) is on_cpu
    assert not on_cpu.asked


def weights_with(name, value):
    """Weights of a TimeLSTM, Wp among them, one of which is another."""
    shapes = {"Wx": (3, 8), "Wh": (2, 8), "b": (8,), "Wp": (3, 2)}
    return {key: value if key == name else np.ones(s, "f") for key, s in shapes.items()}


@pytest.mark.parametrize("dlpack", [True, False])
@pytest.mark.parametrize("name", ["Wx", "Wh", "b", "Wp"])
def test_a_tensor_that_requires_grad_is_refused_by_name(borrowed, name, dlpack):
    lender = Lender(np.ones(3), dlpack=dlpack, requires_grad=True)
    weights = weights_with(name, lender)
    message = rf"must not require grad, got a Lender that does; give {name}.*\.detach\(\)"
    with pytest.raises(TypeError, match=f"TimeLSTM: {name} {message}"):
        rnnfast.TimeLSTM(**weights)
    Wp = weights.pop("Wp")
    fine = weights_with("", None)
    Wp1 = fine.pop("Wp")
    with pytest.raises(TypeError, match=f"TimeBiLSTM: {name}2 {message}"):
        rnnfast.TimeBiLSTM(*fine.values(), *weights.values(), Wp1=Wp1, Wp2=Wp)
    assert not lender.asked


def test_inputs_that_require_grad_are_refused_by_name(borrowed):
    lender = Lender(np.ones(3), requires_grad=True)
    ones = np.ones((3, 4), "f"), np.ones(4, "f")
    for name, call in {
        "xs": rnnfast.TimeLSTM(*list(weights_with("", None).values())[:3]).forward,
        "x": rnnfast.Affine(*ones).forward,
        "idx": rnnfast.Embedding(ones[0]).forward,
        "W": rnnfast.Embedding,
    }.items():
        with pytest.raises(TypeError, match=rf"{name} must not require grad.*{name}\.detach"):
            call(lender)
    with pytest.raises(TypeError, match=r"Affine: b must not require grad"):
        rnnfast.Affine(ones[0], lender)


# Frozen weights: CuPy has no read-only arrays


def frozen_model():
    model = models.Rnnlm(11, 5, 5, rng=0)
    model.lstm_layer.freeze()
    return model


def test_frozen_weights_on_a_gpu_are_not_loaded_into(on_gpu, tmp_path):
    path = tmp_path / "weights.safetensors"
    models.Rnnlm(11, 5, 5, rng=1).save_params(path)
    model = frozen_model()
    before = [io.to_numpy(p).copy() for p in model.params]
    with pytest.raises(ValueError, match=r"lstm_Wx is read-only; unfreeze\(\)"):
        model.load_params(path)
    for a, b in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(io.to_numpy(a), b)
    model.lstm_layer.unfreeze()
    model.load_params(path)
    assert not np.array_equal(io.to_numpy(model.params[1]), before[1])


def test_frozen_weights_on_a_gpu_are_not_overwritten_by_a_checkpoint(on_gpu, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    trainer.RnnlmTrainer(models.Rnnlm(11, 5, 5, rng=1), optim.SGD()).save_checkpoint(path)
    with pytest.raises(ValueError, match="read-only; unfreeze"):
        trainer.RnnlmTrainer(frozen_model(), optim.SGD()).load_checkpoint(path)


@pytest.mark.parametrize("optimizer", optim.OPTIMIZERS.values())
def test_frozen_weights_on_a_gpu_are_not_trained(on_gpu, optimizer):
    model = frozen_model()
    before = [io.to_numpy(p).copy() for p in model.params]
    with pytest.raises(ValueError, match="param must be writable, got a read-only array"):
        optimizer().update(model.params, model.grads)
    model.lstm_layer.unfreeze()
    grads = [p * 0 + 1 for p in model.params]
    optimizer().update(model.params, grads)
    for a, b in zip(model.params, before, strict=True):
        assert not np.array_equal(io.to_numpy(a), b)


def test_what_a_frozen_array_leaves_behind(on_gpu):
    """The next array at its address is an array of its own."""
    for _ in range(20):
        weights = [on_gpu(np.ones(size, "f")) for size in ((3, 4), (4, 4), 4)]
        assert all(map(checks.writeable, weights))
        layer = rnnfast.TimeRNN(*weights)
        layer.freeze()
        assert not any(map(checks.writeable, weights))
        del layer, weights
