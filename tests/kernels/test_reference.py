"""The specification itself: numeric gradients, literal values, the book's formulas one by one."""

import itertools
import math
import warnings

import numpy as np
import pytest
from cases import (
    NUMERIC_TOLERANCE,
    STATES,
    Cell,
    assert_close,
    assert_same_bits,
    cells,
    make_problem,
    numeric_grad,
    variants,
    widths,
)

from rnnfast.kernels import load
from rnnfast.reference import gru, lstm, ops, rnn, slstm


@pytest.fixture(autouse=True)
def no_warnings():
    """No overflow, no division by zero, no invalid value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Cells: numeric gradients


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 3, 2), (1, 1, 2, 3), (3, 4, 1, 1)], ids=str)
@pytest.mark.one_in(12, rest=4)
def test_gradients_are_the_numeric_ones(cell, options, reverse, bias, mask, lengths, shape):
    """Through hs and through the final state, of every param, of xs and of the first state."""
    module = load(cell.name, "reference")
    ways = {"bias": bias, "mask": mask, "reverse": reverse, "lengths": lengths}
    p = make_problem(cell, shape, "float64", seed=7, **ways, **options)

    def loss():
        hs, state, _ = module.forward(p.xs, p.state, p.params, train=False, **p.keywords)
        return (hs * p.dhs).sum() + sum((s * d).sum() for s, d in zip(state, p.dstate, strict=True))

    step = 1e-6 if "gx" in p.names else 1e-5  # a normalisation is steep where u is about 0
    got = p.run(module)
    names = [f"d{name}" for name in STATES]
    inputs = {"dxs": p.xs, **dict(zip(names, p.state, strict=False))}
    inputs |= {f"d{name}": W for name, W in zip(p.names, p.params, strict=True)}
    for name, grad in [("dxs", got.dxs), *zip(names, got.dstate, strict=False)]:
        assert_close(grad, numeric_grad(loss, inputs[name], step), name, NUMERIC_TOLERANCE)
    for name, grad in got.named_grads():
        assert_close(grad, numeric_grad(loss, inputs[name], step), name, NUMERIC_TOLERANCE)


# Cells: the values themselves, from formulas written down again, one number at a time


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def naive_rnn(state, A, Wh, more, m, mask=None, nonlinearity="tanh"):
    (h,) = state
    H = len(h)
    A = [A[j] + sum(h[k] * m[k] * Wh[k, j] for k in range(H)) for j in range(H)]
    return ([math.tanh(a) if nonlinearity == "tanh" else max(a, 0.0) for a in A],)


def naive_lstm(state, A, Wh, Wp, m, mask=None, cell_clip=math.inf):
    h, c = state
    H = len(h)

    def seen(gate, cell, j):
        if Wp is None:
            return 0.0
        if Wp.ndim == 2:
            return cell[j] * Wp[gate, j]
        return sum(cell[k] * Wp[gate, k, j] for k in range(H))

    A = [A[j] + sum(h[k] * m[k] * Wh[k, j] for k in range(H)) for j in range(4 * H)]
    f = [sigmoid(A[j] + seen(0, c, j)) for j in range(H)]
    i = [sigmoid(A[2 * H + j] + seen(1, c, j)) for j in range(H)]
    g = [math.tanh(A[H + j]) * (1.0 if mask is None else mask[j]) for j in range(H)]
    c = [f[j] * c[j] + g[j] * i[j] for j in range(H)]
    c = [min(max(cell, -cell_clip), cell_clip) for cell in c]
    return [sigmoid(A[3 * H + j] + seen(2, c, j)) * math.tanh(c[j]) for j in range(H)], c


def naive_mogrifier(state, x, Wx, Wh, b, more, m, mask):
    """From x: its gates know what the rounds have made of it."""
    (h, c), D, H = state, len(x), len(m)
    h, (Wm, Wr) = [h[k] * m[k] for k in range(H)], (*more, None)[:2]
    for i in range(1, len(Wm) + 1):

        def M(j, d, i=i):
            if Wr is None:
                return Wm[i - 1][j, d]
            return sum(Wm[i - 1][j, k] * Wr[i - 1][k, d] for k in range(Wr.shape[1]))

        if i % 2:
            a = [sum(h[j] * M(j, d) for j in range(H)) for d in range(D)]
            x = [2 * sigmoid(a[d]) * x[d] for d in range(D)]
        else:
            a = [sum(x[d] * M(j, d) for d in range(D)) for j in range(H)]
            h = [2 * sigmoid(a[j]) * h[j] for j in range(H)]
    A = [sum(x[d] * Wx[d, j] for d in range(D)) + b[j] for j in range(4 * H)]
    return naive_lstm((h, c), A, Wh, None, [1.0] * H, mask)


def naive_lstmp(state, A, Wh, Wproj, m, mask=None, cell_clip=math.inf):
    """As the LSTM of the cells: h Wh comes before it, so that its own h is not needed."""
    (h, c), H, P = state, len(Wproj), len(m)
    A = [A[j] + sum(h[k] * m[k] * Wh[k, j] for k in range(P)) for j in range(4 * H)]
    u, c = naive_lstm(([0.0] * H, c), A, np.zeros((H, 4 * H)), None, [1.0] * H, mask, cell_clip)
    return [sum(u[k] * Wproj[k, p] for k in range(H)) for p in range(P)], c


def naive_gru(state, A, Wh, b1, m, mask=None, reset_after=False, z_keeps=False):
    (h,) = state
    H = len(h)
    s = [h[k] * m[k] for k in range(H)]
    A = [A[j] + (b1[j] if j < 2 * H else 0.0) for j in range(3 * H)]
    z = [sigmoid(A[j] + sum(s[k] * Wh[k, j] for k in range(H))) for j in range(H)]
    r = [sigmoid(A[H + j] + sum(s[k] * Wh[k, H + j] for k in range(H))) for j in range(H)]
    new = []
    for j in range(2 * H, 3 * H):
        if reset_after:
            a = A[j] + r[j - 2 * H] * (sum(s[k] * Wh[k, j] for k in range(H)) + b1[j])
        else:
            a = A[j] + sum(r[k] * s[k] * Wh[k, j] for k in range(H))
        new.append(math.tanh(a) * (1.0 if mask is None else mask[j - 2 * H]))
    if z_keeps:
        return ([z[j] * h[j] + (1 - z[j]) * new[j] for j in range(H)],)
    return ([(1 - z[j]) * h[j] + z[j] * new[j] for j in range(H)],)


def naive_norm(u, gains):
    mean = sum(u) / len(u)
    var = sum((a - mean) ** 2 for a in u) / len(u)
    return [(a - mean) / math.sqrt(var + 1e-5) * gain for a, gain in zip(u, gains, strict=True)]


def naive_products(x, h, Wx, Wh, m):
    s = [h[k] * m[k] for k in range(len(h))]
    columns = range(Wx.shape[1])
    of_x = [sum(x[d] * Wx[d, j] for d in range(len(x))) for j in columns]
    return of_x, [sum(s[k] * Wh[k, j] for k in range(len(h))) for j in columns]


def naive_lnlstm(state, x, Wx, Wh, b, more, m, mask):
    (h, c), (gx, gh, gc, bc), H = state, more, len(m)
    of_x, of_h = naive_products(x, h, Wx, Wh, m)
    parts = zip(naive_norm(of_x, gx), naive_norm(of_h, gh), b, strict=True)
    A = [sum(part) for part in parts]
    g = [math.tanh(A[H + j]) * mask[j] for j in range(H)]
    c = [sigmoid(A[j]) * c[j] + g[j] * sigmoid(A[2 * H + j]) for j in range(H)]
    of_c = naive_norm(c, gc)
    return [sigmoid(A[3 * H + j]) * math.tanh(of_c[j] + bc[j]) for j in range(H)], c


def naive_lngru(state, x, Wx, Wh, b, more, m, mask):
    (h,), (gx, gh, bh), H = state, more, len(m)
    of_x, of_h = naive_products(x, h, Wx, Wh, m)
    of_x = [*naive_norm(of_x[: 2 * H], gx[: 2 * H]), *naive_norm(of_x[2 * H :], gx[2 * H :])]
    of_h = [*naive_norm(of_h[: 2 * H], gh[: 2 * H]), *naive_norm(of_h[2 * H :], gh[2 * H :])]
    z = [sigmoid(of_x[j] + of_h[j] + b[j]) for j in range(2 * H)]
    q = [of_h[2 * H + j] + bh[j] for j in range(H)]
    new = [math.tanh(of_x[2 * H + j] + b[2 * H + j] + z[H + j] * q[j]) for j in range(H)]
    new = [new[j] * mask[j] for j in range(H)]
    return ([(1 - z[j]) * h[j] + z[j] * new[j] for j in range(H)],)


def naive_slstm(state, A, Wh, more, m, mask=None):
    h, c, n, top = state
    H, K = len(h), Wh.shape[1] // 4

    def of_gate(gate, j):
        own = range(j // K * K, j // K * K + K)  # the units of the head
        return A[gate * H + j] + sum(h[k] * m[k] * Wh[k, gate * K + j % K] for k in own)

    new = []
    for j in range(H):
        kept, i = math.log(sigmoid(of_gate(0, j))) + top[j], of_gate(2, j)
        highest = i if n[j] == 0 else max(kept, i)
        f, i = math.exp(min(kept - highest, 0.0)), math.exp(i - highest)
        cell, norm = f * c[j] + i * math.tanh(of_gate(1, j)), f * n[j] + i
        new.append((sigmoid(of_gate(3, j)) * cell / norm, cell, norm, highest))
    return zip(*new, strict=True)


NAIVE = {"rnn": naive_rnn, "lstm": naive_lstm, "gru": naive_gru, "lstmp": naive_lstmp}
NAIVE["slstm"] = naive_slstm
FROM_X = {"mogrifier": naive_mogrifier, "lnlstm": naive_lnlstm, "lngru": naive_lngru}


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.one_in(6, rest=2)
def test_forward_is_the_naive_formula(cell, options, reverse, bias, states, mask, lengths):
    N, T, D, H = shape = 5, 4, 5, 2
    keywords = {"bias": bias, "states": states, "reverse": reverse, "mask": mask}
    p = make_problem(cell, shape, "float64", seed=1, lengths=lengths, **keywords, **options)
    Wx, Wh, b, *beside = p.params
    b0, b1 = b if options.get("reset_after") and bias else (b, [0.0] * Wx.shape[1])
    more = {"gru": b1}.get(cell.name, beside[0] if beside else None)
    P = len(Wh)  # the width of h
    hs, state, _ = load(cell.name, "reference").forward(p.xs, p.state, p.params, **p.keywords)

    for n in range(N):
        zeros = [[0.0] * width for width in widths(cell, H, P)]
        s = [list(a[n]) for a in p.state] if states else zeros
        end = p.keywords["lengths"][n] if lengths else T
        assert (hs[n, end:] == 0).all()
        for t in range(end)[:: -1 if reverse else 1]:
            x = p.xs[n, t]
            A = [
                sum(x[d] * Wx[d, j] for d in range(D)) + (b0[j] if bias else 0.0)
                for j in range(Wx.shape[1])
            ]
            m = p.keywords["h_mask"][n] if mask else [1.0] * P
            of_step = p.keywords.get("candidate_mask", np.ones((N, T, H)))[n, t]
            if cell.name in FROM_X:
                own = b if bias else [0.0] * cell.gates * H
                new = FROM_X[cell.name](s, x, Wx, Wh, own, beside, m, of_step)
            else:
                new = NAIVE[cell.name](s, A, Wh, more, m, of_step, **p.options)
            shares = [
                p.keywords[name][n, t] if name in p.keywords else [0.0] * len(old)
                for name, old in zip(("h_zoneout", "c_zoneout"), s, strict=False)
            ]
            s = [
                [z * a + (1 - z) * b for z, a, b in zip(*of_one, strict=True)]
                for of_one in itertools.zip_longest(shares, s, new, fillvalue=[0.0] * H)
            ]
            np.testing.assert_allclose(hs[n, t], s[0], rtol=1e-13, atol=1e-14)
        for got, expected in zip(state, s, strict=True):
            np.testing.assert_allclose(got[n], expected, rtol=1e-13, atol=1e-14)


def test_rnn_by_hand():
    """A = 1*0.5 + 0.25*(-1) + 0.1 = 0.35; d tanh = 1 - tanh^2."""
    params = np.array([[0.5]]), np.array([[-1.0]]), np.array([0.1])
    xs, h0 = np.array([[[1.0]]]), np.array([[0.25]])
    hs, (h,), cache = rnn.forward(xs, (h0,), params)
    grads = [np.empty((1, 1)), np.empty((1, 1)), np.empty(1)]
    dxs, (dh,) = rnn.backward(np.array([[[2.0]]]), (np.array([[1.0]]),), params, cache, grads)

    tanh = 0.3363755443363322  # tanh(0.35)
    dA = 3 * (1 - tanh**2)
    np.testing.assert_allclose([hs.item(), h.item()], tanh, rtol=1e-14)
    np.testing.assert_allclose([dxs.item(), dh.item()], [0.5 * dA, -dA], rtol=1e-14)
    np.testing.assert_allclose([g.item() for g in grads], [dA, 0.25 * dA, dA], rtol=1e-14)


def test_relu_rnn_by_hand():
    """h = 2, then 3*1 + 2*(-2) < 0: the second step is cut, and its gradient with it."""
    params = np.array([[1.0]]), np.array([[-2.0]]), None
    hs, _, cache = rnn.forward(np.array([[[2.0], [3.0]]]), None, params, nonlinearity="relu")
    grads = [np.empty((1, 1)), np.empty((1, 1))]
    dxs, (dh,) = rnn.backward(np.array([[[5.0], [7.0]]]), None, params, cache, grads)
    assert hs.tolist() == [[[2.0], [0.0]]]
    assert dxs.tolist() == [[[5.0], [0.0]]]
    assert (dh.item(), grads[0].item(), grads[1].item()) == (-10.0, 10.0, 0.0)


def test_lstm_by_hand():
    """Only biases: f, i, o are 3/4, 1/3, 1/5 and g is tanh(log 2) = 3/5."""
    b = np.log([3.0, 2.0, 0.5, 0.25])
    params = np.zeros((1, 4)), np.zeros((1, 4)), b
    state = np.array([[9.0]]), np.array([[2.0]])
    hs, (h, c), cache = lstm.forward(np.array([[[8.0]]]), state, params)
    grads = [np.empty((1, 4)), np.empty((1, 4)), np.empty(4)]
    _, (dh, dc) = lstm.backward(np.zeros((1, 1, 1)), (0 * h, 0 * c + 1), params, cache, grads)

    np.testing.assert_allclose(c, [[1.7]], rtol=1e-14)  # 3/4 * 2 + 3/5 * 1/3
    np.testing.assert_allclose(hs, [[[math.tanh(1.7) / 5]]], rtol=1e-14)
    np.testing.assert_array_equal(h, hs[:, 0])
    np.testing.assert_allclose(dc, [[0.75]], rtol=1e-14)
    dA = [2 * 3 / 16, (1 - 0.36) / 3, 0.6 * 2 / 9, 0.0]  # c' f(1-f), i(1-g^2), g i(1-i), none
    np.testing.assert_allclose(grads[2], dA, rtol=1e-14)
    np.testing.assert_allclose(grads[1][0], np.multiply(9, dA), rtol=1e-14)
    np.testing.assert_allclose(grads[0][0], np.multiply(8, dA), rtol=1e-14)
    assert dh.item() == 0.0


def test_gru_by_hand():
    """z = 1/4, r = 1/2 and the candidate tanh(0.5 * 4 * 1 - 2 + log 2) = 3/5."""
    b = np.array([-math.log(3), 0.0, math.log(2) - 2])
    params = np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]]), b
    h0 = np.array([[4.0]])
    hs, _, cache = gru.forward(np.zeros((1, 1, 1)), (h0,), params)
    grads = [np.empty((1, 3)), np.empty((1, 3)), np.empty(3)]
    _, (dh,) = gru.backward(np.ones((1, 1, 1)), None, params, cache, grads)

    np.testing.assert_allclose(hs, [[[3.15]]], rtol=1e-14)  # 3/4 * 4 + 1/4 * 3/5
    dA_c = 0.25 * 0.64
    dA = [-3.4 * 3 / 16, dA_c * 4 / 4, dA_c]  # (~h - h') z(1-z), h' r(1-r), z(1 - ~h^2)
    np.testing.assert_allclose(grads[2], dA, rtol=1e-13)
    np.testing.assert_allclose(grads[1][0], [4 * dA[0], 4 * dA[1], 2 * dA_c], rtol=1e-13)
    np.testing.assert_allclose(dh, [[0.75 + dA_c / 2]], rtol=1e-13)


SLSTM = Cell("slstm", gates=4, states=4)


def test_slstm_by_hand():
    """l = log 1/2 and A_i = log 3; m is A_i for the first of two units, l + m' for the second."""
    b = np.zeros(8)
    b[2:4], b[4:6], b[6:] = math.log(2), math.log(3), math.log(4)
    params, one = (np.zeros((1, 8)), np.zeros((2, 4)), b), np.ones((1, 2))
    state = 9 * one, 2 * one, 4 * one, np.array([[0.0, math.log(12)]])
    hs, (h, c, n, m), _ = slstm.forward(np.array([[[8.0]]]), state, params)
    np.testing.assert_allclose(m, [[math.log(3), math.log(6)]], rtol=1e-14)
    np.testing.assert_allclose(c, [[2 / 6 + 0.6, 2 + 0.6 / 2]], rtol=1e-14)  # f c' + i g
    np.testing.assert_allclose(n, [[4 / 6 + 1, 4 + 1 / 2]], rtol=1e-14)  # f n' + i
    np.testing.assert_allclose(hs[:, 0], 0.8 * c / n, rtol=1e-14)
    np.testing.assert_array_equal(h, hs[:, 0])


def test_slstm_is_the_papers_without_stabiliser():
    """Its c, n and h as they are: with exp(A_i), from zeros and without m."""
    p = make_problem(SLSTM, (3, 6, 4, 8), "float64", states=False)
    Wx, Wh, b = p.params
    hs, (_, c, n, m), _ = slstm.forward(p.xs, None, p.params)
    whole = np.zeros((8, 4, 8))  # Wh, with zeros between the heads
    for j in range(8):
        whole[j, :, j // 2 * 2 : j // 2 * 2 + 2] = Wh[j].reshape(4, 2)
    h, cell, norm = np.zeros((3, 3, 8))
    for t in range(6):
        f, g, i, o = np.split(p.xs[:, t] @ Wx + h @ whole.reshape(8, 32) + b, 4, axis=1)
        f = 1 / (1 + np.exp(-f))
        cell, norm = f * cell + np.exp(i) * np.tanh(g), f * norm + np.exp(i)
        h = cell / norm / (1 + np.exp(-o))
        assert_close(hs[:, t], h)
    assert_close(c * np.exp(m), cell)
    assert_close(n * np.exp(m), norm)


@pytest.mark.parametrize("lengths", [False, True])
def test_slstm_from_a_normaliser_of_zero(lengths):
    """m is then A_i, whatever m' is: gradients of all but n', in which h is not continuous."""
    p = make_problem(SLSTM, (3, 2, 2, 4), "float64", lengths=lengths)
    h, c, n, m = p.state
    n[:, :3] = 0
    m[:, 0] = 50  # f is 1, its bound
    m[:, 1] = -50

    def loss():
        hs, state, _ = slstm.forward(p.xs, p.state, p.params, train=False, **p.keywords)
        return (hs * p.dhs).sum() + sum((s * d).sum() for s, d in zip(state, p.dstate, strict=True))

    got = p.run(slstm)
    pairs = [(p.xs, got.dxs), *zip((h, c, m), got.dstate[:2] + got.dstate[3:], strict=True)]
    for array, grad in (*pairs, *zip(p.params, got.grads, strict=True)):
        assert_close(grad, numeric_grad(loss, array), tolerance=NUMERIC_TOLERANCE)


@cells
def test_reverse_is_the_reversed_sequence(cell):
    p = make_problem(cell, (2, 5, 3, 4), "float64")
    module = load(cell.name, "reference")
    expected = p.run(module)
    p.xs, p.dhs, p.keywords = p.xs[:, ::-1], p.dhs[:, ::-1], {"reverse": True}
    got = p.run(module)
    got.hs, got.dxs = got.hs[:, ::-1], got.dxs[:, ::-1]
    assert_same_bits(got, expected)


@cells
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_inputs_saturate_quietly(cell, dtype):
    """Pre-activations of +-1000 and more; the autouse fixture turns any warning into an error."""
    p = make_problem(cell, (4, 3, 2, 3), dtype)
    p.xs *= 1000
    got = p.run(load(cell.name, "reference"))
    assert all(np.isfinite(a).all() for _, a in (*got.arrays(), *got.named_grads()))
    assert all(a.dtype == dtype for _, a in (*got.arrays(), *got.named_grads()))


# Ops


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid(dtype):
    x = np.array([-np.inf, -1e4, -50, -math.log(3), 0, math.log(3), 50, 1e4, np.inf, np.nan], dtype)
    y = ops.sigmoid(x)
    expected = [0, 0, math.exp(-50), 0.25, 0.5, 0.75, 1, 1, 1, np.nan]
    np.testing.assert_allclose(y, expected, rtol=2e-6 if dtype == "float32" else 1e-15)
    assert y.dtype == dtype


@pytest.mark.parametrize("bias", [True, False])
def test_affine_gradients_are_the_numeric_ones(bias):
    rng = np.random.default_rng(0)
    x, W, dy = (rng.standard_normal(size) for size in ((4, 3), (3, 2), (4, 2)))
    b = rng.standard_normal(2) if bias else None
    expected = [[sum(x[m, k] * W[k, n] for k in range(3)) for n in range(2)] for m in range(4)]
    y = ops.affine_forward(x, W, b)
    np.testing.assert_allclose(y, np.array(expected) + (b if bias else 0), rtol=1e-13)

    dW, db = np.full_like(W, np.nan), np.full(2, np.nan) if bias else None
    dx = ops.affine_backward(dy, x, W, dW, db)
    pairs = [(x, dx), (W, dW), (b, db)] if bias else [(x, dx), (W, dW)]
    for array, grad in pairs:
        numeric = numeric_grad(lambda: (ops.affine_forward(x, W, b) * dy).sum(), array)
        assert_close(grad, numeric, tolerance=NUMERIC_TOLERANCE)


def test_embedding_by_hand():
    W = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    ids = np.array([[2, 0, 2]], dtype=np.uint8)
    out = ops.embedding_forward(ids, W)
    assert out.tolist() == [[[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]]
    assert not np.shares_memory(out, W)
    dW = np.full_like(W, np.nan)
    ops.embedding_backward(np.array([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]]), ids, dW)
    assert dW.tolist() == [[2.0, 20.0], [0.0, 0.0], [5.0, 50.0]]


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        ([0, 3], ValueError, r"ids must be in \[0, 3\), got 3"),
        ([-1, 0], ValueError, r"ids must be in \[0, 3\), got -1"),
        ([0.0, 1.0], TypeError, "ids must be integers, got float64"),
        ([True, False], TypeError, "ids must be integers, got bool"),
    ],
)
def test_embedding_rejects_ids(ids, error, text):
    W, ids = np.ones((3, 2)), np.array(ids)
    with pytest.raises(error, match=text):
        ops.embedding_forward(ids, W)
    with pytest.raises(error, match=text):
        ops.embedding_backward(np.ones((2, 2)), ids, W)
    assert (W == 1).all()


def test_softmax_loss_by_hand():
    """Softmax (1/4, 3/4) and (1/2, 1/2); the third row is ignored, whatever is in it."""
    xs = np.array([[0.0, math.log(3)], [5.0, 5.0], [np.nan, np.inf]])
    loss, cache = ops.softmax_loss_forward(xs, np.array([1, 0, -1]))
    assert isinstance(loss, float)
    assert loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-14)
    expected = np.array([[1 / 8, -1 / 8], [-1 / 4, 1 / 4], [0, 0]])
    for dout in (1.0, 3.0):  # it may be asked more than once
        dxs = ops.softmax_loss_backward(cache, dout)
        np.testing.assert_allclose(dxs, dout * expected, rtol=1e-14)


@pytest.mark.parametrize("ignore_label", [-1, 2])
def test_softmax_loss_gradient_is_the_numeric_one(ignore_label):
    xs = np.random.default_rng(0).standard_normal((5, 4))
    ts = np.array([3, ignore_label, 0, 1, ignore_label])

    def loss():
        return ops.softmax_loss_forward(xs, ts, ignore_label=ignore_label)[0] * 2.5

    _, cache = ops.softmax_loss_forward(xs, ts, ignore_label=ignore_label)
    dxs = ops.softmax_loss_backward(cache, 2.5)
    assert_close(dxs, numeric_grad(loss, xs), "dxs", NUMERIC_TOLERANCE)


@pytest.mark.parametrize(("M", "V"), [(3, 4), (0, 4), (2, 0), (0, 0)])
def test_softmax_loss_of_nothing_is_zero(M, V):
    loss, cache = ops.softmax_loss_forward(np.ones((M, V), "f"), np.full(M, -1))
    assert loss == 0.0
    assert ops.softmax_loss_backward(cache).tolist() == np.zeros((M, V)).tolist()


def test_softmax_loss_of_extreme_logits():
    """1e4 does not overflow and -inf is a probability of zero; only an undefined row is NaN."""
    inf = np.inf
    xs = np.array([[1e4, 0], [-inf, 3], [-1e4, -1e4]], dtype=np.float32)
    loss, cache = ops.softmax_loss_forward(xs, np.array([0, 1, 0]))
    assert loss == pytest.approx(math.log(2) / 3, rel=1e-14)
    expected = np.array([[0, 0], [0, 0], [-1 / 6, 1 / 6]])
    np.testing.assert_allclose(ops.softmax_loss_backward(cache), expected, rtol=1e-7)
    assert ops.softmax_loss_forward(xs, np.array([0, 0, 0]))[0] == inf
    assert math.isnan(ops.softmax_loss_forward(np.full((1, 2), -inf), np.array([0]))[0])


@pytest.mark.parametrize("target", [4, -2])
def test_softmax_loss_rejects_targets(target):
    with pytest.raises(ValueError, match=rf"ts must be in \[0, 4\), got {target}"):
        ops.softmax_loss_forward(np.ones((2, 4)), np.array([0, target]))


def test_dropout_mask_depends_on_key_and_step_alone():
    def draw(seed=5, layer=1, step=2, dtype=np.float32):
        return ops.dropout_mask((50, 40), 0.25, (seed, layer), step, dtype)

    mask = draw()
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {np.float32(0), np.float32(4 / 3)}
    assert abs((mask == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(mask, draw())
    np.testing.assert_array_equal(mask != 0, draw(dtype=np.float64) != 0)
    for other in (draw(seed=6), draw(layer=2), draw(step=3)):
        assert 0.3 < (mask != other).mean() < 0.45  # 2 * 0.25 * 0.75 when independent
    assert (ops.dropout_mask((9,), 0.0, (0, 0), 0, np.dtype("f8")) == 1).all()


def test_dropout_mask_is_pinned():
    """Another NumPy or another column must not draw another mask."""
    mask = ops.dropout_mask((2, 8), 0.5, (1984, 3), 7, np.float32)
    assert mask.tolist() == [[0, 0, 0, 2, 0, 0, 0, 0], [0, 2, 0, 0, 2, 0, 2, 2]]
