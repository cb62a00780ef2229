"""The recurrent layers: values, state, gradients, on every device.

What is wrong to call is in test_bad_input.py, the book's models are in test_drop_in.py.
"""

import gc
import tracemalloc
import weakref

import naive
import numpy as np
import pytest
from cases import assert_close, assert_grad_close

import rnnfast

TIME = {"rnn": rnnfast.TimeRNN, "lstm": rnnfast.TimeLSTM, "gru": rnnfast.TimeGRU}
STEP = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}
BI = {"rnn": rnnfast.TimeBiRNN, "lstm": rnnfast.TimeBiLSTM, "gru": rnnfast.TimeBiGRU}

N, T, D, H = 4, 5, 3, 6

each_cell = pytest.mark.parametrize("cell", TIME)


pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def weights(rng, cell, dtype="f8", D=D):
    G = naive.TIME[cell].gates
    shapes = (D, G * H), (H, G * H), (G * H,)
    return [rng.normal(0, 0.5, shape).astype(dtype) for shape in shapes]


def states(rng, cell, dtype="f8"):
    """h, and for an LSTM c; never zero and never alike."""
    return tuple(rng.normal(size=(N, H)).astype(dtype) for _ in range(naive.TIME[cell].n_states))


def state_of(layer, names=("h", "c")):
    return tuple(getattr(layer, name) for name in names if hasattr(layer, name))


def assert_all_close(got, expected):
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert_close(a, b, f"[{k}]")


@each_cell
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sequence_from_a_state_and_back(cell, dtype, rng):
    p, state, dstate = weights(rng, cell), states(rng, cell), states(rng, cell)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    expected = naive.TIME[cell](*p, True)
    expected.state = state
    hs_ref = expected.forward(xs)
    dxs_ref = expected.backward(dhs, dstate)

    layer = TIME[cell](*(w.astype(dtype) for w in p), stateful=True)
    layer.set_state(*(s.astype(dtype) for s in state))
    grads = list(layer.grads)
    for g in grads:
        g.fill(np.nan)
    assert_close(layer.forward(xs), hs_ref, "hs")
    assert_all_close(state_of(layer), expected.state)
    assert_close(layer.backward(dhs, *dstate), dxs_ref, "dxs")
    assert_all_close(state_of(layer, ("dh", "dc")), expected.dstate)
    for g, before, ref in zip(layer.grads, grads, expected.grads, strict=True):
        assert g is before and g.dtype == dtype
        assert_grad_close(g, ref)


@each_cell
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_mask_on_the_recurrent_path(cell, dtype, rng):
    """A mask that is the same for all samples is rows of Wh scaled, but for the GRU's h itself."""
    Wx, Wh, b = weights(rng, cell, dtype)
    xs = rng.normal(size=(N, T, D)).astype(dtype)
    dhs = rng.normal(size=(N, T, H)).astype(dtype)
    row = (2 * (np.arange(H) % 3 > 0)).astype(dtype)
    mask = np.tile(row, (N, 1))
    masked = TIME[cell](Wx, Wh, b, stateful=True)
    scaled = TIME[cell](Wx, row[:, np.newaxis] * Wh, b, stateful=True)
    for _ in range(2):  # the second time from a state that is not zero
        assert_close(masked.forward(xs, h_mask=mask), scaled.forward(xs).astype("f8"))
        assert_close(masked.backward(dhs), scaled.backward(dhs).astype("f8"))
        for k, (a, e) in enumerate(zip(masked.grads, scaled.grads, strict=True)):
            assert_grad_close(a, (row[:, np.newaxis] * e if k == 1 else e).astype("f8"))
        assert_close(masked.dh, scaled.dh.astype("f8"))
    expected = masked.forward(xs, train=False, h_mask=mask.astype("i8"))  # is cast
    masked.reset_state()
    for _ in range(2):
        masked.forward(xs, train=False, h_mask=mask)
    masked.freeze()
    masked.reset_state()
    for _ in range(3):
        frozen = masked.forward(xs, train=False, h_mask=mask)
    np.testing.assert_array_equal(frozen, expected)


@each_cell
def test_truncated_bptt_goes_on_from_the_last_state(cell, rng):
    """Chapter 5: the state is carried on, the gradient is not; each backward writes anew."""
    p = weights(rng, cell)
    expected, layer = naive.TIME[cell](*p, True), TIME[cell](*p, True)
    for _ in range(3):
        xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
        assert_close(layer.forward(xs), expected.forward(xs), "hs")
        assert_close(layer.backward(dhs), expected.backward(dhs), "dxs")
        assert_all_close(layer.grads, expected.grads)
        assert_all_close(state_of(layer, ("dh", "dc")), expected.dstate)


@each_cell
def test_state_starts_from_zeros(cell, rng):
    """Without stateful always, whatever the state is; with it, after reset_state."""
    p, xs = weights(rng, cell), rng.normal(size=(N, T, D))
    from_zeros = naive.TIME[cell](*p, True).forward(xs)
    layer = TIME[cell](*p)
    assert state_of(layer) == (None,) * naive.TIME[cell].n_states
    layer.set_state(*[None] * len(layer.state))
    with pytest.raises(
        ValueError, match=r"^Time\w+: stateful must be True for set_state, got False"
    ):
        layer.set_state(*states(rng, cell))
    for _ in range(2):
        assert_close(layer.forward(xs), from_zeros)
        np.testing.assert_array_equal(layer.h, layer.forward(xs)[:, -1])
    layer.stateful = True
    assert abs(layer.forward(xs) - from_zeros).max() > 0.01
    layer.reset_state()
    assert state_of(layer) == (None,) * naive.TIME[cell].n_states
    assert_close(layer.forward(xs), from_zeros)


def test_set_state_of_h_alone_starts_c_from_zeros(rng):
    """As the decoder of chapter 7 does; and the other way round."""
    p, xs = weights(rng, "lstm"), rng.normal(size=(N, T, D))
    h, c = states(rng, "lstm")
    layer, expected = rnnfast.TimeLSTM(*p, stateful=True), naive.TimeLSTM(*p, True)
    for state in (h, None), (None, c):
        layer.set_state(*state)
        expected.state = tuple(np.zeros_like(h) if s is None else s for s in state)
        assert_close(layer.forward(xs), expected.forward(xs))


@each_cell
def test_steps_of_one_make_a_sequence(cell, rng):
    """The book's own time loop, which starts its gradients from the number 0."""
    p, state = weights(rng, cell), states(rng, cell)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    expected = naive.TIME[cell](*p, True)
    expected.state = state
    hs_ref, dxs_ref = expected.forward(xs), expected.backward(dhs)

    steps = []
    for t in range(T):
        step = STEP[cell](*p)
        out = step.forward(xs[:, t], *state)
        state = out if cell == "lstm" else (out,)
        assert_close(state[0], hs_ref[:, t])
        steps.append(step)
    dh, rest, grads = 0, (0,) * (len(state) - 1), [0, 0, 0]
    for t in reversed(range(T)):
        dx, dh, *rest = steps[t].backward(dhs[:, t] + dh, *rest)
        assert_close(dx, dxs_ref[:, t])
        grads = [total + g for total, g in zip(grads, steps[t].grads, strict=True)]
    assert_all_close(grads, expected.grads)
    assert_all_close((dh, *rest), expected.dstate)


def test_literal_rnn():
    """h = tanh(0.5 x + 0.25 h' + 0.1) from h0 = 0.8 over x = 1, -2."""
    layer = rnnfast.TimeRNN(*(np.array(w, "f8") for w in ([[0.5]], [[0.25]], [0.1])), True)
    layer.set_state(np.array([[0.8]]))
    hs = layer.forward(np.array([[[1.0], [-2.0]]]))
    np.testing.assert_allclose(hs.ravel(), [0.6640367702678491, -0.6255008151393968], rtol=1e-14)
    dxs = layer.backward(np.array([[[0.0], [1.0]]]))  # only the last step is asked
    np.testing.assert_allclose(dxs.ravel(), [0.04254051543778335, 0.30437436512997507], rtol=1e-13)
    grads = [g.item() for g in layer.grads]
    expected = [-1.1324164296443335, 0.47229636544692477, 0.6938297611355169]
    np.testing.assert_allclose(grads, expected, rtol=1e-13)
    np.testing.assert_allclose(layer.dh, [[0.021270257718891676]], rtol=1e-13)


def test_literal_lstm():
    """All weights 0: gates 0.5 and g = 0, so c halves and h = tanh(c) / 2."""
    layer = rnnfast.TimeLSTM(*(np.zeros(s) for s in ((D, 4), (1, 4), (4,))), stateful=True)
    layer.set_state(np.array([[9.0]]), np.array([[2.0]]))
    hs = layer.forward(np.ones((1, 2, D)))
    np.testing.assert_allclose(hs.ravel(), [0.3807970779778824, 0.2310585786300049], rtol=1e-14)
    assert layer.c == 0.5


def test_literal_gru():
    """All weights 0: z = r = 0.5 and a candidate of 0, so h halves."""
    layer = rnnfast.TimeGRU(np.zeros((D, 3)), np.zeros((1, 3)), stateful=True)
    layer.set_state(np.array([[6.0]]))
    assert layer.forward(np.ones((1, 2, D))).ravel().tolist() == [3.0, 1.5]
    assert layer.backward(np.array([[[0.0], [8.0]]])).tolist() == [[[0.0] * D] * 2]
    assert layer.dh == 2.0


def test_relu(rng):
    Wx, Wh, b = weights(rng, "rnn")
    xs, dhs = rng.normal(size=(N, 1, D)), rng.normal(size=(N, 1, H))
    for layer in rnnfast.TimeRNN(Wx, Wh, b, nonlinearity="relu"), None:
        layer = layer or rnnfast.TimeBiRNN(Wx, Wh, b, Wx, Wh, b, nonlinearity="relu").forward_rnn
        hs = layer.forward(xs)
        a = xs[:, 0] @ Wx + b
        assert 0 < np.count_nonzero(hs) < hs.size
        assert_close(hs[:, 0], np.maximum(a, 0))
        assert_close(layer.backward(dhs)[:, 0], dhs[:, 0] * (a > 0) @ Wx.T)


@pytest.mark.parametrize("layer_class", [rnnfast.GRU, rnnfast.TimeGRU])
def test_gru_without_a_bias(layer_class, rng):
    """The Korean edition's signature and names."""
    Wx, Wh, b = weights(rng, "gru")
    layer = layer_class(Wx, Wh)
    assert layer.Wx is layer.params[0] is Wx and layer.Wh is layer.params[1] is Wh
    assert layer.dWx is layer.grads[0] and layer.dWh is layer.grads[1]
    assert len(layer.params) == len(layer.grads) == 2

    with_zeros = layer_class(Wx, Wh, np.zeros_like(b))
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    args = (xs,)
    if layer_class is rnnfast.GRU:
        args, dhs = (xs[:, 0], *states(rng, "gru")), dhs[:, 0]
    assert_close(layer.forward(*args), with_zeros.forward(*args))
    layer.backward(dhs), with_zeros.backward(dhs)
    assert_all_close(layer.grads, with_zeros.grads[:2])
    assert np.any(layer.dWx) and np.any(layer.dWh)


def test_third_argument_of_time_gru(rng):
    Wx, Wh, b = weights(rng, "gru")
    for arguments, bias, stateful in (
        ((), False, False),
        ((True,), False, True),
        ((False,), False, False),
        ((np.True_,), False, True),
        ((None, True), False, True),
        ((b,), True, False),
        ((b, True), True, True),
    ):
        layer = rnnfast.TimeGRU(Wx, Wh, *arguments)
        assert (len(layer.params) == 3, layer.stateful) == (bias, stateful)


@each_cell
def test_both_directions(cell, rng):
    p1, p2 = weights(rng, cell), weights(rng, cell)
    layer = BI[cell](*p1, *p2, stateful=True)
    ahead, back = (getattr(layer, f"{way}_{cell}") for way in ("forward", "backward"))
    assert all(a is b for a, b in zip(layer.params, p1 + p2, strict=True))
    assert all(a is b for a, b in zip(layer.grads, ahead.grads + back.grads, strict=True))

    expected = naive.TIME[cell](*p1, True), naive.TIME[cell](*p2, True)
    for _ in range(2):
        xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, 2 * H))
        hs1, hs2 = expected[0].forward(xs), expected[1].forward(xs[:, ::-1])
        assert_close(layer.forward(xs), np.concatenate((hs1, hs2[:, ::-1]), axis=2))
        assert_all_close(state_of(ahead) + state_of(back), expected[0].state + expected[1].state)
        dxs = expected[0].backward(dhs[:, :, :H])
        dxs = dxs + expected[1].backward(dhs[:, ::-1, H:])[:, ::-1]
        assert_close(layer.backward(dhs), dxs)
        assert_all_close(layer.grads, expected[0].grads + expected[1].grads)
    layer.reset_state()
    assert ahead.h is back.h is None


@each_cell
@pytest.mark.parametrize("stateful", [False, True])
def test_backwards_alone(cell, stateful, rng):
    """As a layer that is given the sequence turned round."""
    p, dstate = weights(rng, cell), states(rng, cell)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    expected = TIME[cell](*(w.copy() for w in p), stateful)
    layer = rnnfast.TimeReverse(TIME[cell](*p, stateful))
    assert layer.params is layer.layer.params and layer.stateful is stateful
    for _ in range(2):
        assert_close(layer.forward(xs), expected.forward(xs[:, ::-1])[:, ::-1], "hs")
        assert_all_close(layer.state, expected.state)
        dxs = expected.backward(dhs[:, ::-1], *dstate)[:, ::-1]
        assert_close(layer.backward(dhs, *dstate), dxs, "dxs")
        assert_all_close(layer.dstate, expected.dstate)
        for g, ref in zip(layer.grads, expected.grads, strict=True):
            assert_grad_close(g, ref)
    stack = rnnfast.TimeStack([layer, TIME[cell](*weights(rng, cell, D=H))])
    assert stack.forward(xs).shape == (N, T, H)
    with pytest.raises(TypeError, match="TimeReverse: layer must be a TimeRNN, TimeLSTM, "):
        rnnfast.TimeReverse(stack)


@each_cell
def test_both_directions_without_a_state_or_a_cache(cell, rng):
    """The reversed input through swapped weights gives the reversed output, its halves swapped."""
    p1, p2 = weights(rng, cell), weights(rng, cell)
    xs = rng.normal(size=(N, T, D))
    hs = BI[cell](*p1, *p2).forward(xs, train=False)
    swapped = BI[cell](*p2, *p1).forward(xs[:, ::-1])[:, ::-1]
    assert_close(hs, np.concatenate((swapped[:, :, H:], swapped[:, :, :H]), axis=2))


@each_cell
def test_inputs_of_every_layout_and_real_dtype(cell, rng):
    p, state, dstate = weights(rng, cell, "f4"), states(rng, cell, "f4"), states(rng, cell, "f4")
    xs, dhs = rng.integers(-3, 4, (N, T, D)), rng.integers(-3, 4, (N, T, H))

    def run(view):
        layer = TIME[cell](*p, stateful=True)
        layer.set_state(*map(view, state))
        hs = layer.forward(view(xs))
        dxs = layer.backward(view(dhs), *map(view, dstate))
        results = [hs, dxs, *state_of(layer), *state_of(layer, ("dh", "dc")), *layer.grads]
        assert all(a.dtype == np.float32 for a in results)
        return results

    def read_only(a):
        a = a.astype("f4")
        a.flags.writeable = False
        return a

    def unaligned(a):
        record = np.zeros(a.shape, [("skip", "i1"), ("value", "f4")])
        record["value"] = a
        return record["value"]

    expected = run(lambda a: a.astype("f4"))
    for view in (
        read_only,
        unaligned,
        lambda a: np.flip(np.flip(a).astype("f4")),
        lambda a: np.asfortranarray(a.astype("f4")),
        lambda a: np.repeat(a.astype("f4"), 3, axis=0)[::3],
        lambda a: a.astype("f8"),
        lambda a: a.astype(">f4"),
    ):
        for got, ref in zip(run(view), expected, strict=True):
            np.testing.assert_array_equal(got, ref)
    hs = TIME[cell](*p).forward(xs.astype("f4"))
    for dtype in ("f2", "i1", "i8", "longdouble"):
        np.testing.assert_array_equal(TIME[cell](*p).forward(xs.astype(dtype)), hs)


@each_cell
@pytest.mark.one_in(2)
def test_evaluation_holds_nothing(cell, rng):
    layer = TIME[cell](*weights(rng, cell))
    xs = rng.normal(size=(N, T, D))
    alive = weakref.ref(xs)
    hs = layer.forward(xs)
    assert_close(layer.forward(xs, train=False), hs)
    del xs, hs
    gc.collect()
    assert alive() is None


@each_cell
@pytest.mark.one_in(2)
def test_memory_between_forward_and_backward(cell, rng):
    """x, h, c and the gates: 6 N T H + N T D floats, and afterwards none."""
    n, t, d, h = 8, 40, 20, 32
    G = naive.TIME[cell].gates
    layer = TIME[cell](*(np.zeros(s, "f4") for s in ((d, G * h), (h, G * h), (G * h,))))
    xs, dhs = rng.normal(size=(n, t, d)).astype("f4"), np.ones((n, t, h), "f4")
    layer.forward(xs[:, :2])  # what is allocated once
    layer.backward(dhs[:, :2])
    gc.collect()
    tracemalloc.start()
    try:
        hs = layer.forward(xs)
        held = tracemalloc.get_traced_memory()[0] - hs.nbytes
        assert held <= 4 * (6 * n * t * h + n * t * d) * 1.1
        del hs
        layer.backward(dhs)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 4 * n * t * h / 2
    finally:
        tracemalloc.stop()


@each_cell
def test_what_was_returned_may_be_changed(cell, rng):
    p, xs, dhs = weights(rng, cell), rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    calm, wild = (TIME[cell](*p, stateful=True) for _ in range(2))
    for _ in range(2):
        calm.forward(xs)
        wild.forward(xs)[...] = 7
        assert_all_close(state_of(wild), state_of(calm))
        dxs = calm.backward(dhs)
        assert_close(wild.backward(dhs), dxs)
        assert_all_close(wild.grads, calm.grads)


@each_cell
def test_empty_batch_and_empty_sequence(cell, rng):
    p = weights(rng, cell)
    for n, t in (0, T), (N, 0), (0, 0):
        layer = TIME[cell](*p, stateful=True)
        state = tuple(s[:n] for s in states(rng, cell))
        layer.set_state(*state)
        for g in layer.grads:
            g.fill(3)
        assert layer.forward(np.zeros((n, t, D))).shape == (n, t, H)
        for kept, s in zip(state_of(layer), state, strict=True):
            np.testing.assert_array_equal(kept, s)
        assert layer.backward(np.zeros((n, t, H)), *state).shape == (n, t, D)
        for passed, s in zip(state_of(layer, ("dh", "dc")), state, strict=True):
            np.testing.assert_array_equal(passed, s)
        assert not any(g.any() for g in layer.grads)
        both = BI[cell](*p, *p)
        assert both.forward(np.zeros((n, t, D))).shape == (n, t, 2 * H)
        assert both.backward(np.zeros((n, t, 2 * H))).shape == (n, t, D)
        assert not any(g.any() for g in both.grads)


@each_cell
def test_nan_stays_in_its_sample(cell, rng):
    p, xs, dhs = weights(rng, cell), rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    layer = TIME[cell](*p)
    hs, dxs = layer.forward(xs), layer.backward(dhs)
    bad = xs.copy()
    bad[1] = np.nan
    others = [0, 2, 3]
    np.testing.assert_array_equal(layer.forward(bad)[others], hs[others])
    np.testing.assert_array_equal(layer.backward(dhs)[others], dxs[others])


@each_cell
def test_params_may_be_replaced(cell, rng):
    p, q, xs = weights(rng, cell), weights(rng, cell), rng.normal(size=(N, T, D))
    layer = TIME[cell](*p)
    layer.forward(xs)
    layer.params[:] = q
    layer.Wx = q[0]
    assert layer.params[0] is q[0]
    assert_close(layer.forward(xs), naive.TIME[cell](*q).forward(xs))


def test_a_kept_state_of_another_batch(rng):
    layer = rnnfast.TimeLSTM(*weights(rng, "lstm"), stateful=True)
    layer.forward(rng.normal(size=(20, T, D)))
    with pytest.raises(ValueError, match=r"a state of batch 20 is kept; reset_state\(\) drops"):
        layer.forward(rng.normal(size=(3, T, D)))
    assert layer.h.shape == (20, H)
    layer.reset_state()
    layer.forward(rng.normal(size=(3, T, D)))


def test_the_states_of_a_stack_are_set_all_or_none(rng):
    p = weights(rng, "gru")
    square = (p[1], *p[1:])
    stack = rnnfast.TimeStack([rnnfast.TimeGRU(*p, stateful=True), rnnfast.TimeGRU(*square)])
    with pytest.raises(ValueError, match="stateful must be True for set_state"):
        stack.set_state(*rng.normal(size=(2, N, H)))
    stack.layers[1].stateful = True
    with pytest.raises(ValueError, match=r"h must be \(N, H\)"):
        stack.set_state(rng.normal(size=(N, H)), rng.normal(size=(N, H + 1)))
    assert stack.state == (None, None)


@pytest.mark.parametrize(
    ("Wx", "Wh", "b", "message"),
    [
        ((3, 20), (6, 24), 20, r"Wh must be \(H, 4H\) = \(5, 20\), got \(6, 24\)"),
        ((3, 20), (5, 24), 20, r"Wh must be \(H, 4H\) = \(5, 20\), got \(5, 24\)"),
        ((3, 20), (6, 20), 20, r"Wh must be \(H, 4H\) = \(5, 20\), got \(6, 20\)"),
        ((3, 20), (5, 19), None, r"Wh must be \(H, 4H\) = \(5, 20\), got \(5, 19\)"),
        ((3, 24), (5, 20), 20, r"Wx must be \(D, 4H\) = \(3, 20\), got \(3, 24\)"),
        ((3, 21), (5, 20), 20, r"Wx must be \(D, 4H\) = \(3, 20\), got \(3, 21\)"),
        ((3, 20), (5, 20), 24, r"b must be \(4H,\) = \(20,\), got \(24,\)"),
    ],
)
def test_the_weight_that_is_wrong_is_named(Wx, Wh, b, message):
    arrays = np.zeros(Wx), np.zeros(Wh), None if b is None else np.zeros(b)
    for make in rnnfast.TimeLSTM, rnnfast.LSTM:
        with pytest.raises(ValueError, match=f"^{make.__name__}: {message}"):
            make(*arrays)
    with pytest.raises(ValueError, match=r"^TimeBiLSTM: W[hx]1|^TimeBiLSTM: b1"):
        rnnfast.TimeBiLSTM(*arrays, *arrays)
