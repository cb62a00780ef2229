"""Sums of arrays on GPUs over all ranks, while these compute others.

A sum runs on a stream of its own. It waits for an event of the stream that computes, recorded when
the array was complete, and at the end that stream waits for an event of this one. The host launches
both and waits for neither. What carries the sums is chosen once, by all ranks together:

nccl
    NCCL, where CuPy has it and each rank has a GPU of its own.
mpi
    MPI itself, where it says that it takes addresses on a GPU (MPIX_Query_cuda_support). Not Open
    MPI: it says so, too, but its nonblocking sums do not take them.
host
    MPI, through pinned memory of the host. Always possible, and used for sums in 16 bits.

RNNFAST_GPU_SUMS names one of them, for clusters where the choice is wrong.
"""

import ctypes
import os
import socket
import sys
import warnings
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from rnnfast import checks
from rnnfast.distributed.compression import HalfSum
from rnnfast.distributed.ranks import Ranks, in_place
from rnnfast.distributed.sums import HostSums
from rnnfast.distributed.waiting import own_copy

WAYS = "nccl", "mpi", "host"
VARIABLE = "RNNFAST_GPU_SUMS"
OPEN_MPI = "ompi_mpi_comm_world"  # a symbol that it alone has


NOT_READY = 600  # CUDA's status of an event that was not reached


class _Reached:
    """Whether a stream has reached an event, as a request that ranks wait for."""

    def __init__(self, runtime: Any, event: Any) -> None:
        self._runtime, self._event = runtime, event

    def Test(self) -> bool:
        """An error of the GPU is raised: an event would say for ever that it was not reached."""
        status = self._runtime.eventQuery(self._event.ptr)
        if status not in (0, NOT_READY):
            raise self._runtime.CUDARuntimeError(status)
        return bool(status == 0)


class _GpuSums:
    """What both ways share: the stream, and its events.

    Parameters
    ----------
    ranks : Ranks
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._cuda = sys.modules["cupy"].cuda
        self._stream = self._cuda.Stream(non_blocking=True)
        self._summed: _Reached | None = None  # all sums are in their arrays

    def wait(self) -> None:
        """Wait until the sums are there; a rank that does not answer meanwhile ends the job."""
        if self._summed is not None:
            self._ranks.wait([self._summed], "gradients")

    def _event(self, stream: Any) -> Any:
        """An event that a stream reaches after all that it has been given so far."""
        event = self._cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def _after_computing(self) -> None:
        """Let the stream wait for what computes."""
        self._stream.wait_event(self._event(self._cuda.get_current_stream()))

    def _before_computing(self, stream: Any) -> None:
        """Let what computes wait for a stream of sums."""
        event = self._event(stream)
        self._summed = _Reached(self._cuda.runtime, event)
        self._cuda.get_current_stream().wait_event(event)


class NcclSums(_GpuSums):
    """Sums by NCCL."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        self._nccl = nccl = nccl_of_cupy()
        name = ranks.from_first(nccl.get_unique_id)
        self._comm = nccl.NcclCommunicator(ranks.size, name, ranks.rank)
        self._kinds = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}

    def begin(self, buffer: Any, half: None = None) -> None:
        """Begin a sum in place, as HostSums; not in 16 bits."""
        self._after_computing()
        address, kind = checks.place(buffer)[0], self._kinds[str(buffer.dtype)]
        sum_ = self._nccl.NCCL_SUM
        self._comm.allReduce(address, address, buffer.size, kind, sum_, self._stream.ptr)

    def go_on(self) -> None:
        """Nothing: the GPU goes on alone."""

    def finish(self) -> None:
        """What the current stream is given from now on waits for the sums."""
        self._before_computing(self._stream)


class _Sum(NamedTuple):
    """A sum by MPI."""

    there: _Reached  # the array is where MPI reads it
    buffer: Any  # on the GPU
    array: Any  # where MPI reads and writes it
    half: HalfSum | None


class GpuMpiSums(_GpuSums):
    """Sums by MPI.

    Parameters
    ----------
    ranks : Ranks
    pinned : bool
        Through pinned memory of the host; else MPI reads and writes the GPU's.

    Notes
    -----
    MPI knows nothing of streams, so the host gives it an array only when the event is reached. All
    ranks do so in the order in which the sums were begun.
    """

    def __init__(self, ranks: Ranks, pinned: bool) -> None:
        super().__init__(ranks)
        self._comm = own_copy(ranks.comm, ranks.patience)  # the moment differs between ranks
        self._in_place = in_place(ranks.comm)
        self._pinned = pinned
        self._back = self._cuda.Stream(non_blocking=True)  # not behind arrays that still come
        self._memory: list[Any] = []  # pinned, one for each sum of an iteration
        self._all: list[_Sum] = []
        self._requests: list[Any] = []  # of the first of them
        self._returned = 0  # how many of these are in their arrays, or on the way

    def begin(self, buffer: Any, half: HalfSum | None = None) -> None:
        """Begin a sum in place, as HostSums."""
        if self._pinned:
            self._after_computing()
            array = self._on_host(buffer)
            self._copy(array, buffer, self._stream, self._cuda.runtime.memcpyDeviceToHost)
            there = self._event(self._stream)
        else:
            array, there = buffer, self._event(self._cuda.get_current_stream())
        self._all.append(_Sum(_Reached(self._cuda.runtime, there), buffer, array, half))
        self.go_on()

    def go_on(self) -> None:
        """Give MPI the arrays that are there, and the GPU the sums that are."""
        for each in self._all[len(self._requests) :]:
            if not each.there.Test():
                break
            if each.half is None:
                self._requests.append(self._comm.Iallreduce(self._in_place, each.array))
            else:
                self._requests.append(each.half.begin(each.array))
        for each, request in list(zip(self._all, self._requests, strict=False))[self._returned :]:
            if not request.Test():
                break
            if each.half is None:
                self._give_back(each)
            self._returned += 1

    def Test(self) -> bool:
        """Whether all sums are on the way back; as a request."""
        self.go_on()
        return self._returned == len(self._all)

    def finish(self) -> None:
        """Wait for MPI; what the current stream is given from now on waits for the sums."""
        self._ranks.wait([self], "gradients")
        halves = [(each, each.half) for each in self._all if each.half is not None]
        self._ranks.wait([half.go_on() for _, half in halves], "sums in 16 bits")
        for each, half in halves:
            each.array[...] = half.result()
            self._give_back(each)
        self._all, self._requests, self._returned = [], [], 0
        self._before_computing(self._back)

    def _give_back(self, each: _Sum) -> None:
        if self._pinned:
            self._copy(each.buffer, each.array, self._back, self._cuda.runtime.memcpyHostToDevice)

    def _on_host(self, buffer: Any) -> Any:
        """Pinned memory for an array, that of the sum in the same place of the last iteration."""
        k = len(self._all)
        self._memory += [None] * (k + 1 - len(self._memory))
        if self._memory[k] is None or self._memory[k].size < buffer.nbytes:
            memory = self._cuda.alloc_pinned_memory(max(buffer.nbytes, 1))
            self._memory[k] = np.frombuffer(memory, np.uint8)
        return self._memory[k][: buffer.nbytes].view(buffer.dtype)

    def _copy(self, to: Any, array: Any, stream: Any, kind: int) -> None:
        to, of = checks.place(to)[0], checks.place(array)[0]
        self._cuda.runtime.memcpyAsync(to, of, array.nbytes, kind, stream.ptr)


def sums_of(ranks: Ranks, arrays: Any, half: bool) -> Any:
    """What makes sums of such arrays, the same object each time for those of GPUs.

    Parameters
    ----------
    ranks : Ranks
        All of them call this.
    arrays : sequence of arrays
        All on the CPU or all on the current GPU.
    half : bool
        Whether sums are in 16 bits, which the host rounds.
    """
    if not any(map(checks.is_cupy, arrays)):
        return HostSums(ranks)
    if half not in ranks.gpu_sums:
        way = "host" if half else chosen_way(ranks)
        made = NcclSums(ranks) if way == "nccl" else GpuMpiSums(ranks, pinned=way == "host")
        ranks.gpu_sums[half] = made
    return ranks.gpu_sums[half]


def chosen_way(ranks: Ranks) -> str:
    """One of WAYS, the same on all ranks."""
    wanted = os.environ.get(VARIABLE) or None
    ranks.check_same("fit", {VARIABLE: wanted})
    if wanted not in (None, *WAYS):
        raise ValueError(f"{VARIABLE} must be one of {WAYS}, got {wanted!r}")
    cuda = sys.modules["cupy"].cuda
    nccl = nccl_of_cupy() is not None
    gpu = socket.gethostname(), cuda.runtime.deviceGetPCIBusId(cuda.Device().id)
    every = ranks.gather((gpu, nccl, mpi_knows_gpus()))
    gpus, have_nccl, know = zip(*every, strict=True)
    alone = len(set(gpus)) == len(gpus)
    if wanted == "nccl" and not (alone and all(have_nccl)):
        why = "two ranks share a GPU" if not alone else "CuPy has no NCCL on some rank"
        raise ValueError(f"{VARIABLE}: 'nccl' is not possible, {why}")
    if wanted is not None:
        return wanted
    if alone and all(have_nccl):
        return "nccl"
    return "mpi" if all(know) else "host"


def nccl_of_cupy() -> Any:
    """The module cupy.cuda.nccl; None if CuPy or this machine has no NCCL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy's, where the library is missing
        try:
            from cupy.cuda import nccl
        except ImportError:
            return None
    return nccl if nccl.available else None


def mpi_knows_gpus() -> bool:
    """Whether MPI takes addresses on a GPU. False where it does not say, and of Open MPI."""
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as file:
        loaded = {line.split()[-1] for line in file if "/libmpi" in line}
        for library in sorted(loaded):
            with suppress(OSError, AttributeError):
                mpi = ctypes.CDLL(library)
                return not hasattr(mpi, OPEN_MPI) and bool(mpi.MPIX_Query_cuda_support())
    return False
