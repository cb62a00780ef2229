"""Which GPU a rank computes on."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def take_gpu(comm: Any) -> int | None:
    """Make a GPU of this host the current one: rank k of the host takes the k-th.

    Call it before the model is made. If there are more ranks than GPUs, several share one; that is
    slow. `rnnfast train` under mpiexec calls it.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        All of its ranks call this.

    Returns
    -------
    int or None
        The number of the GPU among those that this process sees; None if it sees none.
    """
    split: Any = getattr(comm, "Split_type", None)
    if not callable(split):
        raise TypeError(f"take_gpu: comm must be a communicator of mpi4py, got {_kind(comm)}")
    host: Any = split(import_module("mpi4py.MPI").COMM_TYPE_SHARED)
    rank: int = host.Get_rank()
    host.Free()
    count = _count()
    if not count:
        return None
    sys.modules["cupy"].cuda.Device(rank % count).use()
    return rank % count


def _count() -> int:
    """The number of GPUs that this process sees; 0 without CuPy or a driver."""
    if "cupy" not in sys.modules and find_spec("cupy") is None:
        return 0
    try:
        return int(import_module("cupy").cuda.runtime.getDeviceCount())
    except Exception:  # a driver can be missing or too old in many ways; `rnnfast info` says why
        return 0


def _kind(x: object) -> str:
    return type(x).__name__
