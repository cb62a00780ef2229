"""The sLSTM of the packages xlstm and flashrnn: values, gradients and round trips."""

import numpy as np
import pytest
import xlstm_cell
from cases import assert_close

import rnnfast
from rnnfast import convert
from rnnfast.io import to_numpy

N, T, D, HEADS, K = 3, 5, 4, 2, 3
H = HEADS * K
CLOSE = 1e-10  # float64 against PyTorch

pytestmark = pytest.mark.usefixtures("device")


def shape_of(backend):
    return (HEADS, 4 * K, K) if backend == "vanilla" else (HEADS, K, 4 * K)


def cell_of(backend, dtype="float64"):
    """A state dict as the package's cell has it, and a Wx."""
    rng = np.random.default_rng(3)
    sizes = {"_recurrent_kernel_": shape_of(backend), "_bias_": 4 * H, "Wx": (D, 4 * H)}
    state = {name: rng.normal(size=size).astype(dtype) for name, size in sizes.items()}
    return state, state.pop("Wx")


def by_xlstm(torch, backend, state, Wx, xs):
    """hs of the package's cell; its `int2ext` of each backend is written out."""
    R, b = state["_recurrent_kernel_"], state["_bias_"]
    if backend == "vanilla":
        R = R.reshape(HEADS, 4, K, K).permute(0, 3, 1, 2)
        b = b.reshape(4, HEADS, K).permute(1, 0, 2)
    else:
        R, b = R.reshape(HEADS, K, 4, K), b.reshape(HEADS, 4, K)
    b = b.permute(1, 0, 2).reshape(4, H)
    made = (xs @ Wx).reshape(N, T, 4, H)
    return xlstm_cell.sequence(torch, made, R, b, torch.zeros(4, N, H, dtype=xs.dtype))[0]


@pytest.mark.parametrize("backend", ["vanilla", "cuda"])
def test_values_and_gradients_of_xlstm(backend):
    torch = pytest.importorskip("torch")
    state, Wx = cell_of(backend)
    leaf = {name: torch.tensor(W, requires_grad=True) for name, W in (state | {"Wx": Wx}).items()}
    rng = np.random.default_rng(1)
    xs, dhs = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H))
    hs = by_xlstm(torch, backend, leaf, leaf["Wx"], torch.tensor(xs))
    (hs * torch.tensor(dhs)).sum().backward()

    layer = convert.from_xlstm({name: leaf[name] for name in state}, Wx=leaf["Wx"])
    assert_close(to_numpy(layer.forward(xs)), hs.detach().numpy(), "hs", CLOSE)
    layer.backward(dhs)
    grads, dWx = convert.to_xlstm(layer, backend=backend, grads=True)
    for name, grad in (grads | {"Wx": dWx}).items():
        assert_close(grad, leaf[name].grad.numpy(), name, CLOSE)


def test_values_of_flashrnn():
    """Its R is to each unit from each, gate by gate; its Wx has the axes gate, head, unit."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    R, b = rng.normal(size=(4, HEADS, K, K)), rng.normal(size=(4, HEADS, K))
    Wx, xs = rng.normal(size=(D, 4, HEADS, K)), rng.normal(size=(N, T, D))
    made = torch.tensor(np.einsum("ntd,dghk->ntghk", xs, Wx).reshape(N, T, 4, H))
    inner = torch.tensor(R).permute(1, 3, 0, 2)  # (heads, from, gate, to)
    zeros = torch.zeros(4, N, H, dtype=torch.float64)
    hs, _ = xlstm_cell.sequence(torch, made, inner, torch.tensor(b.reshape(4, H)), zeros)
    layer = convert.from_flashrnn(R, b, Wx=Wx)
    assert_close(to_numpy(layer.forward(xs)), hs.numpy(), "hs", CLOSE)
    for got, expected in zip(convert.to_flashrnn(layer), (R, b, Wx), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert_close(
        to_numpy(convert.from_flashrnn(R, b).forward(made.reshape(N, T, -1).numpy())), hs.numpy()
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["vanilla", "cuda"])
def test_round_trips_are_exact(backend, dtype):
    state, Wx = cell_of(backend, dtype)
    named = {f"slstm_cell.{name}": W for name, W in state.items()} | {"other": 3}
    layer = convert.from_xlstm(named, Wx=Wx, prefix="slstm_cell.", stateful=True)
    assert (layer.heads, layer.stateful, layer.dtype) == (HEADS, True, dtype)
    back, own = convert.to_xlstm(layer, backend=backend, prefix="slstm_cell.")
    assert back.keys() == named.keys() - {"other"}
    for name, W in back.items():
        np.testing.assert_array_equal(W, named[name])
        assert W.dtype == dtype
    np.testing.assert_array_equal(own, Wx)
    other = {"vanilla": "cuda", "cuda": "vanilla"}[backend]
    again, _ = convert.to_xlstm(convert.from_xlstm(convert.to_xlstm(layer, backend=other)[0]))
    for name, W in again.items():
        expected = convert.to_xlstm(layer)[0]
        np.testing.assert_array_equal(W, expected[name])


def test_without_a_bias_it_is_zeros():
    layer = rnnfast.TimeSLSTM(np.ones((D, 4 * H)), np.ones((H, 4 * K)), None)
    assert not convert.to_xlstm(layer)[0]["_bias_"].any()
    assert convert.to_flashrnn(layer)[1].shape == (4, HEADS, K)


ONES = {"_recurrent_kernel_": np.ones((2, 12, 3)), "_bias_": np.ones(24)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: convert.from_xlstm(3), TypeError, "from_xlstm: source must be an sLSTMCell or"),
        (
            lambda: convert.from_xlstm({"_bias_": ONES["_bias_"]}),
            ValueError,
            r"from_xlstm: source must have '_recurrent_kernel_', got \['_bias_'\]",
        ),
        (
            lambda: convert.from_xlstm(ONES | {"_recurrent_kernel_": np.ones((2, 9, 3))}),
            ValueError,
            r"from_xlstm: _recurrent_kernel_ must be \(heads, 4K, K\) or .*, got \(2, 9, 3\)",
        ),
        (
            lambda: convert.from_xlstm(ONES | {"_bias_": np.ones(12)}),
            ValueError,
            r"from_xlstm: _bias_ must be \(4H,\) = \(24,\), got \(12,\)",
        ),
        (
            lambda: convert.from_xlstm(ONES, Wx=np.ones((5, 6))),
            ValueError,
            r"from_xlstm: Wx must be \(D, 4H\) = \(5, 24\), got \(5, 6\)",
        ),
        (
            lambda: convert.from_xlstm(ONES, Wx=np.ones((5, 24), "f")),
            TypeError,
            "from_xlstm: Wx must be a float64 array, got float32",
        ),
        (
            lambda: convert.from_flashrnn(np.ones((3, 2, 3, 3)), np.ones((3, 2, 3))),
            ValueError,
            r"from_flashrnn: R must be \(4, heads, K, K\), got \(3, 2, 3, 3\)",
        ),
        (
            lambda: convert.from_flashrnn(np.ones((4, 2, 3, 3)), np.ones(24)),
            ValueError,
            r"from_flashrnn: b must be \(4, heads, K\) = \(4, 2, 3\), got \(24,\)",
        ),
        (
            lambda: convert.to_xlstm(rnnfast.TimeLSTM.create(2, 3)),
            TypeError,
            "to_xlstm: layer must be a TimeSLSTM, got TimeLSTM",
        ),
        (
            lambda: convert.to_xlstm(rnnfast.TimeSLSTM.create(2, 3), backend="triton"),
            ValueError,
            r"to_xlstm: backend must be one of \('vanilla', 'cuda'\), got 'triton'",
        ),
        (
            lambda: convert.to_torch(rnnfast.TimeSLSTM.create(2, 3)),
            TypeError,
            "to_torch: layer must be a TimeRNN, .* got TimeSLSTM",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        call()
