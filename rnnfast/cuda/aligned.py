"""Products in TF32 of matrices whose rows are no multiples of 16 bytes: by copies whose rows are.

NVIDIA's documentation (cuBLAS Library, "Tensor Core Usage") names what its fast kernels need: of
both factors and of the result, the length of a row, the distance of rows and the first address are
multiples of 16 bytes. So only one of a matrix's two sizes matters, the one along its rows. A copy
that is turned has the other one there: xs of 700 rows of 650 floats becomes 650 rows of 700. Where
neither size is a multiple, the product gets a longer one. CuPy's own arrays begin at such an
address; a view that does not is multiplied as it lies.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache, partial

ROW, FLOATS = 16, 4  # bytes, and floats in them
M, N, K = range(3)  # the sizes of a product (M, K) x (K, N), by their places
PLANS = 256  # that are kept

# Seconds, modelled, not measured. With rows of 650 floats cuBLAS takes 60 us in TF32 for 1.2e9
# multiply-adds and 101 us for 4.6e9 (measured on an H100: benchmarks/results/gpu-first/micro.json);
# with whole rows, which were not measured, 1e-14 for each are assumed.
SAVED = 4e-14  # by each multiply-add
SAVED_ONCE, SAVED_BEYOND = 46e-6, 2e-15  # but at most this and that by each
LAUNCH = 4e-6  # of a copy, or of zeros
MOVED = 0.5e-12  # for each byte that a copy reads or writes
LEAST = LAUNCH / SAVED  # multiply-adds, below which no copy pays


@dataclass(frozen=True)
class Copy:
    """How a matrix lies, and how its copy does, whose rows have no room between them."""

    rows: int  # of the matrix, as it lies
    columns: int
    step: int  # floats from row to row
    turned: bool
    shape: tuple  # of the copy
    zeroed: bool  # beyond the matrix: where that takes part in sums

    @property
    def seconds(self):
        (rows, columns), floats = self.shape, self.rows * self.columns
        return LAUNCH * (1 + self.zeroed) + 4 * MOVED * (floats + rows * columns)

    def lies(self, way, step, start):
        """Which way, floats between rows and first byte of the copy, from those of the matrix."""
        return 1 - way if self.turned else way, self.shape[1], 0


@lru_cache(PLANS)
def copies(sizes, a, b, out):
    """(the sizes to compute with, a Copy or None for each matrix), or None where no copy pays.

    Of each matrix: 1 where its columns are contiguous, 0 where its rows are (so those of out),
    floats from one to the next, and bytes before the first one.
    """
    matrices = ((M, K), *a), ((K, N), *b), ((M, N), *out)
    odd, count = [d for d in (M, N, K) if sizes[d] % FLOATS], math.prod(sizes)
    found, least = None, min(SAVED * count, SAVED_ONCE + SAVED_BEYOND * count)
    for longer in itertools.product((False, True), repeat=len(odd)):
        taken = list(sizes)
        for d in itertools.compress(odd, longer):
            taken[d] = -(-sizes[d] // FLOATS) * FLOATS
        made = [_copy(sizes, taken, *matrix) for matrix in matrices]
        seconds = sum(copy.seconds for copy in made if copy) if False not in made else least
        if seconds < least:
            found, least = (tuple(taken), tuple(made)), seconds
    return found if found and any(found[1]) else None


def _copy(sizes, taken, of, columns, step, start):
    """The Copy of a matrix, None where it may stay as it lies, False where no copy helps."""
    down, along = of[::-1] if columns else of  # its sizes, the second one along what is contiguous
    grows = taken[down] != sizes[down] or taken[along] != sizes[along]
    if not grows and not any((taken[along] % FLOATS, step % FLOATS, start % ROW)):
        return None
    for turned in (False, True):
        shape = (taken[along], taken[down]) if turned else (taken[down], taken[along])
        if shape[1] % FLOATS == 0:
            zeroed = K in of and taken[K] != sizes[K]
            return Copy(sizes[down], sizes[along], step, turned, shape, zeroed)
    return False


class Aligned:
    """A product of matrices that all lie as they did once, with copies of some of them.

    product: of the copies; where that of out is turned, it is b^T a^T. starts: bytes from where a,
    b and out begin. move(turned, rows, columns, x, step, out, step of out) copies float32 from an
    address to another one, rows and columns as they are there.
    """

    def __init__(self, product, made, starts, empty, move):
        self._product, self._made, self._starts = product, made, starts
        self._empty, self._move = empty, move

    def __call__(self, a, b, out, of_a=None, of_b=None):
        """of_a, of_b: {Copy: array}, copies of them that are used again, or None."""
        to_a, to_b, to_out = self._made
        if to_a is not None:
            a = self._copied(to_a, a, self._starts[0], of_a)
        if to_b is not None:
            b = self._copied(to_b, b, self._starts[1], of_b)
        if to_out is None:
            return self._product(a, b, out)
        found, turned = self._empty(to_out.shape, "f4"), to_out.turned
        self._product(*((b, a) if turned else (a, b)), found)
        sizes, place = (to_out.rows, to_out.columns), at(out) + self._starts[2]
        self._move(turned, *sizes, at(found), to_out.shape[1], place, to_out.step)
        return out

    def _copied(self, copy, x, start, known):
        found = None if known is None else known.get(copy)
        if found is None:
            found = self._empty(copy.shape, "f4")
            if copy.zeroed:
                found.data.memset_async(0, found.nbytes)
            sizes = (copy.columns, copy.rows) if copy.turned else (copy.rows, copy.columns)
            place = at(x) + start
            self._move(copy.turned, *sizes, place, copy.step, at(found), copy.shape[1])
            if known is not None:
                known[copy] = found
        return found


def at(x):
    """Where an array begins; an int says so itself."""
    return x if type(x) is int else x.data.ptr


def sharing(product, of_a):
    """The product, using and keeping the copies of a in of_a; with None as it is."""
    if of_a is None or not isinstance(product, Aligned):
        return product
    return partial(product, of_a=of_a)
