"""Affine, embedding, dropout and activation layers, the functions; copies and devices of all."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from cases import assert_close, assert_grad_close
from naive import numeric_gradient

import rnnfast

N, T, D, H = 4, 5, 3, 6


pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


# Copies and devices

V = 9
weights = {
    G: lambda r, G=G: [r.normal(size=s) for s in ((D, G * H), (H, G * H), (G * H,))]
    for G in (1, 3, 4)
}
LAYERS = {
    "TimeRNN": lambda r: rnnfast.TimeRNN(*weights[1](r), stateful=True),
    "TimeLSTM": lambda r: rnnfast.TimeLSTM(*weights[4](r), stateful=True),
    "TimeGRU": lambda r: rnnfast.TimeGRU(*weights[3](r), stateful=True),
    "TimeBiLSTM": lambda r: rnnfast.TimeBiLSTM(*weights[4](r), *weights[4](r), stateful=True),
    "MatMul": lambda r: rnnfast.MatMul(r.normal(size=(D, H))),
    "Affine": lambda r: rnnfast.Affine(r.normal(size=(D, H)), r.normal(size=H)),
    "TimeAffine": lambda r: rnnfast.TimeAffine(r.normal(size=(D, H)), r.normal(size=H)),
    "Embedding": lambda r: rnnfast.Embedding(r.normal(size=(V, D))),
    "TimeEmbedding": lambda r: rnnfast.TimeEmbedding(r.normal(size=(V, D))),
    "TimeDropout": lambda r: rnnfast.TimeDropout(0.5, rng=3),
}
for name in (
    *("Softmax", "Sigmoid", "SoftmaxWithLoss", "TimeSoftmaxWithLoss", "Simple_TimeSoftmaxWithLoss"),
    *("SigmoidWithLoss", "TimeSigmoidWithLoss", "TimeSquaredLoss"),
):
    LAYERS[name] = lambda r, name=name: getattr(rnnfast, name)()


def arguments(name, rng):
    """What forward of this layer takes."""
    xs = rng.normal(size=(N, T, D))
    if "Embedding" in name:
        return (rng.integers(0, V, (N, T)),)
    if name == "TimeSquaredLoss":
        return xs, rng.normal(size=xs.shape)
    if "Softmax" in name and "Loss" in name:
        ts = rng.integers(0, D, (N, T))
        return (xs, ts) if "Time" in name else (xs[0], ts[0])
    if "Loss" in name:
        return xs[:, :, 0], rng.integers(0, 2, (N, T))
    return (xs,)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_by_themselves(name, duplicate, rng):
    """From the state they were copied in; the pending backward stays with the original."""
    layer, args = LAYERS[name](rng), arguments(name, rng)
    out = layer.forward(*args)
    twin = duplicate(layer)
    dout = () if "Loss" in name else (rng.normal(size=out.shape),)
    with pytest.raises(RuntimeError, match=r"^\w+: backward needs the forward"):
        twin.backward(*dout)
    layer.backward(*dout)

    np.testing.assert_array_equal(twin.forward(*args), layer.forward(*args))
    np.testing.assert_array_equal(twin.backward(*dout), layer.backward(*dout))
    for mine, other in zip(layer.params + layer.grads, twin.params + twin.grads, strict=True):
        assert not np.shares_memory(mine, other)
        np.testing.assert_array_equal(mine, other)
    if name == "TimeBiLSTM":
        parts = twin.forward_lstm.grads + twin.backward_lstm.grads
        assert all(a is b for a, b in zip(twin.grads, parts, strict=True))


def test_a_layer_binds_when_it_is_made(device):
    other = next((name for name in rnnfast.devices() if name != device), device)
    made = rnnfast.TimeSoftmaxWithLoss(), rnnfast.MatMul(np.eye(2))
    with rnnfast.device(other):
        assert [layer.device for layer in made] == [device] * 2
        assert rnnfast.TimeRNN(np.eye(2), np.eye(2), np.zeros(2), device=device).device == device
        assert copy.deepcopy(made[1]).device == device
        assert rnnfast.MatMul(np.eye(2)).device == other


# Affine and embedding


def test_literal_affine():
    W, b = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([10.0, 20.0, 30.0])
    xs = np.array([[[1.0, 0.0], [2.0, -1.0]]])
    dout = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]]])
    for layer in rnnfast.TimeAffine(W, b), rnnfast.Simple_TimeAffine(W, b), rnnfast.Affine(W, b):
        assert layer.forward(xs).tolist() == [[[11, 22, 33], [8, 19, 30]]]
        for _ in range(2):  # the gradient is written, not added
            assert layer.backward(dout).tolist() == [[[1, 4], [8, 17]]]
            assert layer.grads[0].tolist() == [[1, 2, 4], [0, -1, -2]]
            assert layer.grads[1].tolist() == [1, 1, 2]
    simple = rnnfast.Simple_TimeAffine(W, b)
    assert (simple.W, simple.b, simple.dW, simple.db) == (*simple.params, *simple.grads)
    matmul = rnnfast.MatMul(W)
    assert matmul.forward(xs[0]).tolist() == [[1, 2, 3], [-2, -1, 0]]
    assert matmul.backward(dout[0]).tolist() == [[1, 4], [8, 17]]
    assert matmul.grads[0].tolist() == [[1, 2, 4], [0, -1, -2]]


def test_tied_weights_stay_a_view(rng):
    """Chapter 6: TimeAffine(embed_W.T, b) sees what happens to embed_W, and the other way round."""
    embed_W, b = rng.normal(size=(7, D)).astype("f4"), rng.normal(size=7).astype("f4")
    embed, affine = rnnfast.TimeEmbedding(embed_W), rnnfast.TimeAffine(embed_W.T, b)
    ids, dout = rng.integers(0, 7, (N, T)), rng.normal(size=(N, T, 7)).astype("f4")
    for _ in range(2):
        xs = embed.forward(ids)
        assert_close(xs, embed_W[ids].astype("f8"))
        assert_close(affine.forward(xs), (xs @ embed_W.T + b).astype("f8"))
        assert_close(affine.backward(dout), (dout @ embed_W).astype("f8"))
        assert_grad_close(affine.grads[0], np.einsum("ntd,ntv->dv", xs, dout).astype("f8"))
        affine.params[0] -= 0.5 * affine.grads[0]
        assert np.shares_memory(embed.W, affine.params[0])


def test_literal_embedding():
    W = np.arange(8, dtype="f4").reshape(4, 2)
    layer = rnnfast.TimeEmbedding(W)
    grad = layer.grads[0]
    ids = np.array([[3, 0, 3], [3, 1, 0]])
    assert layer.forward(ids).tolist() == [[[6, 7], [0, 1], [6, 7]], [[6, 7], [2, 3], [0, 1]]]
    dout = np.array([[[1, 0], [2, 0], [4, 0]], [[8, 0], [0, 1], [0, 16]]], "f4")
    for wrong in 0, 5, np.nan:  # the book's trainer adds tied gradients into it
        grad += wrong
        assert layer.backward(dout) is None
        assert grad.tolist() == [[2, 16], [0, 1], [0, 0], [13, 0]]
    assert layer.grads[0] is grad
    for dtype in "u1", "i2", "i4", "u8", ">i4":
        assert layer.forward(ids.astype(dtype)).dtype == "f4"
        grad.fill(np.nan)
        layer.backward(dout)
        assert grad.tolist() == [[2, 16], [0, 1], [0, 0], [13, 0]]
    assert layer.forward(ids[:, ::-1][::-1])[0].tolist() == [[0, 1], [2, 3], [6, 7]]


def test_plain_embedding_takes_ids_of_any_shape(rng):
    W = rng.normal(size=(4, D))
    layer = rnnfast.Embedding(W)
    for shape in (5,), (2, 3), (), (0,), (2, 1, 2):
        ids = rng.integers(0, 4, shape)
        np.testing.assert_array_equal(layer.forward(np.asarray(ids)), W[ids])
        layer.backward(np.ones((*shape, D)))
        np.testing.assert_array_equal(
            layer.grads[0], np.bincount(np.ravel(ids), minlength=4)[:, None] * np.ones(D)
        )


@pytest.mark.parametrize("shape", [(0, T), (N, 0)])
def test_empty_affine_and_embedding(shape):
    affine = rnnfast.TimeAffine(np.ones((D, 2)), np.ones(2))
    embed = rnnfast.TimeEmbedding(np.ones((4, D)))
    for g in affine.grads + embed.grads:
        g.fill(3)
    assert embed.forward(np.zeros(shape, int)).shape == (*shape, D)
    assert affine.forward(np.zeros((*shape, D))).shape == (*shape, 2)
    assert affine.backward(np.zeros((*shape, 2))).shape == (*shape, D)
    embed.backward(np.zeros((*shape, D)))
    assert not any(g.any() for g in affine.grads + embed.grads)


@pytest.mark.parametrize("name", ["MatMul", "TimeAffine", "TimeEmbedding", "TimeSoftmaxWithLoss"])
@pytest.mark.one_in(2)
def test_evaluation_of_plain_layers_holds_nothing(name, rng):
    layer, args = LAYERS[name](rng), arguments(name, rng)
    layer.forward(*args)
    layer.forward(*args, train=False)
    alive = [weakref.ref(a) for a in args]
    del args
    gc.collect()
    assert not any(ref() is not None for ref in alive)


# Dropout


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_time_dropout_draws_as_the_book_does(dtype, rng):
    xs, dout = rng.normal(size=(N, T, D)).astype(dtype), rng.normal(size=(N, T, D)).astype(dtype)
    layer = rnnfast.TimeDropout(0.25)
    np.random.seed(8)
    kept = np.random.rand(N, T, D) > 0.25
    np.random.seed(8)
    assert layer.mask is None
    out = layer.forward(xs)
    assert out.dtype == dtype and 0 < kept.sum() < kept.size
    np.testing.assert_allclose(layer.mask, kept / 0.75, rtol=1e-6)
    np.testing.assert_allclose(out, np.where(kept, xs / 0.75, 0), rtol=1e-6)
    np.testing.assert_array_equal(out == 0, ~kept)
    np.testing.assert_allclose(layer.backward(dout), np.where(kept, dout / 0.75, 0), rtol=1e-6)


def test_time_dropout_lets_evaluation_through(rng):
    xs = rng.normal(size=(N, T, D))
    layer = rnnfast.TimeDropout(0.9)
    np.random.seed(8)
    layer.train_flg = False
    assert layer.forward(xs) is xs
    layer.train_flg = True
    assert layer.forward(xs, train=False) is xs
    np.random.seed(8)
    expected = np.random.rand(N, T, D)
    np.random.seed(8)
    np.testing.assert_array_equal(layer.forward(xs) == 0, expected <= 0.9)  # nothing was drawn


def test_time_dropout_with_a_seed(rng):
    """Seed, layer and the number of training forwards before decide the mask, and nothing else."""
    ones = np.ones((N, T, 40), "f4")

    def masks(rng):
        layer = rnnfast.TimeDropout(0.5, rng)
        result = []
        for _ in range(3):
            result.append(layer.forward(ones))
            np.testing.assert_array_equal(layer.backward(ones), result[-1])
            layer.forward(ones, train=False)
        return np.array(result)

    np.random.seed(1)
    first = masks(11)
    assert set(np.unique(first)) == {0, 2} and abs(first.mean() - 1) < 0.1
    np.random.rand(5)
    np.testing.assert_array_equal(masks(11), first)
    np.testing.assert_array_equal(masks((11, 0)), first)
    np.testing.assert_array_equal(masks((np.int64(11), 0)), first)
    one, other = rnnfast.TimeDropout(0.5, 11), rnnfast.TimeDropout(0.5, 4)
    one.forward(ones)
    other.set_mask_state(*one.mask_state())
    np.testing.assert_array_equal(other.forward(ones), first[1])
    with pytest.raises(ValueError, match="TimeDropout: step must be from 0 up, got -1"):
        other.set_mask_state(-1, None)
    assert other.mask_state() == (2, (11, 0))
    drawn = [*first, *masks((11, 1)), *masks(12)]
    for k, a in enumerate(drawn):
        assert all(0.3 < (a != b).mean() < 0.7 for b in drawn[:k])
    # the words of Philox 4x64-10 themselves, key (11, 1), first step
    philox = np.random.Philox(key=np.array([11, 1], "u8"), counter=np.zeros(4, "u8"))
    kept = np.random.Generator(philox).random(ones.shape) >= 0.5
    np.testing.assert_array_equal(masks((11, 1))[0], 2 * kept)


def test_variational_dropout_shares_its_mask_over_time(rng):
    xs, dout = rng.normal(size=(N, T, 40)).astype("f4"), rng.normal(size=(N, T, 40)).astype("f4")
    layer = rnnfast.TimeDropout(0.5, (11, 2), variational=True)
    masks = []
    for step in range(2):
        philox = np.random.Philox(
            key=np.array([11, 2], "u8"), counter=np.array([0, 0, 0, step], "u8")
        )
        mask = 2 * (np.random.Generator(philox).random((N, 1, 40)) >= 0.5)
        np.testing.assert_array_equal(layer.forward(xs), (xs * mask).astype("f4"))
        np.testing.assert_array_equal(layer.backward(dout), (dout * mask).astype("f4"))
        masks.append(mask)
    assert (masks[0] != masks[1]).mean() > 0.3
    assert layer.forward(xs, train=False) is xs
    assert layer.step == 2
    again = rnnfast.TimeDropout(0.5, (11, 2), variational=True)
    np.testing.assert_array_equal(again.draw(xs, (N, 40)), masks[0][:, 0])


def test_variational_dropout_with_np_random(rng):
    xs = rng.normal(size=(N, T, D))
    np.random.seed(8)
    kept = np.random.rand(N, 1, D) > 0.25
    np.random.seed(8)
    layer = rnnfast.TimeDropout(0.25, variational=True)
    np.testing.assert_allclose(layer.forward(xs), xs * kept / 0.75, rtol=1e-12)


def test_plain_dropout_scales_in_evaluation(rng):
    x, dout = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    layer = rnnfast.Dropout(0.25)
    np.random.seed(8)
    kept = np.random.rand(N, D) > 0.25
    np.random.seed(8)
    np.testing.assert_array_equal(layer.forward(x), x * kept)
    np.testing.assert_array_equal(layer.backward(dout), dout * kept)
    np.testing.assert_array_equal(layer.forward(x, train_flg=False), x * 0.75)


@pytest.mark.parametrize("layer_class", [rnnfast.Dropout, rnnfast.TimeDropout])
def test_dropout_ratio_of_zero_keeps_everything(layer_class, rng):
    xs = rng.normal(size=(N, T, D))
    np.testing.assert_array_equal(layer_class(0).forward(xs), xs)


# Activations and functions


def test_functions():
    x = np.array([[0.0, np.log(3)], [-800, 800]])
    np.testing.assert_allclose(rnnfast.sigmoid(x), [[0.5, 0.75], [0, 1]], rtol=1e-15)
    assert rnnfast.sigmoid(0.0) == 0.5
    assert rnnfast.relu(x).tolist() == [[0, np.log(3)], [0, 800]]
    np.testing.assert_allclose(rnnfast.softmax(x), [[0.25, 0.75], [0, 1]], rtol=1e-15)
    np.testing.assert_allclose(rnnfast.softmax(x[0]), [0.25, 0.75], rtol=1e-15)
    assert rnnfast.softmax(x.astype("f4")).dtype == np.float32
    y = np.array([[0.25, 0.75], [0.5, 0.5]])
    for t in np.array([1, 0]), np.array([[0, 1], [1, 0]]):
        assert rnnfast.cross_entropy_error(y, t) == pytest.approx(
            -(np.log(0.75 + 1e-7) + np.log(0.5 + 1e-7)) / 2, rel=1e-15
        )
    expected = -np.log(0.75 + 1e-7)
    assert rnnfast.cross_entropy_error(y[0], np.array([0, 1])) == pytest.approx(expected)
    assert rnnfast.cross_entropy_error(y[0], np.array(1)) == pytest.approx(expected)
    assert rnnfast.cross_entropy_error(np.array([[1.0, 0.0]]), np.array([1])) == -np.log(1e-7)


@pytest.mark.parametrize("name", ["Softmax", "Sigmoid"])
def test_activations(name, rng):
    x, dout = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    layer = getattr(rnnfast, name)()
    np.testing.assert_array_equal(layer.forward(x), getattr(rnnfast, name.lower())(x))
    expected = numeric_gradient(lambda: np.sum(layer.forward(x) * dout), x)
    layer.forward(x)
    np.testing.assert_allclose(layer.backward(dout), expected, atol=1e-9)
