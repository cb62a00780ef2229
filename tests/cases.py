"""Cells x shapes x tolerances, and random problems: what every column is tested with.

A new cell is one row of CELLS.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from rnnfast.checks import beside
from rnnfast.kernels import load


@dataclass(frozen=True, eq=False)
class Cell:
    name: str
    gates: int  # blocks in Wx, Wh and b
    states: int  # 1: (h,), 2: (h, c), 4: (h, c, n, m)
    options: tuple = ({},)  # keyword arguments of make_problem, each set tested
    in_steps: bool = False  # no CUDA kernel runs all of its steps


# Options of make_problem that the CUDA column runs in steps
IN_STEPS = ("recurrent_dropout", "zoneout")
ZONED = dict.fromkeys(IN_STEPS, True)

CELLS = (
    Cell(
        "rnn",
        gates=1,
        states=1,
        options=({}, {"nonlinearity": "relu"}, {"zoneout": True}),
    ),
    Cell(
        "lstm",
        gates=4,
        states=2,
        options=(
            {},
            {"peepholes": "diagonal", "cell_clip": 0.7},
            {"peepholes": "full"},
            {"peepholes": "full", "cell_clip": 0.7},
            {"recurrent_dropout": True},
            {"zoneout": True},
            {"peepholes": "diagonal", "cell_clip": 0.7, "recurrent_dropout": True, "zoneout": True},
            {"peepholes": "full", "cell_clip": 0.7, "recurrent_dropout": True, "zoneout": True},
        ),
    ),
    Cell(
        "gru",
        gates=3,
        states=1,
        options=(
            {},
            {"reset_after": True},
            {"z_keeps": True, "reset_after": True},
            {"z_keeps": True},
            {"recurrent_dropout": True, "zoneout": True},
            {"z_keeps": True, "reset_after": True, "recurrent_dropout": True, "zoneout": True},
        ),
    ),
    Cell(
        "mogrifier",
        gates=4,
        states=2,
        options=(
            {},
            {"rounds": 1},
            {"rounds": 2, "rank": 3},
            {"rounds": 3} | ZONED,
        ),
        in_steps=True,
    ),
    Cell(
        "lstmp",
        gates=4,
        states=2,
        options=(
            {},
            {"proj_size": 19},
            {"cell_clip": 0.7},
            {"zoneout": True},
            {"cell_clip": 0.7} | ZONED,
        ),
        in_steps=True,
    ),
    Cell("lnlstm", gates=4, states=2, options=({}, ZONED), in_steps=True),
    Cell("lngru", gates=3, states=1, options=({}, ZONED), in_steps=True),
    Cell("slstm", gates=4, states=4, options=({}, {"heads": 1}), in_steps=True),
)
VARIANTS = [(cell, options) for cell in CELLS for options in cell.options]
IN_ONE_KERNEL = [
    (cell, options)
    for cell, options in VARIANTS
    if not cell.in_steps and options.get("peepholes") != "full" and not {*IN_STEPS} & {*options}
]


def widths(cell, H, proj_size=None):
    """The widths of h and of the other states; of an lstmp h has a width of its own."""
    P = proj_size or (H // 2 + 1 if cell.name == "lstmp" else H)
    return P, *(H,) * (cell.states - 1)


def heads_of(cell, H):
    """The heads of an slstm with H units, 1 for the other cells; a head has K = H / heads units."""
    return next(k for k in (4, 3, 2, 5, 7, 1) if H % k == 0) if cell.name == "slstm" else 1


def variant_name(cell, options):
    values = (name if value is True else str(value) for name, value in options.items())
    return "-".join((cell.name, *values))


# What a column may run in a way of its own gets all shapes, the others those of FEW_SHAPES
PLAIN = [(cell, options) for cell, options in VARIANTS if not options or "nonlinearity" in options]

cells = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
variants = pytest.mark.parametrize(
    ("cell", "options"), VARIANTS, ids=[variant_name(*variant) for variant in VARIANTS]
)

# N, T, D, H: ones, primes, and widths on and just off the SIMD widths 4, 8, 16, 32 and 64
SHAPES = (
    (1, 1, 1, 1),
    (1, 3, 2, 1),
    (2, 1, 3, 5),
    (3, 2, 5, 3),
    (2, 3, 1, 4),
    (5, 3, 4, 7),
    (7, 2, 7, 8),
    (4, 3, 8, 9),
    (3, 5, 9, 15),
    (6, 2, 17, 16),
    (2, 7, 16, 17),
    (8, 2, 15, 31),
    (5, 3, 31, 32),
    (9, 3, 32, 33),
    (11, 2, 33, 63),
    (3, 3, 65, 64),
    (13, 2, 63, 65),
    (1, 4, 100, 100),
    (17, 1, 64, 127),
    (33, 2, 13, 19),
    (2, 40, 3, 5),
    (3, 2, 300, 261),  # beyond one block of the matrix product in every direction
    (10, 3, 300, 261),  # weights beyond a megabyte, with rows for two tiles
    (131, 3, 6, 10),
    (4, 1, 33, 65),  # a single step of few rows, and of one more
    (5, 1, 33, 65),
    (420, 8, 3, 5),  # more rows than are packed at once for a weight gradient
)
# Few rows, one more; x Wx ahead or not; threads that own rows or units; one block and more
FEW_SHAPES = (
    (1, 1, 1, 1),
    (1, 3, 2, 1),
    (4, 1, 33, 65),
    (5, 1, 33, 65),
    (3, 5, 9, 15),
    (5, 3, 31, 32),
    (33, 2, 13, 19),
    (10, 3, 300, 261),
    (131, 3, 6, 10),
    (420, 8, 3, 5),
    (20, 35, 100, 100),
)
PATIENCE = 1000  # seconds after which a process hangs: more than the slowest machine needs
BOOK_SHAPE = (20, 35, 100, 100)  # chapter 6: batch 20, 35 steps, 100 wide

# Against the reference in float64. For hs, states, dxs and dstate |error| <= tol * (1 + |ref|);
# for each gradient, a sum over N*T, the error's 2-norm <= tol * the reference's.
TOLERANCE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-12}


def assert_close(got, expected, name="array", tolerance=None, steep=False):
    """Every element of hs, a state, dxs or dstate.

    steep: of a gradient, through a normalisation. It is many times as large where what is
    normalised is about 0, up to 1 / sqrt(1e-5), and so are its errors: they are measured against
    the largest element.
    """
    got = beside(expected, got)
    assert got.shape == expected.shape, f"{name}: {got.shape}, expected {expected.shape}"
    tolerance = TOLERANCE[got.dtype] if tolerance is None else tolerance
    size = np.abs(expected)
    size = 8 * size.max() if steep and size.size else size
    error = np.abs(got.astype("f8") - expected) / (1 + size)
    assert error.size == 0 or error.max() <= tolerance, f"{name}: off by {error.max():.2e}"


def assert_grad_close(got, expected, name="grad", tolerance=None, steep=False):
    """The 2-norm of one gradient.

    steep: through a normalisation, of which almost nothing may be left, but not of its error, to
    which a row of almost equal numbers gives more than all others.
    """
    got = beside(expected, got)
    assert got.shape == expected.shape, f"{name}: {got.shape}, expected {expected.shape}"
    tolerance = TOLERANCE[got.dtype] if tolerance is None else tolerance
    error, norm = np.linalg.norm(got.astype("f8") - expected), np.linalg.norm(expected)
    norm = 24 * norm + 1 if steep else norm
    assert error <= tolerance * norm, f"{name}: off by {error:.2e}, norm {norm:.2e}"


STATES = ("h", "c", "n", "m")  # a cell has the first ones of these

# Arrays of the forward that are not of the cell itself: (N, H), and (N, T, H)
OF_STEPS = ("candidate_mask", "h_zoneout", "c_zoneout")
MASKS = ("h_mask", *OF_STEPS)


@dataclass
class Problem:
    """One call of forward and backward, and where backward writes."""

    xs: np.ndarray
    state: tuple | None
    params: tuple
    dhs: np.ndarray
    dstate: tuple | None
    keywords: dict  # lengths, reverse, MASKS and the cell's options
    names: tuple  # of the params

    @property
    def beside(self):
        """The params after Wx, Wh and b, by name, as layers take them."""
        return dict(zip(self.names[3:], self.params[3:], strict=True))

    @property
    def dtype(self):
        return self.params[0].dtype

    @property
    def options(self):
        """Those that pack takes too."""
        ways = ("lengths", "reverse", *MASKS)
        return {name: value for name, value in self.keywords.items() if name not in ways}

    @property
    def ways(self):
        """lengths and MASKS, which forward of layers takes, too."""
        return {k: v for k, v in self.keywords.items() if k in ("lengths", *MASKS)}

    def astype(self, dtype):
        """The same numbers: float64 holds every float32."""

        def cast(arrays):
            if arrays is None:
                return None
            return tuple(None if a is None else a.astype(dtype) for a in arrays)

        (xs, dhs), state, dstate = cast((self.xs, self.dhs)), cast(self.state), cast(self.dstate)
        keywords = dict(self.keywords)
        for name in keywords.keys() & {*MASKS}:
            keywords[name] = keywords[name].astype(dtype)
        return Problem(xs, state, cast(self.params), dhs, dstate, keywords, self.names)

    def poisoned_grads(self):
        """NaN, which stays wherever backward does not write."""
        return tuple(None if p is None else np.full_like(p, np.nan) for p in self.params)

    def run(self, module):
        """Everything that forward and backward of one square of the grid give."""
        hs, state, cache = module.forward(self.xs, self.state, self.params, **self.keywords)
        grads = self.poisoned_grads()
        dxs, dstate = module.backward(self.dhs, self.dstate, self.params, cache, grads)
        return Result(hs, state, dxs, dstate, grads, self.names)


@dataclass
class Result:
    hs: np.ndarray
    state: tuple
    dxs: np.ndarray
    dstate: tuple
    grads: tuple
    names: tuple  # of the params

    @property
    def steep(self):
        """Whether it is of a layer-normalised cell."""
        return "gx" in self.names

    def arrays(self):
        """(name, array) of everything but the grads."""
        yield "hs", self.hs
        yield "dxs", self.dxs
        yield from zip(STATES, self.state, strict=False)
        yield from zip((f"d{name}" for name in STATES), self.dstate, strict=False)

    def named_grads(self):
        pairs = zip(self.names, self.grads, strict=False)  # without b there may be two
        return [(f"d{name}", g) for name, g in pairs if g is not None]


def assert_same_values(got, expected):
    """A Result against the one of the reference in float64."""
    assert len(got.state) == len(expected.state)
    assert len(got.dstate) == len(expected.dstate)
    steep = expected.steep
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_close(a, b, name, steep=steep and name.startswith("d"))
    for (name, a), (_, b) in zip(got.named_grads(), expected.named_grads(), strict=True):
        assert_grad_close(a, b, name, steep=steep)


def assert_same_bits(got, expected):
    """Two Results of one column; NaN equals NaN."""
    pairs = zip(
        (*got.arrays(), *got.named_grads()),
        (*expected.arrays(), *expected.named_grads()),
        strict=True,
    )
    for (name, a), (_, b) in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)


@lru_cache(8)  # columns come one after the other; all problems would take gigabytes
def solved(cell, shape, dtype, **keywords):
    """A problem, and what the reference in float64 says of it; not to be changed."""
    problem = make_problem(cell, shape, dtype, **keywords)
    return problem, problem.astype("float64").run(load(cell.name, "reference"))


def make_problem(
    cell,
    shape,
    dtype="float32",
    *,
    seed=0,
    bias=True,
    states=True,
    mask=False,
    lengths=False,
    peepholes=None,
    rounds=5,
    rank=None,
    recurrent_dropout=False,
    zoneout=False,
    proj_size=None,
    heads=None,
    **keywords,
):
    """Random, with weights at the book's initialisation; states and gradients all distinct.

    bias=False gives b None, states=False gives state and dstate None, mask=True an h_mask of
    zeros and distinct factors, lengths=True all lengths from 0 to T, peepholes="diagonal" or
    "full" a Wp, rounds and rank a mogrifier's Wm and Wr, proj_size an lstmp's Wproj. A
    layer-normalised cell has its gains and biases. heads: of an slstm. recurrent_dropout=True gives
    a candidate_mask, zoneout=True shares of h and c that a step keeps: 0, 1 and numbers between.
    """
    N, T, D, H = shape
    G, of_states = cell.gates, widths(cell, H, proj_size)
    P = of_states[0]
    rng = np.random.default_rng([seed, *shape])

    def randn(*size):
        return rng.standard_normal(size).astype(dtype)

    Wx = (randn(D, G * H) / np.sqrt(max(D, 1))).astype(dtype)
    K = H // (heads or heads_of(cell, H))
    Wh = (randn(P, G * K) / np.sqrt(max(P, 1))).astype(dtype)
    b = randn(*(2, G * H) if keywords.get("reset_after") else (G * H,))
    beside = {}
    if cell.name == "mogrifier":
        if rank is None:
            beside["Wm"] = randn(rounds, H, D) / np.sqrt(max(H, 1))
        else:
            beside["Wm"] = randn(rounds, H, rank) / np.sqrt(max(H, 1))
            beside["Wr"] = randn(rounds, rank, D) / np.sqrt(rank)
    elif cell.name == "lnlstm":
        beside = {"gx": randn(G * H), "gh": randn(G * H), "gc": randn(H), "bc": randn(H)}
    elif cell.name == "lngru":
        beside = {"gx": randn(G * H), "gh": randn(G * H), "bh": randn(H)}
    elif cell.name == "lstmp":
        beside["Wproj"] = randn(H, P) / np.sqrt(max(H, 1))
    elif peepholes == "diagonal":
        beside["Wp"] = randn(3, H)
    elif peepholes == "full":
        beside["Wp"] = randn(3, H, H) / np.sqrt(max(H, 1))
    state, dstate = (tuple(randn(N, width) for width in of_states) for _ in range(2))
    if cell.name == "slstm":  # a normaliser is positive
        state = *state[:2], abs(state[2]) + np.dtype(dtype).type(0.5), state[3]
    xs, dhs = randn(N, T, D), randn(N, T, P)
    if mask:
        kept = rng.random((N, P)) > 0.3
        keywords["h_mask"] = (kept * (0.5 + rng.random((N, P)))).astype(dtype)
    if recurrent_dropout:
        kept = rng.random((N, T, H)) > 0.3
        keywords["candidate_mask"] = (kept * (0.5 + rng.random((N, T, H)))).astype(dtype)
    for name, width in zip(("h", "c") if zoneout else (), of_states, strict=False):
        shares = np.clip(1.6 * rng.random((N, T, width)) - 0.3, 0, 1)
        keywords[f"{name}_zoneout"] = shares.astype(dtype)
    if lengths:
        keywords["lengths"] = rng.permutation(np.arange(N) % (T + 1)).astype(np.intp)
    return Problem(
        xs=xs,
        state=state if states else None,
        params=(Wx, Wh, b if bias else None, *(W.astype(dtype) for W in beside.values())),
        dhs=dhs,
        dstate=dstate if states else None,
        keywords=keywords,
        names=("Wx", "Wh", "b", *beside),
    )


def beside_of(cell, D, H):
    """The shapes of the weights beside Wx, Wh and b without which there is no such cell."""
    GH = cell.gates * H
    shapes = {"mogrifier": ((2, H, D),), "lstmp": ((H, H),)}
    shapes |= {"lnlstm": ((GH,), (GH,), (H,), (H,)), "lngru": ((GH,), (GH,), (H,))}
    return shapes.get(cell.name, ())


# Equal arrays that lie differently in memory


def spread(array, axis=0):
    """Equal to `array`, at every second place of a larger one along `axis`."""
    shape = list(array.shape)
    shape[axis] *= 2
    slices = [slice(None)] * array.ndim
    slices[axis] = slice(None, None, 2)
    base = np.full(shape, np.nan, array.dtype)
    base[tuple(slices)] = array
    return base[tuple(slices)]


def backwards(array, axis=0):
    """Equal to `array`, with a negative stride along `axis`."""
    return np.flip(np.flip(array, axis).copy(), axis)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    """Equal to `array`, one byte beside where a number should be."""
    copy = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


LAYOUTS = {
    "every second": spread,
    "every second step": lambda a: spread(a, min(1, a.ndim - 1)),
    "every second column": lambda a: spread(a, -1),
    "reversed rows": backwards,
    "reversed time": lambda a: backwards(a, min(1, a.ndim - 1)),
    "reversed columns": lambda a: backwards(a, -1),
    "fortran": np.asfortranarray,
    "time first": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0),
    "unaligned": unaligned,
    "read-only": read_only,
}
WRITABLE_LAYOUTS = [name for name in LAYOUTS if name != "read-only"]


# Arrays that a column has to reject

REJECTED = (TypeError, ValueError, BufferError)
TOO_BIG = (ValueError, MemoryError, OverflowError)


def bad_arrays(a):
    """Arrays that are not like `a`; what they are, and the array."""
    other = "float64" if a.dtype == np.float32 else "float32"
    yield "the other float", a.astype(other)
    yield "integers", a.astype(np.int64)
    yield "complex", a.astype(np.complex64)
    yield "objects", a.astype(object)
    yield "a rank less", a[0]
    yield "a rank more", a[None]
    for axis in range(a.ndim):
        yield f"one less in axis {axis}", a.take(range(a.shape[axis] - 1), axis)
        yield f"one more in axis {axis}", np.concatenate((a, a.take([0], axis)), axis)
    yield "an int", 3
    yield "a str", "weights"


NUMERIC_TOLERANCE = 1e-7  # central differences in float64, step 1e-5


def numeric_grad(loss, array, step=1e-5):
    """d loss() / d array by central differences; the array is put back as it was."""
    grad = np.empty_like(array)
    for k in np.ndindex(array.shape):
        value = array[k]
        array[k] = value + step
        above = loss()
        array[k] = value - step
        below = loss()
        array[k] = value
        grad[k] = (above - below) / (2 * step)
    return grad
