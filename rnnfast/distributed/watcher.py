"""A small process beside each rank that says so when the rank is killed.

mpiexec ends all ranks when one has died, but names only a process id, if any.
"""

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
from typing import Any

# It waits for the end of a pipe whose other end the rank has. A byte in it is a farewell. The first
# of a host to come here makes a file; the others are of ranks that mpiexec has ended since then.
_PROGRAM = """
import os, sys, time
pipe, ready, token, message = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.close(ready)
if not os.read(pipe, 1):
    try:
        os.close(os.open(token, os.O_CREAT | os.O_EXCL))
        os.write(2, message.encode())
    except OSError:
        pass
    os.close(2)
    time.sleep(5)
    try:
        os.unlink(token)
    except OSError:
        pass
"""

_pipe: int | None = None
_token = ""


def start(name: str) -> None:
    """Watch this process, once.

    Parameters
    ----------
    name : str
        What the message calls this rank.
    """
    global _pipe, _token
    if _pipe is not None:
        return
    # The ranks of a job on one host have the same parent
    _token = os.path.join(tempfile.gettempdir(), f"rnnfast-{os.getppid()}.ended")
    theirs, _pipe = os.pipe()
    starts, ready = os.pipe()
    message = f"rnnfast: {name} was killed or ended early: the job ends\n"
    command = [sys.executable, "-S", "-E", "-c", _PROGRAM, str(theirs), str(ready), _token, message]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with contextlib.suppress(OSError):  # without it only the name is missing
        child = subprocess.Popen(command, pass_fds=(theirs, ready), start_new_session=True, **quiet)
        child.returncode = 0  # nobody waits for it
    for end in (theirs, ready):
        os.close(end)
    os.read(starts, 1)  # until it watches
    os.close(starts)
    atexit.register(farewell)


def claim() -> None:
    """Say that this process reports why the job ends: the watchers of this host keep quiet."""
    if _token:
        with contextlib.suppress(OSError):
            os.close(os.open(_token, os.O_CREAT | os.O_EXCL))


def farewell() -> None:
    """This rank ends as it should."""
    global _pipe
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, b"x")
            os.close(_pipe)
        _pipe = None
        with contextlib.suppress(OSError):
            os.unlink(_token)
