"""The program of a watcher: `python watching.py SOCKET`, the number of a socket that listens.

Each rank of a host connects, gets a byte, sends its name and a newline, and keeps the connection
until it ends. An x says farewell, a q that the rank itself reports why the job ends. Where a
connection ends without either, the rank was killed. mpiexec then kills the others, so only the
first one counts: epoll reports ends in the order in which they happened, however late it is asked.
"""

import contextlib
import os
import select
import socket
import sys

ALONE = 60.0  # seconds to wait for the first rank
LAUNCHERS = ("mpiexec", "mpirun", "prterun", "orterun")


def launchers_stderr() -> int:
    """stderr of the mpiexec of this job, if it runs on this host; else that of the rank.

    What goes through mpiexec may be lost, since it ends at once.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = os.getppid()
        while pid > 1:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            if name.startswith(LAUNCHERS):
                return os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND)
            pid = int(rest.split()[1])
    return 2


def watch(server: socket.socket, to: int) -> None:
    """Watch ranks until all that have connected have ended."""
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    ranks: dict[int, socket.socket] = {}
    said: dict[int, bytes] = {}
    quiet = False
    while True:
        found = poll.poll(None if ranks else ALONE, maxevents=1)
        if not found:  # who has started this died before it connected
            return
        ((number, _),) = found
        if number == server.fileno():
            rank = server.accept()[0]
            ranks[rank.fileno()], said[rank.fileno()] = rank, b""
            poll.register(rank, select.EPOLLIN)
            with contextlib.suppress(OSError):
                rank.sendall(b"r")  # from now on it is watched
            continue
        data = b""
        with contextlib.suppress(ConnectionError):
            data = ranks[number].recv(4096)
        said[number] += data
        name, _, last = said[number].partition(b"\n")
        quiet = quiet or b"q" in last
        if data:
            continue
        if not (quiet or b"x" in last):
            quiet = True
            with contextlib.suppress(OSError):
                os.write(to, b"rnnfast: %s was killed or ended early: the job ends\n" % name)
        poll.unregister(number)
        ranks.pop(number).close()
        if not ranks:
            return


if __name__ == "__main__":
    watch(socket.socket(fileno=int(sys.argv[1])), launchers_stderr())
