"""Attention against loops over samples and steps, against PyTorch, and by differences."""

import copy
import pickle

import numpy as np
import pytest
from on_cuda import on_gpu

import rnnfast
from rnnfast import Attention, AttentionWeight, TimeAttention, WeightSum, io
from rnnfast.inspection import gradient_check

N, T, S, H = 3, 5, 4, 6  # S steps of the decoder
LENGTHS = [5, 2, 0]
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng((*shape, seed)).normal(size=shape).astype(dtype)


def by_loops(hs_enc, hs_dec, dout, lengths=None):
    """cs, weights and both gradients, in float64: each sample and step by itself."""
    hs_enc, hs_dec, dout = (x.astype("float64") for x in (hs_enc, hs_dec, dout))
    cs, weights = np.zeros_like(hs_dec), np.zeros((*hs_dec.shape[:2], hs_enc.shape[1]))
    dhs_enc, dhs_dec = np.zeros_like(hs_enc), np.zeros_like(hs_dec)
    for n in range(len(hs_enc)):
        length = hs_enc.shape[1] if lengths is None else lengths[n]
        for s in range(hs_dec.shape[1]):
            h = hs_dec[n, s]
            e = [np.exp(sum(h * hs_enc[n, t])) for t in range(length)]
            a = [one / sum(e) for one in e]
            for t in range(length):
                weights[n, s, t] = a[t]
                cs[n, s] += a[t] * hs_enc[n, t]
            da = [sum(dout[n, s] * hs_enc[n, t]) for t in range(length)]
            for t in range(length):
                dhs_enc[n, t] += a[t] * dout[n, s]
                for u in range(length):
                    dscore = a[t] * ((t == u) - a[u]) * da[u]
                    dhs_enc[n, t] += dscore * h
                    dhs_dec[n, s] += dscore * hs_enc[n, t]
    return cs, weights, dhs_enc, dhs_dec


def assert_close(found, expected, dtype):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.dtype(dtype)
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("lengths", [None, LENGTHS, [T] * N], ids=["", "lengths", "full"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_all_steps_at_once(dtype, lengths, device):
    hs_enc, hs_dec = normal(N, T, H, dtype=dtype), normal(N, S, H, dtype=dtype)
    dout = normal(N, S, H, dtype=dtype, seed=1)
    layer = TimeAttention()
    cs = layer.forward(hs_enc, hs_dec, lengths=lengths)
    weights = np.stack(layer.attention_weights, axis=1)
    found = cs, weights, *layer.backward(dout)
    assert_close(found, by_loops(hs_enc, hs_dec, dout, lengths), dtype)
    assert len(layer.attention_weights) == S
    if lengths == LENGTHS:
        assert (weights[1, :, 2:] == 0).all() and (weights[2] == 0).all()
        np.testing.assert_allclose(weights[:2].sum(axis=2), 1, rtol=1e-6)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["", "lengths"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_step_and_its_two_halves(dtype, lengths):
    hs, h, dc = normal(N, T, H, dtype=dtype), normal(N, H, dtype=dtype), normal(N, H, dtype=dtype)
    cs, weights, dhs, dh = by_loops(hs, h[:, np.newaxis], dc[:, np.newaxis], lengths)
    expected = cs[:, 0], weights[:, 0], dhs, dh[:, 0]
    whole = Attention()
    c = whole.forward(hs, h, lengths=lengths)
    assert_close((c, whole.attention_weight, *whole.backward(dc)), expected, dtype)

    weight, total = AttentionWeight(), WeightSum()
    a = weight.forward(hs, h, lengths=lengths)
    c = total.forward(hs, a)
    dhs, da = total.backward(dc)
    dhs_of_a, dh = weight.backward(da)
    assert_close((c, a, dhs + dhs_of_a, dh), expected, dtype)


def test_a_pytorch_module():
    torch = pytest.importorskip("torch")

    class Dot(torch.nn.Module):
        def forward(self, hs_enc, hs_dec, lengths):
            scores = torch.einsum("nsh,nth->nst", hs_dec, hs_enc)
            past = torch.arange(hs_enc.shape[1]) >= lengths[:, None]
            a = torch.softmax(scores.masked_fill(past[:, None], -torch.inf), dim=2)
            return torch.einsum("nst,nth->nsh", a, hs_enc), a

    lengths = [5, 2, 1]
    arrays = normal(N, T, H), normal(N, S, H), normal(N, S, H, seed=1)
    hs_enc, hs_dec, dout = (torch.from_numpy(x) for x in arrays)
    hs_enc.requires_grad_()
    hs_dec.requires_grad_()
    cs, a = Dot()(hs_enc, hs_dec, torch.tensor(lengths))
    cs.backward(dout)
    layer = TimeAttention(device="cpu")
    found = layer.forward(arrays[0], arrays[1], lengths=lengths), *layer.backward(arrays[2])
    expected = cs.detach(), hs_enc.grad, hs_dec.grad
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-10)
    weights = np.stack(layer.attention_weights, axis=1)
    np.testing.assert_allclose(weights, a.detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "inputs", "options"),
    [
        (WeightSum(), (normal(N, T, H), normal(N, T)), {}),
        (AttentionWeight(), (normal(N, T, H), normal(N, H)), {"lengths": LENGTHS}),
        (Attention(), (normal(N, T, H), normal(N, H)), {"lengths": LENGTHS}),
        (TimeAttention(), (normal(N, T, H), normal(N, S, H)), {}),
        (TimeAttention(), (normal(N, T, H), normal(N, S, H)), {"lengths": LENGTHS}),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "forward") else "",
)
def test_gradients_by_differences(layer, inputs, options):
    report = gradient_check(layer, *inputs, elements=None, **options)
    assert report.passed, report
    assert len(report.arrays) == 2


def test_padding_may_be_no_numbers():
    results = []
    for padding in (0.0, np.nan, np.inf):
        hs = normal(N, T, H)
        hs[1, 2:], hs[2] = padding, padding
        layer = TimeAttention()
        cs = layer.forward(hs, normal(N, S, H), lengths=LENGTHS)
        results.append((cs, *layer.backward(normal(N, S, H)), *layer.attention_weights))
    for other in results[1:]:
        for one, clean in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, clean)
            assert np.isfinite(one).all()


@pytest.mark.parametrize("shapes", [(0, T, S), (N, 0, S), (N, T, 0)])
def test_empty_arrays(shapes):
    n, t, s = shapes
    layer = TimeAttention()
    cs = layer.forward(np.ones((n, t, H)), np.ones((n, s, H)))
    assert cs.shape == (n, s, H) and not (t == 0 and cs.any())
    dhs_enc, dhs_dec = layer.backward(np.ones_like(cs))
    assert dhs_enc.shape == (n, t, H) and dhs_dec.shape == (n, s, H)
    assert len(layer.attention_weights) == s


def test_large_scores_do_not_overflow():
    hs = np.array([[[1e3, 0.0], [0.0, 1e3]]], np.float32)
    a = AttentionWeight().forward(hs, np.array([[1e3, 0.0]], np.float32))
    np.testing.assert_array_equal(a, [[1.0, 0.0]])


def test_dtypes_of_both():
    a = AttentionWeight()
    assert a.forward(normal(N, T, H, dtype="f4"), normal(N, H)).dtype == np.float64
    assert a.forward(np.ones((N, T, H), int), np.ones((N, H), np.float16)).dtype == np.float64
    assert a.forward(np.ones((N, T, H), np.int8), normal(N, H, dtype="f4")).dtype == np.float32


def test_what_the_caller_may_change():
    hs, h, dout = normal(N, T, H), normal(N, S, H), normal(N, S, H)
    layer = TimeAttention()
    layer.forward(hs, h)
    expected = layer.backward(dout)
    layer.forward(hs, h)[...] = 7
    for array in layer.attention_weights:
        array[...] = 7
    for one, other in zip(layer.backward(dout), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_inference(copied):
    layer = Attention()
    c = layer.forward(normal(N, T, H), normal(N, H), train=False)
    for one in (layer, copied(layer)):
        with pytest.raises(RuntimeError, match="Attention: backward needs the forward of a train"):
            one.backward(c)
    np.testing.assert_array_equal(copied(layer).forward(normal(N, T, H), normal(N, H)), c)


HS = normal(N, T, H)


@pytest.mark.parametrize(
    ("layer", "arguments", "options", "error", "message"),
    [
        (WeightSum, ("a", HS), {}, TypeError, "hs must be a NumPy array, got str"),
        (WeightSum, (HS[0], HS[:, :, 0]), {}, ValueError, r"hs must be \(N, T, H\), got \(5, 6\)"),
        (
            WeightSum,
            (HS, HS[:, :4, 0]),
            {},
            ValueError,
            r"a must be \(N, T\) = \(3, 5\), got \(3, 4",
        ),
        (
            AttentionWeight,
            (HS, HS),
            {},
            ValueError,
            r"h must be \(N, H\) = \(3, 6\), got \(3, 5, 6",
        ),
        (
            AttentionWeight,
            (HS, HS[:, 0] * 1j),
            {},
            TypeError,
            "h must be real numbers, got complex",
        ),
        (
            Attention,
            (HS, HS[:2, 0]),
            {},
            ValueError,
            r"h must be \(N, H\) = \(3, 6\), got \(2, 6\)",
        ),
        (
            TimeAttention,
            (HS, HS[:, :, 1:]),
            {},
            ValueError,
            r"hs_dec must be \(N, T', H\) = \(3, T', 6\), got \(3, 5, 5\)",
        ),
        (
            TimeAttention,
            (HS, HS),
            {"lengths": [1, 2]},
            ValueError,
            r"lengths must be \(N,\) = \(3,\), got \(2,\)",
        ),
        (
            TimeAttention,
            (HS, HS),
            {"lengths": [1, 2, 6]},
            ValueError,
            r"lengths must be in \[0, 6\)",
        ),
    ],
)
def test_bad_arguments(layer, arguments, options, error, message):
    made = layer()
    with pytest.raises(error, match=f"{layer.__name__}: {message}"):
        made.forward(*arguments, **options)
    assert made.cache is None


@pytest.mark.parametrize(
    ("layer", "other", "name", "shape"),
    [
        (WeightSum, HS[:, :, 0], "dc", (N, H)),
        (AttentionWeight, HS[:, 0], "da", (N, T)),
        (Attention, HS[:, 0], "dout", (N, H)),
        (TimeAttention, HS[:, :S], "dout", (N, S, H)),
    ],
)
def test_bad_gradients(layer, other, name, shape):
    made = layer()
    made.forward(HS, other)
    with pytest.raises(ValueError, match=f"{layer.__name__}: {name} must be like the output, "):
        made.backward(np.ones((*shape, 1)))
    made.backward(np.ones(shape))  # it is still there


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["", "lengths"])
def test_on_a_gpu(gpu, lengths):
    arrays = [normal(N, T, H, dtype="f4"), normal(N, S, H, dtype="f4"), normal(N, S, H, dtype="f4")]
    here, there = TimeAttention(device="auto"), TimeAttention(device="auto")
    cs = here.forward(*arrays[:2], lengths=lengths)
    expected = cs, *here.backward(arrays[2]), *here.attention_weights
    moved = on_gpu(gpu, *arrays)
    cs = there.forward(*moved[:2], lengths=lengths)
    found = cs, *there.backward(moved[2]), *there.attention_weights
    for one, other in zip(found, expected, strict=True):
        assert gpu.is_array(one)
        np.testing.assert_allclose(io.to_numpy(one), other, rtol=0, atol=1e-6)
    with pytest.raises(
        TypeError, match=r"hs_dec must be in the memory where hs is \(CuPy\), got a"
    ):
        there.forward(moved[0], arrays[1])


def test_names_of_the_book():
    assert rnnfast.time_layers.TimeAttention is TimeAttention
    assert {"Attention", "AttentionWeight", "TimeAttention", "WeightSum"} <= set(rnnfast.__all__)
