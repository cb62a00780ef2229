"""Copies, pickles and files of models whose weights are tied."""

import copy
import pickle

import numpy as np
import pytest

from rnnfast import checks, optim
from rnnfast.models import BetterRnnlm, LanguageModel, load_model
from rnnfast.trainer import RnnlmTrainer

XS = np.arange(12).reshape(3, 4) % 11
TS = (XS + 1) % 11

copies = pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: copy.deepcopy(pickle.loads(pickle.dumps(model, 5))),
    ],
)
models = pytest.mark.parametrize(
    "make",
    [
        lambda: BetterRnnlm(11, 6, 6, rng=1),
        lambda: LanguageModel(11, 6, 6, cell="gru", layers=3, tie_weights=True, rng=2),
        lambda: LanguageModel(11, 11, 11, tie_weights=True, dropout=0.5, rng=3, dtype="f8"),
    ],
)


@copies
@models
def test_a_copy_of_a_tied_model_is_tied(tmp_path, duplicate, make):
    model = make()
    model.forward(XS, TS)
    twin = duplicate(model)
    tied = checks.place(twin.params[0].T)
    assert checks.place(twin.params[-2]) == checks.place(twin.layers[-1].params[0]) == tied
    assert twin.params[-2] is twin.layers[-1].params[0]
    if duplicate is not copy.copy:
        assert not np.shares_memory(twin.params[0], model.params[0])
    for _ in range(3):
        twin.forward(XS, TS)
        twin.backward()
        optim.SGD(1.0).update(twin.params, twin.grads)
    assert checks.place(twin.layers[-1].params[0]) == tied
    twin.save_params(tmp_path / "model.safetensors")
    loaded, _ = load_model(tmp_path / "model.safetensors")
    for each in twin, loaded:
        each.reset_state()
    assert loaded.forward(XS, TS, False) == twin.forward(XS, TS, False)


def test_a_copy_of_a_trainer_saves_all_of_its_tied_model(tmp_path):
    trainer = RnnlmTrainer(BetterRnnlm(11, 6, 6, rng=1), optim.SGD(1.0))
    twin = copy.deepcopy(trainer)
    xs = np.arange(200) % 11
    twin.fit(xs[:-1], xs[1:], max_epoch=1, batch_size=4, time_size=5)
    twin.save_checkpoint(tmp_path / "run.checkpoint")
    other = RnnlmTrainer(BetterRnnlm(11, 6, 6, rng=2), optim.SGD(1.0))
    other.load_checkpoint(tmp_path / "run.checkpoint")
    for each in twin, other:
        each.model.reset_state()
    assert other.model.forward(XS, TS, False) == twin.model.forward(XS, TS, False)


def test_what_is_no_longer_tied_is_not_left_out(tmp_path):
    model = BetterRnnlm(11, 6, 6, rng=1)
    assert model.param_names[-2] is None
    model.params[-2] = model.layers[-1].params[0] = model.params[-2] * 2
    assert model.param_names[-2] == "untied_7"
    model.save_params(tmp_path / "model.safetensors")
    twin = copy.deepcopy(model)
    twin.params[-2] *= 0
    twin.load_params(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(twin.params[-2], model.params[-2])
    with pytest.raises(ValueError, match="untied_7"):
        load_model(tmp_path / "model.safetensors")
