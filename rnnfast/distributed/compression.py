"""Sums in 16 bits with error feedback, for networks that are slower than the loss of digits hurts.

Numbers travel as bfloat16, the upper half of a float32. What rounding takes away from a gradient is
kept, and added to the next one, so that no part of a gradient is lost for ever (Seide et al. 2014).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.distributed.ranks import Ranks
from rnnfast.reference.packed import bf16


def to_half(x: Any) -> NDArray[np.uint16]:
    """The nearest bfloat16 of each number, as its bits; ties go to the even one.

    Parameters
    ----------
    x : array of float (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.distributed.compression import from_half, to_half
    >>> from_half(to_half(np.array([1.0, 1.001, -3.14159]))).tolist()
    [1.0, 1.0, -3.140625]
    """
    rounded: NDArray[np.float32]
    rounded = bf16(np.ascontiguousarray(x, np.float32))  # type: ignore[no-untyped-call]
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


def from_half(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that `to_half` has rounded to."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class HalfSum:
    """The sum of an array over all ranks, in 16 bits.

    Each rank sums one part of the array, which it gets from all others, and sends it to all. Both
    times numbers are rounded, and both times the error is kept for the next sum.

    Parameters
    ----------
    ranks : Ranks
    size : int
        The number of elements.
    """

    def __init__(self, ranks: Ranks, size: int) -> None:
        self._ranks = ranks
        shares = [divmod(size, ranks.size)] * ranks.size
        self._counts = [least + (rank < more) for rank, (least, more) in enumerate(shares)]
        self._error = np.zeros(size, np.float32)  # of this rank's gradient
        self._error_of_part = np.zeros(self._counts[ranks.rank], np.float32)  # of its part's sum
        self._received = np.empty((ranks.size, self._counts[ranks.rank]), np.uint16)
        self._sent: Any = None
        self._whole = np.empty(size, np.uint16)
        self.bytes = 2 * (size + self._counts[ranks.rank])  # that a sum gives to others

    def begin(self, x: Any) -> Any:
        """Send this rank's array (n,); -> a request."""
        wanted = x + self._error
        self._sent = to_half(wanted)
        np.subtract(wanted, from_half(self._sent), out=self._error, casting="same_kind")
        here = self._counts[self._ranks.rank]
        return self._ranks.comm.Ialltoallv(
            [self._sent, self._counts], [self._received, [here] * self._ranks.size]
        )

    def go_on(self) -> Any:
        """Once that is complete: send the sum of this rank's part; -> a request."""
        total = self._error_of_part
        for part in self._received:
            total = total + from_half(part)
        mine = to_half(total)
        self._error_of_part = total - from_half(mine)
        self._sent = mine
        return self._ranks.comm.Iallgatherv(mine, [self._whole, self._counts])

    def result(self) -> NDArray[np.float32]:
        """Once that is complete, too: the sum, the same bits on all ranks."""
        return from_half(self._whole)


class HalfSums:
    """A HalfSum for each of the arrays that are summed in every iteration, in their order."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._all: list[HalfSum] = []

    def get(self, place: int, size: int) -> HalfSum:
        """That of the array at this place of the order."""
        if place == len(self._all):
            self._all.append(HalfSum(self._ranks, size))
        return self._all[place]
