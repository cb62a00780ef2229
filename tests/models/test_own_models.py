"""A reader's own model on the base class of the book, with the layers of rnnfast."""

import pickle

import numpy as np
import pytest

import rnnfast
from rnnfast import io, models, optim


class SimpleRnnlm(models.BaseModel):
    """As chapter 5 writes it: without a call of the base's __init__."""

    def __init__(self, V, D, H):
        rng = np.random.default_rng(0)
        self.layers = [
            rnnfast.TimeEmbedding(rng.normal(size=(V, D)).astype("f")),
            rnnfast.TimeRNN.create(D, H, stateful=True, rng=1),
            rnnfast.TimeAffine(rng.normal(size=(H, V)).astype("f"), np.zeros(V, "f")),
        ]
        self.loss_layer = rnnfast.TimeSoftmaxWithLoss()
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def forward(self, xs, ts):
        for layer in self.layers:
            xs = layer.forward(xs)
        return self.loss_layer.forward(xs, ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout


def test_weights_go_to_a_file_and_come_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = SimpleRnnlm(7, 3, 4)
    expected = [param.copy() for param in model.params]
    ids = np.arange(6).reshape(2, 3)
    for name in ([], ["own.safetensors"]):
        model.save_params(*name)
        model.forward(ids, ids)
        model.backward()
        optim.SGD(0.1).update(model.params, model.grads)
        assert not np.array_equal(model.params[0], expected[0])
        model.load_params(*name)
        for param, before in zip(model.params, expected, strict=True):
            np.testing.assert_array_equal(param, before)
    found = io.load_weights("SimpleRnnlm.safetensors")
    assert (found.model, found.sizes) == ("SimpleRnnlm", {})
    assert sorted(found.params) == [f"param_{i}" for i in range(6)]


def test_the_books_pickles(tmp_path):
    model, path = SimpleRnnlm(7, 3, 4), tmp_path / "SimpleRnnlm.pkl"
    path.write_bytes(
        pickle.dumps([np.full(p.shape, i, np.float16) for i, p in enumerate(model.params)])
    )
    model.load_params(path)
    assert [float(param.max()) for param in model.params] == [0, 1, 2, 3, 4, 5]
    path.write_bytes(pickle.dumps([np.zeros((2, 2), np.float16)]))
    with pytest.raises(ValueError, match=r"SimpleRnnlm\.pkl"):
        model.load_params(path)
    assert [float(param.max()) for param in model.params] == [0, 1, 2, 3, 4, 5]


def test_what_a_subclass_must_have():
    class Empty(models.BaseModel):
        pass

    assert Empty().params == Empty().grads == []
    for name in ("forward", "backward"):
        with pytest.raises(NotImplementedError, match=f"Empty must have a {name} of its own"):
            getattr(Empty(), name)()


def test_models_of_rnnfast_have_the_same_base():
    assert isinstance(models.Rnnlm(5, 2, 2, rng=0), models.BaseModel)
