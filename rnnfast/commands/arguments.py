"""Command-line arguments that several commands have, and the types of their values."""

import argparse
import math

from rnnfast.commands.inputs import PRIME
from rnnfast.text.vocabulary import UNITS


def add_command(commands, name, run, help, description):
    """A subcommand that calls run(**options); options that are not given are left out."""
    command = commands.add_parser(
        name, help=help, description=description, argument_default=argparse.SUPPRESS
    )
    command.set_defaults(run=run)
    return command


def add_model(command, **more):
    command.add_argument("model", metavar="MODEL", help="weight file (.safetensors)", **more)


def add_prime(command):
    what = "text that stands before, which the model reads first; @FILE: the last "
    what += f"{PRIME} tokens of a file, '' nothing (default: the end of the training text, "
    what += "if the weight file has it from `rnnfast train`)"
    command.add_argument("--prime", metavar="TEXT", help=what)


def add_unknown(command):
    what = "leave characters and words that the model does not know out, or map them to its token "
    what += "for the unknown, else to a space (default: that token, if it has one)"
    command.add_argument("--unknown", choices=("skip", "map"), help=what)


def add_vocabulary(command):
    what = "text the model was trained on, for a weight file without a vocabulary (the book's .pkl)"
    command.add_argument("--vocabulary", metavar="FILE", help=what)
    what = "what a token of that text is (default: word)"
    command.add_argument("--level", choices=tuple(UNITS), help=what)


def positive_int(text):
    return _number(text, int, "a positive integer", lambda value: value > 0)


def natural_int(text):
    return _number(text, int, "an integer that is not negative", lambda value: value >= 0)


def positive_float(text):
    return _number(text, float, "a positive number", lambda value: 0 < value < math.inf)


def ratio(text):
    return _number(text, float, "a number from 0 up and below 1", lambda value: 0 <= value < 1)


def probability(text):
    return _number(text, float, "a number above 0 and up to 1", lambda value: 0 < value <= 1)


def nonnegative_float(text):
    return _number(text, float, "a number from 0 up", lambda value: 0 <= value < math.inf)


def seconds(text):
    return _number(text, float, "seconds from 0 up", lambda value: value >= 0)


def factor(text):
    return _number(text, float, "a number above 1", lambda value: 1 < value < math.inf)


def nonempty(text):
    return _number(text, str, "text that is not empty", bool)


def _number(text, kind, wanted, valid):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return value
