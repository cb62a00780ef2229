"""The command line: arguments and exit codes; the work is done in jobs.py and using.py.

0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted by Ctrl-C, 143 by
SIGTERM.
"""

import argparse
import io
import math
import os
import signal
import sys
import warnings

from rnnfast import __version__, inside, jobs, using
from rnnfast.corpora import CORPORA
from rnnfast.trainer import PerplexityWarning


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
    _train(commands)
    _eval(commands)
    _score(commands)
    _generate(commands)
    _info(commands)
    _data(commands)
    _gradients(commands)
    _cells(commands)
    return parser


def _command(commands, name, run, help, description):
    """A subcommand that calls run(**options); options that are not given are left out."""
    command = commands.add_parser(
        name, help=help, description=description, argument_default=argparse.SUPPRESS
    )
    command.set_defaults(run=run)
    return command


def _train(commands):
    command = _command(
        commands,
        "train",
        jobs.train,
        "train a language model on a text",
        "Train a recurrent language model on a text by truncated BPTT, report its perplexity on "
        "text it has not seen, and print some text that it generates. Ctrl-C and SIGTERM save a "
        "checkpoint and print the command that goes on; generate, eval and score read it, too.",
    )
    usual = jobs.Settings()

    def option(group, name, kind, metavar, help, default=None, **more):
        default = getattr(usual, name.replace("-", "_"), None) if default is None else default
        help += f" (default: {default})"
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=help, **more)

    def choice(group, name, choices, help):
        help += f" (default: {getattr(usual, name)})"
        group.add_argument(f"--{name}", choices=choices, help=help)

    group = command.add_argument_group("text and files")
    what = "UTF-8 text; without it: Python's own documentation"
    group.add_argument("file", nargs="?", metavar="FILE", help=what)
    choice(group, "level", tuple(using.UNITS), "what a token is")
    what = "rarer tokens count as unknown, so that the model learns a token for what it never saw"
    option(group, "min-count", _count, "N", what)
    what = "text to measure progress on: the weights of the best epoch are kept"
    option(group, "valid", str, "FILE", what, "the last 5%% of the text are held out")
    option(group, "test", str, "FILE", "text to evaluate the trained model on", "none")
    option(group, "out", str, "DIR", "folder for weights, checkpoint, log, curve", "rnnfast-out")
    free = ", ".join(f"--{jobs.option(name)}" for name in jobs.FREE)
    batch = " and ".join(f"--{jobs.option(name)}" for name in jobs.BATCH)
    what = "go on from the checkpoint in DIR, with its settings but for those of "
    what += f"{free} that are given, and between two epochs those of {batch}"
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=what)
    what = "start anew in a DIR that holds a run; its weights stay until there are new ones"
    again.add_argument("--force", action="store_true", help=what)
    group.add_argument(
        "--plot",
        action=argparse.BooleanOptionalAction,
        dest="plot_curve",
        help="draw the perplexity curve (default: if matplotlib is there)",
    )
    option(group, "save-every", _seconds, "SECONDS", "between checkpoints within an epoch")

    group = command.add_argument_group("model")
    what = "the book's SimpleRnnlm (RNN), Rnnlm (LSTM), BetterRnnlm (two LSTM, dropout, tied), or "
    choice(group, "model", tuple(jobs.MODELS), f"{what}custom: choose the parts")
    option(group, "hidden", _count, "N", "hidden units of a layer")
    what = "size of an embedded token"
    option(group, "embedding", _count, "N", what, "64; that of --hidden with better or --tie")
    what = "ratio of dropout, for better and custom"
    option(group, "dropout", _ratio, "X", what, "0.5 for better, 0 for custom")
    choice(group, "cell", jobs.CELLS, "custom: kind of recurrent layer")
    option(group, "layers", _count, "N", "custom: recurrent layers")
    what = "custom: one dropout mask for all steps, on the recurrent path too"
    group.add_argument("--variational", action="store_true", help=what)
    option(group, "weight-drop", _ratio, "X", "custom: ratio of the recurrent weights dropped")
    what = "custom: the embedding and the output share one matrix"
    group.add_argument("--tie", action="store_true", help=what)

    group = command.add_argument_group("training")
    option(group, "epochs", _count, "N", "times through the text")
    option(group, "batch-size", _count, "N", "samples in parallel")
    option(group, "time-size", _count, "N", "steps of BPTT")
    what = "each sample starts from a zero state once in N iterations; 0, the book's way: never"
    option(group, "restart-every", _natural, "N", what)
    choice(group, "optimizer", tuple(jobs.RULES), "update rule")
    rates = ", ".join(f"{name} {rate}" for name, (_, rate) in jobs.RULES.items())
    option(group, "lr", _positive, "X", "learning rate", rates)
    what = "divide the learning rate by X after an epoch without progress on --valid (the book: 4)"
    option(group, "lr-decay", _factor, "X", what, "never")
    option(group, "max-grad", _positive, "X", "longest gradient")
    option(group, "eval-interval", _count, "N", "iterations per line")
    option(group, "seed", _natural, "N", "of weights and samples")
    option(group, "sample", _natural, "N", "tokens to generate in the end")


def _eval(commands):
    command = _command(
        commands,
        "eval",
        using.evaluate_file,
        "print a model's perplexity on a text",
        "Print the perplexity of a text under a trained model (for characters, bits per character "
        "too) and its accuracy. As in the book, batch losses are averaged and a tail that fills "
        "none is dropped.",
    )
    _model(command)
    command.add_argument("file", metavar="FILE", help="UTF-8 text")
    batch, time = using.EVAL_BATCH, using.EVAL_TIME
    what = f"samples in parallel (default: {batch}; 1 for a short text)"
    command.add_argument("--batch-size", type=_count, metavar="N", help=what)
    command.add_argument(
        "--time-size", type=_count, metavar="N", help=f"steps at a time (default: {time})"
    )
    _prime(command)
    _unknown(command)
    _vocabulary(command)


def _score(commands):
    command = _command(
        commands,
        "score",
        using.score,
        "print the probability of a text, token by token",
        "A language model is the probability of a sequence: print the log-probability of each "
        "token given those before it, and of the whole TEXT.",
    )
    _model(command)
    command.add_argument("text", metavar="TEXT", help="the text itself; - reads it from stdin")
    _prime(command)
    _unknown(command)
    _vocabulary(command)


def _generate(commands):
    command = _command(
        commands,
        "generate",
        using.generate,
        "let a model write text",
        "Print text that a model generates, token by token as it is drawn.",
    )
    _model(command)
    option = command.add_argument
    option("--prompt", metavar="TEXT", help="text to go on from (default: the start of a line)")
    _prime(command)
    option("--length", type=_count, metavar="N", help="tokens to draw (default: 400)")
    what = "below 1 the likely becomes likelier; 0 takes the likeliest (default: "
    temperature = f"{what}{using.TEMPERATURE})"
    option("--temperature", type=_temperature, metavar="X", help=temperature)
    option("--top-k", type=_count, metavar="N", help="draw from the N likeliest tokens")
    what = "draw from the fewest tokens that have probability X together"
    option("--top-p", type=_probability, metavar="X", help=what)
    option("--seed", type=_natural, metavar="N", help="makes the text reproducible")
    option("--stop", type=_text, metavar="TEXT", help="end after this text")
    what = "token that is never drawn, as the unknown one; may be repeated"
    option("--skip", action="append", metavar="TOKEN", help=what)
    _unknown(command)
    _vocabulary(command)


def _info(commands):
    command = _command(
        commands,
        "info",
        using.info,
        "print versions, instruction sets, threads, devices; or what a weight file holds",
        "Print versions, instruction sets, threads and devices, as a bug report needs them; or, "
        "with MODEL, what a weight file holds.",
    )
    _model(command, nargs="?")


def _data(commands):
    command = _command(
        commands,
        "data",
        using.fetch,
        "download a corpus",
        "Download a corpus into a cache folder and print where its files are. An interrupted "
        "download is continued by the same command. "
        + " ".join(f"{name}: {corpus.what}." for name, corpus in CORPORA.items()),
    )
    option = command.add_argument
    option("name", choices=tuple(CORPORA), help="which")
    what = "where to (default: RNNFAST_CACHE, else the user's cache folder)"
    option("--folder", metavar="DIR", help=what)
    what = "another folder to get the files from (default: RNNFAST_DATA_URL, else the usual one)"
    option("--url", metavar="URL", help=what)
    what = "another checksum for a file, may be repeated (default: RNNFAST_DATA_SHA256)"
    option("--sha256", action="append", metavar="FILE=SUM", help=what)


def _gradients(commands):
    command = _command(
        commands,
        "gradients",
        using.gradients,
        "draw how gradients explode and vanish over time",
        "Draw the norm of the hidden state's gradient over time steps, for recurrent weights "
        "scaled up, down and orthogonal, RNN against LSTM, and the activation functions.",
    )
    what = "picture to write (default: gradients.png)"
    command.add_argument("--out", metavar="FILE", help=what)


def _cells(commands):
    command = _command(
        commands,
        "cells",
        using.cells,
        "colour a text by what one unit does",
        "Show TEXT on the colours of one unit's activation (blue -1, red 1), in the terminal or "
        "as an HTML page: the unit that follows a property of the text best, or any other.",
    )
    _model(command)
    option = command.add_argument
    option("text", metavar="TEXT", help="the text itself; - reads it from stdin")
    what = "what the unit is to follow: within quotes or brackets, position in line or word, "
    what += "upper case, digits (default: line)"
    option("--property", choices=tuple(inside.PROPERTIES), help=what)
    option("--top", type=_count, metavar="N", help="units to list (default: 5)")
    option("--unit", type=_natural, metavar="N", help="this unit, whatever it follows")
    option("--layer", type=_natural, metavar="N", help="of this recurrent layer (default: 0)")
    option("--html", metavar="FILE", help="page to write")
    _unknown(command)
    _vocabulary(command)


def _model(command, **more):
    command.add_argument("model", metavar="MODEL", help="weight file (.safetensors)", **more)


def _prime(command):
    what = "text that stands before, which the model reads first; @FILE: the last "
    what += f"{using.PRIME} tokens of a file, '' nothing (default: the end of the training text, "
    what += "if the weight file has it from `rnnfast train`)"
    command.add_argument("--prime", metavar="TEXT", help=what)


def _unknown(command):
    what = "leave characters and words that the model does not know out, or map them to its token "
    what += "for the unknown, else to a space (default: that token, if it has one)"
    command.add_argument("--unknown", choices=("skip", "map"), help=what)


def _vocabulary(command):
    what = "text the model was trained on, for a weight file without a vocabulary (the book's .pkl)"
    command.add_argument("--vocabulary", metavar="FILE", help=what)
    what = "what a token of that text is (default: word)"
    command.add_argument("--level", choices=tuple(using.UNITS), help=what)


def _count(text):
    return _number(text, int, "a positive integer", lambda value: value > 0)


def _natural(text):
    return _number(text, int, "an integer that is not negative", lambda value: value >= 0)


def _positive(text):
    return _number(text, float, "a positive number", lambda value: 0 < value < math.inf)


def _ratio(text):
    return _number(text, float, "a number from 0 up and below 1", lambda value: 0 <= value < 1)


def _probability(text):
    return _number(text, float, "a number above 0 and up to 1", lambda value: 0 < value <= 1)


def _temperature(text):
    return _number(text, float, "a number from 0 up", lambda value: 0 <= value < math.inf)


def _seconds(text):
    return _number(text, float, "seconds from 0 up", lambda value: value >= 0)


def _factor(text):
    return _number(text, float, "a number above 1", lambda value: 1 < value < math.inf)


def _text(text):
    return _number(text, str, "text that is not empty", bool)


def _number(text, kind, wanted, valid):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return value
