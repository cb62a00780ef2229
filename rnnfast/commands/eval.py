"""`rnnfast eval`: loss, perplexity and accuracy of a model on a text."""

import math

from rnnfast.commands.arguments import (
    Commands,
    add_command,
    add_model,
    add_prime,
    add_unknown,
    add_vocabulary,
    positive_int,
)
from rnnfast.commands.inputs import bits, load_ids, open_model, prime_ids, unknowns
from rnnfast.text.corpora import read_text
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.evaluation import EVAL_BATCH, EVAL_TIME, eval_accuracy, evaluate


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "eval",
        evaluate_file,
        "print a model's perplexity on a text",
        "Print the perplexity of a text under a trained model (for characters also the bits per "
        "character) and the model's accuracy. As in the book, the losses of batches are averaged, "
        "and the end of the text that fills no batch is dropped.",
    )
    add_model(command)
    command.add_argument("file", metavar="FILE", help="UTF-8 text")
    batch, time = EVAL_BATCH, EVAL_TIME
    what = f"samples in parallel (default: {batch}; 1 for a short text)"
    command.add_argument("--batch-size", type=positive_int, metavar="N", help=what)
    command.add_argument(
        "--time-size",
        type=positive_int,
        metavar="N",
        help=f"time steps per batch (default: {time})",
    )
    add_prime(command)
    add_unknown(command)
    add_vocabulary(command)


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

    Raises
    ------
    OSError, ValueError
        If a file cannot be read, is no weight file of a language model, or has unknown tokens or
        too few tokens.
    """
    net, words = open_model(model, vocabulary, level)
    text = read_text(file)
    ids = load_ids(file, words, unknown, text=text)
    found = prime_ids(prime, words, unknown)
    before = found if len(found) else None
    ppl = evaluate(net, ids, batch_size, time_size, prime=before)
    accuracy = evaluate(net, ids, batch_size, time_size, eval_accuracy, prime=before)
    unit = UNITS[words.level]
    print(f"{file}: {len(ids):,} {unit}{unknowns(words, ids, text, unknown)}")
    print(f"loss: {math.log(ppl):.4f}, accuracy: {accuracy:.2%}")
    print(f"perplexity: {ppl:.2f}{bits(words.level, ppl)}")
