"""The command line: subcommands and exit codes.

0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted by Ctrl-C, 143 by
SIGTERM.
"""

import argparse
import io
import os
import signal
import sys
import warnings

from rnnfast.commands import cells, data, eval, generate, gradients, info, score, train
from rnnfast.training.evaluation import PerplexityWarning
from rnnfast.version import __version__


def main(argv=None):
    """Run one command and return its exit code."""
    if sys.stderr is None:
        sys.stderr = io.StringIO()  # closed: there is nobody to tell
    if sys.stdout is None:
        print("rnnfast: stdout is closed; /dev/null takes what nobody reads", file=sys.stderr)
        return 1
    options = vars(_parser().parse_args(argv))
    run = options.pop("run")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # generated text may not fit the terminal
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        warnings.simplefilter("always", PerplexityWarning)
        code = _run(run, options)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush is quiet
    return code


def _run(run, options):
    try:
        run(**options)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        print(f"rnnfast: {_one_line(error) if str(error) else 'interrupted'}", file=sys.stderr)
        signum = getattr(error, "signum", signal.SIGINT)
        return 1 if signum is None else 128 + signum
    except BrokenPipeError:  # whoever read has seen enough
        return 1
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError, MemoryError) as error:
        print(f"rnnfast: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename) or 'the empty name'}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _warn(message, *where):
    print(f"rnnfast: warning: {_one_line(message)}", file=sys.stderr)


def _parser():
    parser = argparse.ArgumentParser(
        prog="rnnfast",
        description="Train recurrent language models on text, evaluate them, let them write.",
        epilog="`rnnfast train` alone trains a character model in about a minute; "
        "`rnnfast COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"rnnfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (train, eval, score, generate, info, data, gradients, cells):
        command.add(commands)
    return parser
