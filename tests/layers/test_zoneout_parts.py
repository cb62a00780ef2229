"""Zoneout and recurrent dropout of one step, of both directions, of stacks: against sequences."""

import re

import numpy as np
import pytest
from on_host import assert_allclose, assert_array_equal

import rnnfast
from rnnfast import TimeReverse, TimeStack, io

N, T, D, H = 3, 4, 5, 6
CLOSE = 1e-12  # float64; the order of sums differs
F32 = 2e-5  # float32; the columns round differently
CELLS = {
    "rnn": (rnnfast.RNN, rnnfast.TimeRNN, rnnfast.TimeBiRNN, {"nonlinearity": "relu"}),
    "lstm": (rnnfast.LSTM, rnnfast.TimeLSTM, rnnfast.TimeBiLSTM, {"cell_clip": 0.3}),
    "gru": (rnnfast.GRU, rnnfast.TimeGRU, rnnfast.TimeBiGRU, {"reset_after": True}),
    "mogrifier": (rnnfast.Mogrifier, rnnfast.TimeMogrifier, rnnfast.TimeBiMogrifier, {}),
    "lstmp": (rnnfast.LSTMP, rnnfast.TimeLSTMP, rnnfast.TimeBiLSTMP, {"cell_clip": 0.3}),
    "lnlstm": (rnnfast.LayerNormLSTM, rnnfast.TimeLayerNormLSTM, rnnfast.TimeBiLayerNormLSTM, {}),
    "lngru": (rnnfast.LayerNormGRU, rnnfast.TimeLayerNormGRU, rnnfast.TimeBiLayerNormGRU, {}),
}


def made(kind, D=D, rng=0, **options):
    return kind.create(D, H, rng=rng, dtype="float64", **options)


def over(kind, params, **options):
    """A layer over these params, which may be those of both directions."""
    if hasattr(kind, "kind"):
        half, more = len(params) // 2, kind.kind.more
        pairs = zip("12", (params[:half], params[half:]), strict=True)
        beside = {
            f"{name}{k}": W for k, own in pairs for name, W in zip(more, own[3:], strict=False)
        }
        return kind(*params[:3], *params[half : half + 3], **beside, **options)
    return kind(*params[:3], **dict(zip(kind.more, params[3:], strict=False)), **options)


def drawn(rng, kind):
    """Shares of every step, and a mask whose kept elements are scaled."""
    found = {name: rng.random((N, T, H)) for name in kind.of_steps}
    if "candidate_mask" in found:
        found["candidate_mask"] = (found["candidate_mask"] < 0.7) / 0.7
    return found


def flipped(arrays):
    return {name: x[:, ::-1] for name, x in arrays.items()}


def copies(arrays):
    return [array.copy() for array in arrays]


@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_a_sequence(device, cell):
    """Step after step, and back: hs, final states and all gradients."""
    kind_of_step, kind, _, options = CELLS[cell]
    rng, layer = np.random.default_rng(1), made(kind, stateful=True, **options)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    state = [rng.normal(size=(N, H)) for _ in layer.states]
    dstate = [rng.normal(size=(N, H)) for _ in layer.states]
    masks = drawn(rng, kind)
    layer.set_state(*state)
    hs = layer.forward(xs, **masks)
    final = layer.state
    dxs = layer.backward(dhs, *dstate)

    total = [0.0 * grad for grad in layer.grads]
    steps, s = [], tuple(state)
    for t in range(T):
        steps.append(over(kind_of_step, layer.params, **options))
        own = {name: x[:, t] for name, x in masks.items()}
        untrained = over(kind_of_step, layer.params, **options)
        untrained = untrained.forward(xs[:, t], *s, train=False, **own)
        s = steps[-1].forward(xs[:, t], *s, **own)
        assert_array_equal(np.asarray(s), np.asarray(untrained))
        s = s if isinstance(s, tuple) else (s,)
        assert_allclose(s[0], hs[:, t], atol=CLOSE)
    for a, b in zip(s, final, strict=True):
        assert_allclose(a, b, atol=CLOSE)
    ds = dstate
    for t in reversed(range(T)):
        dx, *ds = steps[t].backward(ds[0] + dhs[:, t], *ds[1:])
        assert_allclose(dx, dxs[:, t], atol=CLOSE)
        total = [a + b for a, b in zip(total, steps[t].grads, strict=True)]
    for a, b in zip((*ds, *total), (*layer.dstate, *layer.grads), strict=True):
        assert_allclose(a, b, atol=CLOSE)


@pytest.mark.parametrize("cell", CELLS)
def test_a_number_of_a_step(cell):
    """It is the share of every unit."""
    kind, *_ = CELLS[cell]
    rng, layer = np.random.default_rng(2), made(kind, device="cpu")
    x, state = rng.normal(size=(N, D)), [rng.normal(size=(N, H)) for _ in layer.states]
    names = [name for name in kind.of_steps if name.endswith("zoneout")]
    numbers = dict.fromkeys(names, 0.3)
    plain, got = (np.reshape(layer.forward(x, *state, **g), (-1, N, H)) for g in ({}, numbers))
    np.testing.assert_allclose(got, 0.3 * np.array(state) + 0.7 * plain, atol=CLOSE)


@pytest.mark.parametrize("lengths", [None, [T, 2, 0]])
@pytest.mark.parametrize("cell", CELLS)
def test_both_directions(device, cell, lengths):
    """Two layers of which the second reads everything from the end to the start."""
    _, kind, both_kind, options = CELLS[cell]
    rng, both = np.random.default_rng(3), made(both_kind, **options)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, 2 * H))
    masks = [drawn(rng, kind) for _ in range(2)]
    pairs = {name: [own[name] for own in masks] for name in masks[0]}
    hs = both.forward(xs, lengths=lengths, **pairs)
    dxs, grads = both.backward(dhs), copies(both.grads)
    half = len(both.params) // 2
    there = over(kind, both.params[:half], **options)
    back = TimeReverse(over(kind, both.params[half:], **options))
    expected = [
        one.forward(xs, lengths=lengths, **own)
        for one, own in zip((there, back), masks, strict=True)
    ]
    assert_array_equal(hs, np.concatenate(expected, axis=2))
    dxs_back = back.backward(dhs[:, :, H:])
    assert_allclose(dxs, there.backward(dhs[:, :, :H]) + dxs_back, atol=CLOSE)
    for a, b in zip(grads, (*there.grads, *back.grads), strict=True):
        assert_array_equal(a, b)
    if lengths is None:
        turned = over(kind, both.params[half:], **options)
        of_turned = turned.forward(xs[:, ::-1], **flipped(masks[1]))
        assert_allclose(of_turned[:, ::-1], hs[:, :, H:], atol=CLOSE)
        assert_allclose(turned.backward(dhs[:, ::-1, H:])[:, ::-1], dxs_back, atol=CLOSE)
    plain = made(both_kind, **options).forward(xs)
    only = both.forward(xs, **{name: (x[0], None) for name, x in pairs.items()})
    assert_array_equal(only[:, :, H:], plain[:, :, H:])
    assert np.abs(only[:, :, :H] - plain[:, :, :H]).max() > 0.01


def test_stacks(device):
    """One for each layer: what each layer takes by itself. A number is for all."""
    rng = np.random.default_rng(4)
    kinds = rnnfast.TimeBiGRU, rnnfast.TimeLSTM, rnnfast.TimeLSTM
    widths = D, 2 * H, H
    layers, own = (
        [made(kind, width, k) for k, (kind, width) in enumerate(zip(kinds, widths, strict=True))]
        for _ in range(2)
    )
    stack = TimeStack([TimeStack(layers[:2]), layers[2]])
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    pair = [drawn(rng, rnnfast.TimeGRU) for _ in range(2)]
    masks = [
        {name: tuple(x[name] for x in pair) for name in pair[0]},
        drawn(rng, rnnfast.TimeLSTM),
        {"h_zoneout": 0.25},
    ]
    names = rnnfast.TimeLSTM.of_steps
    low, middle, top = ([own.get(name) for name in names] for own in masks)
    given = {name: [[a, b], c] for name, a, b, c in zip(names, low, middle, top, strict=True)}
    hs = stack.forward(xs, **given)
    x = xs
    for layer, arguments in zip(own, masks, strict=True):
        x = layer.forward(x, **arguments)
    assert_array_equal(hs, x)
    dxs, d = stack.backward(dhs), dhs
    for layer in reversed(own):
        d = layer.backward(d)
    assert_array_equal(dxs, d)
    for a, b in zip(stack.grads, [grad for layer in own for grad in layer.grads], strict=True):
        assert_array_equal(a, b)
    x = xs
    for layer in own:
        x = layer.forward(x, h_zoneout=0.2, train=False)
    assert_array_equal(stack.forward(xs, h_zoneout=0.2, train=False), x)


def test_wrong_arguments_of_steps():
    x, h = np.ones((N, D), "f"), np.ones((N, H), "f")
    cells = {cell: kinds[0].create(D, H, rng=0, device="cpu") for cell, kinds in CELLS.items()}
    for layer in cells.values():
        state = [h] * len(layer.states)
        for name in layer.of_steps:
            for wrong in np.ones((N, 1, H)), np.ones((H, N)), np.ones(H):
                letter = layer.wide if name == "h_zoneout" else "H"
                message = f"{name} must be (N, {letter}) = {(N, H)}, got {wrong.shape}"
                with pytest.raises(ValueError, match=re.escape(message)):
                    layer.forward(x, *state, **{name: wrong})
        with pytest.raises(ValueError, match=r"h_zoneout must be in \[0, 1\], got 1.5"):
            layer.forward(x, *state, h_zoneout=1.5)
        assert layer.cache is None
    message = "RNN: candidate_mask must be None, which this cell does not have, got ndarray"
    with pytest.raises(ValueError, match=message):
        cells["rnn"].forward(x, h, candidate_mask=h)
    with pytest.raises(TypeError, match="c_zoneout"):
        cells["lngru"].forward(x, h, c_zoneout=0.5)


def test_wrong_arguments_of_parts():
    xs, mask = np.ones((N, T, D), "f"), np.ones((N, H), "f")
    both = rnnfast.TimeBiLSTM.create(D, H, rng=0, device="cpu")
    top = rnnfast.TimeRNN.create(2 * H, H, rng=0, device="cpu")
    stack = TimeStack([both, top])
    for layer, each in (both, "direction"), (stack, "layer"):
        owner = type(layer).__name__
        message = (
            f"^{owner}: h_zoneout must be a list or tuple with one for each {each}, got ndarray$"
        )
        with pytest.raises(TypeError, match=message):
            layer.forward(xs, h_zoneout=mask)
        message = f"^{owner}: h_zoneout must be 2, one for each {each}, got 3$"
        with pytest.raises(ValueError, match=message):
            layer.forward(xs, h_zoneout=[None, None, mask])
    message = (
        f"TimeBiLSTM: c_zoneout must be (N, T, H) = {(N, T, H)} or (N, H) = {(N, H)}, got {(N, D)}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        both.forward(xs, c_zoneout=(mask, mask[:, :D]))
    message = "TimeRNN: c_zoneout must be None, which this cell does not have, got float"
    with pytest.raises(ValueError, match=message):
        stack.forward(xs, c_zoneout=0.5)
    with pytest.raises(ValueError, match="TimeRNN: h_zoneout must be in"):
        TimeReverse(top).forward(np.ones((N, T, 2 * H)), h_zoneout=-1)
    assert all(part.cache is None for part in (*both.parts, top))
    assert all(state is None for state in stack.state)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.one_in(7)
def test_on_the_gpu(gpu, cell):
    """One step and both directions there: what the CPU computes, in float32."""
    step, kind, both, options = CELLS[cell]
    rng = np.random.default_rng(5)
    xs, dhs = rng.normal(size=(N, T, D)).astype("f"), rng.normal(size=(N, T, 2 * H)).astype("f")
    masks = {name: rng.random((N, T, H)).astype("f") for name in kind.of_steps}
    state = rng.normal(size=(len(kind.states), N, H)).astype("f")
    results = []
    for give in np.asarray, gpu.to_device:
        layer = both.create(D, H, rng=0, device="cpu", **options)
        layers = [
            over(of, [give(W) for W in params], **options)
            for of, params in ((both, layer.params), (step, layer.params[: len(layer.params) // 2]))
        ]
        own = {name: give(x) for name, x in masks.items()}
        hs = layers[0].forward(give(xs), **{name: (x, x) for name, x in own.items()})
        found = [hs, layers[0].backward(give(dhs)), *layers[0].grads]
        first = {name: give(x[:, 0]) for name, x in masks.items()}
        h = layers[1].forward(give(xs[:, 0]), *map(give, state), **first)
        found += h if isinstance(h, tuple) else [h]
        found += [*layers[1].backward(*map(give, state)), *layers[1].grads]
        results.append(found)
    assert layers[1].device == "cuda"
    for cpu, cuda in zip(*results, strict=True):
        np.testing.assert_allclose(io.to_numpy(cuda), cpu, rtol=F32, atol=F32)
