"""Files that are written completely or not at all, and the folder for downloads."""

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

T = TypeVar("T")
StrPath = str | os.PathLike[str]
PATIENCE = 2.0  # seconds in which others may close a file on Windows


def cache_folder() -> str:
    """Folder for downloads and compiled kernels.

    Returns
    -------
    str
        The environment variable RNNFAST_CACHE if it is set, else ``rnnfast`` in the user's cache
        folder (XDG_CACHE_HOME, ``~/.cache``; ``~/Library/Caches`` on macOS, LOCALAPPDATA on
        Windows).
    """
    if folder := os.environ.get("RNNFAST_CACHE"):
        return folder
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    if os.name == "nt":
        usual = os.environ.get("LOCALAPPDATA") or usual
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual), "rnnfast")


def path_text(path: StrPath) -> str:
    """Return a path as str.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    str

    Raises
    ------
    TypeError
        For another type, bytes among them.
    """
    text: object = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a PathLike of str, got {text!r}")
    return text


def open_regular(path: StrPath) -> BinaryIO:
    """Open a regular file for reading, in binary mode.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    file object

    Raises
    ------
    ValueError
        For a pipe or a device: reading could block or never end.
    OSError
        If the file cannot be read.
    """
    path = path_text(path)
    _check_regular(path, os.stat(path).st_mode)
    return _patiently(lambda: open(path, "rb"))


def write_atomically(path: StrPath, data: bytes) -> None:
    """Write a file so that at any moment `path` is the old file or the complete new one.

    The data go to a temporary file of a name of its own, which is then renamed. A symbolic link
    stays one: its target is written.

    Parameters
    ----------
    path : str or PathLike
    data : bytes

    Raises
    ------
    ValueError
        For a pipe or a device, which a file would replace.
    OSError
        If the file cannot be written. The error names `path`; the old file is unchanged.
    """
    target = _target(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f"{name[:60]}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            remove(temporary)
        if isinstance(error, OSError) and error.errno is not None:  # it names the temporary file
            raise OSError(error.errno, error.strerror, path_text(path)) from None
        raise
    _sync_folder(folder)


def replace(path: StrPath, new: StrPath) -> None:
    """Rename a file; one that has the new name already is gone then.

    Parameters
    ----------
    path, new : str or PathLike
        On one file system.

    Raises
    ------
    OSError
        If it cannot be renamed.
    """
    _patiently(lambda: os.replace(path, new))


def _patiently(act: Callable[[], T]) -> T:
    """On Windows try again what fails while somebody else has a file open, as virus scanners do."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return act()
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
        time.sleep(0.01)


def check_writable(path: StrPath) -> None:
    """Check that a file can be written at `path`. An existing file stays as it is.

    Parameters
    ----------
    path : str or PathLike

    Raises
    ------
    ValueError
        For a pipe or a device.
    OSError
        If a file cannot be written there. The error names `path`.
    """
    target = _target(path)
    folder = os.path.dirname(target)
    if not path or os.path.isdir(target) or not os.path.isdir(folder):
        code = errno.EISDIR if path and os.path.isdir(target) else errno.ENOENT
        raise OSError(code, os.strerror(code), path)
    check_folder(folder, path)


def check_folder(folder: str, path: StrPath) -> None:
    """Check that a file can be made in a folder. Errors name `path`.

    Not by tempfile: where that may not, it tries two billion names on Windows.
    """
    probe = os.path.join(folder, f"{os.urandom(8).hex()}.tmp")
    try:
        with open(probe, "xb"):
            pass
        remove(probe)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None


def remove(path: StrPath) -> None:
    """Remove a file, with the patience of `replace`; there may be none."""
    with contextlib.suppress(FileNotFoundError):
        _patiently(lambda: os.unlink(path))


def _target(path: StrPath) -> str:
    """The absolute path that is written for `path`."""
    path = path_text(path)
    try:
        mode = os.stat(path).st_mode
    except OSError:  # there is none yet
        pass
    else:
        _check_regular(path, mode)
    return os.path.realpath(path)


def _check_regular(path: StrPath, mode: int) -> None:
    """ValueError for a pipe or a device; a folder is the same error on every system."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: must be a regular file, got a pipe or a device")


def _sync_folder(folder: str) -> None:
    """Make the rename itself durable, where the file system can: the file is in place already.

    Windows cannot open a folder and does not need it.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
