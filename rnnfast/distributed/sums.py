"""Sums of arrays over all ranks that go on meanwhile: of NumPy arrays, by MPI.

`rnnfast.distributed.gpu_sums` has the same methods for CuPy arrays.
"""

from typing import Any, NamedTuple

from rnnfast.distributed.compression import HalfSum
from rnnfast.distributed.ranks import Ranks, in_place


class _Sum(NamedTuple):
    request: Any
    buffer: Any  # flat
    half: HalfSum | None


class HostSums:
    """Sums of NumPy arrays.

    All ranks begin the same sums in the same order. MPI goes on with them only while it is called.

    Parameters
    ----------
    ranks : Ranks
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._in_place = in_place(ranks.comm)
        self._under_way: list[_Sum] = []

    def begin(self, buffer: Any, half: HalfSum | None = None) -> None:
        """Begin a sum in place.

        Parameters
        ----------
        buffer : array (n,)
            Nobody touches it until `finish`.
        half : HalfSum, optional
            Makes it in 16 bits.
        """
        if half is None:
            request = self._ranks.comm.Iallreduce(self._in_place, buffer)
        else:
            request = half.begin(buffer)
        self._under_way.append(_Sum(request, buffer, half))

    def go_on(self) -> None:
        """Give the sums a moment."""
        for each in self._under_way:
            each.request.Test()

    def finish(self) -> None:
        """Wait until all are there."""
        under_way, self._under_way = self._under_way, []
        self._ranks.wait([each.request for each in under_way], "gradients")
        halves = [(each.half, each.buffer) for each in under_way if each.half is not None]
        self._ranks.wait([half.go_on() for half, _ in halves], "sums in 16 bits")
        for half, buffer in halves:
            buffer[...] = half.result()

    def wait(self) -> None:
        """Wait until what is computed from the sums is there: on the CPU it is."""
