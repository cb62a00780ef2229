"""freeze and unfreeze of recurrent layers."""

import copy
import gc
import pickle
from functools import partial
from itertools import count

import numpy as np
import pytest
from crowd import held_elsewhere, in_threads

import rnnfast
from rnnfast import TimeGRU, checks, models, optim
from rnnfast.models import LanguageModel
from rnnfast.sampling import generate

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype("f")


def weights(name, D=7, H=20):
    gates = GATES[name.removeprefix("Time").removeprefix("Bi")]
    one = [normal(D, gates * H), normal(H, gates * H), normal(gates * H)]
    return one + [w + 1 for w in one] if "Bi" in name else one


def make(name, **options):
    return getattr(rnnfast, name)(*weights(name), **options)


def arguments(name):
    if name.startswith("Time"):
        return (normal(3, 4, 7),)
    return (normal(3, 7), *[normal(3, 20)] * (2 if name == "LSTM" else 1))


layers = pytest.mark.parametrize(
    "name", [f"{kind}{cell}" for kind in ("", "Time", "TimeBi") for cell in GATES]
)
single = pytest.mark.parametrize("name", [f"{k}{cell}" for k in ("", "Time") for cell in GATES])


@layers
def test_the_same_bits(device, name):
    layer, args = make(name), arguments(name)
    expected = layer.forward(*args, train=False)
    layer.freeze()
    np.testing.assert_array_equal(layer.forward(*args, train=False), expected)
    layer.unfreeze()
    np.testing.assert_array_equal(layer.forward(*args, train=False), expected)


@layers
def test_weights_are_read_only_until_unfrozen(device, name):
    layer = make(name)
    layer.freeze()
    for p in layer.params:
        with pytest.raises(ValueError, match="read-only"):
            p += 1
    layer.freeze()  # twice is once
    layer.unfreeze()
    layer.unfreeze()
    before, args = layer.forward(*arguments(name), train=False), arguments(name)
    for p in layer.params:
        p *= 0.5
    layer.freeze()  # packs anew
    assert not np.array_equal(layer.forward(*args, train=False), before)


@single
def test_what_was_read_only_stays_so(device, name):
    Wx, Wh, b = weights(name)
    Wh.flags.writeable = False
    layer = getattr(rnnfast, name)(Wx, Wh, b)
    layer.freeze()
    layer.unfreeze()
    assert [p.flags.writeable for p in layer.params] == [True, False, True]


@layers
def test_training_a_frozen_layer(device, name):
    layer, args = make(name), arguments(name)
    layer.freeze()
    with pytest.raises(RuntimeError, match=r"frozen.*unfreeze"):
        layer.forward(*args)
    layer.unfreeze()
    layer.forward(*args)


@single
def test_replacing_a_weight_of_a_frozen_layer(device, name):
    layer, args = make(name), arguments(name)
    layer.freeze()
    layer.params[0] = layer.params[0].copy()
    with pytest.raises(RuntimeError, match="params were replaced"):
        layer.forward(*args, train=False)
    layer.unfreeze()
    layer.forward(*args, train=False)


@layers
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x, 4)),
        lambda x: pickle.loads(pickle.dumps(x, 5)),  # which keeps read-only arrays read-only
    ],
    ids=["deepcopy", "pickle 4", "pickle 5"],
)
def test_a_copy_is_not_frozen(device, name, duplicate):
    layer, args = make(name), arguments(name)
    expected = layer.forward(*args, train=False)
    layer.freeze()
    twin = duplicate(layer)
    for p in twin.params:
        assert p.flags.writeable
    np.testing.assert_array_equal(twin.forward(*args), expected)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickled_model_of_frozen_layers_trains(protocol):
    """Its layers, its lists and another layer share the arrays as before."""
    model = models.Rnnlm(11, 4, 5, rng=0)
    other = rnnfast.TimeLSTM(*model.params[1:4])
    model.freeze()
    twin, user = pickle.loads(pickle.dumps((model, other), protocol))
    for i, param in enumerate(twin.params):
        assert param.flags.writeable
        np.testing.assert_array_equal(param, model.params[i])
    for param, same in zip(twin.params[1:4], user.params, strict=True):
        assert param is same
    ids = np.arange(6).reshape(2, 3)
    twin.forward(ids, ids)
    twin.backward()
    optim.SGD(0.1).update(twin.params, twin.grads)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(twin.params[2], model.params[2])


def test_a_shallow_copy_leaves_the_frozen_layer(device):
    layer = make("TimeLSTM")
    layer.freeze()
    before = layer.params[0].ctypes.data
    twin = copy.copy(layer)
    assert twin.params[0] is layer.params[0]
    assert layer.params[0].ctypes.data == before
    assert not layer.params[0].flags.writeable


def test_a_frozen_layer_keeps_its_state(device):
    plain, frozen = make("TimeLSTM", stateful=True), make("TimeLSTM", stateful=True)
    frozen.freeze()
    for _ in range(3):
        xs = normal(2, 3, 7)
        np.testing.assert_array_equal(
            frozen.forward(xs, train=False), plain.forward(xs, train=False)
        )
    np.testing.assert_array_equal(frozen.c, plain.c)


def shared(kind="the same"):
    """Two layers with the same weights."""
    arrays = weights("TimeLSTM")
    second = [W if kind == "the same" else W[...] for W in arrays]
    return rnnfast.TimeLSTM(*arrays), rnnfast.TimeLSTM(*second)


@pytest.mark.parametrize("kind", ["the same", "views"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_layers_that_share_weights(device, kind, order):
    layers, xs = shared(kind), normal(3, 4, 7)
    first, second = (layers[k] for k in order)
    expected = second.forward(xs, train=False)
    for layer in layers:
        layer.freeze()
    first.unfreeze()
    first.unfreeze()  # twice is once
    if kind == "the same":
        with pytest.raises(ValueError, match="read-only"):
            second.params[0][...] = 0
    np.testing.assert_array_equal(second.forward(xs, train=False), expected)
    second.unfreeze()
    for layer in layers:
        for p in layer.params:
            assert p.flags.writeable
        layer.forward(xs)


def test_a_view_thawed_before_its_array(device):
    owner, view = shared("views")
    view.freeze()
    owner.freeze()
    view.unfreeze()
    view.forward(normal(3, 4, 7))
    assert not any(p.flags.writeable for p in (*view.params, *owner.params))
    owner.unfreeze()
    assert all(p.flags.writeable for p in (*view.params, *owner.params))


def test_a_frozen_layer_that_is_gone_freezes_nothing(device):
    gone, layer = shared()
    gone.freeze()
    del gone
    layer.freeze()
    layer.unfreeze()
    assert all(p.flags.writeable for p in layer.params)
    layer.params[0][...] = 0


def test_both_directions_with_the_same_weights(device):
    one = weights("TimeGRU")
    layer = rnnfast.TimeBiGRU(*one, *one)
    layer.freeze()
    layer.unfreeze()
    assert all(p.flags.writeable for p in layer.params)


# Threads, signals and deleted layers


def test_threads_freeze_layers_that_share_weights():
    first = TimeGRU.create(4, 5, rng=0, device="cpu")
    layers = [first, *(TimeGRU(*first.params, device="cpu") for _ in range(3))]

    def freeze_and_unfreeze(layer):
        for _ in range(300):
            layer.freeze()
            assert not layer.Wx.flags.writeable
            layer.unfreeze()

    assert not in_threads(*(partial(freeze_and_unfreeze, layer) for layer in layers))
    assert all(param.flags.writeable for param in first.params)


def interrupt_at(monkeypatch, function, call):
    """Let a function of `checks` be interrupted at a call, once, before it has done anything."""
    usual, calls = getattr(checks, function), count()

    def interrupted(*given):
        if next(calls) == call:
            raise KeyboardInterrupt
        return usual(*given)

    monkeypatch.setattr(checks, function, interrupted)


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("function", ["freeze", "set_writeable"])
def test_an_interrupted_freeze_leaves_the_layer_as_it_was(monkeypatch, function, call):
    layer = TimeGRU.create(4, 5, rng=0, device="cpu")
    interrupt_at(monkeypatch, function, call)
    with pytest.raises(KeyboardInterrupt):
        layer.freeze()
    assert not layer.frozen and all(param.flags.writeable for param in layer.params)
    layer.freeze()
    assert layer.frozen and not any(param.flags.writeable for param in layer.params)


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("function", ["thaw", "set_writeable"])
def test_an_interrupted_unfreeze_can_be_called_again(monkeypatch, function, call):
    layer = TimeGRU.create(4, 5, rng=0, device="cpu")
    layer.freeze()
    interrupt_at(monkeypatch, function, call)
    with pytest.raises(KeyboardInterrupt):
        layer.unfreeze()
    assert layer.frozen
    layer.unfreeze()
    assert not layer.frozen and all(param.flags.writeable for param in layer.params)


@pytest.mark.parametrize("call", range(6))
def test_an_interrupted_generation_leaves_a_model_that_can_be_trained(monkeypatch, call):
    model = LanguageModel(5, 4, 4, cell="gru", layers=2, rng=0, device="cpu")
    model.predict(np.zeros((2, 1), int))  # a state, of a batch of 2
    before = [array.copy() for arrays in model.get_state() for array in arrays]
    interrupt_at(monkeypatch, "thaw", call)
    with pytest.raises(KeyboardInterrupt):
        generate(model, [1], 2, rng=0)
    assert not any(layer.frozen for layer in model.recurrent_layers)
    assert all(param.flags.writeable for param in model.params)
    after = [array for arrays in model.get_state() for array in arrays]
    assert all(map(np.array_equal, before, after))


def test_a_deleted_frozen_layer_gives_its_weights_back():
    params = TimeGRU.create(4, 5, rng=0, device="cpu").params
    layer = TimeGRU(*params, device="cpu")
    layer.freeze()
    assert not any(param.flags.writeable for param in params)
    del layer
    gc.collect()
    assert all(param.flags.writeable for param in params)


def test_a_collection_while_a_layer_is_frozen(monkeypatch):
    """An owner that the garbage collector deletes meanwhile takes nothing along."""
    usual, gone = checks.set_writeable, TimeGRU.create(4, 5, rng=1, device="cpu")
    gone.freeze()
    gone.circle = [gone]
    gone = None
    layer = TimeGRU.create(4, 5, rng=0, device="cpu")

    def collected(x, value):
        gc.collect()
        usual(x, value)

    monkeypatch.setattr(checks, "set_writeable", collected)
    layer.freeze()
    assert layer.frozen and not any(param.flags.writeable for param in layer.params)
    layer.unfreeze()
    assert all(param.flags.writeable for param in layer.params)


def test_an_owner_that_is_deleted_while_another_thread_freezes():
    """The garbage collector does not wait: the next call makes up for it."""
    params = TimeGRU.create(4, 5, rng=0, device="cpu").params
    layer = TimeGRU(*params, device="cpu")
    layer.freeze()
    with held_elsewhere(checks._lock):
        del layer
        gc.collect()
    other = TimeGRU.create(4, 5, rng=1, device="cpu")
    other.freeze()
    assert all(param.flags.writeable for param in params)


def test_a_view_whose_layer_is_gone_before_that_of_its_array():
    whole = TimeGRU.create(4, 5, rng=0, device="cpu")
    view = TimeGRU(*(param[...] for param in whole.params), device="cpu")
    view.freeze()
    whole.freeze()
    params = view.params
    del view
    gc.collect()
    assert not any(param.flags.writeable for param in params)
    whole.unfreeze()
    assert all(param.flags.writeable for param in (*params, *whole.params))


def test_a_layer_of_an_old_pickle():
    layer = TimeGRU.create(4, 5, rng=0, device="cpu")
    state = layer.__getstate__()
    del state["_thaw"]
    old = TimeGRU.__new__(TimeGRU)
    old.__setstate__(state)
    old.unfreeze()
    old.freeze()
    assert old.frozen
