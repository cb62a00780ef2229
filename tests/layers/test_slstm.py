"""The sLSTM: against a module of PyTorch, and what only its layers have."""

import numpy as np
import pytest
import xlstm_cell
from cases import assert_close

import rnnfast

N, T, D, K = 4, 6, 5, 3
CLOSE = 1e-10  # float64 against PyTorch
DEVICES = ["cpu", "reference"]
ORDER = [2, 0, 1, 3]  # where i, f, z and o of the packages are among f, g, i and o


def weights_of(heads, rng):
    H = heads * K
    shapes = {"Wx": (D, 4 * H), "Wh": (H, 4 * K), "b": (4 * H,)}
    return {name: rng.normal(0, 1, shape) for name, shape in shapes.items()}


def by_torch(torch, given, lengths):
    """hs, the final states, and the gradients of it all."""
    leaf = {name: torch.tensor(x, requires_grad=True) for name, x in given.items()}
    H, heads = len(leaf["Wh"]), len(leaf["Wh"]) // K
    Wx = (leaf["xs"] @ leaf["Wx"]).reshape(N, T, 4, H)[:, :, ORDER]
    R = leaf["Wh"].reshape(heads, K, 4, K)[:, :, ORDER]
    b = leaf["b"].reshape(4, H)[ORDER]
    hs, states = xlstm_cell.sequence(torch, Wx, R, b, leaf["states"], lengths)
    ((hs * leaf["dhs"]).sum() + (states * leaf["dstates"]).sum()).backward()
    grads = {name: x.grad.numpy() for name, x in leaf.items()}
    return hs.detach().numpy(), states.detach().numpy(), grads


@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_against_pytorch(heads, fresh, device):
    """From zeros, too, where the first step has a rule of its own."""
    torch = pytest.importorskip("torch")
    rng, H = np.random.default_rng(5), heads * K
    weights, states = weights_of(heads, rng), rng.normal(size=(4, N, H))
    states[2] = 0.5 + abs(states[2])
    states *= not fresh
    given = {"xs": rng.normal(size=(N, T, D)), "dhs": rng.normal(size=(N, T, H))}
    given |= {"states": states, "dstates": rng.normal(size=(4, N, H))}
    lengths = np.array([T, 0, 2, T - 1])
    hs, final, grads = by_torch(torch, weights | given, lengths)

    layer = rnnfast.TimeSLSTM(**weights, stateful=True, device=device)
    assert layer.heads == heads
    layer.set_state(*states)
    assert_close(layer.forward(given["xs"], lengths=lengths), hs, "hs", CLOSE)
    assert_close(np.stack(layer.state), final, "states", CLOSE)
    dxs = layer.backward(given["dhs"], *given["dstates"])
    assert_close(dxs, grads["xs"], "dxs", CLOSE)
    assert_close(np.stack(layer.dstate), grads["states"], "dstates", CLOSE)
    for name, grad in zip(weights, layer.grads, strict=True):
        assert_close(grad, grads[name], name, CLOSE)


@pytest.mark.parametrize("device", DEVICES)
def test_one_step_is_a_sequence_of_one(device):
    """Step by step, forward and back, with the state handed on."""
    layer = rnnfast.TimeSLSTM.create(D, 6, heads=2, rng=0, dtype="float64", device=device)
    cell = rnnfast.SLSTM(*layer.params, device=device)
    rng = np.random.default_rng(1)
    xs, dhs, dstate = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, 6)), [None] * 4
    hs, state = layer.forward(xs), (None,) * 4
    dxs = layer.backward(dhs)
    for t in range(T):
        state = cell.forward(xs[:, t], *state)
        assert_close(state[0], hs[:, t])
    for got, expected in zip(state, layer.state, strict=True):
        assert_close(got, expected)
    dx, *dstate = cell.backward(dhs[:, -1], None, None, None)
    assert_close(dx, dxs[:, -1])
    assert [d.shape for d in dstate] == [(N, 6)] * 4


@pytest.mark.parametrize("device", DEVICES)
def test_a_sequence_in_two_parts(device):
    """All four states go on; also backwards and in a stack, and where the layer is frozen."""
    xs = np.random.default_rng(1).normal(size=(N, 2 * T, D))
    options = {"dtype": "float64", "stateful": True, "device": device}
    layer = rnnfast.TimeSLSTM.create(D, 6, heads=3, rng=0, **options)
    stack = rnnfast.TimeStack([layer, rnnfast.TimeSLSTM.create(6, 4, rng=1, **options)])
    whole = stack.forward(xs)
    stack.reset_state()
    first = stack.forward(xs[:, :T])
    assert len(stack.state) == 8
    stack.freeze()
    second = stack.forward(xs[:, T:], train=False)
    assert_close(np.concatenate((first, second), axis=1), whole)
    stack.unfreeze()
    stack.reset_state()
    both = rnnfast.TimeBiSLSTM(*layer.params, *layer.params, device=device)
    assert_close(both.forward(xs)[:, :, :6], layer.forward(xs))
    layer.reset_state()
    back = rnnfast.TimeReverse(layer).forward(xs)
    assert_close(both.forward(xs)[:, :, 6:], back)
    layer.reset_state()
    assert_close(back[:, ::-1], layer.forward(xs[:, ::-1]))


@pytest.mark.parametrize("device", DEVICES)
def test_large_gates_do_not_overflow(device):
    """exp(A_i) alone would be infinite in float32 from 89 on."""
    Wx = np.zeros((1, 4), "f")
    Wx[0, 2] = 1
    layer = rnnfast.TimeSLSTM(Wx, np.zeros((1, 4), "f"), None, device=device)
    hs = layer.forward(np.array([[[1e4], [-1e4], [1e4], [90]]], "f"))
    assert np.isfinite(hs).all()
    assert np.isfinite(layer.backward(np.ones_like(hs))).all()
    assert layer.m[0, 0] == pytest.approx(1e4, abs=2)


@pytest.mark.parametrize("name", ["SLSTM", "TimeSLSTM", "TimeBiSLSTM"])
def test_create(name):
    options = {"heads": 2, "rng": 3, "dtype": "float64", "forget_bias": 1.0, "device": "reference"}
    layer = getattr(rnnfast, name).create(D, 6, **options)
    source, params = np.random.default_rng(3), iter(layer.params)
    for _ in range(2 if "Bi" in name else 1):
        np.testing.assert_array_equal(next(params), source.standard_normal((D, 24)) / np.sqrt(D))
        np.testing.assert_array_equal(next(params), source.standard_normal((6, 12)) / np.sqrt(3))
        np.testing.assert_array_equal(next(params), np.repeat([1.0, 0.0], [6, 18]))
    assert next(params, None) is None
    assert getattr(rnnfast, name).create(D, 6, device="reference").params[1].shape == (6, 24)


def test_orthogonal_blocks():
    """Of each gate of each head."""
    options = {"heads": 2, "rng": 3, "dtype": "float64", "device": "reference"}
    layer = rnnfast.TimeSLSTM.create(D, 6, recurrent="orthogonal", **options)
    for block in layer.Wh.reshape(2, 3, 4, 3).transpose(0, 2, 1, 3).reshape(8, 3, 3):
        assert_close(block @ block.T, np.eye(3))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("TimeSLSTM", {"heads": 0}, ValueError, "heads must be from 1 up, got 0"),
        ("SLSTM", {"heads": 2.0}, TypeError, "heads must be an integer, got float"),
        ("TimeBiSLSTM", {"heads": 4}, ValueError, "heads must divide H = 6, got 4"),
        ("TimeLSTM", {"heads": 2}, ValueError, "heads is an option of an sLSTM, got 2"),
        ("TimeSLSTM", {"proj_size": 2}, ValueError, "proj_size is an option of an LSTM with a pr"),
        ("TimeSLSTM", {"peepholes": "full"}, ValueError, "peepholes is an option of an LSTM, got"),
    ],
)
def test_wrong_arguments_of_create(name, options, error, message):
    source = np.random.default_rng(3)
    with pytest.raises(error, match=rf"^{name}: {message}"):
        getattr(rnnfast, name).create(D, 6, rng=source, device="reference", **options)
    assert source.bit_generator.state == np.random.default_rng(3).bit_generator.state


@pytest.mark.parametrize(
    ("Wx", "Wh", "b", "message"),
    [
        ((D, 24), (6, 9), None, r"Wh must be \(H, 4K\) with a K that divides H, got \(6, 9\)"),
        ((D, 24), (6, 16), None, r"Wh must be \(H, 4K\) with a K that divides H, got \(6, 16\)"),
        ((D, 20), (6, 12), None, r"Wx must be \(D, 4H\) = \(5, 24\), got \(5, 20\)"),
        ((D, 20), (6, 12), (20,), r"Wh must be \(H, 4K\) = \(5, 12\), got \(6, 12\)"),
        ((D, 24), (6, 12), (20,), r"b must be \(4H,\) = \(24,\), got \(20,\)"),
        ((D, 24), (6,), None, r"Wh must be \(H, 4K\), sizes from 1 up, got \(6,\)"),
    ],
)
@pytest.mark.parametrize("name", ["SLSTM", "TimeSLSTM"])
def test_wrong_matrices(name, Wx, Wh, b, message):
    b = None if b is None else np.ones(b)
    with pytest.raises(ValueError, match=rf"^{name}: {message}"):
        getattr(rnnfast, name)(np.ones(Wx), np.ones(Wh), b, device="reference")


def test_states_are_checked():
    layer = rnnfast.TimeSLSTM.create(D, 6, stateful=True, device="reference")
    state = np.ones((4, N, 6), "f")
    with pytest.raises(ValueError, match=r"n must be \(N, H\) = \(N, 6\), got \(4, 5\)"):
        layer.set_state(state[0], state[1], state[2, :, :5], state[3])
    assert layer.state == (None,) * 4
    layer.set_state(*state)
    layer.forward(np.ones((N, T, D), "f"))
    with pytest.raises(ValueError, match=r"dm must be \(N, H\) = \(4, 6\), got \(3, 6\)"):
        layer.backward(np.ones((N, T, 6), "f"), dm=state[3, :3])
