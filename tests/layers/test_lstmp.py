"""The LSTM with a projection: what only its layers have. PyTorch's is in tests/convert."""

import copy

import numpy as np
import pytest
from on_host import assert_allclose, assert_array_equal

import rnnfast
from rnnfast import convert
from rnnfast.io import to_numpy

N, T, D, H, P = 4, 6, 5, 7, 3

pytestmark = pytest.mark.usefixtures("device")


def test_with_an_identity_as_projection_it_is_an_lstm():
    """Outputs, states and all gradients; the cell's bound, too."""
    lstm = rnnfast.TimeLSTM.create(D, H, rng=0, dtype="float64", stateful=True, cell_clip=0.2)
    options = {"Wproj": np.eye(H), "stateful": True, "cell_clip": 0.2}
    layer = rnnfast.TimeLSTMP(*lstm.params, **options)
    rng = np.random.default_rng(1)
    xs, dhs, mask = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, H)), rng.random((N, H))
    state, dstate = rng.normal(size=(2, N, H)) / 4, rng.normal(size=(2, N, H))
    ways = {"lengths": [T, 0, 3, 1], "h_mask": mask}
    for each in (lstm, layer):
        each.set_state(*state)
    assert_allclose(layer.forward(xs, **ways), lstm.forward(xs, **ways), rtol=1e-12)
    assert_allclose(layer.c, lstm.c, rtol=1e-12)
    assert (np.abs(to_numpy(layer.c[0])) == 0.2).any()
    expected = lstm.backward(dhs, *dstate)
    assert_allclose(layer.backward(dhs, *dstate), expected, rtol=1e-10, atol=1e-14)
    for a, b in zip(layer.dstate, lstm.dstate, strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-14)
    for a, b in zip(layer.grads[:3], lstm.grads, strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_widths():
    layer = rnnfast.TimeLSTMP.create(D, H, proj_size=P, rng=0)
    assert [W.shape for W in layer.params] == [(D, 4 * H), (P, 4 * H), (4 * H,), (H, P)]
    hs = layer.forward(np.ones((N, T, D), "f"))
    assert (hs.shape, layer.h.shape, layer.c.shape) == ((N, T, P), (N, P), (N, H))
    assert layer.backward(hs).shape == (N, T, D)
    assert (layer.dh.shape, layer.dc.shape, layer.proj_size) == ((N, P), (N, H), P)
    assert_array_equal(layer.h, hs[:, -1])
    both = rnnfast.TimeBiLSTMP.create(D, H, proj_size=P, rng=0)
    stack = rnnfast.TimeStack([both, rnnfast.TimeGRU.create(2 * P, 2, rng=0)])
    assert stack.forward(np.ones((N, T, D), "f")).shape == (N, T, 2)
    assert [s.shape for s in stack.state] == [(N, P), (N, H)] * 2 + [(N, 2)]


def test_a_copy_goes_on_where_the_layer_is():
    layer = rnnfast.TimeLSTMP.create(D, H, proj_size=P, rng=0, stateful=True)
    xs = np.random.default_rng(1).normal(size=(N, 2 * T, D)).astype("f")
    whole = layer.forward(xs)
    layer.reset_state()
    layer.forward(xs[:, :T])
    twin = copy.deepcopy(layer)
    twin.freeze()
    assert_allclose(twin.forward(xs[:, T:], train=False), whole[:, T:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["LSTMP", "TimeLSTMP", "TimeBiLSTMP"])
def test_create(name):
    options = {"proj_size": P, "rng": 3, "dtype": "float64", "forget_bias": 1.0}
    layer = getattr(rnnfast, name).create(D, H, **options)
    source, params = np.random.default_rng(3), iter(layer.params)
    for _ in range(2 if "Bi" in name else 1):
        assert_array_equal(next(params), source.standard_normal((D, 4 * H)) / np.sqrt(D))
        assert_array_equal(next(params), source.standard_normal((P, 4 * H)) / np.sqrt(P))
        assert_array_equal(next(params), np.repeat([1.0, 0.0], [H, 3 * H]))
        assert_array_equal(next(params), source.standard_normal((H, P)) / np.sqrt(H))
    assert next(params, None) is None
    square = getattr(rnnfast, name).create(D, H, rng=3)
    assert square.params[3].shape == (H, H)


@pytest.mark.parametrize(("H", "P"), [(7, 3), (3, 7), (4, 4)])
def test_orthogonal_blocks(H, P):
    """Orthonormal rows, or columns where these are fewer."""
    options = {"proj_size": P, "rng": 3, "dtype": "float64", "recurrent": "orthogonal"}
    layer = rnnfast.TimeLSTMP.create(D, H, **options)
    for block in np.split(to_numpy(layer.Wh), 4, axis=1):
        product = block @ block.T if P <= H else block.T @ block
        assert_allclose(product, np.eye(min(H, P)), atol=1e-14)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("TimeLSTMP", {"proj_size": 0}, ValueError, "proj_size must be from 1 up, got 0"),
        ("LSTMP", {"proj_size": 2.0}, TypeError, "proj_size must be an integer, got float"),
        ("LSTMP", {"proj_size": 2**61}, ValueError, r"an array \(H, P\) = .* too large"),
        ("TimeBiLSTMP", {"Wproj1": 0}, TypeError, "create draws Wproj1 itself, got it as an arg"),
        ("TimeLSTM", {"proj_size": 5}, ValueError, "proj_size is an option of an LSTM with a proj"),
        ("Mogrifier", {"proj_size": 5}, ValueError, "proj_size is an option of an LSTM with a pro"),
        ("TimeLSTMP", {"peepholes": "full"}, ValueError, "peepholes is an option of an LSTM, got"),
        ("TimeLSTMP", {"rounds": 2}, ValueError, "rounds is an option of a Mogrifier LSTM, got 2"),
        ("TimeLSTMP", {"cell_clip": -1}, ValueError, "cell_clip must be positive and finite, got"),
    ],
)
def test_wrong_arguments_of_create(name, options, error, message):
    source = np.random.default_rng(3)
    with pytest.raises(error, match=rf"^{name}: {message}"):
        getattr(rnnfast, name).create(D, H, rng=source, **options)
    assert source.bit_generator.state == np.random.default_rng(3).bit_generator.state


ONES = {"Wx": np.ones((D, 4 * H)), "Wh": np.ones((P, 4 * H)), "Wproj": np.ones((H, P))}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"Wproj": None}, TypeError, "Wproj must be a float32 or float64 array, got NoneType"),
        ({"Wproj": np.ones(H)}, ValueError, r"Wproj must be \(H, P\), sizes from 1 up, got \(7,\)"),
        ({"Wproj": np.ones((H, 0))}, ValueError, r"Wproj must be \(H, P\), sizes from 1 up, got"),
        (
            {"Wproj": np.ones((H, 4))},
            ValueError,
            r"Wproj must be \(H, P\) = \(7, 3\), got \(7, 4\)",
        ),
        (
            {"Wproj": np.ones((8, P))},
            ValueError,
            r"Wproj must be \(H, P\) = \(7, 3\), got \(8, 3",
        ),
        ({"Wproj": np.ones((H, P), "e")}, TypeError, "Wproj must be a .* array, got float16"),
        ({"Wh": np.ones((P, H))}, ValueError, r"Wh must be \(P, 4H\) = \(3, 28\), got \(3, 7\)"),
        ({"Wx": np.ones((D, 27))}, ValueError, r"Wx must be \(D, 4H\) = \(5, 28\), got \(5, 27\)"),
    ],
)
@pytest.mark.parametrize("name", ["LSTMP", "TimeLSTMP"])
def test_wrong_matrices(name, wrong, error, message):
    with pytest.raises(error, match=rf"^{name}: {message}"):
        getattr(rnnfast, name)(b=None, **ONES | wrong)


def test_wrong_states_name_their_own_width():
    layer = rnnfast.TimeLSTMP(b=None, stateful=True, **ONES)
    xs, h, c = np.ones((N, T, D)), np.ones((N, P)), np.ones((N, H))
    with pytest.raises(ValueError, match=r"h must be \(N, P\) = \(N, 3\), got \(4, 7\)"):
        layer.set_state(c, c)
    with pytest.raises(ValueError, match=r"c must be \(N, H\) = \(N, 7\), got \(4, 3\)"):
        layer.set_state(h, h)
    with pytest.raises(ValueError, match=r"h_mask must be \(N, P\) = \(4, 3\), got \(4, 7\)"):
        layer.forward(xs, h_mask=c)
    layer.set_state(h, c)
    layer.forward(xs)
    with pytest.raises(ValueError, match=r"dhs must be \(N, T, P\) = \(4, 6, 3\), got \(4, 6, 7\)"):
        layer.backward(np.ones((N, T, H)))
    with pytest.raises(ValueError, match=r"dc must be \(N, H\) = \(4, 7\), got \(4, 3\)"):
        layer.backward(None, h, h)
    layer.backward(None, h, None)
    assert layer.dc.shape == (N, H)
    step = rnnfast.LSTMP(b=None, **ONES)
    with pytest.raises(ValueError, match=r"h_prev must be \(N, P\) = \(4, 3\), got \(4, 7\)"):
        step.forward(xs[:, 0], c, c)
    step.forward(xs[:, 0], h, None)
    with pytest.raises(ValueError, match=r"dc_next must be \(N, H\) = \(4, 7\), got \(4, 3\)"):
        step.backward(h, h)
    both = rnnfast.TimeBiLSTMP.create(D, H, proj_size=P, rng=0)
    both.forward(xs)
    with pytest.raises(
        ValueError, match=r"dhs must be \(N, T, 2P\) = \(4, 6, 6\), got \(4, 6, 7\)"
    ):
        both.backward(np.ones((N, T, H)))


@pytest.mark.parametrize("write", [convert.to_keras, convert.to_onnx])
def test_keras_and_onnx_have_no_projection(write):
    if write is convert.to_onnx:
        pytest.importorskip("onnx")
    layer = rnnfast.TimeLSTMP.create(D, H, proj_size=P, rng=0)
    both = rnnfast.TimeBiLSTMP.create(D, H, proj_size=P, rng=0)
    for whole in (layer, both, rnnfast.TimeReverse(layer), rnnfast.TimeStack([layer])):
        with pytest.raises(ValueError, match=r"projections \(Wproj\) cannot be expressed, got \(7"):
            write(whole)
