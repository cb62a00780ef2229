"""What layers can do beyond the book: peepholes, bounds, conventions, lengths, DropConnect."""

import copy
import pickle

import numpy as np
import pytest
from cases import assert_close, assert_grad_close, make_problem, variants

import rnnfast
from rnnfast.kernels import load
from rnnfast.layers.cells import RECURRENT

STEP = {
    "rnn": rnnfast.RNN,
    "lstm": rnnfast.LSTM,
    "gru": rnnfast.GRU,
    "mogrifier": rnnfast.Mogrifier,
    "lnlstm": rnnfast.LayerNormLSTM,
    "lngru": rnnfast.LayerNormGRU,
    "lstmp": rnnfast.LSTMP,
    "slstm": rnnfast.SLSTM,
}
N, T, D, H = 5, 4, 3, 6

pytestmark = pytest.mark.usefixtures("device")


def layer_of(kind, p, *more):
    """A layer with the problem's weights and options."""
    return kind(*p.params[:3], *more, **p.beside, **p.options)


@variants
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.one_in(3)
def test_layer_is_the_reference(cell, options, lengths, bias, dtype):
    p = make_problem(cell, (N, T, D, H), dtype, lengths=lengths, bias=bias, mask=True, **options)
    expected = p.astype("float64").run(load(cell.name, "reference"))
    layer = layer_of(RECURRENT[cell.name], p, True)
    assert len(layer.params) == sum(W is not None for W in p.params) == len(layer.grads)
    layer.set_state(*p.state)
    assert_close(layer.forward(p.xs, **p.ways), expected.hs, "hs")
    for a, b in zip(layer.state, expected.state, strict=True):
        assert_close(a, b)
    assert_close(layer.backward(p.dhs, *p.dstate), expected.dxs, "dxs")
    for a, b in zip(layer.dstate, expected.dstate, strict=True):
        assert_close(a, b)
    for a, (name, b) in zip(layer.grads, expected.named_grads(), strict=True):
        assert_grad_close(a, b, name)


@variants
def test_steps_make_a_sequence(cell, options):
    p = make_problem(cell, (N, T, D, H), "f8", **options)
    layer, step = layer_of(RECURRENT[cell.name], p, True), layer_of(STEP[cell.name], p)
    layer.set_state(*p.state)
    hs, state = layer.forward(p.xs), p.state
    for t in range(T):
        state = step.forward(p.xs[:, t], *state)
        state = state if isinstance(state, tuple) else (state,)
        assert_close(state[0], hs[:, t])
    layer.forward(p.xs[:, T - 1 :])
    layer.set_state(*p.state)
    layer.forward(p.xs[:, :1])
    step.forward(p.xs[:, 0], *p.state)
    zeros = np.zeros_like(p.dhs[:, :1])
    dx, *dstate = step.backward(*p.dstate)
    assert_close(layer.backward(zeros, *p.dstate)[:, 0], dx)
    for a, b in zip(layer.dstate, dstate, strict=True):
        assert_close(a, b)
    for a, b in zip(layer.grads, step.grads, strict=True):
        assert_grad_close(a, b)


@variants
def test_frozen_and_copied(cell, options):
    p = make_problem(cell, (N, T, D, H), "f4", lengths=True, **options)
    layer = layer_of(RECURRENT[cell.name], p)
    hs = layer.forward(p.xs, **p.ways)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin.forward(p.xs, **p.ways), hs)
        np.testing.assert_array_equal(twin.backward(p.dhs), layer.backward(p.dhs))
        layer.forward(p.xs, **p.ways)
    layer.freeze()
    np.testing.assert_array_equal(layer.forward(p.xs, train=False, **p.ways), hs)
    with pytest.raises(RuntimeError, match="Wh_mask is not for a frozen layer"):
        layer.forward(p.xs, train=False, Wh_mask=np.ones(layer.Wh.shape))
    layer.unfreeze()


@variants
def test_dropconnect_is_another_wh(cell, options):
    """Outputs are those of the masked weights, the gradient of Wh is masked as they are."""
    p = make_problem(cell, (N, T, D, H), "f8", **options)
    layer, twin = layer_of(RECURRENT[cell.name], p), layer_of(RECURRENT[cell.name], p)
    mask = rnnfast.TimeDropout(0.4, 1).draw(layer.Wh, layer.Wh.shape)
    assert 0 < (mask == 0).sum() < mask.size
    before = layer.Wh.copy()
    twin.Wh = twin.Wh * mask
    for _ in range(2):
        np.testing.assert_array_equal(layer.forward(p.xs, Wh_mask=mask), twin.forward(p.xs))
        np.testing.assert_array_equal(layer.backward(p.dhs), twin.backward(p.dhs))
        for k, (a, b) in enumerate(zip(layer.grads, twin.grads, strict=True)):
            np.testing.assert_array_equal(a, b * mask if k == 1 else b)
    np.testing.assert_array_equal(layer.Wh, before)
    plain, twin = layer.forward(p.xs), layer_of(RECURRENT[cell.name], p)
    np.testing.assert_array_equal(plain, twin.forward(p.xs))  # the mask was for one call
    np.testing.assert_array_equal(layer.backward(p.dhs), twin.backward(p.dhs))
    np.testing.assert_array_equal(layer.grads[1], twin.grads[1])
    rows = len(layer.Wh)
    with pytest.raises(ValueError, match=rf"Wh_mask must be like Wh = \({rows}, .*got \(6, 6, 1\)"):
        layer.forward(p.xs, Wh_mask=np.ones((6, 6, 1)))
    with pytest.raises(TypeError, match=r"Wh_mask must be a NumPy array, got float"):
        layer.forward(p.xs, Wh_mask=0.5)


def test_lengths_of_every_kind():
    """Lists, tuples, any integers; all T is as none, and costs no array."""
    layer = rnnfast.TimeLSTM(np.ones((D, 4 * H)), np.ones((H, 4 * H)), None)
    xs = np.ones((3, T, D))
    hs = layer.forward(xs, lengths=[4, 0, 2])
    assert (hs[1] == 0).all()
    assert (hs[2, :2] != 0).all()
    for same in ((4, 0, 2), np.array([4, 0, 2], "u1"), np.array([4, 9, 0, 9, 2])[::2]):
        np.testing.assert_array_equal(layer.forward(xs, lengths=same), hs)
    np.testing.assert_array_equal(layer.forward(xs, lengths=[4, 4, 4]), layer.forward(xs))
    assert layer.forward(np.ones((0, T, D)), lengths=[]).shape == (0, T, H)
    for wrong, match in (
        ([4, 0], r"must be \(N,\) = \(3,\), got \(2,\)"),
        ([4, 0, 5], r"must be in \[0, 5\), got 5"),
        ([4, -1, 2], r"must be in \[0, 5\), got -1"),
        (np.ones((3, 1), int), r"must be \(N,\) = \(3,\), got \(3, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"^TimeLSTM: lengths {match}"):
            layer.forward(xs, lengths=wrong)
    for wrong, match in (
        ([4.0, 0.0, 2.0], "must be integers, got float64"),
        ([True, False, True], "must be integers, got bool"),
        ("402", "must be a NumPy array, got str"),
    ):
        with pytest.raises(TypeError, match=f"^TimeLSTM: lengths {match}"):
            layer.forward(xs, lengths=wrong)


def test_wrong_peepholes_and_bounds():
    weights = np.ones((D, 4 * H)), np.ones((H, 4 * H)), np.ones(4 * H)
    for shape, label in (((2, H), "(3, H)"), ((3, H + 1), "(3, H)"), ((3, H, 1), "(3, H, H)")):
        with pytest.raises(ValueError) as caught:
            rnnfast.TimeLSTM(*weights, Wp=np.ones(shape))
        expected = (3, H) if label == "(3, H)" else (3, H, H)
        assert str(caught.value) == f"TimeLSTM: Wp must be {label} = {expected}, got {shape}"
    for wrong in (np.ones((3, H), "f2"), np.ones((3, H), int), [[1.0] * H] * 3):
        with pytest.raises(TypeError, match=r"^LSTM: Wp must be a float64 array, got"):
            rnnfast.LSTM(*weights, Wp=wrong)
    with pytest.raises(TypeError, match=r"^TimeBiLSTM: Wp2 must be an array as Wp1 is, got None"):
        rnnfast.TimeBiLSTM(*weights, *weights, Wp1=np.ones((3, H)))
    with pytest.raises(ValueError, match=r"^TimeBiLSTM: Wp2 must be \(3, H\) = \(3, 6\), got \(3,"):
        rnnfast.TimeBiLSTM(*weights, *weights, Wp1=np.ones((3, H)), Wp2=np.ones((3, 1)))
    for wrong in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"cell_clip must be positive and finite, got"):
            rnnfast.TimeLSTM(*weights, cell_clip=wrong)
    for wrong in ("1", True, np.ones(1)):
        with pytest.raises(TypeError, match=r"cell_clip must be a number or None, got"):
            rnnfast.TimeLSTM(*weights, cell_clip=wrong)


def test_wrong_gru_conventions():
    weights, b = (np.ones((D, 3 * H)), np.ones((H, 3 * H))), np.ones((2, 3 * H))
    with pytest.raises(ValueError, match=r"^TimeGRU: b must be \(3H,\) = \(18,\), got \(2, 18\)"):
        rnnfast.TimeGRU(*weights, b)
    with pytest.raises(ValueError, match=r"^GRU: b must be \(2, 3H\) = \(2, 18\), got \(18,\)"):
        rnnfast.GRU(*weights, b[0], reset_after=True)
    for option in ("reset_after", "z_keeps"):
        with pytest.raises(TypeError, match=f"^TimeGRU: {option} must be a bool, got int"):
            rnnfast.TimeGRU(*weights, None, **{option: 1})
    layer = rnnfast.TimeGRU(*weights, True, reset_after=True)  # the Korean edition's, no bias
    assert layer.stateful
    assert len(layer.params) == 2
