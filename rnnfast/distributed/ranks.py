"""The processes that train one model together: which one this is, and what they tell each other."""

import math
import os
import pickle
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from rnnfast import checks
from rnnfast.distributed import watcher
from rnnfast.distributed.threads import divide_threads
from rnnfast.distributed.waiting import NAP, Heart, end_job, own_copy
from rnnfast.layers.shares import Share, share_of

PATIENCE = 20.0  # seconds
PIECE = 1 << 30  # bytes; MPI counts in ints of 32 bits, so larger arrays travel in pieces
T = TypeVar("T")


class Ranks:
    """The ranks of a communicator.

    Every method that exchanges something is collective: all ranks call it, in the same order.
    What they wait for, they wait for as `rnnfast.distributed.waiting` says. Those of one machine
    share its processors out, unless RNNFAST_NUM_THREADS is set.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Or an object with the same methods. It is duplicated.
    patience : float, optional
        Seconds after which a rank that says nothing is taken for dead. The default is
        RNNFAST_PATIENCE of the environment, or 20.

    Attributes
    ----------
    rank, size : int
        Which one this is, and how many there are.
    patience : float
    gpu_sums : dict
        Whether in 16 bits -> what sums arrays on GPUs, see `rnnfast.distributed.gpu_sums`.
    """

    def __init__(self, comm: Any, *, patience: float | None = None) -> None:
        for name in ("Get_rank", "Get_size", "Iallreduce", "Iallgatherv", "Idup"):
            if not callable(getattr(comm, name, None)):
                kind = type(comm).__name__
                raise TypeError(f"comm must be a communicator of mpi4py, got {kind}")
        patience = _usual_patience() if patience is None else patience
        if not checks.number("Ranks", "patience", patience) > 0:
            raise ValueError(f"Ranks: patience must be positive, got {patience}")
        self.patience: float = patience
        self.gpu_sums: dict[bool, Any] = {}
        self.comm = own_copy(comm, patience)
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._failures = own_copy(comm, patience)
        self._names: list[str] = []
        self.heart = Heart(own_copy(comm, patience), patience, self.name)
        mine = described(self.rank)
        self._names = self.gather(mine)
        if self.size > 1:
            watcher.start(mine)
            divide_threads(self.rank, self.gather)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """What messages call a rank."""
        return self._names[rank] if self._names else f"rank {rank}"

    def share(self, total: int) -> Share:
        """The samples of a batch of `total` that this rank has."""
        return share_of(total, self.rank, self.size)

    def wait(self, requests: Sequence[Any], what: str) -> None:
        """Wait until requests are complete; if a rank does not answer, the job ends."""
        self.heart.wait(requests, what)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of numbers over all ranks."""
        found = np.array(values, np.float64)
        self.wait([self.comm.Iallreduce(in_place(self.comm), found)], "a sum")
        return [float(value) for value in found]

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank."""
        return self.sum([value])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on each of them. They are pickled."""
        return [pickle.loads(data) for data in self._gather_bytes(pickle.dumps(value))]

    def gather_rows(self, array: Any) -> Any:
        """The rows of all ranks in a NumPy array, on each of them. Dtype and widths are equal."""
        array = on_host(array)
        parts = self._gather_bytes(np.ascontiguousarray(array).tobytes())
        return np.frombuffer(b"".join(parts), array.dtype).reshape(-1, *array.shape[1:]).copy()

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks; an exception there is raised on all of them.

        Parameters
        ----------
        make : callable
            Only rank 0 calls it.
        """
        found: Any = None
        if self.leads:
            try:
                found = True, make()
            except Exception as error:
                if isinstance(error, OSError):  # of its disk
                    error.add_note(f"on {self.name(0)}")
                found = False, error
        went_well, made = self._from_first(found)
        if went_well:
            result: T = made
            return result
        raise made

    def broadcast(self, arrays: Sequence[Any]) -> None:
        """Copy the arrays of rank 0 into those of the other ranks; shapes and dtypes are equal."""
        for array in arrays:
            there = np.ascontiguousarray(on_host(array))
            self._broadcast(there)
            if there is not array and not self.leads:
                array[...] = checks.beside(array, there)

    def check_same(self, owner: str, values: Mapping[str, Any]) -> None:
        """ValueError on all ranks unless all have the same values.

        Parameters
        ----------
        owner : str
            Begins the message.
        values : mapping
            What they are called -> anything with a repr.
        """
        shown = {name: repr(value) for name, value in values.items()}
        every = self.gather(shown)
        for rank, theirs in enumerate(every):
            for name, first in every[0].items():
                other = theirs.get(name)
                if other != first:
                    raise ValueError(
                        f"{owner}: {name} must be the same on all ranks, got {_short(first)} on "
                        f"rank 0 and {_short(other)} on {self.name(rank)}"
                    )

    def all_failed(self) -> bool:
        """Whether all ranks call this within half the patience: not only this one has failed."""
        request, until = self._failures.Ibarrier(), time.monotonic() + self.patience / 2
        while not request.Test():
            if time.monotonic() > until:
                return False
            self.heart.beat()
            time.sleep(NAP)
        return True

    def finish(self) -> None:
        """Wait for all ranks at the end of their work, as long as it takes."""
        self.heart.wait([self.comm.Ibarrier()], "the end", patience=math.inf)

    def fail(self, message: str) -> None:
        """End the job, for this reason."""
        end_job(self.comm, f"{self.name(self.rank)}: {message}")

    def _gather_bytes(self, data: bytes) -> list[bytes]:
        mine = np.frombuffer(data, np.uint8)
        counts = np.zeros(self.size, np.int64)
        counts[self.rank] = len(mine)
        self.wait([self.comm.Iallreduce(in_place(self.comm), counts)], "sizes")
        found = [np.empty(count, np.uint8) for count in counts]
        length = max(1, PIECE // self.size)
        for first in range(0, int(counts.max()), length):
            now = np.clip(counts - first, 0, length)
            whole = np.empty(now.sum(), np.uint8)
            piece = mine[first : first + length]
            self.wait([self.comm.Iallgatherv(piece, [whole, now])], "what every rank has")
            for there, part in zip(found, np.split(whole, now.cumsum()), strict=False):
                there[first : first + length] = part
        return [there.tobytes() for there in found]

    def _from_first(self, value: Any) -> Any:
        """value of rank 0, on all ranks. Its arrays travel as they lie, without copies."""
        parts: list[Any] = _pickled(value) if self.leads else []
        count = np.array([len(parts)], np.int64)
        self._broadcast(count)
        sizes = np.array([part.size for part in parts] or [0] * int(count[0]), np.int64)
        self._broadcast(sizes)
        if not self.leads:
            parts = [np.empty(size, np.uint8) for size in sizes]
        for part in parts:
            self._broadcast(part)
        head: Any = parts[0]
        return value if self.leads else pickle.loads(head, buffers=parts[1:])

    def _broadcast(self, array: Any) -> None:
        """Copy a contiguous array of rank 0 into those of the others."""
        data = array.reshape(-1).view(np.uint8)
        for first in range(0, data.size, PIECE):
            piece = data[first : first + PIECE]
            self.wait([self.comm.Ibcast(piece, 0)], "what rank 0 has")


def _usual_patience() -> float:
    """RNNFAST_PATIENCE, a number of seconds, or the usual one."""
    text = os.environ.get("RNNFAST_PATIENCE")
    if not text:
        return PATIENCE
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise ValueError(f"RNNFAST_PATIENCE must be a positive number of seconds, got {text!r}")
    return found


def described(rank: int) -> str:
    """What messages call this process as a rank."""
    return f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"


def on_host(array: Any) -> Any:
    """array, as one of NumPy's."""
    return array.get() if checks.is_cupy(array) else np.asarray(array)


def in_place(comm: Any) -> Any:
    """MPI.IN_PLACE, or what a communicator that is not mpi4py's has for it."""
    own = getattr(comm, "IN_PLACE", None)
    if own is not None:
        return own
    from mpi4py import MPI

    return MPI.IN_PLACE


def by_first(ranks: Ranks | None, make: Callable[[], T]) -> T:
    """What rank 0 makes, on all ranks; or what this process makes, if it is the only one."""
    return make() if ranks is None else ranks.from_first(make)


def ranks_of(comm: Any) -> Ranks | None:
    """The ranks of a communicator, the same ones each time; None where there is only one.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, Ranks or None
    """
    if comm is None or isinstance(comm, Ranks):
        ranks = comm
    else:
        known = [ranks for there, ranks in _known if there == comm]
        ranks = known[0] if known else Ranks(comm)
        if not known:
            _known.append((comm, ranks))
    return None if ranks is None or ranks.size == 1 else ranks


_known: list[tuple[Any, Ranks]] = []  # each keeps its communicator alive


def _pickled(value: tuple[bool, Any]) -> list[Any]:
    """A pickle of (whether it went well, result or error), and the memory of its arrays: bytes.

    Of an error that cannot be pickled, one with the same message.
    """
    went_well, error = value
    if went_well:
        arrays: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
        return [np.frombuffer(head, np.uint8), *(np.asarray(array.raw()) for array in arrays)]
    try:
        head = pickle.dumps(value)
        pickle.loads(head)
    except Exception:
        head = pickle.dumps((False, RuntimeError(str(error))))
    return [np.frombuffer(head, np.uint8)]


def _short(text: str | None) -> str:
    return str(text) if text is None or len(text) <= 80 else f"{text[:77]}..."
