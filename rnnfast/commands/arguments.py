"""Command-line arguments that several commands share, and the types of their values."""

import argparse
import math
from collections.abc import Callable
from typing import Any, TypeVar

from rnnfast.commands.inputs import PRIME
from rnnfast.kernels import DEVICES, MAX_THREADS
from rnnfast.text.vocabulary import UNITS

Commands = Any  # the object that ArgumentParser.add_subparsers returns; argparse has no name for it
T = TypeVar("T", int, float, str)
LARGEST = 2**63 - 1  # of integers that checkpoints store


def add_command(
    commands: Commands, name: str, run: Callable[..., None], help: str, description: str
) -> argparse.ArgumentParser:
    """Add a subcommand that calls run(**options); options that are not given are left out."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, argument_default=argparse.SUPPRESS
    )
    command.set_defaults(run=run)
    return command


def add_model(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add MODEL, the path of a weight file."""
    nargs = "?" if optional else None
    command.add_argument("model", metavar="MODEL", nargs=nargs, help="weight file (.safetensors)")


def add_prime(command: argparse.ArgumentParser) -> None:
    """Add --prime, the text that a model reads first."""
    what = "text that the model reads before the given one; @FILE: the last "
    what += f"{PRIME} tokens of a file, '' no text (default: the end of the training text, "
    what += "if the weight file has it from `rnnfast train`)"
    command.add_argument("--prime", metavar="TEXT", help=what)


def add_unknown(command: argparse.ArgumentParser) -> None:
    """Add --unknown, the treatment of tokens that the model does not know."""
    what = "leave out characters and words that the model does not know, or map them to its "
    what += (
        "unknown token, or to a space if it has none (default: the unknown token, if it has one)"
    )
    command.add_argument("--unknown", choices=("skip", "map"), help=what)


def add_vocabulary(command: argparse.ArgumentParser) -> None:
    """Add --vocabulary and --level, for weight files without a vocabulary."""
    what = "training text of the model, for a weight file without a vocabulary (the book's .pkl)"
    command.add_argument("--vocabulary", metavar="FILE", help=what)
    what = "kind of token in the text of --vocabulary (default: word)"
    command.add_argument("--level", choices=tuple(UNITS), help=what)


def add_precision(command: argparse.ArgumentParser) -> None:
    """Add --precision, of the weights of recurrent layers."""
    what = "compute recurrent layers with weights of 16 or 8 bits: faster, a little less exact "
    what += "(on a CPU, see TimeLSTM.freeze; default: as the weights are)"
    command.add_argument("--precision", choices=("bf16", "int8"), help=what)


def add_machine(command: argparse._ActionsContainer) -> None:
    """Add --device and --threads; `rnnfast.commands.main` reads them."""
    what = "where to compute (default: RNNFAST_DEVICE, else the best that is there)"
    command.add_argument("--device", choices=("auto", *DEVICES), help=what)
    what = "threads on a CPU, of each rank; results do not depend on it (default: "
    what += "RNNFAST_NUM_THREADS or OMP_NUM_THREADS, else all processors)"
    command.add_argument("--threads", type=thread_count, metavar="N", help=what)


def thread_count(text: str) -> int:
    """A number of threads."""
    wanted = f"an integer from 1 to {MAX_THREADS}"
    return _number(text, int, wanted, lambda value: 1 <= value <= MAX_THREADS)


def positive_int(text: str) -> int:
    """An integer above 0."""
    return _number(text, int, "a positive integer", lambda value: value > 0)


def positive_ints(text: str) -> list[int]:
    """Integers above 0, with commas between them."""
    return [positive_int(part) for part in text.split(",")]


def natural_int(text: str) -> int:
    """An integer from 0 up."""
    return _number(text, int, "an integer that is not negative", lambda value: value >= 0)


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, "a positive number", lambda value: 0 < value < math.inf)


def ratio(text: str) -> float:
    """A number in [0, 1)."""
    return _number(text, float, "a number from 0 up and below 1", lambda value: 0 <= value < 1)


def probability(text: str) -> float:
    """A number in (0, 1]."""
    return _number(text, float, "a number above 0 and up to 1", lambda value: 0 < value <= 1)


def fraction(text: str) -> float:
    """A number in [0, 1]."""
    return _number(text, float, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def nonnegative_float(text: str) -> float:
    """A finite number from 0 up."""
    return _number(text, float, "a number from 0 up", lambda value: 0 <= value < math.inf)


def seconds(text: str) -> float:
    """Seconds from 0 up, which may be infinite."""
    return _number(text, float, "seconds from 0 up", lambda value: value >= 0)


def factor(text: str) -> float:
    """A finite number above 1."""
    return _number(text, float, "a number above 1", lambda value: 1 < value < math.inf)


def or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an argument that may also be `none`."""
    return lambda text: None if text == "none" else kind(text)


def nonempty(text: str) -> str:
    """Text that is not empty."""
    return _number(text, str, "text that is not empty", bool)


def _number(text: str, kind: type[T], wanted: str, valid: Callable[[T], bool]) -> T:
    """The value of an argument; ArgumentTypeError if it cannot be read or is not valid."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if isinstance(value, int) and value > LARGEST:
        value, wanted = None, f"an integer up to {LARGEST}"
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return value
