"""Products of affine layers and of their softmax loss in bfloat16, against the reference."""

import numpy as np
import pytest
from cases import LAYOUTS, spread

import rnnfast
from rnnfast import kernels
from rnnfast.layers import TimeRegularizedMixtureSoftmaxWithLoss

pytestmark = pytest.mark.usefixtures("medium")

# rows, inputs, outputs: around words, vectors and tiles; primes; a block of each side and more
SHAPES = [
    (1, 1, 1),
    (2, 1, 3),
    (1, 37, 33),
    (3, 70, 129),
    (17, 33, 47),
    (40, 64, 96),
    (97, 31, 611),
    (33, 1100, 20),
    (2100, 19, 35),
    (45, 20, 2300),
    (2100, 19, 1100),
]
# Both round the same operands, so only the order of float32's sums differs
TOLERANCE = 1e-5
# The gradient of the scores is computed before it is rounded, so single numbers are 2^-8 apart
OF_SCORES = 5e-4
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def of(device):
    return kernels.load("ops", device)


def assert_near(got, expected, tolerance):
    """2-norms; got is float32."""
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    error = np.linalg.norm(got.astype("f8") - expected)
    assert error <= tolerance * np.linalg.norm(expected), f"{error:.1e}"


def arrays(shape):
    M, K, N = shape
    rng = np.random.default_rng(shape)
    x, W, b, dy = (rng.standard_normal(s).astype("f4") for s in ((M, K), (K, N), N, (M, N)))
    return x, W / np.float32(np.sqrt(K)), b, dy


def affine(ops, x, W, b, dy, dW=None):
    """y, dx, dW, db; without b no db."""
    dW = np.full_like(W, np.nan) if dW is None else dW
    db = None if b is None else np.full_like(b, np.nan)
    y, dx = ops.affine_forward(x, W, b), ops.affine_backward(dy, x, W, dW, db)
    return [y, dx, dW, *([] if b is None else [db])]


def loss_of(ops, x, W, b, ts, dW=None):
    """The loss, dx, dW, db."""
    dW = np.full_like(W, np.nan) if dW is None else dW
    db = None if b is None else np.full_like(b, np.nan)
    loss, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
    dx = ops.affine_softmax_loss_backward(cache, dW, db)
    return [np.float32([loss]), dx, dW, *([] if b is None else [db])]


def targets(shape):
    M, _, V = shape
    ts = np.random.default_rng(M).integers(V, size=M)
    ts[1::5] = -1  # ignored
    return ts


@shapes
def test_affine(way, shape):
    found = [affine(of(device), *arrays(shape)) for device in ("cpu", "reference")]
    for got, expected in zip(*found, strict=True):
        assert_near(got, expected, TOLERANCE)


def test_blocks_of_rows_and_columns(threads):
    """More than stays in L2."""
    problem = arrays((300, 1100, 1200))
    expected, found = affine(of("reference"), *problem), []
    for count in (1, 3):
        threads(count)
        found.append(affine(of("cpu"), *problem))
        for got, wanted in zip(found[-1], expected, strict=True):
            assert_near(got, wanted, TOLERANCE)
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


@shapes
def test_affine_softmax_loss(way, shape):
    x, W, b, _ = arrays(shape)
    ts = targets(shape)
    found = [loss_of(of(device), x, W, b, ts) for device in ("cpu", "reference")]
    for got, expected, tolerance in zip(
        *found, (TOLERANCE, OF_SCORES, OF_SCORES, TOLERANCE), strict=True
    ):
        assert_near(got, expected, tolerance)
    loss = of("cpu").affine_softmax_loss_forward(x, W, b, ts, train=False)[0]
    np.testing.assert_allclose(loss, found[0][0][0], rtol=1e-6)


def test_what_is_rounded(way):
    """Against float32, of which bfloat16 keeps 7 bits; and only in float32."""
    x, W, b, dy = arrays((40, 64, 96))
    ts = targets((40, 64, 96))
    rough = affine(of("cpu"), x, W, None, dy), loss_of(of("cpu"), x, W, b, ts)
    doubles = [a.astype("f8") for a in (x, W, b, dy)]
    as_double = affine(of("cpu"), *doubles)
    rnnfast.set_float32_matmul_precision("high")
    exact = affine(of("cpu"), x, W, None, dy), loss_of(of("cpu"), x, W, b, ts)
    for got, expected in zip(rough[0] + rough[1][1:3], exact[0] + exact[1][1:3], strict=True):
        distance = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert 1e-3 < distance < 1e-2
    np.testing.assert_array_equal(rough[1][3].shape, b.shape)
    for got, expected in zip(as_double, affine(of("cpu"), *doubles), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_bias_gradients_are_sums_of_float32(way):
    x, W, b, dy = arrays((97, 31, 61))
    got = affine(of("cpu"), x, W, b, dy)[3]
    np.testing.assert_allclose(got, dy.astype("f8").sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(way, layout):
    """The same bits however the arrays lie, the gradient too."""
    lie = LAYOUTS[layout]
    x, W, b, dy = arrays((37, 45, 83))
    ts = targets((37, 45, 83))
    expected = affine(of("cpu"), x, W, b, dy), loss_of(of("cpu"), x, W, b, ts)
    for into in (np.empty_like(W), np.empty_like(W, order="F"), spread(np.empty_like(W))):
        got = (
            affine(of("cpu"), lie(x), lie(W), lie(b), lie(dy), into.copy("K")),
            loss_of(of("cpu"), lie(x), lie(W), lie(b), ts, into.copy("K")),
        )
        for a, b_ in zip(got[0] + got[1], expected[0] + expected[1], strict=True):
            np.testing.assert_array_equal(a, b_)


@shapes
def test_threads(way, shape, threads):
    x, W, b, dy = arrays(shape)
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append(affine(of("cpu"), x, W, b, dy) + loss_of(of("cpu"), x, W, b, targets(shape)))
    for other in found[1:]:
        for a, b_ in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(a, b_)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_backward_of_a_loss_as_its_forward(device):
    x, W, b, _ = arrays((17, 33, 47))
    ts = targets((17, 33, 47))
    expected = loss_of(of(device), x, W, b, ts)
    _, cache = of(device).affine_softmax_loss_forward(x, W, b, ts)
    rnnfast.set_float32_matmul_precision("highest")
    dW, db = np.empty_like(W), np.empty_like(b)
    dx = of(device).affine_softmax_loss_backward(cache, dW, db)
    for a, b_ in zip((dx, dW, db), expected[1:], strict=True):
        np.testing.assert_array_equal(a, b_)


@pytest.mark.parametrize(
    ("M", "K", "D", "V"), [(6, 2, 20, 30), (70, 3, 33, 129), (1500, 15, 20, 37)]
)
@pytest.mark.one_in(4)
def test_mixtures(way, M, K, D, V):
    """Also of more rows than are computed at a time."""
    rng = np.random.default_rng(3)
    hs, prior = rng.standard_normal((M, K, D), "f4"), rng.standard_normal((M, K), "f4")
    W, b = rng.standard_normal((D, V), "f4") * np.float32(D**-0.5), rng.standard_normal(V, "f4")
    ts = rng.integers(-1, V, M)

    def run(ops):
        dW, db = np.empty_like(W), np.empty_like(b)
        loss, cache = ops.mixture_softmax_loss_forward(hs, prior, W, b, ts)
        return [loss, *ops.mixture_softmax_loss_backward(cache, dW, db), dW, db]

    got, expected = run(of("cpu")), run(of("reference"))
    assert got[0] == pytest.approx(expected[0], rel=TOLERANCE)
    for a, b_ in zip(got[1:], expected[1:], strict=True):
        assert_near(a, b_, OF_SCORES)
    log_p = of("cpu").mixture_softmax(hs, prior, W, b)
    assert_near(log_p, of("reference").mixture_softmax(hs, prior, W, b), TOLERANCE)
    rnnfast.set_float32_matmul_precision("highest")
    assert (of("cpu").mixture_softmax(hs, prior, W, b) != log_p).any()


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_what_noise_adds_to_a_mixture(device):
    """Almost no noise adds almost nothing: both losses multiply alike."""
    mixture = rnnfast.TimeMixtureSoftmax.create(16, 16, 300, K=3, rng=0, device=device)
    loss = TimeRegularizedMixtureSoftmaxWithLoss(mixture, adversarial=1e-9)
    rng = np.random.default_rng(0)
    loss.forward(rng.standard_normal((4, 7, 16), "f4"), rng.integers(0, 300, (4, 7)))
    assert abs(loss.penalty) < 1e-6


def test_nothing_to_multiply(way):
    """No rows, no inputs, no outputs."""
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        M, K, N = shape
        x, W, dy = (np.ones(s, "f4") for s in ((M, K), (K, N), (M, N)))
        b = np.arange(N, dtype="f4")
        y, dx, dW, db = affine(of("cpu"), x, W, b, dy)
        np.testing.assert_array_equal(y, np.tile(b, (M, 1)) + (K if K else 0))
        np.testing.assert_array_equal(dx, np.full((M, K), N))
        np.testing.assert_array_equal(dW, np.full((K, N), M))
        np.testing.assert_array_equal(db, np.full(N, M))
    x, W, b = np.empty((3, 0), "f4"), np.empty((0, 4), "f4"), np.zeros(4, "f4")
    loss, dx, dW, db = loss_of(of("cpu"), x, W, b, np.array([0, 1, 2]))
    assert loss == pytest.approx(np.log(4))
    assert dx.shape == x.shape and dW.shape == W.shape
    np.testing.assert_allclose(db, [-1 / 12, -1 / 12, -1 / 12, 1 / 4], rtol=1e-6)


def test_numbers_that_are_none(way):
    """NaN in one row stays there, but for the gradient of the weights."""
    x, W, b, dy = arrays((40, 64, 96))
    expected = affine(of("cpu"), x, W, b, dy)
    others = np.arange(40) != 7
    x[7, 3], dy[7, 5] = np.nan, np.inf
    with np.errstate(all="ignore"):
        got = affine(of("cpu"), x, W, b, dy)
    for a, b_ in zip(got[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(a[others], b_[others])
        assert not np.isfinite(a[7]).any()
