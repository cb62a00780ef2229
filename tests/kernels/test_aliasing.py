"""Gradients that lie over what backward reads, and arrays that are not what they say."""

import numpy as np
import pytest
from cases import CELLS, MASKS, cells, make_problem, widths
from liars import liar

import rnnfast
from rnnfast import kernels, optim
from rnnfast.cpu import ops
from rnnfast.layers.cells import RECURRENT

SHAPES = ((4, 1, 9, 8), (5, 3, 8, 9))  # a single step of few rows; a sequence


def over(array, shape):
    """An array of `shape` over the memory of another."""
    return array.reshape(-1)[: int(np.prod(shape))].reshape(shape)


@pytest.fixture(params=["cpu", "reference"])
def square(request):
    return lambda name: kernels.load(name, request.param)


@cells
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grads_over_what_is_read(square, cell, shape):
    module, big = square(cell.name), 20 * max(shape) ** 2
    of_steps = RECURRENT[cell.name].of_steps
    more = {"recurrent_dropout": "candidate_mask" in of_steps, "zoneout": "h_zoneout" in of_steps}
    p = make_problem(cell, shape, mask=True, **more)
    expected = p.run(module)
    inputs = {
        "xs": p.xs,
        "dhs": p.dhs,
        "h": p.state[0],
        "dh": p.dstate[0],
        **{name: p.keywords[name] for name in p.keywords.keys() & MASKS},
    }
    inputs |= {name: W for name, W in zip(p.names, p.params, strict=True) if name != "b"}
    for name, array in inputs.items():
        for k, weight in enumerate(p.params):
            room = np.zeros(max(big, array.size), "f")
            given = over(room, array.shape)
            given[...] = array
            keywords = p.keywords | ({name: given} if name in MASKS else {})
            xs, dhs = (given if name == n else a for n, a in (("xs", p.xs), ("dhs", p.dhs)))
            state, dstate = list(p.state), list(p.dstate)
            state[0], dstate[0] = (
                given if name == n else a for n, a in (("h", state[0]), ("dh", dstate[0]))
            )
            params = [given if name == n else a for n, a in zip(p.names, p.params, strict=True)]
            grads = list(p.poisoned_grads())
            grads[k] = over(room, weight.shape)
            _, _, cache = module.forward(xs, tuple(state), tuple(params), **keywords)
            dxs, dstate = module.backward(dhs, tuple(dstate), tuple(params), cache, grads)
            what = f"grads[{k}] over {name}"
            np.testing.assert_array_equal(dxs, expected.dxs, what)
            for got, right in zip(
                (*dstate, *grads), (*expected.dstate, *expected.grads), strict=True
            ):
                np.testing.assert_array_equal(got, right, what)


def test_affine_and_embedding_over_what_is_read(square):
    module, rng = square("ops"), np.random.default_rng(0)
    x, W, dy = (rng.standard_normal(s).astype("f") for s in ((6, 5), (5, 7), (6, 7)))
    dW, db = np.zeros_like(W), np.zeros(7, "f")
    dx = module.affine_backward(dy, x, W, dW, db)
    for name in "x", "W", "dy":
        for which in "dW", "db":
            arrays = {"x": x.copy(), "W": W.copy(), "dy": dy.copy()}
            room = np.zeros(100, "f")
            given = over(room, arrays[name].shape)
            given[...] = arrays[name]
            arrays[name] = given
            grads = {"dW": np.zeros_like(W), "db": np.zeros(7, "f")}
            grads[which] = over(room, grads[which].shape)
            got = module.affine_backward(arrays["dy"], arrays["x"], arrays["W"], *grads.values())
            for a, b in (got, dx), (grads["dW"], dW), (grads["db"], db):
                np.testing.assert_array_equal(a, b, f"{which} over {name}")

    ids, dout = np.array([2, 0, 2]), rng.standard_normal((3, 4)).astype("f")
    module.embedding_backward(dout, ids, expected := np.zeros((5, 4), "f"))
    room = np.zeros((5, 4), "f")
    room[1:4] = dout
    module.embedding_backward(room[1:4], ids, room)
    np.testing.assert_array_equal(room, expected)


def test_adam_with_a_gradient_over_its_mean(square):
    results = []
    for shared in False, True:
        param, m, v = np.ones(5, "f"), np.arange(5, dtype="f"), np.ones(5, "f")
        square("ops").adam(param, m if shared else m.copy(), m, v, 0.1, 0.9, 0.99)
        results.append((param, m, v))
    np.testing.assert_array_equal(*results)


@cells
def test_grads_over_each_other_are_refused(cell):
    D = widths(cell, 8)[0]  # so that Wx and Wh have one shape
    module, p = kernels.load(cell.name, "cpu"), make_problem(cell, (5, 3, D, 8), heads=1)
    *_, cache = module.forward(p.xs, p.state, p.params)
    grads = list(p.poisoned_grads())
    grads[1] = grads[0]
    with pytest.raises(ValueError, match=r"grads\[1\] must have memory of its own"):
        module.backward(p.dhs, p.dstate, p.params, cache, grads)
    assert np.isnan(grads[0]).all()
    layer = RECURRENT[cell.name](*p.params[:3], **p.beside)
    layer.forward(p.xs)
    layer.grads[1] = layer.grads[0]
    with pytest.raises(ValueError, match=r"grads \(dWh\) must have memory of its own, got .* dWx"):
        layer.backward(p.dhs)
    with pytest.raises(ValueError, match="db must have memory of its own"):
        dW = np.zeros((D, D), "f")
        ops.affine_backward(p.xs[:, 0], p.xs[:, 0], dW.copy(), dW, dW[0])


def test_grads_side_by_side_in_one_array():
    """Their ends overlap, they do not."""
    p = make_problem(CELLS[0], (5, 3, 8, 8))
    module = kernels.load("rnn", "cpu")
    expected, room = p.run(module), np.zeros((8, 16), "f")
    grads = room[:, :8], room[:, 8:], np.zeros(8, "f")
    *_, cache = module.forward(p.xs, p.state, p.params)
    module.backward(p.dhs, p.dstate, p.params, cache, grads)
    for got, right in zip(grads, expected.grads, strict=True):
        np.testing.assert_array_equal(got, right)


# Arrays that lie


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_optimisers_ask_the_array(name):
    param, grad = np.ones((64, 64), "f"), liar(np.ones((1, 1), "f"), (64, 64))
    with pytest.raises(ValueError, match=r"of the shape of .*, \(64, 64\), got \(1, 1\)"):
        getattr(optim, name)().update([param], [grad])
    assert (param == 1).all()
    right = np.ones((64, 64), "f")
    getattr(optim, name)().update([param], [liar(np.ones((64, 64), "f"), (1, 1))])
    getattr(optim, name)().update([right], [np.ones((64, 64), "f")])
    np.testing.assert_array_equal(param, right)
    with pytest.raises(ValueError, match="shape"):
        ops.sgd(param, grad, 0.1)


@cells
def test_what_a_subclass_says_of_its_shape(cell):
    """A lie about a wrong array is found out, one about a right array does not matter."""
    module = kernels.load(cell.name, "cpu")
    for options in cell.options:
        p = make_problem(cell, (4, 3, 5, 6), lengths=True, mask=True, **options)
        expected = p.run(module)
        places = ["xs", "h", *(p.keywords.keys() & MASKS), "lengths", *range(len(p.params))]
        for place in places:
            for wrong in False, True:
                if wrong and p.names[-1] == "Wm" and place == 3:
                    continue  # fewer rounds are right, too
                xs, state, params = p.xs, list(p.state), list(p.params)
                keywords = dict(p.keywords)
                holder, key = {
                    "xs": (locals(), "xs"),
                    "h": (state, 0),
                    **{name: (keywords, name) for name in (*MASKS, "lengths")},
                }.get(place, (params, place))
                array = p.xs if place == "xs" else holder[key]
                lie = liar(array[:1].copy() if wrong else array.copy(), array.shape)
                if place == "xs":
                    xs = liar(p.xs[:, :, :1].copy(), p.xs.shape) if wrong else lie
                else:
                    holder[key] = lie
                if wrong:
                    with pytest.raises((ValueError, TypeError)):
                        module.forward(xs, tuple(state), tuple(params), **keywords)
                    continue
                hs, *_ = module.forward(xs, tuple(state), tuple(params), **keywords)
                np.testing.assert_array_equal(hs, expected.hs, f"{place}")
        grads = [liar(np.zeros_like(a), (1, 1)) for a in p.params]
        *_, cache = module.forward(p.xs, p.state, p.params, **p.keywords)
        module.backward(p.dhs, p.dstate, p.params, cache, grads)
        for got, right in zip(grads, expected.grads, strict=True):
            np.testing.assert_array_equal(np.asarray(got), right)


def test_matrices_are_arrays(device):
    p = make_problem(CELLS[2], (4, 3, 5, 6))
    expected = rnnfast.TimeGRU(*p.params).forward(p.xs)
    with pytest.warns(PendingDeprecationWarning):
        Wx, Wh = np.matrix(p.params[0]), np.matrix(p.params[1])
    layer = rnnfast.TimeGRU(Wx, Wh, p.params[2])
    np.testing.assert_array_equal(layer.forward(p.xs), expected)
    layer.params[0] = Wx
    layer.grads[1] = Wh
    np.testing.assert_array_equal(layer.forward(p.xs), expected)
    layer.backward(p.dhs)
    assert {type(a) for a in (*layer.params, *layer.grads)} == {np.ndarray}


def test_masked_arrays_are_refused(device):
    p = make_problem(CELLS[0], (4, 3, 5, 6))
    layer = rnnfast.TimeRNN(*p.params)
    with pytest.raises(TypeError, match=r"TimeRNN: xs must not be masked.*xs\.filled\(\)"):
        layer.forward(np.ma.masked_greater(p.xs, 0))
    with pytest.raises(TypeError, match="TimeRNN: Wx must not be masked"):
        rnnfast.TimeRNN(np.ma.masked_greater(p.params[0], 0), *p.params[1:])


# Shapes first


@cells
def test_a_broadcast_argument_is_not_copied_to_be_refused(cell):
    """Each of these would be 8 GiB or more."""
    module, p = kernels.load(cell.name, "cpu"), make_problem(cell, (2, 3, 5, 6))

    def wide(*shape):
        return np.broadcast_to(np.float32(1), shape)

    def forward(**change):
        module.forward(**({"xs": p.xs, "state": p.state, "params": p.params} | change))

    huge = 1 << 31
    for change in (
        {"xs": wide(2, 3, huge)},
        {"state": (wide(2, huge), *p.state[1:])},
        {"h_mask": wide(2, huge)},
        *({name: wide(2, 3, huge)} for name in RECURRENT[cell.name].of_steps),
        {"params": (*p.params[:2], wide(huge), *p.params[3:])},
    ):
        with pytest.raises(ValueError, match="must be"):
            forward(**change)
    *_, cache = module.forward(p.xs, p.state, p.params)
    for dhs, dstate in (wide(2, 3, huge), p.dstate), (p.dhs, (wide(2, huge), *p.dstate[1:])):
        with pytest.raises(ValueError, match="must be"):
            module.backward(dhs, dstate, p.params, cache, p.poisoned_grads())
    column = np.ones((2, 1), "f")
    for call in (
        lambda: ops.affine_forward(column, column.T, wide(huge)),
        lambda: ops.affine_backward(wide(2, huge), column, column.T, column.T, None),
        lambda: ops.softmax_loss_forward(column, np.broadcast_to(0, huge)),
        lambda: ops.embedding_backward(column, np.broadcast_to(0, huge), column),
        lambda: ops.sgd(column, wide(huge, 1), 0.1),
    ):
        with pytest.raises(ValueError, match="must"):
            call()
