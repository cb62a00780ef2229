"""The folder of a run: its files, who writes them, and how one becomes a copy of another."""

import errno
import glob
import os
import shutil
import sys
from contextlib import ExitStack

from rnnfast.io.files import check_folder, remove, replace
from rnnfast.io.weights import load_arrays

LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"  # the last one of a run
GOOD = "good.safetensors"  # the last one after which the loss did not rise
BEST = "best.safetensors"  # the one with the lowest validation perplexity


def copy_checkpoint(path: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
    """Make `new` a copy of `path`.

    A hard link will do: checkpoints are replaced as files, never written in place.
    """
    if os.path.exists(new) and os.path.samefile(path, new):
        return  # rename(2) would do nothing, and leave the temporary name
    temporary = f"{new}.tmp"
    remove(temporary)
    try:
        os.link(path, temporary)
    except OSError:  # not every file system has links
        shutil.copyfile(path, temporary)
    replace(temporary, new)


def take_folder(out: str, until: ExitStack) -> None:
    """Make the folder of a run, and lock it until the end of a stack of contexts.

    If the folder cannot be written, that shows here, not at the end. Some network file systems have
    no such locks.

    Raises
    ------
    OSError
        If the folder cannot be made or written.
    ValueError
        If another process trains in it.
    """
    os.makedirs(out, exist_ok=True)
    check_folder(out, out)
    log = os.open(os.path.join(out, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    until.callback(os.close, log)
    try:
        _lock(log)
    except BlockingIOError:
        raise ValueError(f"{out}: another process is training in this folder") from None
    except OSError:  # there are none
        return


def _lock(file: int) -> None:
    """Lock a file until it is closed; BlockingIOError if it is locked already."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 30, os.SEEK_SET)  # nobody could read or write what is locked
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:  # Wine gives it no number
            if error.errno in (errno.EACCES, errno.EDEADLK, 0):
                raise BlockingIOError from None
            raise
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def tidy(out: str) -> None:
    """Remove what a run has left over that was killed while it wrote."""
    for left_over in glob.glob(os.path.join(glob.escape(out), "*.safetensors.*tmp")):
        remove(left_over)


def refuse_to_overwrite(out: str) -> None:
    """ValueError if the folder holds a run."""
    names = (LOG, "*.safetensors")
    found = [file for name in names for file in glob.glob(os.path.join(glob.escape(out), name))]
    if found == [os.path.join(out, LOG)] and os.path.getsize(found[0]) == 0:
        return  # a run that was interrupted before its first line
    if found:
        raise ValueError(
            f"{out}: holds a run ({', '.join(sorted(map(os.path.basename, found)))}); --resume "
            "goes on with it, --force starts anew and overwrites it, another --out keeps it"
        )


def is_damaged(checkpoint: str) -> bool:
    """Whether there is no readable checkpoint."""
    try:
        load_arrays(checkpoint, only_header=True)
    except (OSError, ValueError):
        return True
    return False
