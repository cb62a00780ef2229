"""SGD, Adam and clipping against their formulas; shared parameters."""

import math

import numpy as np
import pytest

from rnnfast.optim import SGD, Adam, clip_grads, remove_duplicate


def arrays(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in [(3, 4), (4,), (2, 2)]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd(dtype):
    params, grads = arrays(0, dtype), arrays(1, dtype)
    before = [param.copy() for param in params]
    SGD(lr=0.5).update(params, grads)
    for param, old, grad in zip(params, before, grads, strict=True):
        np.testing.assert_array_equal(param, old - dtype(0.5) * grad)
        assert param.dtype == dtype


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_adam_against_the_paper(dtype, tolerance):
    """Element by element, with the bias correction moved into the rate, epsilon 1e-7."""
    params, optimizer = arrays(0, dtype), Adam(lr=0.01, beta1=0.8, beta2=0.95)
    identities = [id(param) for param in params]
    expected = [param.astype(np.float64) for param in params]
    m = [np.zeros_like(param) for param in expected]
    v = [np.zeros_like(param) for param in expected]
    for step in range(1, 4):
        grads = arrays(step, dtype)
        optimizer.update(params, grads)
        for i, grad in enumerate(grads):
            for k in np.ndindex(grad.shape):
                g = float(grad[k])
                m[i][k] = 0.8 * m[i][k] + 0.2 * g
                v[i][k] = 0.95 * v[i][k] + 0.05 * g * g
                rate = 0.01 * math.sqrt(1 - 0.95**step) / (1 - 0.8**step)
                expected[i][k] -= rate * m[i][k] / (math.sqrt(v[i][k]) + 1e-7)
    assert [id(param) for param in params] == identities
    for param, wanted in zip(params, expected, strict=True):
        assert param.dtype == dtype
        np.testing.assert_allclose(param, wanted, rtol=0, atol=tolerance)
    assert all(moment.dtype == dtype for moment in optimizer.m + optimizer.v)


def test_adam_refuses_other_parameters():
    optimizer, params = Adam(), arrays(0)
    optimizer.update(params, arrays(1))
    with pytest.raises(ValueError, match="not those of the first update"):
        optimizer.update(params[:2], arrays(1)[:2])


def test_clip_grads():
    grads = [np.array([3.0, 0.0]), np.array([[4.0]])]
    identities = [id(grad) for grad in grads]
    assert clip_grads(grads, 10.0) == 5.0
    assert grads[0].tolist() == [3.0, 0.0] and grads[1].tolist() == [[4.0]]  # below: untouched
    assert clip_grads(grads, 1.0) == 5.0
    np.testing.assert_allclose(grads[0], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(grads[1], [[0.8]], rtol=1e-6)
    assert [id(grad) for grad in grads] == identities


def test_clip_norm_is_summed_in_float64():
    grads = [np.full(4_000_000, 1e-3, np.float32), np.array([1e3], np.float32)]
    expected = math.sqrt(4_000_000 * float(np.float32(1e-3)) ** 2 + 1e6)
    assert clip_grads(grads, 1e9) == pytest.approx(expected, rel=1e-8)


def test_shared_parameters_are_found_by_memory_not_by_value():
    W = np.ones((2, 2))
    other = np.ones((2, 2))  # equal values, its own memory
    grads = [np.full((2, 2), g) for g in (1.0, 2.0, 4.0)] + [np.array([[0.0, 8.0], [0.0, 0.0]])]
    params, merged = remove_duplicate([W, other, W, W.T], grads)
    assert [id(param) for param in params] == [id(W), id(other)]
    assert [id(grad) for grad in merged] == [id(grads[0]), id(grads[1])]
    assert merged[0].tolist() == [[5.0, 5.0], [13.0, 5.0]]  # 1 + 4 + the tied one transposed
    assert merged[1].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_tied_weights_move_once():
    """Adam on W and W.T is Adam on W with the sum of both gradients."""
    rng = np.random.default_rng(0)
    W, dW, dW_tied = rng.standard_normal((3, 5, 4))
    dW_tied = dW_tied.T.copy()
    alone = W.copy()
    Adam().update([alone], [dW + dW_tied.T])
    Adam().update([W, W.T], [dW, dW_tied])
    np.testing.assert_array_equal(W, alone)


def test_parts_of_one_array_are_not_shared():
    block = np.zeros((4, 6))
    params, _ = remove_duplicate([block[:, :3], block[:, 3:], block[:2]], [0, 0, 0])
    assert len(params) == 3
    with pytest.raises(ValueError, match="one gradient a parameter, got 1 for 2"):
        remove_duplicate(params[:2], [0])


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_views_are_updated_like_arrays(optimizer):
    rng = np.random.default_rng(0)
    W, dW = rng.standard_normal((2, 6, 8))
    expected, grad = W[::2, 1:7].copy(), dW[::2, 1:7].copy()
    optimizer().update([expected], [grad])
    optimizer().update([W[::2, 1:7]], [dW[::2, 1:7]])
    np.testing.assert_array_equal(W[::2, 1:7], expected)


def test_gradients_of_another_type_are_cast():
    param = np.ones(3, np.float32)
    SGD(0.5).update([param], [np.full(3, 0.5)])
    np.testing.assert_array_equal(param, np.full(3, 0.75, np.float32))


def test_other_types_are_left_to_numpy():
    param, grad = np.ones(3, np.float16), np.full(3, 2, np.float16)
    assert clip_grads([grad], 1e9) == pytest.approx(math.sqrt(12))
    SGD(0.25).update([param], [grad])
    np.testing.assert_array_equal(param, np.full(3, 0.5, np.float16))


def test_read_only_parameters_are_refused():
    param, grad = np.ones(3, np.float32), np.ones(3, np.float32)
    param.flags.writeable = False
    for optimizer in (SGD(), Adam()):
        with pytest.raises(ValueError, match="param must be writable, got a read-only"):
            optimizer.update([param], [grad])


def test_clipping_tiny_and_huge_float32_norms():
    """The squares do not overflow in float64."""
    assert clip_grads([np.full(4, 1e30, np.float32)], 1e-3) == pytest.approx(2e30)
    assert clip_grads([np.full(4, 1e-30, np.float32)], 1.0) == pytest.approx(2e-30)
    bad = np.array([1, np.nan], np.float32)
    assert math.isnan(clip_grads([bad], 1.0))
    assert bad[0] == 1
