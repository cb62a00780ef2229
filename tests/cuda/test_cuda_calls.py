"""Calls of one signature are checked once, and no other call passes for one of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import Array

from rnnfast import cuda, kernels
from rnnfast.cuda import call as calls
from rnnfast.cuda import planner
from rnnfast.cuda.arguments import Arguments
from rnnfast.cuda.cells import Cell

N, T, D, H = 2, 3, 4, 5


class Lstm(Cell):
    name, gates, states, beside = "lstm", 4, ("h", "c"), ("Wp",)


CELL = Lstm()


class Placed(Array):
    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


Placed.__module__ = "cupy"


def array(*shape, dtype="f4"):
    return np.ones(shape, dtype).view(Placed)


def of_array(function):
    return lambda *args: function(*args).view(Placed)


def contiguous(x):
    assert type(x) is Placed  # CuPy's takes no other
    return x


class Runtime:
    xp = SimpleNamespace(arange=of_array(np.arange), where=of_array(np.where))
    to_device = staticmethod(of_array(np.array))
    kept_zeros, nothing = staticmethod(of_array(np.zeros)), staticmethod(lambda dtype: 0)
    xp.ascontiguousarray = contiguous
    array_type = Placed


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
    )[0]


def test_the_same_signature_is_checked_once(checked):
    states = array(N, H), array(N, H)
    for way in ({}, {"state": states}, {"h_mask": array(N, H)}, {"state": (None, array(N, H))}):
        first, params = start(**way), arguments()["params"]
        checked.clear()
        assert start(params=params, **way) is first
        assert not checked


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


def test_lengths_are_looked_at_each_time(checked):
    """They are NumPy's, and do not keep the other arguments from being checked once."""
    xs = array(N, T, D)
    for lengths in ([1, 3], [0, 2], [3, 3]):
        call = start(lengths=np.array(lengths))
        ends, seen = call.until(xs, np.array(lengths))
        assert type(ends) is Placed
        assert (ends.dtype, ends.tolist()) == ("int32", lengths)
        assert seen.sum(axis=(1, 2)).tolist() == [D * length for length in lengths]
    assert len(checked) == 1
    assert start() is not call
    for wrong in ([1, T + 1], [-1, 0], [1]):
        with pytest.raises(ValueError, match="lengths must be"):
            start(lengths=np.array(wrong))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy 2.5: of the assignment itself
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
    assert first is not second
    assert first.gpu is not second.gpu


def test_precision_and_planner_are_of_the_signature(monkeypatch):
    """Plan, kernel and products follow from them, too."""
    found = [start()]
    monkeypatch.setattr(kernels, "_precision", "high")
    found.append(start())
    monkeypatch.setattr(planner, "make_plan", lambda *_: None)
    found.append(start())
    assert len(set(map(id, found))) == 3


def test_what_stands_for_arrays_that_are_not_there(monkeypatch):
    """Each in its place, whichever are missing: zeros for a bias and for states."""
    params, state = arguments()["params"], (array(N, H), array(N, H))
    mask, Wp, xs = array(N, H), array(3, H), array(N, T, D)
    monkeypatch.setattr(calls, "CHECKED", {})

    def arrays(params, state=None, h_mask=None):
        call = start(params=params, state=state, h_mask=h_mask)
        return call, call.arrays(xs, params, h_mask, state)

    for _ in range(2):
        call, (*first, beside, m, h, c) = arrays((*params, Wp), state, mask)
        found = *first, *beside, m, h, c
        expected = xs, *params, Wp, call.nothing, mask, *state  # nothing is a Wr
        assert list(map(id, found)) == list(map(id, expected))
        call, (x, _, _, b, beside, m, h, c) = arrays(params[:2], (None, state[1]))
        assert x is xs
        assert b.shape == (4 * H,) and not b.any()
        assert all(array is call.nothing for array in (*beside, m)) and len(beside) == 2
        assert h.shape == (N, H) and not h.any()
        assert c is state[1]
        _, (*_, b, beside, m, h, c) = arrays(params)
        assert b is params[2] and h is c
        assert not h.any()


def test_packed_params_are_of_their_cell_each_time():
    packed = calls.Packed(arguments()["params"], "lstm", False, False, "shapes")
    for _ in range(2):
        assert start(params=packed, train=False).N == N
        with pytest.raises(TypeError, match="packed params are for train=False"):
            start(params=packed)
    with pytest.raises(TypeError, match=r"packed by gru\.pack"):
        start(params=replace(packed, cell="gru", signature="gru"), train=False)


def back(dhs=None, dstate=None, grads=None, *, arrays=None, params=None, **way):
    params = arguments()["params"] if params is None else params
    made = start(params=params, **way)
    arrays = arrays or SimpleNamespace(xs=array(N, T, D), m=array(N, H))
    cache = calls.Cache(CELL, made.of_forward, arrays)
    grads = arguments()["params"] if grads is None else grads
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
        ({"grads": (array(D, 4 * H), array(H, 4 * H), array(H))}, r"grads\[2\] must have shape"),
        ({"grads": (array(D, 4 * H),)}, "grads must be one for each"),
        ({"dstate": (array(N, H),)}, "dstate must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            back(**others)


def test_where_gradients_lie_is_looked_at_each_time(checked):
    """With the same words as on the CPU; what a gradient would be written over is kept."""
    room, mask = array(4 * H * D + N * T * D), array(N, H)
    dWx, dWh, db = arguments()["params"]
    over_xs = room[: dWx.size].reshape(dWx.shape), dWh, db
    over_db = dWx, dWh, dWh.reshape(-1)[2 : 2 + 4 * H]
    at, apart = dWx.size - 1, dWx.size
    arrays = [
        SimpleNamespace(xs=room[k : k + N * T * D].reshape(N, T, D), m=mask) for k in (at, apart)
    ]
    for _ in range(2):  # the first call of a signature, and another one
        back(grads=over_xs, arrays=arrays[0])
        assert arrays[0].beside
        back(grads=over_xs, arrays=arrays[1])
        assert not arrays[1].beside
        back(grads=over_xs, arrays=arrays[1], h_mask=mask)
        assert not arrays[1].beside
        back(grads=(dWx, dWh, array(99)[: 4 * H]), params=(dWx, dWh.copy(), db), arrays=arrays[1])
        assert arrays[1].beside
        with pytest.raises(ValueError, match=r"lstm: grads\[2\] must have memory of its own, got"):
            back(grads=over_db, arrays=arrays[1])
    over_mask = dWx, dWh, room[: 4 * H]
    arrays[1].m = room[4 * H - 1 :][: N * H].reshape(N, H)
    for h_mask, beside in ((mask, True), (None, False)):
        back(grads=over_mask, arrays=arrays[1], h_mask=h_mask)
        assert bool(arrays[1].beside) is beside
    steps = array(D, 8 * H)[:, ::-2], dWh, db
    back(grads=steps, arrays=SimpleNamespace(xs=array(N, T, D), m=mask))
    back(grads=steps, arrays=(held := SimpleNamespace(xs=steps[0].base, m=mask)))
    assert held.beside


def test_not_more_than_some_signatures_are_remembered(monkeypatch):
    monkeypatch.setattr(calls, "MOST", 3)
    for length in range(1, 9):
        start(xs=array(N, length, D))
        assert 1 <= len(calls.CHECKED) <= 3
