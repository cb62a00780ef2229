"""Calls of one signature are checked once, and no other call passes for one of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import Array

from rnnfast import cuda
from rnnfast.cuda import call as calls
from rnnfast.cuda.arguments import Arguments
from rnnfast.cuda.cells import Cell

N, T, D, H = 2, 3, 4, 5


class Lstm(Cell):
    name, gates, states, has_peepholes = "lstm", 4, ("h", "c"), True


CELL = Lstm()


def array(*shape, dtype="f4"):
    return np.ones(shape, dtype).view(Array)


class Runtime:
    xp = SimpleNamespace(empty=lambda shape, dtype: np.empty(shape, dtype).view(Array))
    array_type = Array


@pytest.fixture(autouse=True)
def checked(monkeypatch):
    """How often the arguments of a call were looked at closely."""
    times, take = [], Arguments._take

    def counted(self, params):
        times.append(params)
        take(self, params)

    monkeypatch.setattr(Arguments, "_take", counted)
    monkeypatch.setattr(calls, "CHECKED", {})
    monkeypatch.setattr(cuda, "_runtime", Runtime())
    return times


def arguments(**others):
    found = {
        "xs": array(N, T, D),
        "state": None,
        "params": (array(D, 4 * H), array(H, 4 * H), array(4 * H)),
        "h_mask": None,
        "lengths": None,
    }
    return found | others


def start(train=True, **others):
    a = arguments(**others)
    return calls.start_forward(
        CELL, a["xs"], a["state"], a["params"], train, a["h_mask"], a["lengths"]
    )


def test_the_same_signature_is_checked_once(checked):
    states = array(N, H), array(N, H)
    for way in ({}, {"state": states}, {"h_mask": array(N, H)}, {"state": (None, array(N, H))}):
        first, params = start(**way), arguments()["params"]
        checked.clear()
        again = start(params=params, **way)
        assert not checked
        assert again.params == (*params, None)
        sizes = "N", "T", "D", "H", "dtype", "masked", "ragged", "host", "peepholes"
        assert [getattr(again, x) for x in sizes] == [getattr(first, x) for x in sizes]
        assert first.once("plan", object) is again.once("plan", object)


@pytest.mark.parametrize(
    "others",
    [
        {"xs": array(N, T, D + 1)},
        {"xs": array(N, T, D, dtype="f8")},
        {"xs": array(N, D)},
        {"state": ()},
        {"state": (array(N, H),)},
        {"state": (array(N, H), array(N, H + 1))},
        {"state": array(2, N, H)},
        {"h_mask": array(N, H + 1)},
        {"params": (array(D, 4 * H), array(H, 4 * H), array(4 * H + 1))},
        {"params": (array(D, 4 * H), array(H, 4 * H), array(4 * H), array(3, H + 1))},
        {"params": (array(D, 4 * H),)},
        {"lengths": np.array([1, T + 1])},
    ],
)
def test_what_is_wrong_is_wrong_after_a_right_call(others):
    for _ in range(2):
        start()
        start(state=(None, None))
        with pytest.raises((TypeError, ValueError), match="lstm: "):
            start(**others)


def test_what_has_to_be_brought_to_the_gpu_is_checked_each_time(checked):
    for _ in range(3):
        start(xs=np.ones((N, T, D), "f4"))
    assert len(checked) == 3
    weights = arguments()["params"]
    weights[0].shape = 4 * H, D  # an array can change under its name
    with pytest.raises(ValueError, match="Wx must be"):
        start(params=weights)


def test_another_runtime_is_another_signature(monkeypatch):
    first = start()
    monkeypatch.setattr(cuda, "_runtime", Runtime())
    second = start()
    assert first.gpu is not second.gpu
    assert first.once("kernel", object) is not second.once("kernel", object)


def test_packed_params_are_of_their_cell_each_time():
    packed = calls.Packed(arguments()["params"])
    packed.cell, packed.host, packed.two_biases = "lstm", False, False
    for _ in range(2):
        assert start(params=packed, train=False).N == N
        with pytest.raises(TypeError, match="packed params are for train=False"):
            start(params=packed)
    packed.cell = "gru"
    with pytest.raises(TypeError, match=r"packed by gru\.pack"):
        start(params=packed, train=False)


def back(dhs=None, dstate=None, grads=None, **way):
    params = arguments()["params"]
    made = start(params=params, **way)
    cache = made.keep(array(N, T, D), cell=CELL)
    grads = params if grads is None else grads
    dhs = array(N, T, H) if dhs is None else dhs
    return calls.start_backward(Lstm, dhs, dstate, params, cache, grads)[0]


def test_backward_is_checked_once_for_each_forward(checked):
    first, masked = back(), back(h_mask=array(N, H))
    assert (first.masked, masked.masked) == (False, True)
    checked.clear()
    assert back().masked is False
    assert back(h_mask=array(N, H)).masked is True
    assert not checked
    for others, error in (
        ({"dhs": array(N, T, H + 1)}, "dhs must be"),
        ({"grads": (array(D, 4 * H), array(H, 4 * H), array(H))}, r"grads\[2\] must be"),
        ({"grads": (array(D, 4 * H),)}, "grads must be one for each"),
        ({"dstate": (array(N, H),)}, "dstate must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            back(**others)


def test_not_more_than_some_signatures_are_remembered(monkeypatch):
    monkeypatch.setattr(calls, "MOST", 3)
    for length in range(1, 9):
        start(xs=array(N, length, D))
        assert 1 <= len(calls.CHECKED) <= 3
