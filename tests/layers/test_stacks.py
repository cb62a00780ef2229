"""Both directions and stacks, on every device: by values, which shapes alone would not tell."""

import copy

import numpy as np
import pytest
from cases import (
    CELLS,
    NUMERIC_TOLERANCE,
    assert_close,
    assert_grad_close,
    make_problem,
    numeric_grad,
    variants,
    widths,
)

import rnnfast
from rnnfast.layers.cells import BIDIRECTIONAL, RECURRENT

N, T, D, H = 5, 6, 3, 4
LENGTHS = [6, 0, 3, 1, 5]

pytestmark = pytest.mark.usefixtures("device")
each_cell = pytest.mark.parametrize("cell", RECURRENT)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def weights(cell, options, seed, width=D, dtype="f8"):
    """Wx, Wh, b, the weights beside them by name, and the layer's options."""
    p = make_problem(cell, (1, 1, width, H), dtype, seed=seed, **options)
    return p.params[:3], p.beside, p.options


def make_time(cell, options, seed, width=D, stateful=True, dtype="f8"):
    W, beside, keywords = weights(cell, options, seed, width, dtype)
    return RECURRENT[cell.name](*W, stateful, **beside, **keywords)


def make_bi(cell, options, seeds, width=D, dtype="f8"):
    both = [weights(cell, options, seed, width, dtype) for seed in seeds]
    beside = {f"{name}{k}": W for k in (1, 2) for name, W in both[k - 1][1].items()}
    return BIDIRECTIONAL[cell.name](*both[0][0], *both[1][0], True, **beside, **both[0][2])


def turned(xs, lengths):
    """Each sample from its own end to its start; what lies beyond stays."""
    xs = xs.copy()
    for x, length in zip(xs, lengths, strict=True):
        x[:length] = x[:length][::-1].copy()
    return xs


def half_swapped(a, axis=-1):
    return np.roll(a, a.shape[axis] // 2, axis)


def width_of(cell, options):
    """Of a layer's output in one direction."""
    return widths(cell, H, options.get("proj_size"))[0]


def state_widths(layer):
    if hasattr(layer, "parts"):
        return [width for part in layer.parts for width in state_widths(part)]
    H = layer.Wx.shape[1] // layer.gates
    return [len(layer.Wh) if s == "h" else H for s in layer.states]


def state_names(layer):
    if hasattr(layer, "parts"):
        return [name for part in layer.parts for name in state_names(part)]
    return layer.states


def random_states(layer, rng):
    """A normaliser is positive, and far from 0."""
    states = [rng.normal(size=(N, width)) for width in state_widths(layer)]
    named = zip(state_names(layer), states, strict=True)
    return [0.5 + abs(s) if name == "n" else s for name, s in named]


def set_random_state(layer, rng):
    layer.set_state(*random_states(layer, rng))


@variants
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("depth", [1, 2])
def test_reversal_symmetry(cell, options, lengths, depth, rng):
    """Reversed input with swapped weights gives the reversed, half-swapped output; and back."""
    width = 2 * width_of(cell, options)
    layers = [make_bi(cell, options, (1, 2)), make_bi(cell, options, (3, 4), width)][:depth]
    twins = [make_bi(cell, options, (2, 1)), make_bi(cell, options, (4, 3), width)][:depth]
    for twin in twins[1:]:  # what comes from below has its halves swapped
        for direction in twin.parts:
            direction.Wx[...] = half_swapped(direction.Wx, 0)
            if cell.name == "mogrifier":  # (r, H, D), or (r, k, D) of the second of two
                direction.params[-1][...] = half_swapped(direction.params[-1])
    layer, twin = rnnfast.TimeStack(layers), rnnfast.TimeStack(twins)
    set_random_state(layer, rng)
    halves = len(layer.state) // (2 * depth)
    order = [
        start + k + (halves if k < halves else -halves)
        for start in range(0, len(layer.state), 2 * halves)
        for k in range(2 * halves)
    ]
    twin.set_state(*(layer.state[k] for k in order))

    xs, ends = rng.normal(size=(N, T, D)), [T] * N if lengths is None else lengths
    hs = layer.forward(xs, lengths=lengths)
    hs_twin = twin.forward(turned(xs, ends), lengths=lengths)
    assert_close(hs_twin, half_swapped(turned(hs, ends)))
    for k, a in zip(order, twin.state, strict=True):
        assert_close(a, layer.state[k])

    dhs, dstate = rng.normal(size=hs.shape), random_states(layer, rng)
    dxs = layer.backward(dhs, *dstate)
    turned_dhs = half_swapped(turned(dhs, ends))
    dxs_twin = twin.backward(turned_dhs, *(dstate[k] for k in order))
    assert_close(dxs_twin, turned(dxs, ends))
    for k, a in zip(order, twin.dstate, strict=True):
        assert_close(a, layer.dstate[k])
    each = len(layers[0].grads) // 2
    for a, b in zip(layers, twins, strict=True):
        swapped = a.grads[each:] + a.grads[:each]
        for k, (expected, got) in enumerate(zip(swapped, b.grads, strict=True)):
            if k % each == 0 and a is not layers[0]:
                expected = half_swapped(expected, 0)
            elif k % each == each - 1 and a is not layers[0] and cell.name == "mogrifier":
                expected = half_swapped(expected)
            assert_grad_close(got, expected)


@variants
def test_both_directions_are_two_layers(cell, options, rng):
    """The second half is a layer that reads each sample from its own end."""
    layer = make_bi(cell, options, (1, 2))
    ahead, back = make_time(cell, options, 1), make_time(cell, options, 2)
    P = width_of(cell, options)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, 2 * P))
    set_random_state(layer, rng)
    half = len(layer.state) // 2
    ahead.set_state(*layer.state[:half])
    back.set_state(*layer.state[half:])
    hs = layer.forward(xs, lengths=LENGTHS)
    hs1 = ahead.forward(xs, lengths=LENGTHS)
    hs2 = turned(back.forward(turned(xs, LENGTHS), lengths=LENGTHS), LENGTHS)
    assert_close(hs, np.concatenate((hs1, hs2), axis=2))
    for a, b in zip(layer.state, (*ahead.state, *back.state), strict=True):
        assert_close(a, b)
    dstate = random_states(layer, rng)
    dxs = layer.backward(dhs, *dstate)
    expected = ahead.backward(dhs[:, :, :P], *dstate[:half])
    expected += turned(back.backward(turned(dhs[:, :, P:], LENGTHS), *dstate[half:]), LENGTHS)
    assert_close(dxs, expected)
    for a, b in zip(layer.dstate, (*ahead.dstate, *back.dstate), strict=True):
        assert_close(a, b)
    for a, b in zip(layer.grads, (*ahead.grads, *back.grads), strict=True):
        assert_grad_close(a, b)


@each_cell
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.one_in(8)
def test_gradients_of_a_stack_are_the_numeric_ones(cell, bidirectional, rng):
    """Through hs and all final states, of xs, every weight and every first state."""
    cell = next(c for c in CELLS if c.name == cell)
    P = width_of(cell, {})
    if bidirectional:
        layers = [make_bi(cell, {}, (1, 2)), make_bi(cell, {}, (3, 4), 2 * P)]
    else:
        layers = [make_time(cell, {}, seed, width) for seed, width in ((1, D), (2, P), (3, P))]
    stack = rnnfast.TimeStack(layers)
    xs = rng.normal(size=(N, 3, D))
    lengths = [min(length, 3) for length in LENGTHS]
    set_random_state(stack, rng)
    start = tuple(s.copy() for s in stack.state)
    dstate = random_states(stack, rng)
    dhs = rng.normal(size=(N, 3, 2 * P if bidirectional else P))

    def loss():
        stack.set_state(*start)
        hs = stack.forward(xs, train=False, lengths=lengths)
        return (hs * dhs).sum() + sum(
            (s * d).sum() for s, d in zip(stack.state, dstate, strict=True)
        )

    stack.set_state(*start)
    stack.forward(xs, lengths=lengths)
    dxs = stack.backward(dhs, *dstate)
    got = [g.copy() for g in (dxs, *stack.dstate, *stack.grads)]
    for a, b in zip(got, (xs, *start, *stack.params), strict=True):
        assert_close(a, numeric_grad(loss, b), tolerance=NUMERIC_TOLERANCE)


@each_cell
def test_dropout_between_layers_alone(cell, rng):
    """Three layers with two masks between them, and none without training."""
    cell = next(c for c in CELLS if c.name == cell)
    P = width_of(cell, {})
    layers = [make_time(cell, {}, seed, width, False) for seed, width in ((1, D), (2, P), (3, P))]
    stack = rnnfast.TimeStack(layers, dropout_ratio=0.5, rng=7)
    alone = copy.deepcopy(layers)
    drops = [rnnfast.TimeDropout(0.5, (7, k)) for k in range(2)]
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, P))
    for _ in range(2):  # the masks of the second call are others
        y = xs
        for layer, drop in zip(alone, (*drops, None), strict=True):
            y = layer.forward(y)
            y = y if drop is None else drop.forward(y)
        np.testing.assert_array_equal(stack.forward(xs), y)
        dy = dhs
        for layer, drop in zip(reversed(alone), (None, *reversed(drops)), strict=True):
            dy = dy if drop is None else drop.backward(dy)
            dy = layer.backward(dy)
        np.testing.assert_array_equal(stack.backward(dhs), dy)
        for a, b in zip(stack.grads, (g for layer in alone for g in layer.grads), strict=True):
            np.testing.assert_array_equal(a, b)
    assert [drop.step for drop in stack.drop_layers] == [2, 2]
    y = xs
    for layer in alone:
        y = layer.forward(y, train=False)
    np.testing.assert_array_equal(stack.forward(xs, train=False), y)


@each_cell
def test_state_of_a_stack(cell, rng):
    """All layers' states in order; stateful goes on, and a stack may hold a stack."""
    cell = next(c for c in CELLS if c.name == cell)

    def make():
        P = width_of(cell, {})
        inner = rnnfast.TimeStack([make_time(cell, {}, 1), make_bi(cell, {}, (2, 3), P)])
        return rnnfast.TimeStack([inner, make_time(cell, {}, 4, 2 * P)])

    stack, halves = make(), make()
    assert stack.stateful
    assert stack.params == [W for layer in stack.layers for W in layer.params]
    assert len(stack.state) == 4 * cell.states
    assert all(s is None for s in stack.state)
    xs = rng.normal(size=(N, T, D))
    ahead = make_time(cell, {}, 1)
    stack.forward(xs)
    ahead.forward(xs)
    for a, b in zip(stack.state[: cell.states], ahead.state, strict=True):
        assert_close(a, b)
    halves.set_state(*stack.state)
    assert_close(halves.forward(xs), stack.forward(xs))
    halves.reset_state()
    assert all(s is None for s in halves.state)
    frozen = copy.deepcopy(halves)
    frozen.freeze()
    assert frozen.frozen
    np.testing.assert_array_equal(frozen.forward(xs, train=False), halves.forward(xs, train=False))
    frozen.unfreeze()
    assert not frozen.frozen


def test_a_loss_of_the_final_state_alone(rng):
    """backward(None, dh) is backward of zeros."""
    for make in (lambda: make_time(CELLS[1], {}, 1), lambda: make_bi(CELLS[1], {}, (1, 2))):
        layer, twin = make(), make()
        xs = rng.normal(size=(N, T, D))
        dstate = [rng.normal(size=(N, H)) for _ in layer.state]
        hs = layer.forward(xs)
        twin.forward(xs)
        dxs = layer.backward(None, *dstate)
        np.testing.assert_array_equal(dxs, twin.backward(np.zeros_like(hs), *dstate))


def test_wrong_stacks(rng):
    lstm, bi = make_time(CELLS[1], {}, 1), make_bi(CELLS[1], {}, (1, 2), H)
    with pytest.raises(ValueError, match=r"^TimeStack: layers must hold a layer, got none"):
        rnnfast.TimeStack([])
    with pytest.raises(TypeError, match=r"^TimeStack: layers must be recurrent layers, got Affine"):
        rnnfast.TimeStack([lstm, rnnfast.Affine(np.zeros((H, H)), np.zeros(H))])
    with pytest.raises(ValueError, match=r"^TimeStack: layers\[2\] must read D = 8, .* got 3"):
        rnnfast.TimeStack([lstm, bi, make_time(CELLS[0], {}, 1)])
    with pytest.raises(ValueError, match=r"^TimeStack: dropout_ratio must be in \[0, 1\), got 1"):
        rnnfast.TimeStack([lstm, bi], 1)
    stack = rnnfast.TimeStack([lstm, bi])
    with pytest.raises(ValueError, match=r"^TimeStack: set_state: the states must be 6, got 2"):
        stack.set_state(*lstm.state)
    with pytest.raises(RuntimeError, match=r"^TimeBiLSTM: backward needs the forward"):
        stack.backward(rng.normal(size=(N, T, 2 * H)))
    stack.forward(rng.normal(size=(N, T, D)))
    with pytest.raises(ValueError, match=r"^TimeStack: backward: the .* must be 6, got 1"):
        stack.backward(None, np.zeros((N, H)))
    for wrong in ([1] * (N + 1), [T + 1] * N, [-1] * N, [0.5] * N):
        with pytest.raises((TypeError, ValueError), match=r"^TimeLSTM: lengths must be"):
            stack.forward(rng.normal(size=(N, T, D)), lengths=wrong)
        with pytest.raises((TypeError, ValueError), match=r"^TimeBiLSTM: lengths must be"):
            bi.forward(rng.normal(size=(N, T, H)), lengths=wrong)


def test_a_backward_that_is_refused_changes_nothing(rng):
    """Also where the layer that refuses it would be the last one."""
    low, bi = make_time(CELLS[1], {}, 1), make_bi(CELLS[1], {}, (1, 2), H)
    stack = rnnfast.TimeStack([low, bi])
    hs = stack.forward(rng.normal(size=(N, T, D)))
    for grad in stack.grads:
        grad[...] = 7
    with pytest.raises(ValueError, match=r"^TimeLSTM: dh must be .* \(5, 4\), got \(9, 9\)"):
        stack.backward(np.ones_like(hs), np.ones((9, 9)), *[None] * 5)
    if isinstance(low.grads[0], np.ndarray):
        low.grads[0].flags.writeable = False
        with pytest.raises(ValueError, match=r"^TimeLSTM: grads \(dWx\) must be writeable"):
            stack.backward(np.ones_like(hs))
        low.grads[0].flags.writeable = True
    assert all((grad == 7).all() for grad in stack.grads)
    stack.backward(np.ones_like(hs))
    assert not any((grad == 7).any() for grad in stack.grads)


def test_arrays_that_are_replaced_are_in_the_lists_of_layer_and_parts(rng):
    low, bi = make_time(CELLS[1], {}, 1), make_bi(CELLS[1], {}, (1, 2), H)
    stack, xs = rnnfast.TimeStack([low, bi]), rng.normal(size=(N, T, D))
    other = rnnfast.TimeStack([make_time(CELLS[1], {}, 3), make_bi(CELLS[1], {}, (4, 5), H)])
    expected = other.forward(xs), other.backward(np.ones((N, T, 2 * H))), other.grads
    stack.params[:3] = other.params[:3]
    bi.params[:3] = other.params[3:6]
    bi.parts[1].params[:] = other.params[6:]
    stack.grads[:] = [np.empty_like(grad) for grad in stack.grads]
    grads = stack.grads[:]
    found = stack.forward(xs), stack.backward(np.ones((N, T, 2 * H))), grads
    for got, wanted in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(found[2], expected[2], strict=True):
        np.testing.assert_array_equal(got, wanted)
    for name in ("params", "grads"):
        of_parts = [*getattr(low, name), *getattr(bi.parts[0], name), *getattr(bi.parts[1], name)]
        for lists in (getattr(bi, name), of_parts[3:]), (getattr(stack, name), of_parts):
            assert all(a is b for a, b in zip(*lists, strict=True))
    stack.params[4] = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"^TimeBiLSTM: Wh must be .*, got \(2, 2\)"):
        stack.forward(xs)
    bi.params.pop()
    with pytest.raises(ValueError, match=r"^TimeBiLSTM: params must hold 6 arrays, got 5"):
        bi.forward(rng.normal(size=(N, T, H)))
