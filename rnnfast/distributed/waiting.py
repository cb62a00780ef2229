"""Waiting for other ranks: without taking their processors, and not for ever.

A rank that waits looks again and again, and gives its processor to others in between, so that more
ranks than processors are only as slow as their work. Meanwhile every rank tells its successor once
a second that it lives, by a thread of its own, however long its work takes: a large checkpoint, a
step of a huge model, a callback of the user's. A rank that has said nothing for `patience` seconds
while its successor waits was stopped, or its host or the network is gone, and the job ends.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BEAT = 1.0  # seconds between two signs of life
BUSY = 100  # looks that only yield; the later ones sleep
NAP = 0.0002  # seconds that a look sleeps
PULSE = 7  # the tag of signs of life
ALIVE, LAST = np.zeros(1, np.int8), np.ones(1, np.int8)  # the signs
FAREWELL = 1.0  # seconds to wait for the last one


class Heart:
    """The signs of life of a rank, and the wait for others.

    Parameters
    ----------
    comm : communicator
        One of its own, for the signs of life.
    patience : float
        Seconds without one after which the rank before this one is taken for dead.
    name : callable
        rank -> what a message calls it.

    Notes
    -----
    Where MPI allows only one thread to call it, signs are sent in waiting and by `beat`.
    """

    def __init__(self, comm: Any, patience: float, name: Callable[[int], str]) -> None:
        self._comm = comm
        self._patience = patience
        self._name = name
        size = comm.Get_size()
        self._next = (comm.Get_rank() + 1) % size
        self._before = (comm.Get_rank() - 1) % size
        self._sent: list[Any] = []
        self._last_beat, self._heard = 0.0, time.monotonic()
        self._parted = False  # whether the rank before this one has sent its last sign
        self._listening = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if size > 1 and _is_mpi4py(comm):
            atexit.register(self.stop)
            if _threads_may_call():
                self._thread = threading.Thread(target=self._go_on, name="heart", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Send the last sign, and wait a moment for that of the rank before: before MPI ends.

        Messages that nobody has received would be a warning of some MPIs.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        until = time.monotonic() + FAREWELL
        with contextlib.suppress(Exception):
            if not _mpi_has_ended():
                self._send(LAST)
                while (self._sent or not self._parted) and time.monotonic() < until:
                    self._listen()
                    self._sent = [request for request in self._sent if not request.Test()]
                    time.sleep(NAP)

    def beat(self) -> None:
        """Tell the next rank that this one lives, once a second, where no thread does so."""
        now = time.monotonic()
        if self._thread is None and now - self._last_beat >= BEAT:
            self._last_beat = now
            self._send(ALIVE)

    def _go_on(self) -> None:
        """What the thread does."""
        with contextlib.suppress(Exception):  # of MPI: whoever waits for others says it
            while not self._ended.wait(BEAT) and not _mpi_has_ended():
                self._send(ALIVE)
                self._listen()

    def _send(self, sign: Any) -> None:
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.Isend(sign, self._next, PULSE))

    def wait(self, requests: Sequence[Any], what: str, patience: float | None = None) -> None:
        """Wait until requests are complete.

        Parameters
        ----------
        requests : sequence of requests
        what : str
            What they are, for the message.
        patience : float, optional
            Instead of the usual one; inf waits as long as it takes.
        """
        patience = self._patience if patience is None else patience
        start, looks = time.monotonic(), 0
        left = list(requests)
        while True:
            left = [request for request in left if not request.Test()]
            if not left:
                return
            looks += 1
            if looks <= BUSY:
                os.sched_yield()
                continue
            time.sleep(NAP)
            self.beat()
            if self._thread is None or self._silent_since(start) > patience:  # a thread may be late
                self._listen()
            if (silent := self._silent_since(start)) > patience:
                who = self._name(self._before)
                end_job(self._comm, f"{who} has not answered for {silent:.0f} s ({what})")

    def _silent_since(self, start: float) -> float:
        """Seconds without a sign of life, of those after `start`."""
        return time.monotonic() - max(start, self._heard)

    def _listen(self) -> None:
        """Take the signs of life that have come."""
        sign = np.empty(1, np.int8)
        with self._listening:
            while self._comm.Iprobe(self._before, PULSE):
                self._comm.Recv(sign, self._before, PULSE)
                self._heard = time.monotonic()
                self._parted = self._parted or bool(sign == LAST)


def own_copy(comm: Any, patience: float) -> Any:
    """A communicator of the same ranks with messages of its own.

    patience: seconds after which ranks that have not come to this are taken for dead; no message
    can name them yet.
    """
    copy, request = comm.Idup()
    start = time.monotonic()
    while not request.Test():
        time.sleep(NAP)
        if time.monotonic() - start > patience:
            what = f"other ranks have not met rank {comm.Get_rank()} for {patience:.0f} s"
            end_job(comm, what)
    return copy


def _is_mpi4py(comm: Any) -> bool:
    return type(comm).__module__.partition(".")[0] == "mpi4py"


def _threads_may_call() -> bool:
    """Whether any thread may call MPI at any time."""
    from mpi4py import MPI

    return bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)


def _mpi_has_ended() -> bool:
    from mpi4py import MPI

    return bool(MPI.Is_finalized())


def end_job(comm: Any, message: str) -> None:
    """Print why, and end all ranks at once."""
    from rnnfast.distributed import watcher

    watcher.claim()  # this message says why: those of ranks that are ended now would not
    print(f"rnnfast: {message}: the job ends", file=sys.stderr, flush=True)
    time.sleep(0.3)  # until the message has left
    comm.Abort(1)
    os._exit(1)  # where the communicator is a test's


if not hasattr(os, "sched_yield"):  # macOS and Windows

    def _yield() -> None:
        time.sleep(0)

    os.sched_yield = _yield
