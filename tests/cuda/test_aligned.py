"""Products in TF32 of rows that are no multiples of 16 bytes: which copies, and what they give."""

import itertools

import numpy as np
import pytest
from cases import CELLS, make_problem
from fake_cublas import Blas, Matrix
from on_cuda import check, in_software

from rnnfast import kernels
from rnnfast.cuda import aligned, cublas
from rnnfast.cuda._bound import Product, multiply
from rnnfast.cuda.aligned import Aligned, Copy, copies
from rnnfast.cuda.cublas import NO, YES

LSTM = next(cell for cell in CELLS if cell.name == "lstm")
SIZES = (5, 8)  # no multiple, a multiple


@pytest.fixture
def always(monkeypatch):
    """Copies pay, however small a product is."""
    monkeypatch.setattr(aligned, "SAVED", 1.0)
    monkeypatch.setattr(aligned, "SAVED_ONCE", 1.0)
    monkeypatch.setattr(aligned, "LAUNCH", 0.0)
    monkeypatch.setattr(cublas, "LEAST", 0)
    copies.cache_clear()
    yield
    copies.cache_clear()


def rows(columns, start=0):
    return NO, columns, start


def turned(count, columns):
    """The copy of so many rows of so many columns."""
    return Copy(count, columns, columns, True, (columns, count), False)


# Which copies


def test_products_of_the_book_s_650_units():
    """700 rows of 650: turned, they are 650 of 700, and no weights are copied."""
    xs, sizes = turned(700, 650), (700, 2600, 650)
    assert copies(sizes, rows(650), rows(2600), rows(2600)) == (sizes, (xs, None, None))
    sizes = 650, 2600, 700  # dWx and dWh take the same copy
    assert copies(sizes, (YES, 650, 0), rows(2600), rows(2600)) == (sizes, (xs, None, None))
    sizes = 700, 650, 2600  # dxs
    assert copies(sizes, rows(2600), (YES, 2600, 0), rows(650)) == (sizes, (None, None, xs))


def test_products_with_a_vocabulary():
    """W (650, 10000), and the transpose of an embedding (10000, 650)."""
    sizes, x, E = (700, 10_000, 650), turned(700, 650), turned(10_000, 650)
    assert copies(sizes, rows(650), rows(10_000), rows(10_000)) == (sizes, (x, None, None))
    assert copies(sizes, rows(650), (YES, 650, 0), rows(10_000)) == (sizes, (x, E, None))
    sizes = 700, 650, 10_000
    assert copies(sizes, rows(10_000), rows(650), rows(650)) == (sizes, (None, E, x))


@pytest.mark.parametrize(
    ("M", "N", "K"),
    [(700, 400, 100), (700, 2600, 652), (20, 2600, 650), (700, 400, 101), (4096, 4096, 4096)],
)
def test_products_without_copies(M, N, K):
    """Rows are multiples already, or the product is too small."""
    assert copies((M, N, K), rows(K), rows(N), rows(N)) is None


def test_a_product_that_a_copy_makes_no_faster():
    """A vocabulary of 33,278: all of W and of the scores would be copied, for one product."""
    sizes = 700, 33_278, 650
    assert copies(sizes, rows(650), rows(33_278), rows(33_278)) is None


def test_rows_that_grow_are_filled_with_zeros_only_where_they_are_summed():
    """350 rows of 650: neither is a multiple, so either M grows, and with it out, or K."""
    sizes, (a, b, out) = copies((350, 2600, 650), rows(650), rows(2600), rows(2600))
    assert (sizes, a.shape, b, out.shape) == ((352, 2600, 650), (650, 352), None, (352, 2600))
    assert not a.zeroed and not out.zeroed
    sizes, (a, b, out) = copies((4998, 40_000, 650), rows(650), rows(40_000), rows(40_000))
    assert (sizes, a.shape, b.shape) == ((4998, 40_000, 652), (4998, 652), (652, 40_000))
    assert a.zeroed and b.zeroed
    assert out is None


# What cuBLAS is asked then


def meets(ta, tb, m, n, k, A, lda, B, ldb, C, ldc):
    """The conditions of NVIDIA's documentation, "Tensor Core Usage"."""
    along = k if ta else m, n if tb else k, m
    return not any(4 * x % 16 for x in (*along, lda, ldb, ldc)) and not any(
        x % 16 for x in (A, B, C)
    )


def matrix(rng, rows, columns, way):
    """A random matrix whose rows or columns are contiguous."""
    x = rng.standard_normal((columns, rows) if way == YES else (rows, columns)).astype("f4")
    return x.T if way == YES else x


@pytest.mark.parametrize("sizes", list(itertools.product(SIZES, repeat=3)), ids=str)
def test_every_product_is_one_of_whole_rows(always, sizes):
    """With the numbers of NumPy: what lies beyond a matrix, NaN here, has no part in them."""
    (M, N, K), rng = sizes, np.random.default_rng(0)
    for ways in itertools.product((NO, YES), repeat=3):
        a, b, out = (
            matrix(rng, *shape, way)
            for shape, way in zip(((M, K), (K, N), (M, N)), ways, strict=True)
        )
        blas = Blas()
        blas.products()(*map(Matrix, (a, b, out)), True)
        np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)
        assert meets(*blas.asked[0]), ways
        assert blas.copies == 0
        if sizes == (8, 8, 8):
            assert not blas.moved


def test_what_grows_in_a_sum_is_zero(always):
    """K is made longer, as that copies least; NaN lies there before, and times 0 it would stay."""
    a, b = (np.random.default_rng(0).standard_normal(s).astype("f4") for s in ((9, 5), (5, 40)))
    blas = Blas()
    found = blas.products()(Matrix(a), Matrix(b), None, True)
    assert blas.asked[0][2:5] == (40, 9, 8)
    np.testing.assert_allclose(found.plain, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "low"), [("f4", False), ("f8", True)])
def test_only_products_in_tf32_have_copies(always, dtype, low):
    blas = Blas()
    a, b = (Matrix(np.ones((5, 5), dtype)) for _ in range(2))
    blas.products()(a, b, None, low)
    assert not blas.moved


def test_bound_products_of_parts(always):
    """a^T b and a b^T, with columns of b and out alone, as calls of a GRU have them."""
    blas, rng = Blas(), np.random.default_rng(0)
    products = blas.products()
    a, b, out = (rng.standard_normal(s).astype("f4") for s in ((2, 3, 5), (2, 3, 15), (5, 15)))
    a, b, out = map(Matrix, (a, b, out))
    parts = [slice(0, 10), slice(10, 15)]
    work = [products.fastest(a, b, out, True, over_rows=True, columns=part) for part in parts]
    assert all(type(product) is Aligned for product in work)
    multiply([(product, a, b, out) for product in work])
    expected = np.einsum("ntk,ntm->km", a.plain, b.plain)
    np.testing.assert_allclose(out.plain, expected, rtol=1e-5, atol=1e-5)
    W, dxs = (Matrix(rng.standard_normal(s).astype("f4")) for s in ((7, 15), (2, 3, 7)))
    products.fastest(b, W, dxs, True, turned=True)(
        b, W.data.ptr, dxs
    )  # an address is an array, too
    np.testing.assert_allclose(dxs.plain, b.plain @ W.plain.T, rtol=1e-5, atol=1e-5)
    assert all(meets(*asked) for asked in blas.asked)


def test_what_is_bound_itself_has_no_copies(always):
    """Who needs a Product, for C to run, gets one."""
    a, b, out = (Matrix(np.ones((5, 5), "f4")) for _ in range(3))
    assert type(Blas().products().bind(a, b, out, True)) is Product


def test_a_part_that_begins_within_16_bytes(always):
    """All sizes are multiples; only where columns begin says whether a copy is needed."""
    rng = np.random.default_rng(0)
    a, b, out = (rng.standard_normal(s).astype("f4") for s in ((8, 8), (8, 16), (8, 16)))
    for part, moved in ((slice(4, 12), 0), (slice(2, 10), 2)):  # of b and of out
        blas, arrays = Blas(), [Matrix(x) for x in (a, b, out)]
        blas.products().fastest(*arrays, True, columns=part)(*arrays)
        np.testing.assert_allclose(out[:, part], a @ b[:, part], rtol=1e-5, atol=1e-5)
        assert len(blas.moved) == moved
        assert meets(*blas.asked[0])


def test_copies_that_are_used_again(always):
    """x W keeps the copy of x, and that of W where it has one, for x^T dy and dy W^T."""
    blas, rng = Blas(), np.random.default_rng(0)
    products, of_x, of_W = blas.products(), {}, {}
    x, E, dy = (rng.standard_normal(s).astype("f4") for s in ((8, 5), (12, 5), (8, 12)))
    products(Matrix(x), Matrix(E).T, None, True, of_x, of_W)
    assert blas.moved == [(YES, 8, 5), (YES, 12, 5)]
    blas.moved.clear()
    dW = products(Matrix(x).T, Matrix(dy), None, True, of_x)
    dx = products(Matrix(dy), Matrix(E), None, True, of_b=of_W)
    assert blas.moved == [(YES, 5, 8)]  # the result, dx
    np.testing.assert_allclose(dW.plain, x.T @ dy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx.plain, dy @ E, rtol=1e-5, atol=1e-5)


# Who uses copies again


class Watched(Aligned):
    """A product of the GPU in software that remembers which copies it was offered."""

    def __init__(self, run, seen):
        self.run, self.seen = run, seen

    def __call__(self, a, b, out, of_a=None):
        self.seen.append(of_a)
        self.run(a, b, out)


def test_backward_of_a_recurrence_has_the_copies_of_its_forward(monkeypatch):
    with in_software(new=True) as gpu:
        bind, seen = gpu.bind, {}

        def watched(a, b, out, *how):
            run = bind(a, b, out, *how)
            return Watched(run, seen.setdefault((a.shape, b.shape, out.shape), []))

        monkeypatch.setattr(gpu, "bind", watched)
        N, T, D, H = 2, 3, 5, 6
        check(LSTM, make_problem(LSTM, (N, T, D, H)))
        xs, A = (N, T, D), (N, T, 4 * H)
        made, again = seen[xs, (D, 4 * H), A], seen[xs, A, (D, 4 * H)]
        assert type(made[0]) is dict
        assert made[0] is again[0]
        assert seen[A, (D, 4 * H), xs] == [None]  # dxs: those of dA serve nobody else
        problem = make_problem(LSTM, (N, T, D, H))
        column = kernels.load("lstm", "cuda")
        column.forward(problem.xs, problem.state, problem.params, train=False)
        assert made[1] is None  # nothing is kept


@pytest.mark.parametrize("train", [True, False])
def test_the_losses_use_copies_again(monkeypatch, train):
    rng = np.random.default_rng(0)
    x, W, prior = (rng.standard_normal(s).astype("f4") for s in ((6, 5), (5, 7), (3, 2)))
    ts, grad, seen = np.arange(6), np.empty_like(W), []
    with in_software(new=True) as gpu:
        ops, matmul = kernels.load("ops", "cuda"), gpu.matmul

        def watched(a, b, out=None, of_a=None, of_b=None):
            seen.append((of_a, of_b))
            return matmul(a, b, out)

        monkeypatch.setattr(gpu, "matmul", watched)
        _, cache = ops.affine_softmax_loss_forward(x, W, None, ts, train=train)
        if not train:
            assert seen == [(None, None)]
        else:
            ops.affine_softmax_loss_backward(cache, grad, None)
            (of_x, of_W), *back = seen
            assert of_x is not None and of_W is not None
            assert [x is y for x, y in zip(back[0], (None, of_W), strict=True)] == [True, True]
            assert back[1][0] is of_x
        seen.clear()
        hs = x.reshape(3, 2, 5)
        ops.mixture_softmax_loss_forward(hs, prior, W, None, ts[:3], train=train)
        (of_hs, of_W), *back = seen
        assert of_hs is not None and of_W is not None
        assert len(back) == (2 if train else 0)
        if train:
            assert back[0][1] is of_W
            assert back[1][0] is of_hs
