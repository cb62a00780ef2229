"""Threads of Python in one layer or with one cache: an error or a right answer, GIL or not."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import PATIENCE, cells, make_problem

from rnnfast import kernels
from rnnfast.cpu import ops
from rnnfast.layers.cells import RECURRENT

THREADS = 4
USED = "was used by an earlier backward|has consumed this cache"


def at_once(work):
    """What each of THREADS calls of work(k), begun together, gives or raises."""
    start = threading.Barrier(THREADS)

    def begin(k):
        start.wait(PATIENCE)
        try:
            return work(k)
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS), timeout=PATIENCE))


def the_only_one(found):
    """The result of the only call that had one; the others were told why."""
    errors = [each for each in found if isinstance(each, Exception)]
    assert len(errors) == THREADS - 1
    for error in errors:
        with pytest.raises(RuntimeError, match=USED):
            raise error
    return next(each for each in found if not isinstance(each, Exception))


@cells
@pytest.mark.parametrize("lengths", [False, True])
def test_one_backward_takes_the_cache(cell, lengths):
    p = make_problem(cell, (6, 9, 7, 19), "float64", lengths=lengths)
    module = kernels.load(cell.name, "cpu")
    expected = p.run(module)
    for _ in range(20):
        *_, cache = module.forward(p.xs, p.state, p.params, **p.keywords)
        grads = [p.poisoned_grads() for _ in range(THREADS)]

        def work(k, cache=cache, grads=grads):
            return k, module.backward(p.dhs, p.dstate, p.params, cache, grads[k])

        k, (dxs, dstate) = the_only_one(at_once(work))
        np.testing.assert_array_equal(dxs, expected.dxs)
        for a, b in zip((*dstate, *grads[k]), (*expected.dstate, *expected.grads), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["affine_softmax_loss", "mixture_softmax_loss"])
def test_one_backward_takes_the_scores(name):
    rng = np.random.default_rng(0)
    shape = (30, 16) if name.startswith("affine") else (30, 2, 16)
    x, W, b = rng.standard_normal(shape), rng.standard_normal((16, 50)), np.zeros(50)
    inputs = (x,) if x.ndim == 2 else (x, rng.standard_normal((30, 2)))
    ts = rng.integers(0, 50, 30)
    forward, backward = getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")
    expected = np.empty_like(W)
    backward(forward(*inputs, W, b, ts)[1], expected, None)
    for _ in range(20):
        _, cache = forward(*inputs, W, b, ts)
        grads = [np.empty_like(W) for _ in range(THREADS)]

        def work(k, cache=cache, grads=grads):
            backward(cache, grads[k], None)
            return k

        np.testing.assert_array_equal(grads[the_only_one(at_once(work))], expected)


@cells
def test_inference_in_one_frozen_layer(cell):
    """Not stateful: nothing of a call stays behind."""
    p = make_problem(cell, (THREADS * 5, 6, 7, 19), "float64")
    layer, xs = RECURRENT[cell.name](*p.params[:3], **p.beside), np.split(p.xs, THREADS)
    layer.freeze()
    expected = [layer.forward(x, train=False) for x in xs]

    def work(k):
        return [layer.forward(xs[k], train=False) for _ in range(30)]

    for found, one in zip(at_once(work), expected, strict=True):
        for hs in found:
            np.testing.assert_array_equal(hs, one)


@cells
def test_no_thread_gets_the_gradients_of_another(cell):
    p = make_problem(cell, (5, 6, 7, 19), "float64")
    layer = RECURRENT[cell.name](*p.params[:3], **p.beside)
    layer.forward(p.xs)
    with ThreadPoolExecutor(1) as other:
        with pytest.raises(RuntimeError, match="in the same thread, got that of another"):
            other.submit(layer.backward, p.dhs).result(PATIENCE)
        other.submit(layer.forward, -p.xs).result(PATIENCE)
        with pytest.raises(RuntimeError, match="in the same thread, got that of another"):
            layer.backward(p.dhs)
        theirs = other.submit(layer.backward, p.dhs).result(PATIENCE)
    layer.forward(-p.xs)
    np.testing.assert_array_equal(layer.backward(p.dhs), theirs)


@cells
def test_training_in_one_layer_does_not_crash(cell):
    """Calls of others come between a forward and its backward: it finds their cache, or none."""
    p = make_problem(cell, (THREADS * 5, 6, 7, 19), "float64")
    layer = RECURRENT[cell.name](*p.params[:3], stateful=True, **p.beside)
    xs, dhs = np.split(p.xs, THREADS), p.dhs[:5]

    def work(k):
        done = 0
        for _ in range(60):
            assert layer.forward(xs[k]).shape == dhs.shape
            try:
                assert layer.backward(dhs).shape == xs[k].shape
                done += 1
            except RuntimeError:
                pass
        return done

    found = at_once(work)
    assert all(isinstance(each, int) for each in found), found
    assert sum(found) > 0
    layer.reset_state()
    layer.forward(xs[0])
    assert np.isfinite(layer.backward(dhs)).all()
