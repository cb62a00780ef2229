"""The command line: subcommands and exit codes.

Exit codes: 0 success, 1 failure (one line on stderr gives the reason), 2 wrong usage, 130
interrupted by Ctrl-C, 143 terminated by SIGTERM.
"""

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from rnnfast import kernels
from rnnfast.commands import cells, data, eval, generate, gradients, info, recipes, score, train
from rnnfast.commands.together import is_closed_pipe, let_first_speak, one_line, only_first_speaks
from rnnfast.training.evaluation import PerplexityWarning
from rnnfast.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after `rnnfast`. None takes those of the process.

    Returns
    -------
    int
        0 success, 1 failure, 130 after Ctrl-C, 143 after SIGTERM.

    Raises
    ------
    SystemExit
        With code 2 for wrong usage, with 0 after --help and --version.
    """
    # Python sets these to None if the process starts with closed streams.
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    if sys.stdout is None:
        print(f"rnnfast: stdout is closed; {os.devnull} takes what nobody reads", file=sys.stderr)
        return 1
    try:
        with only_first_speaks(errors=True):
            options = vars(_parser().parse_args(argv))
    except SystemExit as error:
        if error.code:
            let_first_speak()
        raise
    run = options.pop("run")
    machine = options.pop("device", None), options.pop("threads", None)
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="replace")  # the terminal may not have all characters
    with warnings.catch_warnings(), only_first_speaks() as first:
        if first:
            warnings.showwarning = _warn
            warnings.simplefilter("always", PerplexityWarning)
        code = _run(run, options, first, *machine)
    if code:
        let_first_speak()
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush is quiet
    return code


THREADS = "RNNFAST_NUM_THREADS"


@contextmanager
def _computing(device: str | None, threads: int | None) -> Iterator[None]:
    """Compute on a device, with a number of threads, in one block."""
    before, variable = kernels.get_num_threads(), os.environ.get(THREADS)
    if threads is not None:
        kernels.set_num_threads(threads)
        os.environ[THREADS] = str(threads)  # several ranks then do not divide the processors
    try:
        with nullcontext() if device is None else kernels.device(device):
            yield
    finally:
        if threads is not None:
            kernels.set_num_threads(before)
            os.environ.pop(THREADS)
            os.environ |= {} if variable is None else {THREADS: variable}


def _run(
    run: Callable[..., None],
    options: dict[str, Any],
    first: bool,
    device: str | None,
    threads: int | None,
) -> int:
    """Call a command and return its exit code; its errors become one line on stderr.

    first: whether this is the process that says so, not one of several ranks.
    """

    def say(line: str) -> None:
        if first:
            print(f"rnnfast: {line}", file=sys.stderr)

    try:
        with _computing(device, threads):
            run(**options)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        say(one_line(error) if str(error) else "interrupted")
        signum: int | None = getattr(error, "signum", signal.SIGINT)
        return 1 if signum is None else 128 + signum
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        return 1
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError, MemoryError) as error:
        if not (is_closed_pipe(error) and _stdout_is_gone()):
            say(one_line(error))
        return 1
    return 0


def _stdout_is_gone() -> bool:
    """Whether what is left to be written to stdout cannot be."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _warn(message: Any, *where: Any, **more: Any) -> None:
    """warnings.showwarning for the command line: one line without the place in the source."""
    print(f"rnnfast: warning: {one_line(message)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="rnnfast",
        description="Train recurrent language models on text, evaluate them, generate text.",
        epilog="`rnnfast train` without arguments trains a character model in about a minute. "
        "`rnnfast COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"rnnfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (train, recipes, eval, score, generate, info, data, gradients, cells):
        command.add(commands)
    return parser
