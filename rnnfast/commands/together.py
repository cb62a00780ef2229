"""A command that mpiexec has started: its ranks, what they print, and how they end."""

import errno
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from rnnfast.distributed.launch import launched, world
from rnnfast.distributed.ranks import Ranks

LINGER = 2.0  # seconds


def one_line(error: BaseException | Warning) -> str:
    """The message of an exception or warning, in one line."""
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename) or 'the empty name'}: {error.strerror}"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return "; ".join([text, *getattr(error, "__notes__", [])])


def is_closed_pipe(error: BaseException) -> bool:
    """Whether nobody reads what was written, which Windows may call an invalid argument."""
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    return error.errno == errno.EPIPE or (os.name == "nt" and error.errno == errno.EINVAL)


@contextmanager
def only_first_speaks(*, errors: bool = False) -> Iterator[bool]:
    """Within the block, rank 0 alone writes to stdout, and warns. Yields whether this is it.

    errors: and to stderr.
    """
    if launched()[0] == 0:
        yield True
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nobody,
        redirect_stdout(nobody),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        with redirect_stderr(nobody if errors else sys.stderr):
            yield False


def let_first_speak() -> None:
    """Before another rank than 0 ends with an error: rank 0 says why, if it has the same one.

    Open MPI's launcher ends all ranks as soon as one has ended with an error.
    """
    if launched()[0] > 0:
        time.sleep(LINGER)


@contextmanager
def together() -> Iterator[Ranks | None]:
    """All ranks that mpiexec has started, for one command; None if this process is the only one.

    Where only some of them fail, the first of these says why and ends the job.
    """
    ranks = world()
    if ranks is None:
        yield None
        return
    try:
        yield ranks
    except BaseException as error:
        if not ranks.all_failed():
            ranks.fail(one_line(error))
        raise
    ranks.finish()
