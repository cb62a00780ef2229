"""Initial weights, drawn as the book draws them, and the random numbers behind them."""

import reprlib

import numpy as np

from rnnfast import checks, kernels


class Initializer:
    """Draws the weights of a model's layers as the book does, in the order they are asked for.

    rng: a seed or a Generator, None for np.random. All arrays are `dtype`, float32 or float64, and
    lie where layers of `device` want them. `owner` names the model in errors.
    """

    def __init__(self, owner, rng, dtype, device):
        self.blank = rng if isinstance(rng, Blank) else None
        if self.blank:
            rng = 0
        self.dtype = np.dtype(dtype)
        if self.dtype not in checks.FLOATS:
            raise TypeError(f"{owner}: dtype must be float32 or float64, got {self.dtype}")
        self.source = generator(owner, rng)
        self.device = kernels.home(device)
        # for another one that is to go on from here
        self.rng = self.blank or (rng if rng is None else self.source)
        self._rng = rng

    def normal(self, rows, columns, divisor=None):
        """(rows, columns), normal, divided by the square root of the rows if by nothing else."""
        if self.blank:
            self.blank.take(rows * columns)
            return self.zeros((rows, columns))
        W = self.source.standard_normal((rows, columns))
        W = (W / (np.sqrt(rows) if divisor is None else divisor)).astype(self.dtype)
        return kernels.move(W, self.device)

    def zeros(self, size):
        return kernels.move(np.zeros(size, self.dtype), self.device)

    def recurrent(self, gates, D, H):
        """(Wx, Wh, b) of a layer of so many gates that reads D numbers and has H units."""
        GH = gates * H
        return self.normal(D, GH), self.normal(H, GH), self.zeros(GH)

    def seed(self):
        """A seed for dropout: `rng` where that is one, else drawn as the weights are."""
        return seed(self._rng, self.source)


class Blank:
    """As rng: the matrices will be read from a file, which has `size` numbers.

    They are zeros until then, and seeds are as for rng=0. ValueError for many more than there are;
    for a few, whoever reads them names the array.
    """

    def __init__(self, size):
        self.size, self.left = size, max(size, 2**20)

    def take(self, count):
        self.left -= count
        if self.left < 0:
            raise ValueError(f"{self.size:,} numbers are too few")


def generator(owner, rng):
    """np.random for None, else the Generator that `rng` is or seeds."""
    if rng is None:
        return np.random
    try:
        if isinstance(rng, (bool, str)):
            raise TypeError
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        what = f"{owner}: rng must be None, a seed from 0 up or a Generator"
        raise type(error)(f"{what}, got {reprlib.repr(rng)}") from None


def seed(rng, source):
    """A number for Philox: `rng` where that is a seed, else drawn from its generator `source`."""
    if isinstance(rng, (int, np.integer)):
        return int(rng) % 2**64
    if source is np.random:
        return int(np.random.randint(2**63 - 1, dtype=np.int64))
    return int(source.integers(2**63))
