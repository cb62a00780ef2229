"""Signals that come during a long call of the cpu column."""

import os
import signal
import threading
import time
import traceback
from contextlib import contextmanager

import numpy as np
import pytest
from cases import PATIENCE

import rnnfast
from rnnfast.cpu import _runtime, ops, rnn

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"),
    reason="signals come to the main thread",
)
GATES = {"TimeRNN": 1, "TimeLSTM": 4, "TimeGRU": 3, "TimeLSTMP": 4}
GATES |= {"TimeLayerNormLSTM": 4, "TimeLayerNormGRU": 3, "TimeSLSTM": 4}
WHOLE = {"Wp": np.full((3, 512, 512), 0.001, "f")}
PROJECTION = {"Wproj": np.full((512, 512), 0.001, "f")}
LN_LSTM = {"gx": 2048, "gh": 2048, "gc": 512, "bc": 512}
LN_LSTM = {name: np.linspace(0.5, 1, size, dtype="f") for name, size in LN_LSTM.items()}
LN_GRU = {"gx": 1536, "gh": 1536, "bh": 512}
LN_GRU = {name: np.linspace(0.5, 1, size, dtype="f") for name, size in LN_GRU.items()}


class Stop(BaseException):
    """What the handler raises."""


@contextmanager
def alarm(seconds, handler=None):
    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, handler or stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stopped(call, when=0.02):
    """Whether the handler of a signal ended a call; else it came after the call, or before."""
    try:
        with alarm(when):
            call()
            time.sleep(PATIENCE)
    except Stop as stop:
        frames = traceback.extract_tb(stop.__traceback__)
        return any(frame.filename.endswith((".pyx", ".pxi")) for frame in frames)


def assert_stopped(call):
    """A long call looks for signals; call(n): n times a second of work, or so.

    Signals wait for 0.2 s: on a machine that is faster a longer call shows it.
    """
    assert any(stopped(lambda n=n: call(n)) for n in (1, 4, 16))


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request):
    rnnfast.set_num_threads(request.param)
    yield request.param
    _runtime.set_num_threads(0)


def weights(gates, D=512, H=512):
    rng = np.random.default_rng(0)
    shapes = (D, gates * H), (H, gates * H), (gates * H,)
    return [(rng.standard_normal(s) * 0.03).astype("f") for s in shapes]


def long_input(T=4000):
    """Some five seconds of work, and no memory."""
    return np.broadcast_to(np.full(512, 0.1, "f"), (64, T, 512))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TimeRNN", {}),
        ("TimeLSTM", {}),
        ("TimeGRU", {}),
        ("TimeLSTM", WHOLE),
        ("TimeLSTMP", PROJECTION),
        ("TimeLayerNormLSTM", LN_LSTM),
        ("TimeLayerNormGRU", LN_GRU),
        ("TimeSLSTM", {}),
    ],
    ids=["rnn", "lstm", "gru", "whole peepholes", "lstmp", "lnlstm", "lngru", "slstm"],
)
@pytest.mark.one_in(3)
def test_a_long_forward(name, options):
    layer = getattr(rnnfast, name)(*weights(GATES[name]), stateful=True, **options)
    short = np.random.default_rng(1).standard_normal((64, 2, 512)).astype("f")
    layer.forward(short)
    cache, state, values = layer.cache, layer.state, [a.copy() for a in layer.state]
    assert_stopped(lambda n: layer.forward(long_input(n * 4000), train=False))
    assert layer.cache is cache and all(a is b for a, b in zip(layer.state, state, strict=True))
    for a, b in zip(layer.state, values, strict=True):
        np.testing.assert_array_equal(a, b)
    layer.backward(np.ones((64, 2, 512), "f"))
    again = layer.forward(short)
    layer.set_state(*values)
    np.testing.assert_array_equal(layer.forward(short), again)


def test_the_second_half_of_a_layer():
    """Both directions, and stacks, are as before, too."""
    one = weights(1)
    both = rnnfast.TimeBiRNN(*one, *one, stateful=True)
    stack = rnnfast.TimeStack([rnnfast.TimeRNN(*one, stateful=True), both], 0.5, rng=1)
    xs = np.ones((4, 2, 512), "f")
    for layer, last in (both, both.parts[1]), (stack, both.parts[0]):
        layer.forward(xs)
        before, calls = layer._before(), []
        run, last._run = last._run, lambda *args, calls=calls, **kw: calls.append(1) or 1 / 0
        steps = [drop.step for drop in stack.drop_layers]
        with pytest.raises(ZeroDivisionError):
            layer.forward(xs + 1)
        assert calls and str(layer._before()) == str(before)
        assert steps == [drop.step for drop in stack.drop_layers]
        last._run = run
        layer.backward(np.ones((4, 2, 1024), "f"))


@pytest.mark.parametrize("when", [0.02, 0.5])
def test_a_long_backward_leaves_the_gradients(when):
    layer = rnnfast.TimeLSTM(*weights(4))
    xs = np.random.default_rng(1).standard_normal((64, 130, 512)).astype("f")
    layer.forward(xs)
    for g in layer.grads:
        g[...] = 7
    dhs = np.ones((64, 130, 512), "f")
    if stopped(lambda: layer.backward(dhs), when):
        assert all((g == 7).all() for g in layer.grads)
    else:
        assert not any((g == 7).any() for g in layer.grads)


CASES = {
    "rnn": ("TimeRNN", {}, {}),
    "rnn, zoneout": ("TimeRNN", {}, {"h_zoneout": 0.25}),
    "lstm": ("TimeLSTM", {}, {}),
    "whole peepholes": ("TimeLSTM", WHOLE, {}),
    "whole peepholes, zoneout": ("TimeLSTM", WHOLE, {"h_zoneout": 0.25, "c_zoneout": 0.5}),
    "lstmp": ("TimeLSTMP", PROJECTION, {}),
    "lstmp, zoneout": ("TimeLSTMP", PROJECTION, {"h_zoneout": 0.25, "c_zoneout": 0.5}),
    "lnlstm": ("TimeLayerNormLSTM", LN_LSTM, {}),
    "lnlstm, zoneout": ("TimeLayerNormLSTM", LN_LSTM, {"h_zoneout": 0.25, "c_zoneout": 0.5}),
    "lngru": ("TimeLayerNormGRU", LN_GRU, {}),
    "lngru, zoneout": ("TimeLayerNormGRU", LN_GRU, {"h_zoneout": 0.25}),
    "slstm": ("TimeSLSTM", {}, {}),
    "gru": ("TimeGRU", {}, {}),
    "gru, masked, of lengths": (
        "TimeGRU",
        {},
        {"h_mask": np.full((64, 512), 0.5, "f"), "lengths": -(np.arange(64) % 9)},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.one_in(24, rest=5)
def test_a_backward_that_was_stopped_may_be_called_again(case, threads):
    stop_and_call_again(case, threads)


def stop_and_call_again(case, threads, longer=1):
    """A stopped backward has overwritten what forward kept; computed again it is the same bits."""
    name, options, keywords = CASES[case]
    layer = getattr(rnnfast, name)(*weights(GATES[name]), stateful=True, **options)
    rng = np.random.default_rng(1)
    # signals may wait for 0.2 s
    steps = (300 if name == "TimeRNN" else 130) * threads * longer
    if "lengths" in keywords:  # from the end
        keywords = keywords | {"lengths": steps + keywords["lengths"]}
    shape = 64, steps, 512
    xs, dhs = (rng.standard_normal(shape).astype("f") for _ in range(2))
    h = np.full((64, 512), 0.1, "f")
    found = []
    for stops in (0, 1):
        layer.set_state(h)
        layer.forward(xs, **keywords)
        state = [a.copy() for a in layer.state]
        for _ in range(stops):
            if not stopped(lambda: layer.backward(dhs)):
                pytest.skip("backward is over before it looks for signals")
        found.append((layer.backward(dhs), *layer.dstate, *map(np.copy, layer.grads)))
        for one, other in zip(layer.state, state, strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(RuntimeError, match="needs the forward"):
        layer.backward(dhs)


@pytest.mark.parametrize("case", ["lstm", "gru, masked, of lengths"])
@pytest.mark.rest
def test_a_stopped_backward_in_bfloat16(case, threads, medium):
    stop_and_call_again(case, threads, longer=4)


def test_long_products_in_bfloat16(medium):
    test_long_products()


def test_long_products():
    W, b = np.full((512, 4096), 0.01, "f"), np.zeros(4096, "f")
    affine = rnnfast.Affine(W, b)
    assert_stopped(lambda n: affine.forward(np.broadcast_to(W[:, 0], (n * 90_000, 512))))
    assert affine.cache is None
    loss = rnnfast.layers.TimeAffineSoftmaxWithLoss(affine)
    ts = np.broadcast_to(0, (64, 100_000))
    assert_stopped(lambda n: loss.forward(long_input(n * 1500), ts[:, : n * 1500], train=False))
    assert affine.cache is None and loss.cache is None


def test_a_long_mixture_of_softmaxes():
    """Its chunks are short calls of the kernels, none of which looks for signals."""
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((64, 4096)).astype("f"), np.zeros(4096, "f")

    def inputs(M):
        hs, ts = np.broadcast_to(np.full(64, 0.1, "f"), (M, 8, 64)), np.zeros(M, int)
        return hs, np.zeros((M, 8), "f"), ts

    def scores(n):
        hs, prior, _ = inputs(n * 3000)
        ops.mixture_softmax(hs, prior, W, b)

    def losses(n):
        hs, prior, ts = inputs(n * 3000)
        ops.mixture_softmax_loss_forward(hs, prior, W, b, ts)

    for call in scores, losses:
        assert_stopped(call)


def test_a_handler_that_calls_the_layer_and_goes_on():
    """Its call runs within the long one; the long one ends as if nothing had been."""
    params = weights(1)
    xs, small, seen = long_input(400), np.ones((2, 3, 512), "f"), []
    expected = rnn.forward(xs, None, params, train=False)[0]
    of_small = rnn.forward(small, None, params, train=False)[0]

    def handler(number, frame):
        seen.append(rnn.forward(small, None, params, train=False)[0])

    with alarm(0.02, handler):
        for _ in range(2):
            got = rnn.forward(xs, None, params, train=False)[0]
            np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(seen[0], of_small)


def test_sums_of_long_columns():
    """A bias's gradient; the caller's array is written when all is done."""
    dy = np.broadcast_to(np.ones(20_000, "f"), (400_000, 20_000))
    x, W, db = np.ones((400_000, 0), "f"), np.ones((0, 20_000), "f"), np.full(20_000, 7, "f")
    with pytest.raises(Stop), alarm(0.02):
        ops.affine_backward(dy, x, W, np.zeros_like(W), db)
    assert (db == 7).all()


@pytest.mark.rest
def test_a_long_freeze():
    """The layer is as before: not frozen, its arrays writeable."""
    H = 256
    for rows in 98304, 4 * 98304:
        Wx = np.full((4 * H, rows), 0.001, "f").T  # its rows lie across: packing takes longer
        layer = rnnfast.TimeLSTM(Wx, np.full((H, 4 * H), 0.001, "f"), np.zeros(4 * H, "f"))
        if stopped(layer.freeze):
            break
    else:
        pytest.fail("packing has not looked for signals")
    assert not layer.frozen and all(W.flags.writeable for W in layer.params)
    xs = np.full((2, 3, Wx.shape[0]), 1e-4, "f")
    expected = layer.forward(xs, train=False)
    layer.freeze()
    np.testing.assert_array_equal(layer.forward(xs, train=False), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Unix has fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_handler_that_forks():
    """The child has one thread of the team alone: an error, and no wait for others."""
    layer = rnnfast.TimeRNN(*weights(1))
    before, child = rnnfast.get_num_threads(), []

    def fork(*_):
        if not child:
            child.append(os.fork())

    handler = signal.signal(signal.SIGALRM, fork)
    rnnfast.set_num_threads(2)
    try:
        layer.forward(long_input(50), train=False)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            while not child:
                layer.forward(long_input(4000), train=False)
            ended = 0
        except RuntimeError as error:
            ended = 3 if "forked during a call" in str(error) else 4
        if child[0] == 0:
            os._exit(ended)  # 0: the team had one thread, and the child went on
        assert ended == 0
        assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) in (0, 3)
    finally:
        if child == [0]:
            os._exit(5)
        signal.signal(signal.SIGALRM, handler)
        rnnfast.set_num_threads(before)
