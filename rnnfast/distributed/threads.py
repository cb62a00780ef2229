"""How many threads each of several ranks on one machine uses."""

import os
import socket
from collections.abc import Callable
from typing import Any

from rnnfast import kernels


def divide_threads(rank: int, gather: Callable[[Any], list[Any]]) -> None:
    """Give this rank its part of the processors that it shares with others.

    Without effect where RNNFAST_NUM_THREADS or OMP_NUM_THREADS says how many threads to use.

    Parameters
    ----------
    rank : int
        Which of the ranks this is.
    gather : callable
        value -> those of all ranks.
    """
    usual = kernels.get_num_threads()
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(usual))
    every = gather((socket.gethostname(), mine))
    if os.environ.get("RNNFAST_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS"):
        return
    here, _ = every[rank]
    part = sum(1 / sum(host == here and core in theirs for host, theirs in every) for core in mine)
    kernels.set_num_threads(max(1, min(usual, int(part + 1e-9))))
