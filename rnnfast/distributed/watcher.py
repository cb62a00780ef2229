"""A small process on each host that says so when a rank is killed.

mpiexec ends all ranks when one has died, but names only a process id, if any.
"""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import time
from typing import Any

from rnnfast.distributed import watching

PATIENCE = 10.0  # seconds until the watcher listens
HIGH = 900  # below the usual limit, 1,024

_connection: socket.socket | None = None


def start(name: str) -> None:
    """Have this process watched, once. Without effect outside Linux.

    Parameters
    ----------
    name : str
        What the message calls this rank.
    """
    global _connection
    if _connection is not None or sys.platform != "linux":
        return
    address = f"\0rnnfast-{os.getppid()}"  # the ranks of a job on one host have the same parent
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.bind(address)  # of all ranks one can do so
        server.listen(4096)
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        command = [sys.executable, "-P", "-S", "-E", watching.__file__, str(server.fileno())]
        child = subprocess.Popen(
            command, pass_fds=(server.fileno(),), start_new_session=True, **quiet
        )
        child.returncode = 0  # nobody waits for it
    connection, until = socket.socket(socket.AF_UNIX), time.monotonic() + PATIENCE
    connection.settimeout(PATIENCE)
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            connection.connect(address)
            connection.sendall(name.encode() + b"\n")
            connection.recv(1)
            _connection = _first_to_go(connection)
            atexit.register(farewell)
            return
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        connection.sendall(b"x")  # the watcher may be late, and take a name without it for a death
    connection.close()  # only the name of a killed rank will be missing


def _first_to_go(connection: socket.socket) -> socket.socket:
    """The connection with a high number.

    Linux lets go of what a killed process has in the reverse order of the numbers. mpiexec's own
    connection, by whose end it learns of the death, must not end before this one.
    """
    import fcntl  # which Windows does not have

    try:
        number = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, HIGH)
    except OSError:  # a lower limit
        return connection
    connection.close()
    return socket.socket(fileno=number)


def claim() -> None:
    """Say that this process reports why the job ends: the watcher keeps quiet."""
    _send(b"q")


def farewell() -> None:
    """This rank ends as it should."""
    global _connection
    _send(b"x")
    if _connection is not None:
        _connection.close()
    _connection = None


def _send(what: bytes) -> None:
    if _connection is not None:
        with contextlib.suppress(OSError):
            _connection.sendall(what)
