"""Calls that lie about their arrays, or change them between forward and backward: a defined result
or an exception, never a read or a write outside an array."""

import os
import threading
import time

import numpy as np
import pytest

import rnnfast
from rnnfast.cpu import _runtime, lstm, ops, rnn


def normal(*shape):
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype("f")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy 2.5: of the assignment itself
def test_shape_of_inputs_assigned_between_forward_and_backward():
    results = []
    for spoil in (False, True):
        layer = rnnfast.TimeLSTM(normal(8, 32), normal(8, 32), normal(32), stateful=True)
        xs, h, c = normal(4, 6, 8), normal(4, 8), normal(4, 8)
        layer.set_state(h, c)
        mask = normal(4, 8)
        of_steps = {name: normal(4, 6, 8) for name in layer.of_steps}
        hs = layer.forward(xs, h_mask=mask, **of_steps)
        if spoil:
            for array in of_steps.values():
                array.shape = 2, 2, 48
            xs.shape, h.shape, c.shape, mask.shape = (2, 2, 48), (2, 16), (32, 1), (8, 4)
        dxs = layer.backward(np.ones_like(hs))
        results.append([dxs, *layer.grads, layer.dh, layer.dc])
    for plain, spoilt in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, spoilt)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy 2.5: of the assignment itself
def test_shape_of_logits_assigned_between_forward_and_backward():
    xs, ts = normal(4, 6), np.array([0, 5, 2, 3])
    _, cache = ops.softmax_loss_forward(xs, ts)
    before = ops.softmax_loss_backward(cache)
    xs.shape = (2, 12)
    np.testing.assert_array_equal(ops.softmax_loss_backward(cache), before)


def test_a_cache_is_used_once_by_two_threads():
    params = normal(32, 512), normal(128, 512), normal(512)
    for _ in range(20):
        hs, _, cache = lstm.forward(normal(8, 20, 32), None, params)
        strided = np.ones((8, 20, 256), "f")[:, :, ::2]
        outcomes = []
        gate = threading.Barrier(2)

        def backward(dhs, cache=cache, outcomes=outcomes, gate=gate):
            grads = tuple(np.zeros_like(p) for p in params)
            gate.wait()
            try:
                outcomes.append(lstm.backward(dhs, None, params, cache, grads)[0])
            except RuntimeError:
                outcomes.append(None)

        threads = [
            threading.Thread(target=backward, args=(d,)) for d in (np.ones_like(hs), strided)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(outcome is None for outcome in outcomes) == 1


class Liar(np.ndarray):
    @property
    def shape(self):
        return (64, 64)


def test_a_gradient_that_lies_about_its_shape():
    layer = rnnfast.TimeRNN(normal(64, 64), normal(64, 64), normal(64))
    hs = layer.forward(normal(2, 3, 64))
    layer.grads[0] = np.zeros((1, 1), "f").view(Liar)
    with pytest.raises(ValueError, match=r"grads \(dWx\) must be .* = \(64, 64\), got \(1, 1\)"):
        layer.backward(np.ones_like(hs))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux tells who runs where")
def test_threads_may_run_where_they_might_before():
    """A thread that wakes up on its caller's core goes to another one, and is not bound to it."""
    params, xs = (normal(64, 512), normal(128, 512), normal(512)), normal(16, 20, 64)
    before = os.sched_getaffinity(0)
    expected = lstm.forward(xs, None, params)[0]
    for core in (*sorted(before)[:2], None):
        os.sched_setaffinity(0, before if core is None else {core})  # of this thread alone
        try:
            for _ in range(5):
                time.sleep(0.01)  # the others fall asleep
                np.testing.assert_array_equal(lstm.forward(xs, None, params)[0], expected)
            for thread in map(int, os.listdir("/proc/self/task")):
                here = (before,) if core is None else (before, {core})
                for _ in range(1000):  # one that is just moving off a core needs a moment
                    if os.sched_getaffinity(thread) in here:
                        break
                    time.sleep(0.01)
                assert os.sched_getaffinity(thread) in here
        finally:
            os.sched_setaffinity(0, before)


def test_weights_whose_rooms_together_overflow_a_size():
    H = 1518500249
    D = (2**64 - 4 * (H + 16) - 8 * H - 512) // (64 * -(-H // 16)) - H + 1
    zero = np.float32(0)
    params = np.broadcast_to(zero, (D, H)), np.broadcast_to(zero, (H, H)), None
    with pytest.raises(ValueError, match="memory"):
        rnn.forward(np.broadcast_to(zero, (1, 1, D)), None, params, train=False)


@pytest.mark.parametrize(
    "forged", [None, (normal(4), 1, 2, 3), (normal(4, 4), normal(4), normal(4), 4)]
)
def test_a_forged_softmax_cache(forged):
    with pytest.raises(TypeError):
        ops.softmax_loss_backward(forged)


def test_the_instruction_set_changed_between_forward_and_backward():
    params = normal(5, 44), normal(11, 44), normal(44)
    xs, before = normal(3, 4, 5), _runtime.simd()
    results = []
    for other in _runtime.simds():
        hs, _, cache = lstm.forward(xs, None, params)
        grads = tuple(np.zeros_like(p) for p in params)
        _runtime.set_simd(other)
        try:
            dxs, _ = lstm.backward(np.ones_like(hs), None, params, cache, grads)
        finally:
            _runtime.set_simd(before)
        results.append((dxs, *grads))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_instruction_set_changed_between_pack_and_forward():
    params = normal(5, 44), normal(11, 44), normal(44)
    xs, before = normal(3, 4, 5), _runtime.simd()
    expected = lstm.forward(xs, None, params, train=False)[0]
    packed = lstm.pack(params)
    for other in _runtime.simds():
        _runtime.set_simd(other)
        try:
            hs = lstm.forward(xs, None, packed, train=False)[0]
        finally:
            _runtime.set_simd(before)
        np.testing.assert_array_equal(hs, expected)
