"""What stands for CuPy's streams, events, copies and NCCL on the device of tests/fake_cuda.py.

The stream that computes is as early as it can be: NumPy has done everything that it was given. All
others are as late as they can be: they do nothing until somebody waits for an event behind it. So
an array that is read before its sum is there is read without it, and numbers are wrong. `log` has
what happened, in its order.
"""

import ctypes
import itertools
from types import SimpleNamespace

import numpy as np

LATE = 3  # looks at an event that find it not reached
TO_DEVICE, TO_HOST, NOT_READY = 1, 2, 600  # CUDA's numbers


class Event:
    def __init__(self, disable_timing=False):
        self.looks = 0

    def record(self, stream):
        self.stream, self.place = stream, len(stream.given)
        self.moment = stream.fake.moment
        stream.fake.log.append(("record", stream.name))

    def reach(self):
        """Everything before it is done."""
        self.stream.run(self.place)

    @property
    def ptr(self):
        """What `query` takes."""
        return self

    def query(self):
        """CUDA's status: 0 if it was reached, or not ready."""
        self.looks += 1
        if self.looks > LATE:
            self.reach()
        return 0 if self.stream.did >= self.place else NOT_READY


class Stream:
    """Does what it was given when somebody waits for it."""

    def __init__(self, fake, name):
        self.fake, self.name, self.ptr = fake, name, next(fake.pointers)
        self.given, self.did = [], 0
        fake.streams[self.ptr] = self

    def give(self, what, work):
        self.fake.log.append((what, self.name))
        self.given.append(work)

    def run(self, end):
        while self.did < end:
            self.did += 1
            self.given[self.did - 1]()

    def wait_event(self, event):
        self.give("wait", event.reach)
        self.waited = event


class Computing(Stream):
    """Has done everything at once."""

    def give(self, what, work):
        super().give(what, work)
        self.run(len(self.given))


class Fake:
    """The module cupy.cuda of one rank; comm: an MPI communicator for what NCCL does."""

    def __init__(self, comm, gpus=None, log=None):
        self.log = [] if log is None else log
        self.streams, self.pointers = {}, itertools.count(1)
        self.moment = 0  # grows with what is computed
        self.computing = Computing(self, "computing")
        names = (f"sums {k}" for k in itertools.count())
        count = comm.size if gpus is None else gpus
        self.device = 0
        self.Event = Event
        self.Stream = lambda non_blocking: Stream(self, next(names))
        self.Device = lambda number=None: SimpleNamespace(
            id=self.device, use=lambda: setattr(self, "device", number)
        )
        self.runtime = SimpleNamespace(
            memcpyDeviceToHost=TO_HOST,
            memcpyHostToDevice=TO_DEVICE,
            memcpyAsync=self._copy,
            eventQuery=Event.query,
            getDeviceCount=lambda: count,
            deviceGetPCIBusId=lambda number: f"0000:{number:02}:00.0",
        )
        self.nccl = SimpleNamespace(
            available=True,
            NCCL_SUM=0,
            NCCL_FLOAT32=7,
            NCCL_FLOAT64=8,
            get_unique_id=lambda: tuple(range(128)),
            NcclCommunicator=lambda size, name, rank: self._communicator(comm, size, name, rank),
        )

    def get_current_stream(self):
        return self.computing

    def alloc_pinned_memory(self, size):
        assert size > 0
        return bytearray(size + 7)  # a pool's are larger than asked

    def _may_read(self, stream):
        """The last that the stream was given is a wait for all that was computed."""
        event = stream.waited
        assert event.stream is self.computing and event.moment == self.moment

    def _copy(self, to, of, size, kind, pointer):
        stream = self.streams[pointer]
        if kind == TO_HOST:
            self._may_read(stream)
        what = {TO_HOST: "to the host", TO_DEVICE: "to the GPU"}[kind]
        stream.give(what, lambda: ctypes.memmove(to, of, size))

    def _communicator(self, comm, size, name, rank):
        assert (size, rank, name) == (comm.size, comm.rank, tuple(range(128)))
        own = comm.Dup()

        def all_reduce(of, to, count, kind, op, pointer):
            assert of == to and op == 0
            stream = self.streams[pointer]
            self._may_read(stream)
            dtype = np.dtype({7: np.float32, 8: np.float64}[kind])
            memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(of)
            array = np.frombuffer(memory, dtype)
            stream.give("sum", lambda: own.Allreduce(_in_place(), array))

        return SimpleNamespace(allReduce=all_reduce)


def _in_place():
    from mpi4py import MPI

    return MPI.IN_PLACE
