"""The package where a system lacks what Linux has."""

import subprocess
import sys

from cases import PATIENCE

NO_POSIX = """
import os, pkgutil, signal, socket, sys

for module in "fcntl", "grp", "pty", "pwd", "resource", "termios":
    sys.modules[module] = None
for holder, names in {
    os: "fork forkpty getuid geteuid kill killpg mkfifo register_at_fork sched_getaffinity "
    "sched_setaffinity statvfs sysconf O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK",
    signal: "SIGALRM SIGHUP SIGKILL SIGPIPE SIGSTOP SIGUSR1 SIGXFSZ alarm pthread_kill "
    "pthread_sigmask setitimer",
    socket: "AF_UNIX",
}.items():
    for name in names.split():
        vars(holder).pop(name, None)

import rnnfast

missing = []
for module in pkgutil.walk_packages(rnnfast.__path__, "rnnfast."):
    if module.name.endswith("__main__"):
        continue
    try:
        __import__(module.name)
    except ModuleNotFoundError as error:
        missing.append(error.name)
print(*missing)
"""


def test_every_module_imports_without_posix():
    """As on Windows. What is missing then are optional packages of the column for GPUs."""
    command = [sys.executable, "-c", NO_POSIX]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    missing = done.stdout.split()
    assert {name.partition(".")[0] for name in missing} <= {"numba", "cuda", "numba-cuda", "cupy"}
