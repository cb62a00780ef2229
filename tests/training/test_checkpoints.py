"""A resumed run has the losses of an uninterrupted one, and a bad file changes nothing."""

import os

import numpy as np
import pytest
from tiny import CLASSES, POINTS, TEXT, TS, XS, N, T, TwoLayerNet, V, train_net

import rnnfast
from rnnfast import io, plot
from rnnfast.models import BetterRnnlm, LanguageModel, Rnnlm
from rnnfast.optim import OPTIMIZERS, SGD, Adam
from rnnfast.trainer import Checkpoint, RnnlmTrainer, Trainer, eval_perplexity

MODELS = {
    "Rnnlm": lambda: Rnnlm(V, 5, 8, rng=1),
    "BetterRnnlm, masks by seed": lambda: BetterRnnlm(V, 6, 6, rng=1),
    "BetterRnnlm, masks from np.random": lambda: BetterRnnlm(V, 6, 6),
    "lstmp, whose h and c differ": lambda: LanguageModel(V, 5, 8, cell="lstmp", proj_size=3, rng=1),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


def new_trainer(make=MODELS["Rnnlm"], optimizer=SGD, lr=0.05):
    np.random.seed(1)
    return RnnlmTrainer(make(), optimizer(lr), write=lambda line: None)


def fit(trainer, stop_after=None, path=None, epochs=3, max_grad=0.25):
    """Losses of a fit, which is stopped after some iterations and saved then."""
    losses = []

    def callback(step):
        losses.append(step.loss)
        if len(losses) == stop_after:
            trainer.save_checkpoint(path, {"note": "여기"})
            trainer.stop()

    trainer.callbacks = [callback]
    trainer.fit(XS, TS, epochs, N, T, max_grad, eval_interval=4)
    return losses


def bits(trainer):
    state = trainer.optimizer.state_dict()
    arrays = [array for name in trainer.optimizer.arrays for array in state[name] or ()]
    arrays += [array for state in trainer.model.get_state() for array in state if array is not None]
    return [array.tobytes() for array in (*trainer.model.params, *arrays)]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values())
@pytest.mark.parametrize("stop_after", [1, 10, 13])
@pytest.mark.one_in(3)
def test_resumed_is_uninterrupted(path, make, optimizer, stop_after):
    whole = new_trainer(make, optimizer)
    expected = fit(whole)

    first = new_trainer(make, optimizer)
    losses = fit(first, stop_after, path)
    second = new_trainer(make, optimizer, lr=9.0)
    np.random.seed(77)
    for param in second.model.params:
        param[...] = np.nan
    assert second.load_checkpoint(path) == {"note": "여기"}
    assert second.optimizer.lr == 0.05
    losses += fit(second)
    assert losses == expected
    assert second.ppl_list == whole.ppl_list
    assert (second.current_epoch, second.time_idx) == (whole.current_epoch, whole.time_idx)
    assert bits(second) == bits(whole)


def test_masks_follow_the_checkpoint_not_the_new_models_seed(path):
    def make(seed):
        return lambda: BetterRnnlm(V, 6, 6, rng=seed)

    expected = fit(new_trainer(make(1)))
    losses = fit(new_trainer(make(1)), 7, path)
    second = new_trainer(make(2))
    second.load_checkpoint(path)
    assert losses + fit(second) == expected


def test_between_fits(path):
    """After a whole fit the next one starts anew, in the resumed trainer too: as the book's."""
    first = new_trainer()
    fit(first, epochs=1)
    first.save_checkpoint(path)
    eval_perplexity(first.model, TEXT, 2, 5)
    first.model.reset_state()
    expected = fit(first, epochs=1)
    second = new_trainer()
    assert second.load_checkpoint(path) is None
    assert second.model.get_state()[0][0] is not None
    second.model.reset_state()
    assert fit(second, epochs=1) == expected
    assert second.current_epoch == 2


def test_more_epochs_than_before(path):
    expected = fit(new_trainer(), epochs=4)
    losses = fit(new_trainer(), 15, path, epochs=2)
    second = new_trainer()
    second.load_checkpoint(path)
    assert losses + fit(second, epochs=4) == expected


def test_other_arguments_than_before(path):
    fit(new_trainer(), 5, path)
    second = new_trainer()
    second.load_checkpoint(path)
    with pytest.raises(ValueError, match=r"checkpoint was made with .*'batch_size': 4.* got .*5"):
        second.fit(XS, TS, 3, 5, T)
    assert len(fit(second)) == 25  # and it still goes on


def test_trainer_resumes_within_a_shuffled_epoch(path):
    np.random.seed(5)
    _, expected, _ = train_net(epochs=3)
    np.random.seed(5)
    first = Trainer(TwoLayerNet(), SGD(2.0))
    losses = []

    def callback(step):
        losses.append(step.loss)
        if len(losses) == 8:
            first.save_checkpoint(path)
            first.stop()

    first.callbacks, first.write = [callback], lambda line: None
    first.fit(POINTS, CLASSES, 3, 8, 0.1)
    np.random.seed(6)
    second = Trainer(TwoLayerNet(), SGD(2.0))
    second.load_checkpoint(path)
    _, rest, _ = train_net(second, epochs=3)
    assert losses + rest == expected


def test_an_older_checkpoint_does_not_say_when_its_evaluations_were(path, monkeypatch):
    fit(new_trainer(), 5, path)
    arrays, whole = io.load_arrays(path)
    del whole["checkpoint"]["eval_epochs"]
    io.save_arrays(path, arrays, whole)
    second = new_trainer()
    second.load_checkpoint(path)
    fit(second, epochs=1)
    assert len(second.ppl_list) == 3
    shown = []
    monkeypatch.setattr(plot, "show_curve", lambda *curve: shown.extend(curve[:2]))
    second.plot()
    assert shown == [pytest.approx([0.9]), second.ppl_list[2:]]


def test_every_so_many_seconds_and_every_epoch(path):
    trainer = new_trainer()
    checkpoint = Checkpoint(trainer, path, 3600, lambda: {"n": 1})
    checkpoint.every_epoch = False
    trainer.callbacks = [checkpoint.step]
    trainer.fit(XS, TS, 1, N, T)
    assert not path.exists()
    for checkpoint.every_epoch, checkpoint.seconds in [(True, 3600), (False, 0)]:
        trainer.fit(XS, TS, 1, N, T)
        assert new_trainer().load_checkpoint(path) == {"n": 1}
        path.unlink()


def test_foreign_and_damaged_files_change_nothing(path, tmp_path):
    trainer = new_trainer(optimizer=Adam)
    fit(trainer, 5, path)
    other = tmp_path / "other.safetensors"

    def header(change):
        arrays, whole = io.load_arrays(path)
        io.save_arrays(other, arrays, {**whole, "checkpoint": whole["checkpoint"] | change})

    def cut():
        other.write_bytes(path.read_bytes()[:-5])

    def without(name):
        arrays, whole = io.load_arrays(path)
        del arrays[name]
        io.save_arrays(other, arrays, whole)

    def other_state():
        arrays, whole = io.load_arrays(path)
        io.save_arrays(other, {**arrays, "state/0/0": np.zeros((4, 7), np.float32)}, whole)

    same = new_trainer(optimizer=Adam)
    before = bits(same)
    for make, message in [
        (cut, "not a complete safetensors file"),
        (lambda: same.model.save_params(other), "not a checkpoint"),
        (lambda: header({"trainer": "Trainer"}), "of the trainer Trainer, not RnnlmTrainer"),
        (
            lambda: header({"random": ["x"]}),
            r"damaged checkpoint \(checkpoint.random must be a list",
        ),
        (
            lambda: header({"optimizer": None}),
            r"\(checkpoint.optimizer must be a list of 2, got nul",
        ),
        (lambda: header({"recurrent": 2}), "2 recurrent layers, the model has 1"),
        (lambda: header({"dropout": [[0, None]]}), "1 dropout layers, the model has 0"),
        (other_state, r"a state must be \(N, 8\), found \(4, 7\)"),
        (lambda: without("params/embed_W"), "expected arrays"),
        (lambda: without("optimizer/m/0"), "the optimiser's m must be arrays like"),
        (lambda: without("random"), r"damaged checkpoint \(the array random must be uint32"),
    ]:
        make()
        with pytest.raises(ValueError, match=message):
            same.load_checkpoint(other)
        assert bits(same) == before
    for wrong, message in [
        (new_trainer(), "of the optimiser Adam, not SGD"),
        (new_trainer(lambda: Rnnlm(V, 5, 7), Adam), r"a state must be \(N, 7\)"),
        (new_trainer(lambda: Rnnlm(V, 4, 8), Adam), "embed_W must be float32"),
        (
            new_trainer(lambda: LanguageModel(V, 5, 7, cell="lstmp", proj_size=8), Adam),
            r"a state must be \(N, 7\), found \(4, 8\)",
        ),
        (new_trainer(lambda: BetterRnnlm(V, 5, 5), Adam), "1 recurrent layers, the model has 2"),
    ]:
        before_wrong = bits(wrong)
        with pytest.raises(ValueError, match=message):
            wrong.load_checkpoint(path)
        assert bits(wrong) == before_wrong
    with pytest.raises(FileNotFoundError):
        same.load_checkpoint(tmp_path / "none")


def test_a_full_disk_keeps_the_old_checkpoint(path):
    trainer = new_trainer()
    fit(trainer, 5, path)
    old = path.read_bytes()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            trainer.save_checkpoint(path)
        with pytest.raises(OSError, match="too large"):
            trainer.model.save_params(path.with_name("Rnnlm.safetensors"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]
    new_trainer().load_checkpoint(path)


def test_a_model_whose_state_cannot_be_saved(path):
    class Books(TwoLayerNet):
        def reset_state(self):
            pass

    with pytest.raises(TypeError, match=r"needs get_state\(\)"):
        Trainer(Books(), SGD()).save_checkpoint(path)


class Nested:
    """A model of a reader's own, whose masks are drawn by a layer of a layer."""

    def __init__(self):
        layers = [rnnfast.TimeRNN.create(2, 2, rng=k) for k in (0, 1)]
        self.stack = rnnfast.TimeStack(layers, dropout_ratio=0.5, rng=3)
        self.loss = rnnfast.TimeSquaredLoss()
        self.params, self.grads = self.stack.params, self.stack.grads

    def forward(self, x, t):
        return self.loss.forward(self.stack.forward(x), t)

    def backward(self, dout=1):
        return self.stack.backward(self.loss.backward(dout))


def test_dropout_within_layers_goes_on(path):
    def trainer():
        np.random.seed(1)
        made = Trainer(Nested(), SGD(0.1), write=lambda line: None)
        made.callbacks = [lambda step: (step.epoch, step.iter) == until and made.stop()]
        return made

    rng = np.random.default_rng(0)
    x, t = (rng.standard_normal((8, 3, 2)).astype("f") for _ in "xt")
    until = None
    whole = trainer()
    whole.fit(x, t, 2, 4, eval_interval=1)
    until = 1, 2
    first, second = trainer(), trainer()
    first.fit(x, t, 2, 4, eval_interval=1)
    first.save_checkpoint(path)
    second.load_checkpoint(path)
    second.fit(x, t, 2, 4, eval_interval=1)
    assert second.loss_list == whole.loss_list
    assert second.model.stack.drop_layers[0].step == 4


def test_numbers_of_numpy_are_saved(path):
    trainer = new_trainer()
    trainer.optimizer.lr = np.float32(0.5)
    trainer.fit(XS, TS, np.int64(1), np.int64(N), np.int32(T), np.float32(1), np.int64(3))
    trainer.save_checkpoint(path, {"best": np.float32(2.5)})
    again = new_trainer()
    assert again.load_checkpoint(path) == {"best": 2.5}
    assert (again.optimizer.lr, again.eval_interval) == (0.5, 3)
    old = path.read_bytes()
    with pytest.raises(TypeError, match=r"safetensors: extra must be a JSON value .*ndarray"):
        trainer.save_checkpoint(path, np.ones(2))
    assert path.read_bytes() == old


def test_an_optimiser_of_the_callers_cannot_be_saved(path):
    class Plain:
        def update(self, params, grads):
            pass

    net = TwoLayerNet()
    with pytest.raises(TypeError, match=r"optimizer must be one of rnnfast\.optim, got Plain"):
        Trainer(net, Plain()).save_checkpoint(path)
    Trainer(net, SGD()).save_checkpoint(path)
    with pytest.raises(TypeError, match=r"optimizer must be one of rnnfast\.optim, got Plain"):
        Trainer(net, Plain()).load_checkpoint(path)
    Trainer(net, Plain()).load_checkpoint(path, optimizer=False)
