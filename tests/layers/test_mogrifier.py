"""The Mogrifier LSTM: a module of PyTorch beside it, and what only its layers have."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rnnfast
from rnnfast import convert

N, T, D, H = 4, 6, 5, 7
CLOSE = 1e-10  # float64 against PyTorch


def by_torch(torch, layer, lengths):
    """hs, and gradients of it all: the paper's equations, with Q and R and vectors as columns."""
    leaf = {name: torch.tensor(W, requires_grad=True) for name, W in layer.items()}
    Wm, Wr = leaf["Wm"], leaf.get("Wr")
    M = Wm if Wr is None else torch.einsum("rhk,rkd->rhd", Wm, Wr)
    outputs, (h, c) = [], (leaf["h"], leaf["c"])
    for t in range(T):
        x, h_t = leaf["xs"][:, t], h
        for i in range(1, len(M) + 1):
            if i % 2 == 1:
                Q = M[i - 1].T
                x = 2 * torch.sigmoid(torch.einsum("dh,nh->nd", Q, h_t)) * x
            else:
                R = M[i - 1]
                h_t = 2 * torch.sigmoid(torch.einsum("hd,nd->nh", R, x)) * h_t
        f, g, i, o = torch.chunk(x @ leaf["Wx"] + h_t @ leaf["Wh"] + leaf["b"], 4, dim=1)
        c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        on = torch.tensor(t < lengths)[:, None]
        h_next = torch.where(on, torch.sigmoid(o) * torch.tanh(c_next), h)
        h, c = h_next, torch.where(on, c_next, c)
        outputs.append(torch.where(on, h, 0))
    hs = torch.stack(outputs, dim=1)
    loss = (hs * leaf["dhs"]).sum() + (h * leaf["dh"]).sum() + (c * leaf["dc"]).sum()
    loss.backward()
    return hs.detach().numpy(), {name: x.grad.numpy() for name, x in leaf.items()}


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_against_pytorch(rounds, rank, device):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng([rounds, rank or 0])
    shapes = {"Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,), "Wm": (rounds, H, rank or D)}
    shapes |= {"Wr": (rounds, rank, D)} if rank else {}
    weights = {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    shapes = {"xs": (N, T, D), "dhs": (N, T, H), **dict.fromkeys(("h", "c", "dh", "dc"), (N, H))}
    given = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    lengths = np.array([T, 0, 2, T - 1])
    hs, grads = by_torch(torch, weights | given, lengths)

    layer = rnnfast.TimeMogrifier(**weights, stateful=True, device=device)
    layer.set_state(given["h"], given["c"])
    np.testing.assert_allclose(layer.forward(given["xs"], lengths=lengths), hs, atol=CLOSE)
    dxs = layer.backward(given["dhs"], given["dh"], given["dc"])
    got = {"xs": dxs, "h": layer.dh, "c": layer.dc, **dict(zip(weights, layer.grads, strict=True))}
    for name, grad in got.items():
        np.testing.assert_allclose(grad, grads[name], atol=CLOSE, err_msg=name)


def test_without_rounds_that_gate_it_is_an_lstm():
    """Of zeros, every factor is 2 sigmoid(0) = 1."""
    lstm = rnnfast.TimeLSTM.create(D, H, rng=0, dtype="float64", device="cpu")
    layer = rnnfast.TimeMogrifier(*lstm.params, Wm=np.zeros((3, H, D)), device="cpu")
    xs = np.random.default_rng(1).normal(size=(N, T, D))
    hs = lstm.forward(xs)
    np.testing.assert_allclose(layer.forward(xs), hs, rtol=1e-12)
    np.testing.assert_allclose(layer.backward(hs), lstm.backward(hs), rtol=1e-10)


def test_a_mask_is_applied_before_the_rounds():
    """The rounds see a dropped unit as little as Wh does: its row of every matrix is never read."""
    layer = rnnfast.TimeMogrifier.create(D, H, rng=0, dtype="float64", device="cpu")
    xs, mask = np.random.default_rng(1).normal(size=(N, T, D)), np.ones((N, H))
    mask[:, 2] = 0
    hs = layer.forward(xs, h_mask=mask)
    layer.backward(np.ones_like(hs))
    _, dWh, _, dWm = layer.grads
    assert not dWh[2].any() and not dWm[:, 2].any()
    assert dWm[:, 3].all()


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("name", ["Mogrifier", "TimeMogrifier", "TimeBiMogrifier"])
def test_create(name, rank):
    """Each matrix divided by the root of what it reads: h in odd rounds, x in even ones."""
    options = {"rounds": 4, "rank": rank, "rng": 3, "dtype": "float64", "device": "cpu"}
    layer, source = getattr(rnnfast, name).create(D, H, forget_bias=1.0, **options), None
    source, params = np.random.default_rng(3), iter(layer.params)

    def normal(rows, columns, reads):
        return source.standard_normal((rows, columns)) / np.sqrt(reads)

    for _ in range(2 if "Bi" in name else 1):
        assert_array_equal(next(params), normal(D, 4 * H, D))
        assert_array_equal(next(params), normal(H, 4 * H, H))
        assert_array_equal(next(params), np.repeat([1.0, 0.0], [H, 3 * H]))
        if rank is None:
            assert_array_equal(next(params), [normal(H, D, (H, D)[i % 2]) for i in range(4)])
        else:
            assert_array_equal(next(params), [normal(H, 3, (H, 3)[i % 2]) for i in range(4)])
            assert_array_equal(next(params), [normal(3, D, (3, D)[i % 2]) for i in range(4)])
    assert next(params, None) is None
    shown = f"D={D}, H={H}, rounds=4{'' if rank is None else ', rank=3'}, float64, cpu"
    assert repr(layer) == f"{name}({shown})"


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("TimeMogrifier", {"rounds": 0}, ValueError, "rounds must be from 1 up, got 0"),
        ("TimeBiMogrifier", {"rank": 0}, ValueError, "rank must be from 1 up, got 0"),
        ("Mogrifier", {"rank": 2.0}, TypeError, "rank must be an integer, got float"),
        ("Mogrifier", {"rank": 2**60}, ValueError, r"an array \(r, max\(D, H\), k\) = .* large"),
        ("TimeMogrifier", {"Wm": None}, TypeError, "create draws Wm itself, got it as an argument"),
        ("TimeLSTM", {"rounds": 5}, ValueError, "rounds is an option of a Mogrifier LSTM, got 5"),
        ("TimeBiGRU", {"rank": 5}, ValueError, "rank is an option of a Mogrifier LSTM, got 5"),
        ("Mogrifier", {"peepholes": "full"}, ValueError, "peepholes is an option of an LSTM, got"),
    ],
)
def test_wrong_arguments_of_create(name, options, error, message):
    source = np.random.default_rng(3)
    with pytest.raises(error, match=rf"^{name}: {message}"):
        getattr(rnnfast, name).create(D, H, rng=source, device="cpu", **options)
    assert source.bit_generator.state == np.random.default_rng(3).bit_generator.state


@pytest.mark.parametrize(
    ("beside", "error", "message"),
    [
        ({"Wm": None}, TypeError, "Wm must be a float32 or float64 array, got NoneType"),
        ({"Wm": np.ones((H, D))}, ValueError, r"Wm must be \(r, H, D\), sizes from 1 up, got"),
        ({"Wm": np.ones((0, H, D))}, ValueError, r"Wm must be \(r, H, D\), sizes from 1 up, got"),
        (
            {"Wm": np.ones((2, H, 3))},
            ValueError,
            r"Wm must be \(r, H, D\) = \(2, 7, 5\), got \(2, 7, 3\)",
        ),
        (
            {"Wm": np.ones((2, D, 3)), "Wr": np.ones((2, 3, D))},
            ValueError,
            r"Wm must be \(r, H, k\) = \(2, 7, 3\), got \(2, 5, 3\)",
        ),
        (
            {"Wm": np.ones((2, H, 3)), "Wr": np.ones((1, 3, D))},
            ValueError,
            r"Wr must be \(r, k, D\) = \(2, 3, 5\), got \(1, 3, 5\)",
        ),
        ({"Wm": np.ones((2, H, D), "f2")}, TypeError, "Wm must be a .* array, got float16"),
    ],
)
@pytest.mark.parametrize("name", ["Mogrifier", "TimeMogrifier"])
def test_wrong_matrices(name, beside, error, message):
    weights = np.ones((D, 4 * H)), np.ones((H, 4 * H)), None
    with pytest.raises(error, match=rf"^{name}: {message}"):
        getattr(rnnfast, name)(*weights, device="cpu", **beside)


def test_both_directions_have_matrices_of_one_shape():
    one = np.ones((D, 4 * H)), np.ones((H, 4 * H)), None
    for Wm2 in (np.ones((3, H, D)), np.ones((2, H, D), "f2")):
        with pytest.raises((TypeError, ValueError), match=r"^TimeBiMogrifier: Wm2 must be"):
            rnnfast.TimeBiMogrifier(*one, *one, Wm1=np.ones((2, H, D)), Wm2=Wm2, device="cpu")


@pytest.mark.parametrize("write", [convert.to_torch, convert.to_keras, convert.to_onnx])
def test_other_libraries_have_no_such_layer(write):
    layer = rnnfast.TimeMogrifier.create(D, H, rng=0, device="cpu")
    for whole in (layer, rnnfast.TimeReverse(layer)):
        with pytest.raises(TypeError, match=r"layer must be a TimeRNN, .* got TimeMogrifier"):
            write(whole)
