"""The operations without a time loop: every column against the reference in float64."""

import numpy as np
import pytest
from cases import (
    LAYOUTS,
    REJECTED,
    TOO_BIG,
    WRITABLE_LAYOUTS,
    assert_close,
    assert_grad_close,
    bad_arrays,
    read_only,
)
from on_host import assert_array_equal

from rnnfast import kernels
from rnnfast.io import to_numpy

AFFINE_SHAPES = [(1, 1, 1), (3, 5, 7), (16, 8, 9), (33, 17, 65), (7, 100, 1), (700, 33, 101)]
AFFINE_CASES = [(shape, None) for shape in AFFINE_SHAPES]
AFFINE_CASES += [((9, 17, 33), layout) for layout in (*LAYOUTS, "tied")]


@pytest.mark.parametrize(("shape", "layout"), AFFINE_CASES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.one_in(3)
def test_affine(column, shape, layout, bias):
    """W may be a view: `tied` is the transposed embedding, as in the book's chapter 6."""
    M, K, N = shape
    rng = np.random.default_rng(shape)
    x, W, b, dy = (
        rng.standard_normal(size).astype(column.dtype) for size in ((M, K), (K, N), (N,), (M, N))
    )
    exact = [a.astype("f8") for a in (x, W, b, dy)]
    if layout == "tied":
        W = W.T.copy().T
    elif layout:
        x, W, b, dy = map(LAYOUTS[layout], (x, W, b, dy))
    b = b if bias else None

    ops = column.load("ops")
    y = ops.affine_forward(x, W, b)
    scale = np.sqrt(K)
    assert y.dtype == column.dtype
    assert_close(y / y.dtype.type(scale), (exact[0] @ exact[1] + (exact[2] if bias else 0)) / scale)

    dW = np.full_like(W, np.nan)
    db = np.full(N, np.nan, column.dtype) if bias else None
    dx = ops.affine_backward(dy, x, W, dW, db)
    assert_grad_close(dx, exact[3] @ exact[1].T, "dx")
    assert_grad_close(dW, exact[0].T @ exact[3], "dW")
    if bias:
        assert_grad_close(db, exact[3].sum(axis=0), "db")
    assert not any(np.shares_memory(y, a) for a in (x, W))
    assert not any(np.shares_memory(dx, a) for a in (dy, x, W))


@pytest.mark.parametrize(("M", "K", "N"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_affine_of_nothing(column, M, K, N):
    ops, b = column.load("ops"), np.arange(N).astype(column.dtype)
    x, W, dy = (np.ones(size, column.dtype) for size in ((M, K), (K, N), (M, N)))
    y = ops.affine_forward(x, W, b)
    np.testing.assert_array_equal(y, K + np.broadcast_to(b, (M, N)))
    dW, db = np.full_like(W, np.nan), np.full_like(b, np.nan)
    dx = ops.affine_backward(dy, x, W, dW, db)
    np.testing.assert_array_equal(dx, np.full((M, K), N))
    np.testing.assert_array_equal(dW, np.full((K, N), M))
    np.testing.assert_array_equal(db, np.full(N, M))


def test_affine_rejects_bad_arrays_and_changes_nothing(fast):
    ops = fast.load("ops")
    x, W, b, dy = (np.ones(size, fast.dtype) for size in ((4, 5), (5, 6), (6,), (4, 6)))
    dW, db = np.full_like(W, 7), np.full_like(b, 7)
    forward, backward = [x, W, b], [dy, x, W, dW, db]
    for arguments, call in ((forward, ops.affine_forward), (backward, ops.affine_backward)):
        for k, argument in enumerate(arguments):
            for what, a in bad_arrays(argument):
                if call is ops.affine_forward and (k, what[-6:]) in ((0, "axis 0"), (1, "axis 1")):
                    continue  # another M; another N is caught by b
                with pytest.raises(REJECTED):
                    call(*arguments[:k], a, *arguments[k + 1 :])
                    pytest.fail(f"{call.__name__} accepted argument {k}: {what}")
    for k in (3, 4):
        with pytest.raises(REJECTED):
            ops.affine_backward(*backward[:k], read_only(backward[k]), *backward[k + 1 :])
    assert (dW == 7).all()
    assert (db == 7).all()


@pytest.mark.parametrize("ids_dtype", ["i1", "u1", "i2", "u4", "i8", "u8"])
@pytest.mark.parametrize(
    ("shape", "V", "D"),
    [
        ((), 5, 3),
        ((0,), 5, 3),
        ((7,), 1, 1),
        ((4, 5), 11, 17),
        ((2, 3, 4), 5, 9),
        ((131, 3), 100, 64),
    ],
    ids=str,
)
@pytest.mark.one_in(3)
def test_embedding(column, ids_dtype, shape, V, D):
    """Repeated ids add up, and dW is right in full whatever was in it."""
    rng = np.random.default_rng([V, D])
    ids = rng.integers(V, size=shape).astype(ids_dtype)
    W, dout = (rng.standard_normal(size).astype(column.dtype) for size in ((V, D), (*shape, D)))
    ops = column.load("ops")
    out = ops.embedding_forward(ids, W)
    assert out.dtype == column.dtype
    np.testing.assert_array_equal(out, W[ids])
    assert not np.shares_memory(out, W)
    out[...] = 0
    assert (W != 0).all()

    dW, expected = np.full_like(W, np.nan), np.zeros((V, D))
    assert ops.embedding_backward(dout, ids, dW) is None
    np.add.at(expected, ids, dout)
    assert_grad_close(dW, expected, "dW")


@pytest.mark.parametrize("often", [255, 256, 257, 530])
@pytest.mark.one_in(2)
def test_rows_of_a_frequent_id_add_up(column, often):
    """Of a kernel that looks for equal ids in parts, too."""
    rng, ops = np.random.default_rng(often), column.load("ops")
    ids = rng.permutation([3] * often + [5] * 260 + [0, 7, 7])
    dout = rng.standard_normal((len(ids), 3)).astype(column.dtype)
    dW, expected = np.full((9, 3), np.nan, column.dtype), np.zeros((9, 3))
    ops.embedding_backward(dout, ids, dW)
    np.add.at(expected, ids, dout)
    assert_grad_close(dW, expected, "dW")


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.one_in(3)
def test_embedding_of_any_layout(column, layout):
    rng, view, ops = np.random.default_rng(0), LAYOUTS[layout], column.load("ops")
    W, dout = (rng.standard_normal(s).astype(column.dtype) for s in ((6, 5), (4, 3, 5)))
    ids = rng.integers(6, size=(8, 3))[::2]
    np.testing.assert_array_equal(ops.embedding_forward(ids, view(W)), W[ids])
    dW, expected = view(np.full_like(W, np.nan)), np.zeros((6, 5))
    ops.embedding_backward(view(dout), ids, dW)
    np.add.at(expected, ids, dout)
    assert_grad_close(dW, expected, "dW")


@pytest.mark.parametrize("bad", [-1, 5, -(2**63), 2**63 - 1, 2**32])
def test_embedding_rejects_ids_and_changes_nothing(column, bad):
    ops, W = column.load("ops"), np.full((5, 3), 7, column.dtype)
    ids = np.array([[0, 4], [bad, 1]])
    with pytest.raises(ValueError, match=r"ids.*-?\d"):
        ops.embedding_forward(ids, W)
    with pytest.raises(ValueError, match=r"ids.*-?\d"):
        ops.embedding_backward(np.ones((2, 2, 3), column.dtype), ids, W)
    assert (W == 7).all()


def test_embedding_rejects_bad_arrays_and_changes_nothing(fast):
    ops, ids = fast.load("ops"), np.array([[0, 4], [2, 1]])
    W, dout = np.full((5, 3), 7, fast.dtype), np.ones((2, 2, 3), fast.dtype)
    for bad in (ids.astype(float), ids == 0, ids.astype(object), "ids", None):
        with pytest.raises(REJECTED):
            ops.embedding_forward(bad, W)
        with pytest.raises(REJECTED):
            ops.embedding_backward(dout, bad, W)
    for what, a in bad_arrays(dout):
        with pytest.raises(REJECTED):
            ops.embedding_backward(a, ids, W)
            pytest.fail(f"accepted dout: {what}")
    for a in (W[0], W[None], W.astype(int), W[:, :2], read_only(W), None):
        with pytest.raises(REJECTED):
            ops.embedding_backward(dout, ids, a)
    for a in (W[0], W[None], W.astype(int), W[:4], None):
        with pytest.raises(REJECTED):
            ops.embedding_forward(ids, a)
    assert (W == 7).all()


@pytest.mark.parametrize("ignore_label", [-1, 0])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (5, 1), (7, 5), (33, 17), (20, 100), (700, 31), (3, 10001)], ids=str
)
@pytest.mark.one_in(3)
def test_softmax_loss(column, shape, ignore_label):
    M, V = shape
    rng = np.random.default_rng(shape)
    xs = (3 * rng.standard_normal(shape)).astype(column.dtype)
    ts = rng.integers(V, size=M)
    ts[1::3] = ignore_label
    ops, reference = column.load("ops"), kernels.load("ops", "reference")
    loss, cache = ops.softmax_loss_forward(xs, ts, ignore_label=ignore_label)
    exact, exact_cache = reference.softmax_loss_forward(
        xs.astype("f8"), ts, ignore_label=ignore_label
    )
    assert type(loss) is float
    tolerance = 1e-6 if column.dtype == "float32" else 1e-12  # float32 is summed in float64 too
    assert loss == pytest.approx(exact, rel=tolerance, abs=tolerance)
    for dout in (1.0, 2.5):
        dxs = ops.softmax_loss_backward(cache, dout)
        expected = reference.softmax_loss_backward(exact_cache, dout)
        assert dxs.dtype == column.dtype
        assert_close(dxs * M, expected * M, "dxs")
        assert (dxs[ts == ignore_label] == 0).all()
    assert not np.shares_memory(dxs, xs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(3)
def test_softmax_loss_of_any_layout(column, layout):
    rng, view, ops = np.random.default_rng(0), LAYOUTS[layout], column.load("ops")
    xs, ts = rng.standard_normal((7, 9)).astype(column.dtype), rng.integers(9, size=7)
    expected, cache = ops.softmax_loss_forward(xs, ts)
    loss, view_cache = ops.softmax_loss_forward(view(xs), np.repeat(ts, 2)[::2])
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_close(
        ops.softmax_loss_backward(view_cache), ops.softmax_loss_backward(cache).astype("f8")
    )


def test_softmax_loss_of_unusual_rows(column):
    """Huge logits, -inf, a row that is ignored although it is NaN, nothing that counts."""
    ops, inf = column.load("ops"), np.inf
    xs = np.array([[1e4, 0, -1e4], [-inf, 3, -inf], [np.nan, inf, 1]], column.dtype)
    loss, cache = ops.softmax_loss_forward(xs, np.array([0, 1, -1]))
    assert loss == 0.0
    np.testing.assert_allclose(ops.softmax_loss_backward(cache), np.zeros((3, 3)), atol=1e-30)
    loss, cache = ops.softmax_loss_forward(xs, np.array([2, 1, -1]))
    assert loss == pytest.approx(1e4)
    expected = [[0.5, 0, -0.5], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(ops.softmax_loss_backward(cache), expected, atol=1e-30)
    assert ops.softmax_loss_forward(xs, np.array([1, 0, -1]))[0] == inf
    for rows in (3, 0):
        loss, cache = ops.softmax_loss_forward(xs[:rows], np.full(rows, -1))
        assert (loss, type(loss)) == (0.0, float)
        assert (ops.softmax_loss_backward(cache) == np.zeros((rows, 3))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_ignored_row_does_not_reach_the_weights(column, bad):
    """Whatever x is there: its gradient is 0, and 0 times NaN would be NaN."""
    ops, rng = column.load("ops"), np.random.default_rng(0)
    x, W, b = (rng.standard_normal(s).astype(column.dtype) for s in ((5, 4), (4, 9), 9))
    ts, results = np.array([3, -1, 0, 8, -1]), []
    for value in 1.0, bad:
        x[1], x[4, 2] = value, value
        loss, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
        dW, db = np.full_like(W, np.nan), np.full_like(b, np.nan)
        dx = ops.affine_softmax_loss_backward(cache, dW, db)
        results.append((loss, dx, dW, db))
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
    assert (results[1][1][[1, 4]] == 0).all()
    assert np.isfinite(results[1][2]).all()


def test_softmax_loss_keeps_nan_in_its_row(column):
    ops = column.load("ops")
    xs = np.random.default_rng(0).standard_normal((5, 9)).astype(column.dtype)
    ts = np.arange(5)
    clean = ops.softmax_loss_backward(ops.softmax_loss_forward(xs, ts)[1])
    xs[2, 3] = np.nan
    loss, cache = ops.softmax_loss_forward(xs, ts)
    dxs = ops.softmax_loss_backward(cache)
    assert np.isnan(loss)
    assert np.isnan(dxs[2]).any()
    np.testing.assert_array_equal(np.delete(dxs, 2, 0), np.delete(clean, 2, 0))


@pytest.mark.parametrize("bad", [-2, 4, -(2**63), 2**63 - 1])
def test_softmax_loss_rejects_targets(column, bad):
    xs = np.ones((3, 4), column.dtype)
    with pytest.raises(ValueError, match=r"ts.*-?\d"):
        column.load("ops").softmax_loss_forward(xs, np.array([0, bad, -1]))


def test_softmax_loss_rejects_bad_arrays(fast):
    forward = fast.load("ops").softmax_loss_forward
    xs, ts = np.ones((3, 4), fast.dtype), np.array([0, 1, -1])
    for bad in (xs[0], xs[None], xs.astype(int), xs.astype(object), xs[:2], None):
        with pytest.raises(REJECTED):
            forward(bad, ts)
    for bad in (ts.astype(float), ts[None], ts[:2], ts == 0, None):
        with pytest.raises(REJECTED):
            forward(xs, bad)


@pytest.mark.for_hardware
def test_ops_give_the_same_bits_for_any_number_of_threads(fast):
    ops, rng = fast.load("ops"), np.random.default_rng(0)
    x, W, b, dy = (
        rng.standard_normal(s).astype(fast.dtype) for s in ((301, 65), (65, 203), 203, (301, 203))
    )
    ids, ts = rng.integers(65, size=(43, 7)), rng.integers(203, size=301)

    def everything():
        dW, db, dE = np.full_like(W, np.nan), np.full_like(b, np.nan), np.full_like(W, np.nan)
        y = ops.affine_forward(x, W, b)
        dx = ops.affine_backward(dy, x, W, dW, db)
        out = ops.embedding_forward(ids, W)
        ops.embedding_backward(dy.reshape(43, 7, 203), ids, dE)
        loss, cache = ops.softmax_loss_forward(y, ts)
        dy1 = ops.softmax_loss_backward(cache)
        loss1, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
        dW1, db1 = np.full_like(W, np.nan), np.full_like(b, np.nan)
        dx1 = ops.affine_softmax_loss_backward(cache, dW1, db1)
        mixture = x.reshape(43, 7, 65), y[:43, :7], W, b
        loss2, cache = ops.mixture_softmax_loss_forward(*mixture, ts[:43])
        dW2, db2 = np.full_like(W, np.nan), np.full_like(b, np.nan)
        dx2, dprior = ops.mixture_softmax_loss_backward(cache, dW2, db2)
        log_p = ops.mixture_softmax(*mixture)
        mask = ops.dropout_mask(dy.shape, 0.5, (1, 2), 3, dy.dtype)
        squares = ops.sum_of_squares(dy)
        p, m, v = dy.copy(), np.abs(dy), np.abs(dy)
        ops.sgd(p, mask, 0.3)
        ops.scale(p, 1.7)
        ops.adam(p, dy, m, v, 0.1, 0.9, 0.99)
        numbers = np.array([loss, loss1, loss2, squares])
        mixed = dx2, dprior, dW2, db2, log_p
        return y, dx, dW, db, out, dE, numbers, dy1, dx1, dW1, db1, *mixed, mask, p, m, v

    expected = everything()
    for threads in (1, 1, 2, 3, 4, 7):
        kernels.set_num_threads(threads)
        for a, e in zip(everything(), expected, strict=True):
            assert_array_equal(a, e)


def test_ops_reject_sizes_whose_product_overflows(fast):
    ops, one = fast.load("ops"), np.ones((), fast.dtype)
    tall, wide = np.broadcast_to(one, (2**40, 1)), np.broadcast_to(one, (1, 2**40))
    with pytest.raises(TOO_BIG):
        ops.affine_forward(tall, wide, None)
    ids = np.broadcast_to(np.zeros((), np.int64), (2**20, 1))
    with pytest.raises(TOO_BIG):
        ops.embedding_forward(ids, np.broadcast_to(one, (1, 2**50)))


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_every_column_draws_the_same_dropout_mask(column, ratio):
    arguments = (3, 5, 7), ratio, (1984, 2), 11, np.dtype(column.dtype)
    mask = to_numpy(column.load("ops").dropout_mask(*arguments))
    assert mask.dtype == column.dtype
    np.testing.assert_array_equal(mask, kernels.load("ops", "reference").dropout_mask(*arguments))


def test_dropout_mask_of_any_size_and_key(column):
    draw, reference = column.load("ops").dropout_mask, kernels.load("ops", "reference").dropout_mask
    big = 2**64 - 1
    for shape in ((), (0,), (1,), (5,), (4, 257), (3, 0, 2)):
        arguments = shape, 0.5, (big, big), big, np.dtype(column.dtype)
        np.testing.assert_array_equal(to_numpy(draw(*arguments)), reference(*arguments))


def test_rows_of_a_dropout_mask_are_those_of_the_whole(column):
    draw, dtype = column.load("ops").dropout_mask, np.dtype(column.dtype)
    whole = to_numpy(draw((9, 5), 0.5, (1, 2), 3, dtype))
    for first, last in ((0, 9), (1, 2), (3, 9), (4, 8), (2, 2)):
        rows = to_numpy(draw((last - first, 5), 0.5, (1, 2), 3, dtype, first=5 * first))
        np.testing.assert_array_equal(rows, whole[first:last])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_mask_by_any_number_of_threads(dtype, threads):
    """A thread's share may begin and end anywhere in the numbers that are drawn together."""
    draw, n = kernels.load("ops", "cpu").dropout_mask, 50_011
    expected = kernels.load("ops", "reference").dropout_mask((n,), 0.3, (1, 2), 3, dtype)
    for count in (1, 2, 3, 5):
        threads(count)
        for first in (0, 1, 6, n - 13):
            mask = draw((n - first,), 0.3, (1, 2), 3, dtype, first)
            np.testing.assert_array_equal(mask, expected[first:])


def test_dropout_mask_rejects(fast):
    draw, dtype = fast.load("ops").dropout_mask, np.dtype(fast.dtype)
    for shape, ratio, key, step, kind in (
        ((3,), 1.0, (1, 2), 0, dtype),
        ((3,), np.nan, (1, 2), 0, dtype),
        ((3,), 0.5, (-1, 2), 0, dtype),
        ((3,), 0.5, (1, 2**64), 0, dtype),
        ((3,), 0.5, (1,), 0, dtype),
        ((3,), 0.5, (1, 2), -1, dtype),
        ((-3,), 0.5, (1, 2), 0, dtype),
        ((3,), 0.5, (1, 2), 0, np.dtype("i4")),
        ((3,), 0.5, (1, 2), 0, dtype.newbyteorder()),
        ("shape", 0.5, (1, 2), 0, dtype),
    ):
        with pytest.raises((*REJECTED, OverflowError)):
            draw(shape, ratio, key, step, kind)


# Affine and softmax loss in one

SCORE_SHAPES = [  # M, K, V: one, off every width, more than one block of rows, columns, depth
    (1, 1, 1),
    (3, 0, 7),
    (3, 5, 7),
    (33, 17, 65),
    (20, 100, 1000),
    (13, 70, 515),
    (800, 9, 33),
    (17, 790, 130),
    (1600, 3, 300),
    (450, 3, 10240),  # scores beyond any cache, rows on lines and off them
    (450, 3, 10001),
]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SCORE_SHAPES, ids=str)
@pytest.mark.one_in(3)
def test_affine_softmax_loss(column, shape, tied):
    """It is what the two operations after each other are in float64."""
    M, K, V = shape
    rng = np.random.default_rng(shape)
    x, W, b = (rng.standard_normal(size).astype(column.dtype) for size in ((M, K), (K, V), (V,)))
    W /= W.dtype.type(np.sqrt(max(K, 1)))
    ts = rng.integers(V, size=M)
    ts[1::3] = -1
    ops, reference = column.load("ops"), kernels.load("ops", "reference")
    exact = [a.astype("f8") for a in (x, W, b)]
    W = W.T.copy().T if tied else W
    for bias in (True, False):
        if not bias:
            b, exact[2] = None, None
        expected, cache = reference.affine_softmax_loss_forward(*exact, ts)
        dW0, db0 = np.empty((K, V)), np.empty(V) if bias else None
        dx0 = reference.affine_softmax_loss_backward(cache, dW0, db0, 2.5)

        loss, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
        assert type(loss) is float
        assert loss == pytest.approx(expected, rel=1e-5 if column.dtype == "float32" else 1e-12)
        dW, db = np.full_like(W, np.nan), np.full(V, np.nan, W.dtype) if bias else None
        dx = ops.affine_softmax_loss_backward(cache, dW, db, 2.5)
        assert dx.dtype == column.dtype
        if V > 1:  # with one class all gradients are zero, but for rounding
            assert_grad_close(dx, dx0, "dx")
            assert_grad_close(dW, dW0, "dW")
            if bias:
                assert_grad_close(db, db0, "db")
        without, nothing = ops.affine_softmax_loss_forward(x, W, b, ts, train=False)
        assert (without, nothing) == (loss, None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(3)
def test_affine_softmax_loss_of_any_layout(column, layout):
    rng, view, ops = np.random.default_rng(0), LAYOUTS[layout], column.load("ops")
    x, W, b = (rng.standard_normal(s).astype(column.dtype) for s in ((7, 5), (5, 9), 9))
    ts = rng.integers(9, size=7)
    loss, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
    dW, db = np.empty_like(W), np.empty_like(b)
    dx = ops.affine_softmax_loss_backward(cache, dW, db)
    other, cache = ops.affine_softmax_loss_forward(view(x), view(W), view(b), ts)
    assert other == pytest.approx(loss, rel=1e-6)
    if layout != "read-only":
        dW1, db1 = view(np.full_like(W, np.nan)), view(np.full_like(b, np.nan))
    else:
        dW1, db1 = np.full_like(W, np.nan), np.full_like(b, np.nan)
    assert_grad_close(ops.affine_softmax_loss_backward(cache, dW1, db1), dx.astype("f8"))
    assert_grad_close(dW1, dW.astype("f8"))
    assert_grad_close(db1, db.astype("f8"))


def test_affine_softmax_loss_is_consumed_and_its_memory_used_again(column):
    ops, rng = column.load("ops"), np.random.default_rng(0)
    x, W, b = (rng.standard_normal(s).astype(column.dtype) for s in ((7, 5), (5, 40), 40))
    ts, spent = rng.integers(40, size=7), None
    results = []
    for rows in (7, 7, 3, 7):
        loss, cache = ops.affine_softmax_loss_forward(x[:rows], W, b, ts[:rows], spent=spent)
        # one that is still needed lends nothing
        again, other = ops.affine_softmax_loss_forward(x[:rows], W, b, ts[:rows], spent=cache)
        assert again == loss
        dW, db = np.empty_like(W), np.empty_like(b)
        dx = ops.affine_softmax_loss_backward(cache, dW, db)
        for consumed in (cache, None):
            with pytest.raises(RuntimeError, match="affine_softmax_loss"):
                ops.affine_softmax_loss_backward(consumed, dW, db)
        np.testing.assert_array_equal(ops.affine_softmax_loss_backward(other, dW, db), dx)
        results.append(dx)
        spent = cache
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[3])


def test_affine_softmax_loss_of_unusual_scores(column):
    """Whole blocks of -inf, NaN in one row, rows that do not count."""
    ops, inf = column.load("ops"), np.inf
    x, W = np.eye(4, dtype=column.dtype), np.zeros((4, 1500), column.dtype)
    W[1], b = 3, np.full(1500, -inf, column.dtype)
    b[[5, 1400]] = 0
    ts = np.array([5, 1400, 5, -1])
    loss, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
    assert loss == pytest.approx(np.log(2))
    dW, db = np.empty_like(W), np.empty_like(b)
    ops.affine_softmax_loss_backward(cache, dW, db)
    np.testing.assert_allclose(db[[5, 6, 1400]], [1.5 / 3 - 2 / 3, 0, 1.5 / 3 - 1 / 3], atol=1e-6)
    assert np.isfinite(dW).all()
    x[2, 2] = np.nan
    loss, cache = ops.affine_softmax_loss_forward(x, W, b, ts)
    assert np.isnan(loss)
    dx = ops.affine_softmax_loss_backward(cache, dW, db)
    assert np.isnan(dx[2]).any()
    assert np.isfinite(dx[[0, 1, 3]]).all()
    for rows in (4, 0):
        loss, cache = ops.affine_softmax_loss_forward(x[:rows], W, b, np.full(rows, -1))
        assert (loss, type(loss)) == (0.0, float)
        dW[...], db[...] = 7, 7
        if rows == 0:
            assert ops.affine_softmax_loss_backward(cache, dW, db).shape == (0, 4)
            assert not dW.any()
            assert not db.any()


def test_affine_softmax_loss_rejects_bad_arguments_and_changes_nothing(fast):
    ops = fast.load("ops")
    x, W, b = (np.ones(size, fast.dtype) for size in ((4, 5), (5, 6), (6,)))
    ts = np.array([0, 5, -1, 2])
    arguments = [x, W, b]
    for k, argument in enumerate(arguments):
        for what, a in bad_arrays(argument):
            with pytest.raises(REJECTED):
                ops.affine_softmax_loss_forward(*arguments[:k], a, *arguments[k + 1 :], ts)
                pytest.fail(f"accepted argument {k}: {what}")
    for bad in (ts.astype(float), ts[None], ts[:2], ts == 0, None, ts + 6, ts - 2):
        with pytest.raises(REJECTED):
            ops.affine_softmax_loss_forward(*arguments, bad)
    with pytest.raises(TypeError, match="spent"):
        ops.affine_softmax_loss_forward(*arguments, ts, spent="memory")
    dW, db = np.full_like(W, 7), np.full_like(b, 7)
    _, cache = ops.affine_softmax_loss_forward(*arguments, ts)
    for a in (*(a for _, a in bad_arrays(dW)), read_only(dW), None):
        with pytest.raises(REJECTED):
            ops.affine_softmax_loss_backward(cache, a, db)
    for a in (*(a for _, a in bad_arrays(db)), read_only(db)):
        with pytest.raises(REJECTED):
            ops.affine_softmax_loss_backward(cache, dW, a)
    with pytest.raises(REJECTED):
        ops.affine_softmax_loss_backward(cache, dW, db, "much")
    assert (dW == 7).all()
    assert (db == 7).all()
    ops.affine_softmax_loss_backward(cache, dW, db)  # the cache is as it was


# Optimisers

UPDATE_SHAPES = [(), (0,), (1,), (17,), (3, 5, 7), (1025,), (33, 700), (0, 3)]


def updates(shape, dtype):
    rng = np.random.default_rng(7)
    p, g, m, v = (np.asarray(rng.standard_normal(shape), dtype) for _ in range(4))
    return p, g, m, np.abs(v, out=v)


def run_updates(ops, p, g, m, v):
    """Everything that the four operations do to these arrays."""
    squares = ops.sum_of_squares(g)
    assert type(squares) is float
    for result in (
        ops.sgd(p, g, 0.25),
        ops.scale(g, 0.5),
        ops.adam(p, g, m, v, 0.01, 0.8, 0.95),
    ):
        assert result is None
    return np.array(squares), p, g, m, v


@pytest.mark.parametrize("shape", UPDATE_SHAPES, ids=str)
def test_updates(column, shape):
    arrays = updates(shape, column.dtype)
    exact = [a.astype("f8") for a in arrays]
    expected = run_updates(kernels.load("ops", "reference"), *exact)
    got = run_updates(column.load("ops"), *arrays)
    for a, e in zip(got, expected, strict=True):
        tolerance = {"f4": 1e-6, "f8": 1e-14}[a.dtype.str[1:]] if a.ndim or shape == () else 1e-12
        if a is got[0]:
            tolerance = 1e-12  # squares are exact in float64, and summed there
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("which", ["param", "all"])
@pytest.mark.one_in(3)
def test_updates_of_any_layout(fast, layout, which):
    ops, view = fast.load("ops"), LAYOUTS[layout]
    expected = run_updates(ops, *updates((6, 5), fast.dtype))
    p, *others = updates((6, 5), fast.dtype)
    arrays = [view(p), *(others if which == "param" else map(view, others))]
    for a, e in zip(run_updates(ops, *arrays), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6)


def test_updates_of_overlapping_arrays(fast):
    """A gradient that is the parameter, or lies across it."""
    ops, base = fast.load("ops"), np.arange(5001).astype(fast.dtype)
    for p, g in ((base[:-1], base[:-1]), (base[:-1], base[1:]), (base[1:], base[:-1])):
        expected, before = p - g / 2, base.copy()
        ops.sgd(p, g, 0.5)
        np.testing.assert_array_equal(p, expected)
        base[...] = before
    p, m, v = np.ones((3, 4), fast.dtype)
    for m1, v1 in ((p, v), (m, p), (m, m)):
        with pytest.raises(ValueError, match="share memory"):
            ops.adam(p, p, m1, v1, 0.1, 0.9, 0.9)
    assert (p == 1).all()


def test_updates_of_nan_and_inf(column):
    ops = column.load("ops")
    for value in (np.nan, np.inf):
        p, g, m, v = updates((40,), column.dtype)
        g[21] = value
        with np.errstate(all="ignore"):
            assert not np.isfinite(ops.sum_of_squares(g))
            ops.sgd(p, g, 0.1)
            ops.adam(p, g, m, v, 0.1, 0.9, 0.9)
        for a in (p, m, v):
            assert not np.isfinite(a[21])
            assert np.isfinite(np.delete(a, 21)).all()


def test_updates_reject_bad_arrays_and_change_nothing(fast):
    ops = fast.load("ops")
    p, g, m, v = (np.full((3, 4), n, fast.dtype) for n in (2, 3, 4, 5))
    for what, a in bad_arrays(p):
        for call in (
            lambda a=a: ops.sgd(p, a, 0.1),
            lambda a=a: ops.sgd(a, g, 0.1),
            lambda a=a: ops.adam(p, a, m, v, 0.1, 0.9, 0.9),
            lambda a=a: ops.adam(p, g, a, v, 0.1, 0.9, 0.9),
            lambda a=a: ops.adam(p, g, m, a, 0.1, 0.9, 0.9),
        ):
            with pytest.raises(REJECTED):
                call()
                pytest.fail(f"accepted {what}")
    locked = read_only(p)
    for call in (
        lambda: ops.scale(locked, 2.0),
        lambda: ops.sgd(locked, g, 0.1),
        lambda: ops.adam(locked, g, m, v, 0.1, 0.9, 0.9),
        lambda: ops.adam(p, g, locked, v, 0.1, 0.9, 0.9),
        lambda: ops.adam(p, g, m, locked, 0.1, 0.9, 0.9),
    ):
        with pytest.raises(ValueError, match="read-only"):
            call()
    for bad in (p.astype(int), p.astype(complex), None, 3.0):
        with pytest.raises(REJECTED):
            ops.sum_of_squares(bad)
        with pytest.raises(REJECTED):
            ops.scale(bad, 2.0)
    with pytest.raises(REJECTED):
        ops.sgd(p, g, "fast")
    assert all((a == n).all() for a, n in ((p, 2), (g, 3), (m, 4), (v, 5), (locked, 2)))


@pytest.mark.parametrize("offset", [100, 1000, 10000])
def test_scores_with_a_common_offset(column, offset):
    """Probabilities do not depend on it, and are as exact with it."""
    ops = column.load("ops")
    xs = np.round(np.random.default_rng(0).standard_normal((4, 50)) * 64) / 64
    grads = []
    for shift in 0, offset:
        _, cache = ops.softmax_loss_forward((xs + shift).astype(column.dtype), np.arange(4))
        grads.append(ops.softmax_loss_backward(cache))
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-6, atol=1e-8)
