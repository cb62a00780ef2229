"""Layers from sizes: `create` draws the initial weights of the book."""

import fake_cuda
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rnnfast
from rnnfast import checks, kernels

D, H = 5, 4
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
STEPS = list(GATES)
RECURRENT = [f"{prefix}{cell}" for prefix in ("", "Time", "TimeBi") for cell in GATES]
LINEAR = ["Affine", "MatMul", "TimeAffine", "Simple_TimeAffine"]
EMBEDDINGS = ["Embedding", "TimeEmbedding"]


def create(name, *sizes, device="cpu", **options):
    return getattr(rnnfast, name).create(*sizes, device=device, **options)


def gates(name):
    return GATES[name.removeprefix("Time").removeprefix("Bi")]


def normal(source, rows, columns, divisor, dtype="float32"):
    return (source.standard_normal((rows, columns)) / divisor).astype(dtype)


def by_hand(name, source, dtype="float32"):
    """The params of a recurrent layer as the book draws them."""
    GH, params = gates(name) * H, []
    for _ in range(2 if "Bi" in name else 1):
        params.append(normal(source, D, GH, np.sqrt(D), dtype))
        params.append(normal(source, H, GH, np.sqrt(H), dtype))
        params.append(np.zeros(GH, dtype))
    return params


def assert_params(layer, expected):
    assert len(layer.params) == len(expected)
    for got, wanted in zip(layer.params, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name, dtype):
    layer = create(name, D, H, rng=3, dtype=dtype)
    assert type(layer).__name__ == name
    assert_params(layer, by_hand(name, np.random.default_rng(3), dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear(name, dtype):
    layer = create(name, D, 3, rng=3, dtype=dtype)
    W = normal(np.random.default_rng(3), D, 3, np.sqrt(D), dtype)
    assert_params(layer, [W] if name == "MatMul" else [W, np.zeros(3, dtype)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embedding(name, dtype):
    layer = create(name, 7, D, rng=3, dtype=dtype)
    assert_params(layer, [normal(np.random.default_rng(3), 7, D, 100, dtype)])


@pytest.mark.parametrize("name", ["TimeLSTM", "Affine", "TimeEmbedding"])
def test_sources_of_random_numbers(name):
    seeded = create(name, D, H, rng=3).params[0]
    source = np.random.default_rng(3)
    assert_array_equal(create(name, D, H, rng=source).params[0], seeded)
    assert np.any(create(name, D, H, rng=source).params[0] != seeded)  # it goes on
    np.random.seed(3)
    first = create(name, D, H).params[0]
    np.random.seed(3)
    assert_array_equal(create(name, D, H).params[0], first)
    assert np.any(first != seeded)


@pytest.mark.parametrize("name", RECURRENT)
def test_orthogonal(name):
    """The block of each gate, each another matrix; Wx is as without."""
    layer = create(name, D, H, rng=3, dtype="float64", recurrent="orthogonal")
    plain = by_hand(name, np.random.default_rng(3), "float64")
    directions = 2 if "Bi" in name else 1
    blocks = []
    for k in range(directions):
        Wx, Wh, b = layer.params[3 * k : 3 * k + 3]
        assert_array_equal(Wx, plain[3 * k])
        assert not b.any()
        blocks += np.split(Wh, gates(name), axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-14)
    assert len({block.tobytes() for block in blocks}) == gates(name) * directions


def test_orthogonal_matrices_are_uniformly_distributed():
    """Q of Z = Q R with a positive diagonal of R. LAPACK's own signs would favour some matrices."""
    for seed in range(5):
        Q = create("RNN", 1, 6, rng=seed, dtype="float64", recurrent="orthogonal").Wh
        R = Q.T @ create("RNN", 1, 6, rng=seed, dtype="float64").Wh
        np.testing.assert_allclose(np.tril(R, -1), 0, atol=1e-14)
        assert np.all(np.diag(R) > 0)


@pytest.mark.parametrize("name", ["LSTM", "TimeLSTM", "TimeBiLSTM"])
def test_forget_bias(name):
    """Of f, the first block, and of nothing else."""
    layer = create(name, D, H, rng=3, forget_bias=1.0)
    expected = by_hand(name, np.random.default_rng(3))
    for b in expected[2::3]:
        b[:H] = 1
    assert_params(layer, expected)


@pytest.mark.parametrize(("peepholes", "shape"), [("diagonal", (3, H)), ("full", (3, H, H))])
@pytest.mark.parametrize("name", ["LSTM", "TimeLSTM", "TimeBiLSTM"])
def test_peepholes(name, peepholes, shape):
    layer = create(name, D, H, rng=3, peepholes=peepholes)
    source, expected = np.random.default_rng(3), []
    for _ in range(2 if "Bi" in name else 1):
        expected += by_hand("LSTM", source)
        expected.append(normal(source, np.prod(shape) // H, H, np.sqrt(H)).reshape(shape))
    assert_params(layer, expected)


@pytest.mark.parametrize("name", ["GRU", "TimeGRU", "TimeBiGRU"])
def test_reset_after_has_two_biases(name):
    layer = create(name, D, H, rng=3, reset_after=True)
    expected = by_hand(name, np.random.default_rng(3))
    expected[2::3] = [np.zeros((2, 3 * H), "f")] * len(expected[2::3])
    assert_params(layer, expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNN", {"nonlinearity": "relu"}),
        ("LSTM", {"cell_clip": 2.0}),
        ("GRU", {"z_keeps": True}),
        ("TimeRNN", {"nonlinearity": "relu", "stateful": True}),
        ("TimeLSTM", {"cell_clip": 2.0, "stateful": True}),
        ("TimeGRU", {"reset_after": True, "z_keeps": True, "stateful": True}),
        ("TimeBiRNN", {"nonlinearity": "relu"}),
        ("TimeBiLSTM", {"cell_clip": 2.0, "stateful": True}),
        ("TimeBiGRU", {"reset_after": True}),
    ],
)
def test_options_of_the_constructor(name, options):
    shown = repr(create(name, D, H, **options))
    assert all(f"{key}={value!r}" in shown for key, value in options.items())


def test_device():
    assert create("TimeLSTM", D, H, device="reference").device == "reference"
    with rnnfast.device("reference"):
        for name in ("TimeLSTM", "Affine", "Embedding"):
            assert create(name, D, H, device=None).device == "reference"


@pytest.mark.parametrize("name", ["TimeLSTM", "TimeBiGRU", "Affine", "Embedding"])
def test_the_weights_lie_on_the_gpu(name, monkeypatch):
    """With the numbers of the CPU; "auto" chooses the GPU, too, where one is usable."""
    expected = create(name, D, H, rng=3).params
    if "cuda" not in kernels.devices():
        fake_cuda.install(monkeypatch)
    for device in ("cuda", "auto"):
        params = create(name, D, H, rng=3, device=device).params
        assert all(map(checks.is_cupy, params))
        for got, wanted in zip(params, expected, strict=True):
            assert_array_equal(got.get(), wanted)


def test_it_learns():
    """As any other layer: forward, backward, grads."""
    layer = create("TimeLSTM", D, H, rng=0)
    hs = layer.forward(np.ones((2, 3, D), "f"))
    layer.backward(np.ones_like(hs))
    assert all(grad.any() for grad in layer.grads)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("TimeLSTM", {"D": 0}, ValueError, "D must be from 1 up, got 0"),
        ("TimeLSTM", {"H": 2.5}, TypeError, "H must be an integer, got float"),
        ("TimeBiGRU", {"H": -1}, ValueError, "H must be from 1 up, got -1"),
        ("TimeLSTM", {"H": 2**40}, ValueError, r"an array \(max\(D, H\), GH\) = \(.*too large"),
        ("TimeLSTM", {"dtype": "int32"}, TypeError, "dtype must be float32 or float64, got int32"),
        ("TimeLSTM", {"dtype": "f32"}, TypeError, "dtype must be float32 or float64, got 'f32'"),
        ("TimeLSTM", {"rng": "0"}, TypeError, "rng must be None, a seed from 0 up or a Generator"),
        ("TimeLSTM", {"rng": -1}, ValueError, "rng must be None, a seed from 0 up or a Generator"),
        (
            "TimeLSTM",
            {"recurrent": "ones"},
            ValueError,
            r"recurrent must be one of \('normal', 'orthogonal'\), got 'ones'",
        ),
        (
            "TimeLSTM",
            {"peepholes": True},
            ValueError,
            r"peepholes must be one of \(None, 'diagonal', 'full'\), got True",
        ),
        ("LSTM", {"forget_bias": "1"}, TypeError, "forget_bias must be a real number, got str"),
        ("TimeGRU", {"forget_bias": 1.0}, ValueError, "forget_bias is an option of an LSTM, got 1"),
        ("RNN", {"peepholes": "full"}, ValueError, "peepholes is an option of an LSTM, got 'full'"),
        ("TimeLSTM", {"Wp": None}, TypeError, "create draws Wp itself, got it as an argument"),
        ("TimeBiRNN", {"b2": None}, TypeError, "create draws b2 itself, got it as an argument"),
        ("TimeRNN", {"nonlinearity": "elu"}, ValueError, "nonlinearity must be 'tanh' or 'relu'"),
        ("TimeLSTM", {"cell_clip": -1}, ValueError, "cell_clip must be positive and finite"),
        ("TimeGRU", {"reset_after": "yes"}, TypeError, "reset_after must be a bool, got str"),
    ],
)
def test_wrong_arguments(name, options, error, message):
    """Each names the layer, and no number has been drawn."""
    source = np.random.default_rng(3)
    options = {"D": D, "H": H, "rng": source, "device": "cpu"} | options
    with pytest.raises(error, match=rf"^{name}: {message}"):
        getattr(rnnfast, name).create(**options)
    assert source.bit_generator.state == np.random.default_rng(3).bit_generator.state


def test_unknown_option():
    source = np.random.default_rng(3)
    with pytest.raises(TypeError, match=r"TimeLSTM.*unexpected keyword argument 'z_keeps'"):
        create("TimeLSTM", D, H, rng=source, z_keeps=True)
    assert source.bit_generator.state == np.random.default_rng(3).bit_generator.state


@pytest.mark.parametrize(
    ("name", "sizes", "error", "message"),
    [
        ("Affine", (0, 3), ValueError, "D must be from 1 up, got 0"),
        ("MatMul", (3, 0), ValueError, "M must be from 1 up, got 0"),
        ("TimeAffine", ("3", 3), TypeError, "D must be an integer, got str"),
        ("Affine", (2**40, 2**40), ValueError, r"an array \(D, M\) = \(.* would be too large"),
        ("Embedding", (0, 3), ValueError, "V must be from 1 up, got 0"),
        ("TimeEmbedding", (3, None), TypeError, "D must be an integer, got NoneType"),
        ("Embedding", (2**40, 2**40), ValueError, r"an array \(V, D\) = \(.* would be too large"),
    ],
)
def test_wrong_sizes(name, sizes, error, message):
    with pytest.raises(error, match=rf"^{name}: {message}"):
        create(name, *sizes)


def test_numpy_bools_are_flags():
    """np.True_ counts as True wherever the bias has two rows."""
    both = rnnfast.TimeBiGRU.create(3, 4, rng=0, reset_after=np.True_)
    assert both.params[2].shape == (2, 12)
    again = rnnfast.TimeBiGRU(*both.params, reset_after=np.True_)
    assert again.forward(np.ones((2, 3, 3), "f")).shape == (2, 3, 8)
    with pytest.raises(TypeError, match="TimeBiGRU: reset_after must be a bool, got str"):
        rnnfast.TimeBiGRU(*both.params, reset_after="yes")
