"""`rnnfast eval`: loss, perplexity and accuracy of a model on a text."""

import math

from rnnfast.commands.arguments import (
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


def add(commands):
    command = add_command(
        commands,
        "eval",
        evaluate_file,
        "print a model's perplexity on a text",
        "Print the perplexity of a text under a trained model (for characters, bits per character "
        "too) and its accuracy. As in the book, batch losses are averaged and a tail that fills "
        "none is dropped.",
    )
    add_model(command)
    command.add_argument("file", metavar="FILE", help="UTF-8 text")
    batch, time = EVAL_BATCH, EVAL_TIME
    what = f"samples in parallel (default: {batch}; 1 for a short text)"
    command.add_argument("--batch-size", type=positive_int, metavar="N", help=what)
    command.add_argument(
        "--time-size", type=positive_int, metavar="N", help=f"steps at a time (default: {time})"
    )
    add_prime(command)
    add_unknown(command)
    add_vocabulary(command)


def evaluate_file(
    model,
    file,
    batch_size=None,
    time_size=None,
    *,
    prime=None,
    unknown=None,
    vocabulary=None,
    level=None,
):
    """Print loss, perplexity (bits per character) and accuracy of a model on a text.

    prime: a text that stands before it, see eval_perplexity; "@FILE" the end of a file's, "" none,
    None what the weight file has. unknown: what becomes of tokens that the model does not know,
    "skip" or "map".
    """
    model, vocabulary = open_model(model, vocabulary, level)
    text = read_text(file)
    ids = load_ids(file, vocabulary, unknown, text=text)
    prime = prime_ids(prime, vocabulary, unknown)
    prime = prime if len(prime) else None
    ppl = evaluate(model, ids, batch_size, time_size, prime=prime)
    accuracy = evaluate(model, ids, batch_size, time_size, eval_accuracy, prime=prime)
    unit = UNITS[vocabulary.level]
    print(f"{file}: {len(ids):,} {unit}{unknowns(vocabulary, ids, text, unknown)}")
    print(f"loss: {math.log(ppl):.4f}, accuracy: {accuracy:.2%}")
    print(f"perplexity: {ppl:.2f}{bits(vocabulary.level, ppl)}")
