"""Layer-normalised LSTM and GRU: against modules of PyTorch, and what only their layers have."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rnnfast
from rnnfast import convert

N, T, D, H = 4, 6, 5, 7
CLOSE = 1e-10  # float64 against PyTorch
LAYERS = {"lnlstm": rnnfast.TimeLayerNormLSTM, "lngru": rnnfast.TimeLayerNormGRU}
GAINS = {
    "lnlstm": {"gx": 4 * H, "gh": 4 * H, "gc": H, "bc": H},
    "lngru": {"gx": 3 * H, "gh": 3 * H, "bh": H},
}
kinds = pytest.mark.parametrize("kind", LAYERS)


def lstm_step(torch, W, x, h, c):
    """The equations 20 to 22 of the paper."""
    norm = torch.nn.functional.layer_norm
    A = norm(h @ W["Wh"], (4 * H,), W["gh"]) + norm(x @ W["Wx"], (4 * H,), W["gx"]) + W["b"]
    f, g, i, o = torch.chunk(A, 4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(norm(c, (H,), W["gc"], W["bc"])), c


def gru_step(torch, W, x, h):
    """The equations of the supplement."""
    norm, zr, n = torch.nn.functional.layer_norm, slice(0, 2 * H), slice(2 * H, 3 * H)
    A = norm(h @ W["Wh"][:, zr], (2 * H,), W["gh"][zr])
    A = A + norm(x @ W["Wx"][:, zr], (2 * H,), W["gx"][zr], W["b"][zr])
    z, r = torch.chunk(torch.sigmoid(A), 2, dim=1)
    of_h = norm(h @ W["Wh"][:, n], (H,), W["gh"][n], W["bh"])
    h_hat = torch.tanh(norm(x @ W["Wx"][:, n], (H,), W["gx"][n], W["b"][n]) + r * of_h)
    return ((1 - z) * h + z * h_hat,)


def by_torch(torch, kind, given, lengths):
    """hs, and gradients of it all."""
    leaf = {name: torch.tensor(W, requires_grad=True) for name, W in given.items()}
    outputs, state = [], [leaf[name] for name in LAYERS[kind].states]
    for t in range(T):
        if kind == "lnlstm":
            after = lstm_step(torch, leaf, leaf["xs"][:, t], *state)
        else:
            after = gru_step(torch, leaf, leaf["xs"][:, t], *state)
        on = torch.tensor(t < lengths)[:, None]
        state = [torch.where(on, a, b) for a, b in zip(after, state, strict=True)]
        outputs.append(torch.where(on, state[0], 0))
    hs = torch.stack(outputs, dim=1)
    loss = (hs * leaf["dhs"]).sum()
    for name, s in zip(LAYERS[kind].states, state, strict=True):
        loss = loss + (s * leaf[f"d{name}"]).sum()
    loss.backward()
    return hs.detach().numpy(), {name: x.grad.numpy() for name, x in leaf.items()}


def weights_of(kind, rng):
    G = LAYERS[kind].gates
    shapes = {"Wx": (D, G * H), "Wh": (H, G * H), "b": (G * H,), **GAINS[kind]}
    return {name: rng.normal(0, 1, shape) for name, shape in shapes.items()}


@kinds
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_against_pytorch(kind, device):
    torch = pytest.importorskip("torch")
    rng, states = np.random.default_rng(5), LAYERS[kind].states
    weights = weights_of(kind, rng)
    names = (*states, *(f"d{name}" for name in states))
    shapes = {"xs": (N, T, D), "dhs": (N, T, H), **dict.fromkeys(names, (N, H))}
    given = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    lengths = np.array([T, 0, 2, T - 1])
    hs, grads = by_torch(torch, kind, weights | given, lengths)

    layer = LAYERS[kind](**weights, stateful=True, device=device)
    layer.set_state(*(given[name] for name in states))
    assert_allclose(layer.forward(given["xs"], lengths=lengths), hs, atol=CLOSE)
    dxs = layer.backward(given["dhs"], *(given[f"d{name}"] for name in states))
    got = {"xs": dxs, **dict(zip(states, layer.dstate, strict=True))}
    got |= dict(zip(weights, layer.grads, strict=True))
    for name, grad in got.items():
        assert_allclose(grad, grads[name], atol=CLOSE, err_msg=name)


@kinds
def test_the_scale_of_the_weights_does_not_matter(kind):
    """Nor a number that is added to a whole row of products: c alone keeps its size."""
    weights = weights_of(kind, np.random.default_rng(1))
    xs = np.random.default_rng(2).normal(size=(N, T, D))
    hs = LAYERS[kind](**weights, device="cpu").forward(xs)
    weights["Wx"] = 1e4 * (weights["Wx"] + np.arange(D)[:, np.newaxis])
    weights["Wh"] = 1e4 * weights["Wh"]
    other = LAYERS[kind](**weights, device="cpu").forward(xs)
    assert_allclose(other, hs, atol=1e-3)
    assert not np.array_equal(other, hs)


@kinds
def test_a_mask_is_applied_before_the_product(kind):
    """The row of Wh of a dropped unit is never read."""
    layer = LAYERS[kind].create(D, H, rng=0, dtype="float64", device="cpu")
    xs, mask = np.random.default_rng(1).normal(size=(N, T, D)), np.ones((N, H))
    mask[:, 2] = 0
    layer.backward(np.ones_like(layer.forward(xs, h_mask=mask)))
    assert not layer.grads[1][2].any()
    assert layer.grads[1][3].all()


@pytest.mark.parametrize("prefix", ["", "Time", "TimeBi"])
@kinds
def test_create(kind, prefix):
    """Gains are 1 and biases 0; the numbers of Wx and Wh are those of a plain cell."""
    name, G = (
        prefix + {"lnlstm": "LayerNormLSTM", "lngru": "LayerNormGRU"}[kind],
        LAYERS[kind].gates,
    )
    forget = {"forget_bias": 1.0} if kind == "lnlstm" else {}
    options = {"rng": 3, "dtype": "float64", "device": "cpu"} | forget
    layer = getattr(rnnfast, name).create(D, H, **options)
    plain = getattr(rnnfast, prefix + kind[2:].upper()).create(D, H, **options)
    ways = 2 if prefix == "TimeBi" else 1
    params, plain_params = iter(layer.params), iter(plain.params)
    for _ in range(ways):
        for _ in range(3):
            assert_array_equal(next(params), next(plain_params))
        for gain, size in GAINS[kind].items():
            assert_array_equal(next(params), np.full(size, gain[0] == "g", float))
    assert next(params, None) is None
    assert repr(layer) == f"{name}(D={D}, H={H}, float64, cpu)"
    assert sum(p.size for p in layer.params) - sum(p.size for p in plain.params) == ways * (
        2 * G * H + (2 * H if kind == "lnlstm" else H)
    )


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("TimeLayerNormLSTM", {"rounds": 5}, ValueError, "rounds is an option of a Mogrifier LSTM"),
        ("TimeLayerNormGRU", {"proj_size": 5}, ValueError, "proj_size is an option of"),
        ("LayerNormLSTM", {"peepholes": "full"}, ValueError, "peepholes is an option of an LSTM"),
        ("TimeBiLayerNormGRU", {"forget_bias": 1.0}, ValueError, "forget_bias is an option of an"),
        ("TimeLayerNormLSTM", {"gx": None}, TypeError, "create draws gx itself, got it as an arg"),
        ("TimeLayerNormGRU", {"z_keeps": True}, TypeError, "unexpected keyword argument 'z_keeps'"),
        ("TimeLayerNormLSTM", {"cell_clip": 1.0}, TypeError, "unexpected keyword argument 'cell_c"),
    ],
)
def test_create_refuses(name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(rnnfast, name).create(D, H, rng=0, device="cpu", **options)


@kinds
def test_constructor_refuses(kind):
    """Every gain and bias has to be there, as long as it says, of the dtype of Wx."""
    weights = weights_of(kind, np.random.default_rng(0))
    G = LAYERS[kind].gates
    for name, size in GAINS[kind].items():
        label = f"({G}H,)" if name in ("gx", "gh") else "(H,)"
        for wrong, error, text in (
            (None, TypeError, f"{name} must be a float32 or float64 array, got NoneType"),
            (
                np.ones(size - 1),
                ValueError,
                f"{name} must be {label} = ({size},), got ({size - 1},)",
            ),
            (np.ones((size, 1)), ValueError, f"{name} must be {label}, sizes from 1 up, got"),
            (
                np.ones(size, "e"),
                TypeError,
                f"{name} must be a float32 or float64 array, got float16",
            ),
        ):
            with pytest.raises(error) as said:
                LAYERS[kind](**weights | {name: wrong})
            assert text in str(said.value)
    with pytest.raises(ValueError, match=r"gx2 must be .*, got"):
        both = {f"{name}{k}": W for name, W in weights.items() for k in "12"}
        kind2 = {"lnlstm": rnnfast.TimeBiLayerNormLSTM, "lngru": rnnfast.TimeBiLayerNormGRU}[kind]
        kind2(**both | {"gx2": np.ones(3)})


@kinds
@pytest.mark.parametrize("write", [convert.to_torch, convert.to_keras, convert.to_onnx])
def test_other_libraries_have_no_such_layer(kind, write):
    layer = LAYERS[kind].create(D, H, rng=0, device="cpu")
    for whole in (layer, rnnfast.TimeReverse(layer)):
        with pytest.raises(TypeError, match=r"layer must be a TimeRNN, .* got TimeLayerNorm"):
            write(whole)
