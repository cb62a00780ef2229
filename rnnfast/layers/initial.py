"""Initial weights as the book draws them, and the random numbers behind them."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks, kernels
from rnnfast.layers.weights import norm_shapes

L = TypeVar("L")
PEEPHOLES = (None, "diagonal", "full")
RECURRENT = ("normal", "orthogonal")
ROUNDS = 5  # of a Mogrifier LSTM


class Initializer:
    """Draws the weights of layers as the book does, in the order of the calls.

    Parameters
    ----------
    owner : str
        The name of the model or layer, for errors.
    rng : int, numpy.random.Generator, Blank or None
        A seed or a generator; None is `np.random`.
    dtype : {"float32", "float64"}
        The dtype of all arrays.
    device : str or None
        The arrays lie where layers of this device need them; see `rnnfast.kernels.home`.

    Raises
    ------
    TypeError, ValueError
        For another dtype, an rng that is none of these, an unknown device.

    Examples
    --------
    >>> draw = Initializer("my model", 0, "float32", "cpu")
    >>> draw.normal(100, 400).shape
    (100, 400)
    """

    def __init__(self, owner: str, rng: Any, dtype: DTypeLike, device: str | None) -> None:
        self.blank = rng if isinstance(rng, Blank) else None
        if self.blank:
            rng = 0
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            got = reprlib.repr(dtype)
            raise TypeError(f"{owner}: dtype must be float32 or float64, got {got}") from None
        if self.dtype not in checks.FLOATS:
            raise TypeError(f"{owner}: dtype must be float32 or float64, got {self.dtype}")
        self.source = generator(owner, rng)
        self.device = kernels.home(device)
        # for another Initializer that continues the sequence of numbers
        self.rng = self.blank or (rng if rng is None else self.source)
        self._rng = rng

    def normal(self, rows: int, columns: int, divisor: float | None = None) -> Any:
        """Normal numbers (rows, columns), divided by `divisor`; default: sqrt(rows), the fan in."""
        if self.blank:
            self.blank.take(rows * columns)
            return self.zeros((rows, columns))
        W = self.source.standard_normal((rows, columns))
        W = (W / (np.sqrt(rows) if divisor is None else divisor)).astype(self.dtype)
        return kernels.move(W, self.device)

    def orthogonal(self, rows: int, H: int, gates: int) -> Any:
        """A matrix (rows, gates*H) in which the block (rows, H) of each gate is orthogonal.

        Q of the QR decomposition of normal numbers, with the signs that make it uniformly
        distributed. A block that is not square has orthonormal rows or columns, of which it has
        fewer. It takes as many random numbers as `normal` does.
        """
        blocks = []
        for block in np.split(self.source.standard_normal((rows, gates * H)), gates, axis=1):
            Q, R = np.linalg.qr(block if rows >= H else block.T)
            Q = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
            blocks.append(Q if rows >= H else Q.T)
        return kernels.move(np.hstack(blocks).astype(self.dtype), self.device)

    def zeros(self, size: int | tuple[int, ...]) -> Any:
        """Zeros of this size."""
        return kernels.move(np.zeros(size, self.dtype), self.device)

    def recurrent(
        self, gates: int, D: int, H: int, P: int | None = None, heads: int = 1
    ) -> tuple[Any, Any, Any]:
        """(Wx, Wh, b) of a layer with D inputs, H units, so many gates and an h as wide as P.

        Wh is divided by the root of its fan in, which with heads is the width of one.
        """
        GH, width = gates * H, H if P is None else P
        Wh_of = width, GH // heads, np.sqrt(width // heads)
        return self.normal(D, GH), self.normal(*Wh_of), self.zeros(GH)

    def rounds(self, D: int, H: int, rounds: int, rank: int | None) -> dict[str, Any]:
        """Wm of a Mogrifier LSTM, and Wr if there is a rank; each matrix divided by its fan in.

        A round reads h (odd rounds, by Wm and then Wr) or x (even rounds, by Wr^T and then Wm^T).
        """
        odd = [i % 2 == 0 for i in range(rounds)]  # the rounds are counted from 1
        if rank is None:
            whole = [self.normal(H, D, np.sqrt(H if h_first else D)) for h_first in odd]
            return {"Wm": checks.namespace(whole[0]).stack(whole)}
        left = [self.normal(H, rank, np.sqrt(H if h_first else rank)) for h_first in odd]
        right = [self.normal(rank, D, np.sqrt(rank if h_first else D)) for h_first in odd]
        xp = checks.namespace(left[0])
        return {"Wm": xp.stack(left), "Wr": xp.stack(right)}

    def norms(self, gates: int, H: int, more: tuple[str, ...]) -> dict[str, Any]:
        """The gains (g...), ones, and the biases (b...), zeros, of a layer-normalised cell."""
        shapes = norm_shapes(gates, H, more)
        made = {name: np.full(shape, name[0] == "g", self.dtype) for name, shape in shapes.items()}
        return {name: kernels.move(W, self.device) for name, W in made.items()}

    def seed(self) -> int:
        """A seed for dropout: `rng` if it is a seed, else a number drawn as the weights are."""
        return seed(self._rng, self.source)


class Blank:
    """As `rng`: no random numbers, because the weights will be read from a file.

    The matrices are zeros until then, and seeds are as for rng=0.

    Parameters
    ----------
    size : int
        The count of numbers in the file.

    Raises
    ------
    ValueError
        When the model needs many more numbers than the file has. For a few the reader of the file
        names the array.
    """

    def __init__(self, size: int) -> None:
        self.size, self.left = size, max(size, 2**20)

    def take(self, count: int) -> None:
        """Count the numbers of one matrix."""
        self.left -= count
        if self.left < 0:
            raise ValueError(f"{self.size:,} numbers are too few")


def generator(owner: str, rng: Any) -> Any:
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


def seed(rng: Any, source: Any) -> int:
    """A key for Philox: `rng` if it is a seed, else a number drawn from its generator `source`."""
    if isinstance(rng, (int, np.integer)):
        return int(rng) % 2**64
    if source is np.random:
        return int(np.random.randint(2**63 - 1, dtype=np.int64))
    return int(source.integers(2**63))


def create_recurrent(
    make: Callable[..., L],
    cell: Any,
    suffixes: Sequence[str],
    sizes: tuple[Any, Any],
    draw: Initializer,
    recurrent: str,
    forget_bias: float,
    more: dict[str, Any],
    options: dict[str, Any],
) -> L:
    """A recurrent layer from its sizes (D, H), for `create` of the classes.

    make: the class, whose arguments are weights with these suffixes ("1" and "2" for two
    directions). cell: the class of one direction. more: peepholes, rounds, rank, proj_size and
    heads, None where they are not given. The layer is made of zeros first, so that all arguments
    are checked before the first number is drawn.
    """
    owner = make.__name__
    D, H = (checks.count(owner, name, size) for name, size in zip("DH", sizes, strict=True))
    gates = cell.gates
    if recurrent not in RECURRENT:
        raise ValueError(f"{owner}: recurrent must be one of {RECURRENT}, got {recurrent!r}")
    forget_bias = checks.number(owner, "forget_bias", forget_bias)
    if "c" not in cell.states and forget_bias != 0:
        raise ValueError(f"{owner}: forget_bias is an option of an LSTM, got {forget_bias!r}")
    heads = _heads(owner, cell, H, more.pop("heads"))
    beside = _shapes_beside(owner, cell, D, H, **more)
    K = H // heads
    P = beside["Wproj"][1] if "Wproj" in beside else H
    for name in options:
        if name.rstrip("12") in ("Wx", "Wh", "b", *cell.more):
            raise TypeError(f"{owner}: create draws {name} itself, got it as an argument")
    checks.fits(owner, "(max(D, H), GH)", max(D, H, P), gates * H)
    two_biases = checks.flag(owner, "reset_after", options.get("reset_after", False))
    weights: list[Any] = []
    for suffix in suffixes:
        b = draw.zeros((2, gates * H) if two_biases else gates * H)
        weights += draw.zeros((D, gates * H)), draw.zeros((P, gates * K)), b
        options |= {f"{name}{suffix}": draw.zeros(shape) for name, shape in beside.items()}
    layer = make(*weights, device=draw.device, **options)
    whole: Any = layer
    for part in whole.parts if len(suffixes) > 1 else (whole,):
        Wx, Wh, b, *rest = part.params
        Wx[...] = draw.normal(D, gates * H)
        rows = P // heads
        if recurrent == "orthogonal":
            for k in range(heads):
                Wh[k * rows : (k + 1) * rows] = draw.orthogonal(rows, K, gates)
        else:
            Wh[...] = draw.normal(P, gates * K, np.sqrt(rows))
        if forget_bias:
            b[:H] = forget_bias  # f is the first block
        if "Wm" in beside:
            drawn = draw.rounds(D, H, part.rounds, part.rank).values()
            for W, numbers in zip(rest, drawn, strict=True):
                W[...] = numbers
        elif "gx" in beside:
            for W, name in zip(rest, cell.more, strict=True):
                W[...] = name[0] == "g"  # gains are 1, biases 0
        elif "Wproj" in beside:
            rest[0][...] = draw.normal(H, P)
        elif "Wp" in beside:
            Wp = rest[0]
            Wp[...] = draw.normal(Wp.size // H, H, np.sqrt(H)).reshape(Wp.shape)
    return layer


def _shapes_beside(
    owner: str, cell: Any, D: int, H: int, peepholes: Any, rounds: Any, rank: Any, proj_size: Any
) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights beside Wx, Wh and b, by name, from the checked options."""
    if peepholes not in PEEPHOLES:
        raise ValueError(f"{owner}: peepholes must be one of {PEEPHOLES}, got {peepholes!r}")
    if peepholes and "Wp" not in cell.more:
        raise ValueError(f"{owner}: peepholes is an option of an LSTM, got {peepholes!r}")
    if proj_size is not None and "Wproj" not in cell.more:
        what = "an option of an LSTM with a projection (LSTMP)"
        raise ValueError(f"{owner}: proj_size is {what}, got {proj_size!r}")
    if "Wm" not in cell.more:
        for name, value in (("rounds", rounds), ("rank", rank)):
            if value is not None:
                raise ValueError(f"{owner}: {name} is an option of a Mogrifier LSTM, got {value!r}")
        if "gx" in cell.more:
            return norm_shapes(cell.gates, H, cell.more)
        if "Wproj" in cell.more:
            return {"Wproj": (H, H if proj_size is None else _projected(owner, H, proj_size))}
        return {"Wp": (3, H) if peepholes == "diagonal" else (3, H, H)} if peepholes else {}
    r = ROUNDS if rounds is None else checks.count(owner, "rounds", rounds)
    if rank is None:
        checks.fits(owner, "(r, H, D)", r, H, D)
        return {"Wm": (r, H, D)}
    k = checks.count(owner, "rank", rank)
    checks.fits(owner, "(r, max(D, H), k)", r, max(D, H), k)
    return {"Wm": (r, H, k), "Wr": (r, k, D)}


def _heads(owner: str, cell: Any, H: int, heads: Any) -> int:
    """The checked heads, 1 for a cell that has none."""
    if heads is None:
        return 1
    if not cell.in_heads:
        raise ValueError(f"{owner}: heads is an option of an sLSTM, got {heads!r}")
    count: int = checks.count(owner, "heads", heads)
    if H % count:
        raise ValueError(f"{owner}: heads must divide H = {H}, got {count}")
    return count


def _projected(owner: str, H: int, proj_size: Any) -> int:
    """The checked width of h."""
    P = checks.count(owner, "proj_size", proj_size)
    checks.fits(owner, "(H, P)", H, P)
    return P
