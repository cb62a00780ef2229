"""Weights of 16 and 8 bits: kernels against the reference, which rounds the same numbers."""

import os
import signal

import numpy as np
import pytest
from cases import CELLS, make_problem
from ways import USABLE

from rnnfast import data, kernels, models
from rnnfast.cpu import _runtime
from rnnfast.training.evaluation import eval_perplexity

BY_NAME = {cell.name: cell for cell in CELLS}
VARIANTS = [
    ("rnn", {}),
    ("rnn", {"zoneout": True}),
    ("lstm", {}),
    ("lstm", {"peepholes": "diagonal", "cell_clip": 0.7, "recurrent_dropout": True}),
    ("gru", {}),
    ("gru", {"z_keeps": True, "zoneout": True}),
    ("gru", {"recurrent_dropout": True}),
    ("gru", {"reset_after": True}),
]
# Around the sizes of words, vectors, matrix registers and tiles; where x Wx is computed before
SHAPES = [
    (1, 3, 5, 7),
    (2, 2, 3, 1),
    (1, 40, 33, 100),
    (2, 3, 70, 40),
    (5, 3, 9, 16),
    (12, 3, 17, 33),
    (20, 3, 130, 100),
    (33, 2, 64, 64),
    (65, 2, 31, 48),
]
precisions = pytest.mark.parametrize("precision", ["bf16", "int8"])


def problem_of(cell, shape, **keywords):
    """float32; h has the same bound at every step, that of the first state and of masks."""
    problem = make_problem(BY_NAME[cell], shape, "float32", **keywords)
    if cell == "gru" and "candidate_mask" in problem.keywords:
        problem.keywords["candidate_mask"][:, :, 0] = 2.5
    if problem.state is not None:
        np.clip(problem.state[0], -1, 1, out=problem.state[0])
    return problem


def run(device, cell, problem, precision, **more):
    module = kernels.load(cell, device)
    packed = module.pack(problem.params, precision=precision, **problem.options)
    keywords = problem.keywords | more
    return module.forward(problem.xs, problem.state, packed, train=False, **keywords)


def part(problem, steps):
    """The arguments of the first steps."""
    at = {k: v[:, :steps] for k, v in problem.keywords.items() if getattr(v, "ndim", 0) == 3}
    return problem.xs[:, :steps], problem.keywords | at


@precisions
@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.one_in(3)
def test_each_step(way, cell, options, shape, precision):
    """The reference goes on from the state of the kernel, so that no rounding adds up.

    Only r h of a gru, rounded within its step, may be rounded to the other side. A single row is
    summed up in another order than several: calls of one step are compared alone.
    """
    problem = problem_of(cell, shape, mask=shape[0] % 2 == 1, **options)
    cpu, reference = (kernels.load(cell, device) for device in ("cpu", "reference"))
    packed, rounded = (
        module.pack(problem.params, precision=precision, **problem.options)
        for module in (cpu, reference)
    )
    tolerance = 1e-3 if cell == "gru" and not options.get("reset_after") else 1e-6
    whole = run("cpu", cell, problem, precision)[0]
    state = problem.state
    for t in sorted({0, shape[1] // 2, shape[1] - 1} - {1}):
        if t:
            xs, keywords = part(problem, t)
            state = cpu.forward(xs, problem.state, packed, train=False, **keywords)[1]
        xs, keywords = part(problem, t + 1)
        hs, after, _ = cpu.forward(xs, problem.state, packed, train=False, **keywords)
        if t or shape[0] > 1:
            np.testing.assert_array_equal(hs[:, t], whole[:, t])
        at = {k: v[:, t:] for k, v in keywords.items() if getattr(v, "ndim", 0) == 3}
        expected = reference.forward(xs[:, t:], state, rounded, train=False, **keywords | at)
        np.testing.assert_allclose(hs[:, t], expected[0][:, 0], atol=tolerance)
        for got, wanted in zip(after, expected[1], strict=True):
            np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=tolerance)


@precisions
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_as_float32_up_to_rounding(way, cell, precision):
    """reverse, lengths, no bias, no state."""
    for keywords in ({"reverse": True}, {"lengths": True}, {"bias": False, "states": False}):
        problem = problem_of(cell, (13, 9, 30, 45), **keywords)
        rough, exact = (run("cpu", cell, problem, p) for p in (precision, None))
        limit = 0.05 if precision == "bf16" else 0.15
        difference = np.abs(rough[0] - exact[0]).max()
        assert 0 < difference < limit
        if keywords == {"lengths": True}:
            for n, length in enumerate(problem.keywords["lengths"]):
                assert not rough[0][n, length:].any()
                if length == 0:
                    np.testing.assert_array_equal(rough[1][0][n], problem.state[0][n])


@precisions
def test_threads_and_ways_to_call(way, precision, threads):
    """The bits depend neither on threads nor on how the arrays lie."""
    for cell, shape in (
        ("lstm", (20, 6, 40, 130)),
        ("gru", (64, 3, 32, 48)),
        ("rnn", (1, 9, 64, 500)),
    ):
        problem = problem_of(cell, shape)
        found = []
        for count in (1, 2, 5):
            threads(count)
            found.append(run("cpu", cell, problem, precision))
        problem.xs = np.asfortranarray(problem.xs)
        problem.params = tuple(map(np.asfortranarray, problem.params))
        found.append(run("cpu", cell, problem, precision))
        for hs, state, _ in found[1:]:
            np.testing.assert_array_equal(hs, found[0][0])
            for a, b in zip(state, found[0][1], strict=True):
                np.testing.assert_array_equal(a, b)


@precisions
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_numbers_that_are_none(way, cell, precision):
    """NaN and infinity in one sample's x, h or mask stay there, and are seen in its hs."""
    clean = problem_of(cell, (18, 4, 20, 30), mask=True)
    expected = run("cpu", cell, clean, precision)[0]
    for bad in (np.nan, np.inf):
        for place in ("xs", "h", "h_mask"):
            problem = problem_of(cell, (18, 4, 20, 30), mask=True)
            array = {"xs": problem.xs, "h": problem.state[0], "h_mask": problem.keywords["h_mask"]}
            array[place][5, 1] = bad
            with np.errstate(all="ignore"):
                hs = run("cpu", cell, problem, precision)[0]
            others = np.arange(18) != 5
            np.testing.assert_array_equal(hs[others], expected[others])
            assert precision == "bf16" or np.isnan(hs[5]).any()


def test_large_and_tiny_numbers(way):
    """Each row of x and each device of the weights has its own scale in int8, also 0."""
    problem = problem_of("lstm", (6, 2, 20, 30), states=False)
    factors = np.float32(10.0) ** np.arange(-3, 3).reshape(6, 1, 1)
    small = problem.params[0] / 100  # so that no gate saturates
    problem.params = (small, *problem.params[1:])
    problem.xs *= factors
    problem.xs[2] = 0
    problem.params[0][:, 7] *= 1e-3
    problem.params[1][:, 8] = 0
    rough, exact = (run("cpu", "lstm", problem, p)[0] for p in ("int8", None))
    np.testing.assert_allclose(rough, exact, atol=0.02)
    large = problem_of("gru", (3, 2, 20, 30))
    large.state[0][...] *= 100  # far beyond [-1, 1]: the bound is that of the state
    rough, exact = (run("cpu", "gru", large, p)[0] for p in ("int8", None))
    assert np.abs(rough - exact).max() < 0.05 * np.abs(large.state[0]).max()


def refused(module, params, **options):
    with pytest.raises((TypeError, ValueError)) as caught:
        module.pack(params, **options)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_what_is_refused(device):
    """With the same words in both devices."""

    def params(cell, dtype="float32", **options):
        return make_problem(BY_NAME[cell], (1, 1, 2, 3), dtype, **options).params

    relu = {"nonlinearity": "relu"}
    lstm, rnn = kernels.load("lstm", device), kernels.load("rnn", device)
    assert refused(lstm, params("lstm"), precision="fp8") == (
        ValueError,
        "lstm: precision must be None, 'bf16' or 'int8', got 'fp8'",
    )
    assert refused(lstm, params("lstm", "float64"), precision="bf16") == (
        TypeError,
        "lstm: precision 'bf16' is for float32 params, got float64",
    )
    assert refused(lstm, params("lstm", peepholes="full"), precision="int8") == (
        ValueError,
        "lstm: precision must be None with Wp (3, H, H), got 'int8'",
    )
    assert refused(rnn, params("rnn"), precision="int8", **relu) == (
        ValueError,
        'rnn: precision \'int8\' is for nonlinearity="tanh", got "relu"',
    )
    assert rnn.pack(params("rnn"), precision="bf16", **relu)
    for name in ("mogrifier", "lstmp", "lnlstm", "lngru"):
        kind, message = refused(kernels.load(name, device), params(name), precision="bf16")
        assert kind is ValueError
        assert "precision must be None" in message
    packed = rnn.pack(params("rnn"), precision="int8")
    with pytest.raises(ValueError, match="'int8' is for nonlinearity"):
        rnn.forward(np.zeros((1, 1, 2), "f4"), None, packed, train=False, **relu)


def test_a_sum_that_would_overflow():
    for device in ("cpu", "reference"):
        params = np.zeros((2**16 + 1, 1), "f4"), np.zeros((1, 1), "f4"), None
        kind, message = refused(kernels.load("rnn", device), params, precision="int8")
        assert kind is ValueError
        assert message == "rnn: D and H must be up to 65536 with precision 'int8', got 65537"
        assert kernels.load("rnn", device).pack(params, precision="bf16")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Unix has timers that send a signal")
@precisions
def test_a_handler_that_calls_a_frozen_layer(precision):
    """In the middle of a long call, also in matrix registers, which both need."""
    problem = problem_of("lstm", (32, 400, 256, 256))
    expected = run("cpu", "lstm", problem, precision)[0]
    small = problem_of("lstm", (4, 2, 8, 8))
    other = run("cpu", "lstm", small, precision)[0]
    calls = []

    def handler(*_):
        calls.append(run("cpu", "lstm", small, precision)[0])

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.05)
        for _ in range(100):
            hs = run("cpu", "lstm", problem, precision)[0]
            np.testing.assert_array_equal(hs, expected)
            if len(calls) > 3:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(calls) > 3
    for got in calls:
        np.testing.assert_array_equal(got, other)


def test_extensions():
    with pytest.raises(ValueError, match="'avx10' is not usable"):
        _runtime.set_extensions(["avx10"])
    assert _runtime.extensions() == USABLE


@precisions
def test_the_books_weights_on_penn_treebank(precision):
    """RNNFAST_TEST_DATA has ptb/ and Rnnlm.pkl (ch06): 122.7 on the first 20,000 words."""
    folder = os.environ.get("RNNFAST_TEST_DATA")
    if not folder or not os.path.exists(os.path.join(folder, "Rnnlm.pkl")):
        pytest.skip("RNNFAST_TEST_DATA with ptb and Rnnlm.pkl is not set")
    model = models.Rnnlm()
    model.load_params(os.path.join(folder, "Rnnlm.pkl"))
    corpus = data.load_ptb("test", os.path.join(folder, "ptb"))[0][:20001]
    exact = eval_perplexity(model, corpus, 1, 20)
    model.freeze(precision)
    rough = eval_perplexity(model, corpus, 1, 20)
    assert 0 < abs(rough / exact - 1) < (0.005 if precision == "bf16" else 0.015)


def test_the_bound_of_h_is_that_of_the_sample(way):
    """Samples of a batch are sorted by their lengths; each has a candidate_mask of its own size."""
    shape, lengths = (5, 6, 7, 9), np.array([2, 3, 6, 5, 6], np.intp)
    problem = problem_of("gru", shape)
    sizes = 2.0 ** np.arange(5, dtype="f")[:, None, None]
    mask = np.abs(np.random.default_rng(1).standard_normal((5, 6, 9)).astype("f")) * sizes
    found, expected = (
        run(column, "gru", problem, "int8", candidate_mask=mask, lengths=lengths)[0]
        for column in ("cpu", "reference")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
