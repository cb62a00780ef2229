"""float32 products in bfloat16, in training: kernels against the reference, which rounds alike."""

import numpy as np
import pytest
from cases import CELLS, assert_same_bits, make_problem

import rnnfast
from rnnfast import kernels

pytestmark = pytest.mark.usefixtures("medium")

BY_NAME = {cell.name: cell for cell in CELLS}
VARIANTS = [
    ("rnn", {}),
    ("rnn", {"nonlinearity": "relu", "zoneout": True}),
    ("lstm", {}),
    ("lstm", {"peepholes": "diagonal", "cell_clip": 0.7, "recurrent_dropout": True}),
    ("lstm", {"zoneout": True}),
    ("gru", {}),
    ("gru", {"z_keeps": True, "recurrent_dropout": True, "zoneout": True}),
    ("gru", {"reset_after": True, "zoneout": True}),
]
# Around the sizes of words, vectors, matrix registers, tiles and blocks of a sum; primes
SHAPES = [
    (1, 1, 3, 2),
    (1, 5, 33, 37),
    (2, 3, 1, 1),
    (4, 1, 33, 65),
    (5, 3, 9, 16),
    (13, 4, 31, 53),
    (20, 3, 130, 100),
    (33, 2, 64, 64),
    (65, 2, 31, 48),
    (420, 8, 3, 5),
]
# |error| / |reference|, of whole arrays. Sums of float32 may round a gate, and with it a factor, to
# the other side: one number in some thousands is off by 2^-8. Without rounding it is about 2e-3.
TOLERANCE = 7e-4
EXACT = 3e-6  # where no gate is rounded
cells = pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])


def problem_of(cell, shape, **keywords):
    return make_problem(BY_NAME[cell], shape, "float32", **keywords)


def distance(got, expected):
    """2-norm of the difference, as part of that of `expected`."""
    norm = np.linalg.norm(expected.astype("f8"))
    return np.linalg.norm(got.astype("f8") - expected) / (norm if norm else 1)


def assert_near(got, expected, tolerance=TOLERANCE):
    """Two Results."""
    for result in (got, expected):
        assert all(a.dtype == np.float32 for _, a in result.arrays())
    pairs = zip(
        (*got.arrays(), *got.named_grads()),
        (*expected.arrays(), *expected.named_grads()),
        strict=True,
    )
    for (name, a), (_, b) in pairs:
        assert a.shape == b.shape
        assert distance(a, b) <= tolerance, f"{name}: off by {distance(a, b):.1e}"


def farthest(got, expected):
    """The largest distance of the arrays of two Results."""
    pairs = zip(
        (*got.arrays(), *got.named_grads()),
        (*expected.arrays(), *expected.named_grads()),
        strict=True,
    )
    return max(distance(a, b) for (_, a), (_, b) in pairs)


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.one_in(3)
def test_as_the_reference(way, cell, options, shape):
    problem = problem_of(cell, shape, mask=shape[0] % 2 == 1, **options)
    got, expected = (problem.run(kernels.load(cell, name)) for name in ("cpu", "reference"))
    assert_near(got, expected)


@cells
@pytest.mark.parametrize(
    "keywords",
    [
        {"lengths": True},
        {"lengths": True, "reverse": True, "mask": True},
        {"reverse": True, "zoneout": True},
        {"bias": False, "states": False},
    ],
    ids=str,
)
def test_ways_to_call(way, cell, keywords):
    problem = problem_of(cell, (13, 9, 30, 45), **keywords)
    got, expected = (problem.run(kernels.load(cell, name)) for name in ("cpu", "reference"))
    assert_near(got, expected)


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.one_in(4)
def test_forward_is_that_of_frozen_weights(way, cell, options, shape):
    """The same bits, with training, without, and packed; test_reduced.py compares each step."""
    problem = problem_of(cell, shape, mask=shape[0] % 2 == 0, **options)
    module = kernels.load(cell, "cpu")
    packed = module.pack(problem.params, precision="bf16", **problem.options)
    expected = module.forward(problem.xs, problem.state, packed, train=False, **problem.keywords)
    for train in (True, False):
        hs, state, _ = module.forward(
            problem.xs, problem.state, problem.params, train=train, **problem.keywords
        )
        np.testing.assert_array_equal(hs, expected[0])
        for a, b in zip(state, expected[1], strict=True):
            np.testing.assert_array_equal(a, b)


@cells
def test_rounded_once(way, cell):
    """One step of a linear gate: weights of which bfloat16 holds all bits give float32's numbers.

    And no others: what is rounded matters.
    """
    problem = problem_of(cell, (20, 1, 50, 40), states=False)
    module = kernels.load(cell, "cpu")

    def coarse(a, bits):
        return (np.round(a * 2**bits) / 2**bits).astype("f4")

    problem.xs, problem.params = coarse(problem.xs, 4), tuple(coarse(p, 4) for p in problem.params)
    assert np.abs(problem.xs).max() < 8
    rough = module.forward(problem.xs, None, problem.params)[0]
    rnnfast.set_float32_matmul_precision("highest")
    exact = module.forward(problem.xs, None, problem.params)[0]
    assert distance(rough, exact) < EXACT
    problem.xs += np.float32(0.3)
    exact = module.forward(problem.xs, None, problem.params)[0]
    rnnfast.set_float32_matmul_precision("medium")
    assert 1e-5 < distance(module.forward(problem.xs, None, problem.params)[0], exact) < 1e-2


@pytest.mark.parametrize("shape", [(20, 6, 40, 130), (64, 3, 32, 48), (1, 9, 64, 300)], ids=str)
@cells
def test_threads_and_layouts(way, cell, shape, threads):
    """The bits depend neither on threads nor on how the arrays lie."""
    problem = problem_of(cell, shape, mask=True)
    module = kernels.load(cell, "cpu")
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append(problem.run(module))
    problem.xs = np.asfortranarray(problem.xs)
    problem.dhs = np.asfortranarray(problem.dhs)
    problem.params = tuple(map(np.asfortranarray, problem.params))
    found.append(problem.run(module))
    for other in found[1:]:
        assert_same_bits(other, found[0])


# Of the second, few samples, x Wx comes before the time loop
@pytest.mark.parametrize("shape", [(275, 4, 300, 310), (11, 7, 4000, 40)], ids=str)
@cells
def test_blocks_of_rows_and_columns(cell, shape, threads):
    """More than stays in L2, forward and in all products of backward."""
    problem = problem_of(cell, shape)
    expected, found = problem.run(kernels.load(cell, "reference")), []
    for count in (1, 3):
        threads(count)
        found.append(problem.run(kernels.load(cell, "cpu")))
        assert_near(found[-1], expected)
    assert_same_bits(*found)


@cells
def test_near_float32(way, cell):
    """And not the same: 7 bits are kept."""
    problem = problem_of(cell, (24, 10, 40, 60))
    rough = problem.run(kernels.load(cell, "cpu"))
    rnnfast.set_float32_matmul_precision("highest")
    exact = problem.run(kernels.load(cell, "cpu"))
    assert 1e-4 < farthest(rough, exact) < 3e-2


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm", {"peepholes": "full"}),
        ("mogrifier", {}),
        ("lstmp", {}),
        ("lnlstm", {}),
        ("lngru", {}),
        ("slstm", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_cells_that_stay_float32(cell, options, device):
    problem = problem_of(cell, (13, 4, 20, 24), **options)
    got = problem.run(kernels.load(cell, device))
    rnnfast.set_float32_matmul_precision("highest")
    assert_same_bits(got, problem.run(kernels.load(cell, device)))


@cells
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_what_changes_nothing(cell, device):
    """float64 with any precision; "high", on these devices."""
    module = kernels.load(cell, device)
    for dtype, names in (("float64", ("medium", "highest")), ("float32", ("high", "highest"))):
        problem = make_problem(BY_NAME[cell], (13, 4, 20, 24), dtype)
        found = []
        for name in names:
            rnnfast.set_float32_matmul_precision(name)
            found.append(problem.run(module))
        assert_same_bits(*found)


@cells
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_backward_as_its_forward(cell, device):
    """Also if the precision was set anew between the two."""
    problem = problem_of(cell, (13, 4, 20, 24))
    module = kernels.load(cell, device)
    expected = problem.run(module)
    hs, state, cache = module.forward(problem.xs, problem.state, problem.params)
    rnnfast.set_float32_matmul_precision("highest")
    grads = problem.poisoned_grads()
    dxs, dstate = module.backward(problem.dhs, problem.dstate, problem.params, cache, grads)
    assert_same_bits(type(expected)(hs, state, dxs, dstate, grads, problem.names), expected)


@cells
def test_numbers_that_are_none(way, cell):
    """NaN and infinity in one sample stay there, but for the gradients of weights."""
    clean = problem_of(cell, (18, 4, 20, 30), mask=True)
    expected = clean.run(kernels.load(cell, "cpu"))
    others = np.arange(18) != 5
    for bad in (np.nan, np.inf):
        for place in ("xs", "dhs"):
            problem = problem_of(cell, (18, 4, 20, 30), mask=True)
            getattr(problem, place)[5, 1] = bad
            with np.errstate(all="ignore"):
                got = problem.run(kernels.load(cell, "cpu"))
            for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
                np.testing.assert_array_equal(a[others], b[others], err_msg=name)
            assert not np.isfinite(got.dxs[5]).all()


def test_names():
    for name in ("highest", "high", "medium"):
        rnnfast.set_float32_matmul_precision(name)
        assert kernels.get_float32_matmul_precision() == name
    with pytest.raises(ValueError, match="must be 'highest', 'high' or 'medium', got 'low'"):
        rnnfast.set_float32_matmul_precision("low")
    assert kernels.get_float32_matmul_precision() == "medium"
