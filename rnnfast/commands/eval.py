"""`rnnfast eval`: loss, perplexity and accuracy of a model on a text."""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from numpy.typing import NDArray

from rnnfast.commands.arguments import (
    Commands,
    add_command,
    add_machine,
    add_model,
    add_precision,
    add_prime,
    add_unknown,
    add_vocabulary,
    fraction,
    nonnegative_float,
    positive_float,
    positive_int,
    ratio,
)
from rnnfast.commands.inputs import bits, load_ids, open_model, prime_ids, unknowns
from rnnfast.commands.together import together
from rnnfast.distributed.ranks import Ranks
from rnnfast.text.corpora import read_text
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.callbacks import ProgressBar
from rnnfast.training.dynamic import (
    BATCH,
    EPSILON,
    SEGMENT,
    USUAL,
    eval_dynamic,
    gradient_mean_squares,
)
from rnnfast.training.evaluation import (
    EVAL_BATCH,
    EVAL_TIME,
    Progress,
    eval_accuracy,
    eval_perplexity,
    evaluate,
)
from rnnfast.training.neural_cache import NeuralCache, eval_cache


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "eval",
        evaluate_file,
        "print a model's perplexity on a text",
        "Print the perplexity of a text under a trained model (for characters also the bits per "
        "character) and the model's accuracy. As in the book, the losses of batches are averaged, "
        "and the end of the text that fills no batch is dropped. With --dynamic the model goes on "
        "learning from the text, segment by segment, after each was measured; with --cache it "
        "remembers the last words. Both read one sample from start to end, and print no accuracy.",
    )
    add_model(command)
    command.add_argument("file", metavar="FILE", help="UTF-8 text")
    batch, time = EVAL_BATCH, EVAL_TIME
    what = f"samples in parallel (default: {batch}; 1 for a short text, --dynamic and --cache)"
    command.add_argument("--batch-size", type=positive_int, metavar="N", help=what)
    command.add_argument(
        "--time-size",
        type=positive_int,
        metavar="N",
        help=f"time steps per batch (default: {time}; with --dynamic {SEGMENT}, a segment)",
    )
    _add_dynamic(command)
    _add_cache(command)
    add_prime(command)
    add_unknown(command)
    add_precision(command)
    add_vocabulary(command)
    add_machine(command)


def _add_dynamic(command: argparse.ArgumentParser) -> None:
    """Add the arguments of dynamic evaluation."""
    what = (
        "go on learning from each segment after it was measured: dynamic evaluation, by SGD (the "
    )
    what += "default) or by RMS; the model's file is not changed"
    rules = tuple(USUAL)
    command.add_argument("--dynamic", choices=rules, nargs="?", const=rules[0], help=what)
    (sgd_lr, sgd_decay), (rms_lr, rms_decay) = USUAL.values()
    what = f"its learning rate (default: {sgd_lr:g}, with rms {rms_lr:g})"
    command.add_argument("--dynamic-lr", type=nonnegative_float, metavar="RATE", help=what)
    what = f"its decay to the trained weights (default: {sgd_decay:g}, with rms {rms_decay:g})"
    command.add_argument("--dynamic-decay", type=fraction, metavar="RATE", help=what)
    what = f"limits the steps of rms where gradients are small (default: {EPSILON:g})"
    command.add_argument("--dynamic-epsilon", type=positive_float, metavar="X", help=what)
    what = "text in which rms gathers the mean squares of gradients, the model's training text "
    what += "(default: that of --vocabulary)"
    command.add_argument("--dynamic-text", metavar="FILE", help=what)


def _add_cache(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the neural cache."""
    usual = NeuralCache()
    what = "mix the model with a neural cache of the last N words"
    command.add_argument("--cache", type=positive_int, metavar="N", help=what)
    what = "how much the likeness of hidden states counts in it, from 0 up "
    command.add_argument(
        "--cache-theta",
        type=nonnegative_float,
        metavar="X",
        help=what + f"(default: {usual.theta:g})",
    )
    what = f"its share in the mixture (default: {usual.ratio:g})"
    command.add_argument("--cache-ratio", type=ratio, metavar="X", help=what)


def evaluate_file(
    model: str,
    file: str,
    batch_size: int | None = None,
    time_size: int | None = None,
    *,
    prime: str | None = None,
    unknown: str | None = None,
    vocabulary: str | None = None,
    level: str | None = None,
    dynamic: str | None = None,
    dynamic_lr: float | None = None,
    dynamic_decay: float | None = None,
    dynamic_epsilon: float | None = None,
    dynamic_text: str | None = None,
    cache: int | None = None,
    cache_theta: float | None = None,
    cache_ratio: float | None = None,
    precision: str | None = None,
) -> None:
    """Print loss, perplexity (bits per character) and accuracy of a model on a text.

    Parameters
    ----------
    model : str
        A weight file.
    file : str
        A UTF-8 text.
    batch_size, time_size : int, optional
        Samples in parallel and time steps per batch. None is the usual size, or 1 sample for a
        short text.
    prime : str, optional
        Text that the model reads first, see `rnnfast.trainer.eval_perplexity`. "@FILE" is the end
        of a file, "" no text, None the text that the weight file has.
    unknown : {"skip", "map"}, optional
        Leave out tokens that the model does not know, or map them to its unknown token, or to a
        space if it has none. None maps them if the model has an unknown token, else they are an
        error.
    vocabulary : str, optional
        The training text of the model, for weight files without a vocabulary.
    level : {"char", "word"}, optional
        Kind of token in `vocabulary`. None is "word".
    dynamic : {"sgd", "rms"}, optional
        The rule of dynamic evaluation, see `rnnfast.trainer.eval_dynamic`.
    dynamic_lr, dynamic_decay, dynamic_epsilon : float, optional
        Its numbers. None is the usual one.
    dynamic_text : str, optional
        The training text, for "rms". None is `vocabulary`.
    cache : int, optional
        The size of a neural cache, see `rnnfast.trainer.NeuralCache`.
    cache_theta, cache_ratio : float, optional
        Its numbers. None is the usual one.
    precision : {"bf16", "int8"}, optional
        Of the weights of recurrent layers, see `rnnfast.TimeLSTM.freeze`.

    Raises
    ------
    OSError, ValueError
        If a file cannot be read, is no weight file of a language model, or has unknown tokens or
        too few tokens.
    """
    numbers = _given(lr=dynamic_lr, decay=dynamic_decay)
    of_rms = _given(epsilon=dynamic_epsilon, text=dynamic_text)
    of_cache = _given(theta=cache_theta, ratio=cache_ratio)
    if dynamic is None and numbers:
        raise ValueError(f"--dynamic-{next(iter(numbers))} needs --dynamic")
    if dynamic != "rms" and of_rms:
        raise ValueError(f"--dynamic-{next(iter(of_rms))} needs --dynamic rms")
    if cache is None and of_cache:
        raise ValueError(f"--cache-{next(iter(of_cache))} needs --cache")
    if dynamic is not None and precision is not None:
        raise ValueError("--precision is not for --dynamic, in which the model learns")
    training = of_rms.pop("text", vocabulary)
    if dynamic == "rms" and training is None:
        raise ValueError("--dynamic rms needs the model's training text: --dynamic-text FILE")
    alone = dynamic is not None or cache is not None
    with nullcontext() if alone else together() as ranks:
        net, words = open_model(model, vocabulary, level, precision)
        text = read_text(file)
        ids = load_ids(file, words, unknown, text=text)
        first = prime_ids(prime, words, unknown)
        before = first if len(first) else None
        remembered = None if cache is None else NeuralCache(cache, **of_cache)
        accuracy = ""
        if dynamic is not None:
            if dynamic == "rms":
                known = load_ids(training, words, unknown)
                with _shown("mean squares", ranks) as progress:
                    of_rms["mean_squares"] = _mean_squares(net, known, progress)
            sizes = batch_size or 1, time_size or min(SEGMENT, len(ids) - 1)
            more = numbers | of_rms | {"cache": remembered, "prime": before}
            with _shown("perplexity", ranks) as progress:
                ppl = eval_dynamic(net, ids, *sizes, **more, progress=progress)
        elif remembered is not None:
            sizes = batch_size or 1, time_size or min(EVAL_TIME, len(ids) - 1)
            more = {"cache": remembered, "prime": before}
            with _shown("perplexity", ranks) as progress:
                ppl = eval_cache(net, ids, *sizes, **more, progress=progress)
        else:
            found = []
            for measure, name in (eval_perplexity, "perplexity"), (eval_accuracy, "accuracy"):
                with _shown(name, ranks) as progress:
                    given = batch_size, time_size, measure
                    of_all: dict[str, Any] = {"prime": before, "comm": ranks, "progress": progress}
                    found.append(evaluate(net, ids, *given, **of_all))
            ppl, accuracy = found[0], f", accuracy: {found[1]:.2%}"
        unit = UNITS[words.level]
        print(f"{file}: {len(ids):,} {unit}{unknowns(words, ids, text, unknown)}")
        print(f"loss: {math.log(ppl):.4f}{accuracy}")
        print(f"perplexity: {ppl:.2f}{bits(words.level, ppl)}")


def _given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _shown(what: str, ranks: Ranks | None) -> Iterator[Progress | None]:
    """A progress bar of one measure; of several ranks, the first one has it."""
    if ranks is not None and not ranks.leads:
        yield None
        return
    bar = ProgressBar(0)
    bar.describe(what)
    try:
        yield bar.show
    finally:
        bar.close()


def _mean_squares(net: Any, ids: NDArray[Any], progress: Progress | None) -> list[Any]:
    """The mean squares of gradients on a training text, in smaller batches if it is short."""
    T = min(SEGMENT, len(ids) - 1)
    batch_size = min(BATCH, (len(ids) - 1) // T)
    return gradient_mean_squares(net, ids, batch_size, T, progress=progress)
