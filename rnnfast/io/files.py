"""Files that are written completely or not at all, and the folder for what is downloaded."""

import contextlib
import errno
import os
import stat
import sys
import tempfile


def cache_folder():
    """RNNFAST_CACHE, else `rnnfast` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    if folder := os.environ.get("RNNFAST_CACHE"):
        return folder
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual), "rnnfast")


def open_regular(path):
    """open(path, "rb"). ValueError for a pipe or a device, which may keep us waiting or never end.

    OSError if it cannot be read.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder open says that it is one
        raise ValueError(f"{path}: must be a regular file, got a pipe or a device")
    return open(path, "rb")


def write_atomically(path, data):
    """Write bytes so that `path` is at any moment either the old file or the complete new one."""
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename, error.filename2 = path, None  # not the temporary one, or none
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(path) or ".")


def check_writable(path):
    """OSError, naming `path`, where a file cannot be written there; what is there stays."""
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    if not path or os.path.isdir(path) or not os.path.isdir(folder):
        code = errno.EISDIR if path and os.path.isdir(path) else errno.ENOENT
        raise OSError(code, os.strerror(code), path)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None


def _sync_folder(folder):
    """Make the rename itself durable; Windows cannot open a folder and does not need it."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
