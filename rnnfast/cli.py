"""The command line: arguments and exit codes; the work is done in trainer.py and kernels.py.

0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted by Ctrl-C.
"""

import argparse
import math
import os
import sys

from rnnfast import __version__, kernels, trainer


def main(argv=None):
    """Run one command and return its exit code."""
    options = vars(_parser().parse_args(argv))
    run = options.pop("run")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # generated text may not fit the terminal
    try:
        run(**options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("rnnfast: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush is quiet
        return 1
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError, MemoryError) as error:
        print(f"rnnfast: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser():
    parser = argparse.ArgumentParser(prog="rnnfast", description="Fast recurrent layers for NumPy.")
    parser.add_argument("--version", action="version", version=f"rnnfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="print versions, instruction sets, threads, devices")
    info.set_defaults(run=kernels.show_config)

    train = commands.add_parser(
        "train",
        help="train an LSTM character model on a text",
        description="Train an LSTM character model on a text by truncated BPTT, report its "
        "perplexity on the last 5% of it, and print some text that it generates.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.set_defaults(run=trainer.train_language_model)
    option = train.add_argument
    rates = ", ".join(f"{name} {rate}" for name, (_, rate) in trainer.OPTIMIZERS.items())
    absent = argparse.SUPPRESS  # leaves the choice to train_language_model
    what = "UTF-8 text; without it: Python's own documentation"
    option("file", nargs="?", metavar="FILE", default=absent, help=what)
    option("--out", metavar="DIR", default="rnnfast-out", help="folder for weights, log, curve")
    option(
        "--epochs", type=_count, metavar="N", default=trainer.EPOCHS, help="times through the text"
    )
    option("--hidden", type=_count, metavar="N", default=trainer.HIDDEN, help="units of the LSTM")
    option(
        "--embedding", type=_count, metavar="N", default=trainer.EMBEDDING, help="size of its input"
    )
    option(
        "--batch-size",
        type=_count,
        metavar="N",
        default=trainer.BATCH_SIZE,
        help="texts in parallel",
    )
    option("--time-size", type=_count, metavar="N", default=trainer.TIME_SIZE, help="steps of BPTT")
    option("--optimizer", choices=trainer.OPTIMIZERS, default="adam", help="update rule")
    option(
        "--lr",
        type=_positive,
        metavar="X",
        default=absent,
        help=f"learning rate (default: {rates})",
    )
    option(
        "--max-grad", type=_positive, metavar="X", default=trainer.MAX_GRAD, help="longest gradient"
    )
    option("--eval-interval", type=_count, metavar="N", default=20, help="iterations per line")
    option("--seed", type=_natural, metavar="N", default=0, help="of weights and samples")
    option("--sample", type=_natural, metavar="N", default=400, help="characters to generate")
    return parser


def _count(text):
    return _number(text, int, "a positive integer", lambda value: value > 0)


def _natural(text):
    return _number(text, int, "an integer that is not negative", lambda value: value >= 0)


def _positive(text):
    return _number(text, float, "a positive number", lambda value: 0 < value < math.inf)


def _number(text, kind, wanted, valid):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return value
