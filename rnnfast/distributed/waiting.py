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
    Where MPI allows only one thread to call it, there is no thread for the signs: they are sent in
    waiting and by `beat`.
    """

    def __init__(self, comm: Any, patience: float, name: Callable[[int], str]) -> None:
        self._comm = comm
        self._patience = patience
        self._name = name
        size = comm.Get_size()
        self._next = (comm.Get_rank() + 1) % size
        self._before = (comm.Get_rank() - 1) % size
        self._sign = np.zeros(1, np.int8)
        self._sent: list[Any] = []
        self._last_beat = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if size > 1 and _threads_may_call(comm):
            self._thread = threading.Thread(target=self._go_on, name="rnnfast-heart", daemon=True)
            self._thread.start()
            atexit.register(self.stop)

    def stop(self) -> None:
        """Send no more signs of life; before MPI ends."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self) -> None:
        """Tell the next rank that this one lives, once a second, where no thread does so."""
        now = time.monotonic()
        if self._thread is None and now - self._last_beat >= BEAT:
            self._last_beat = now
            self._send()

    def _go_on(self) -> None:
        """What the thread does."""
        with contextlib.suppress(Exception):  # of MPI: whoever waits for others says it
            while not self._ended.wait(BEAT):
                self._send()

    def _send(self) -> None:
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.Isend(self._sign, self._next, PULSE))

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
        heard, looks = time.monotonic(), 0
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
            if self._listen():
                heard = time.monotonic()
            elif time.monotonic() - heard > patience:
                who, seconds = self._name(self._before), time.monotonic() - heard
                end_job(self._comm, f"{who} has not answered for {seconds:.0f} s ({what})")

    def _listen(self) -> bool:
        """Take the signs of life that have come; False if there was none."""
        heard = False
        while self._comm.Iprobe(self._before, PULSE):
            self._comm.Recv(np.empty(1, np.int8), self._before, PULSE)
            heard = True
        return heard


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


def _threads_may_call(comm: Any) -> bool:
    """Whether any thread may call a communicator's methods at any time."""
    if type(comm).__module__.partition(".")[0] != "mpi4py":
        return False
    from mpi4py import MPI

    return bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)


def end_job(comm: Any, message: str) -> None:
    """Print why, and end all ranks at once."""
    from rnnfast.distributed import watcher

    watcher.claim()  # this message says why: those of ranks that are ended now would not
    print(f"rnnfast: {message}: the job ends", file=sys.stderr, flush=True)
    time.sleep(0.3)  # until the message has left
    comm.Abort(1)
    os._exit(1)  # where the communicator is a test's


if not hasattr(os, "sched_yield"):  # macOS

    def _yield() -> None:
        time.sleep(0)

    os.sched_yield = _yield
