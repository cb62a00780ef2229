"""`rnnfast generate`: text that a model writes."""

from contextlib import closing
from itertools import islice

import numpy as np

from rnnfast.commands.arguments import (
    add_command,
    add_model,
    add_prime,
    add_unknown,
    add_vocabulary,
    natural_int,
    nonempty,
    nonnegative_float,
    positive_int,
    probability,
)
from rnnfast.commands.inputs import encode, ids_before, open_model
from rnnfast.text import sampling

TEMPERATURE = 0.8


def add(commands):
    command = add_command(
        commands,
        "generate",
        generate,
        "let a model write text",
        "Print text that a model generates, token by token as it is drawn.",
    )
    add_model(command)
    option = command.add_argument
    option("--prompt", metavar="TEXT", help="text to go on from (default: the start of a line)")
    add_prime(command)
    option("--length", type=positive_int, metavar="N", help="tokens to draw (default: 400)")
    what = "below 1 the likely becomes likelier; 0 takes the likeliest (default: "
    temperature = f"{what}{TEMPERATURE})"
    option("--temperature", type=nonnegative_float, metavar="X", help=temperature)
    option("--top-k", type=positive_int, metavar="N", help="draw from the N likeliest tokens")
    what = "draw from the fewest tokens that have probability X together"
    option("--top-p", type=probability, metavar="X", help=what)
    option("--seed", type=natural_int, metavar="N", help="makes the text reproducible")
    option("--stop", type=nonempty, metavar="TEXT", help="end after this text")
    what = "token that is never drawn, as the unknown one; may be repeated"
    option("--skip", action="append", metavar="TOKEN", help=what)
    add_unknown(command)
    add_vocabulary(command)


def generate(
    model,
    *,
    prompt="",
    prime=None,
    unknown=None,
    length=400,
    temperature=TEMPERATURE,
    top_k=None,
    top_p=None,
    seed=None,
    stop=None,
    skip=(),
    vocabulary=None,
    level=None,
):
    """Print `prompt` and text that continues it, as it is drawn; the unknown token never is.

    prime, which is not printed, and unknown: as in `score`. stop: text at whose end
    generation ends; skip: more tokens that are not drawn.
    """
    model, vocabulary = open_model(model, vocabulary, level)
    prompt_ids = encode(vocabulary, prompt, unknown, "--prompt: ").tolist()
    start = [*ids_before(prime, vocabulary, unknown).tolist(), *prompt_ids] or [0]
    skipped = {*skip, *([vocabulary.unknown] if vocabulary.unknown is not None else [])}
    for token in skipped:
        if token not in vocabulary.token_to_id:
            raise ValueError(f"--skip: {token!r} is not among the vocabulary's tokens")
    options = {"temperature": temperature, "rng": seed, "top_k": top_k, "top_p": top_p}
    options["skip_ids"] = sorted(vocabulary.token_to_id[token] for token in skipped) or None
    options = {name: value for name, value in options.items() if value is not None}
    if seed is None:
        options["rng"] = np.random.default_rng()

    def ids():
        yield from prompt_ids
        with closing(sampling.stream(model, start, **options)) as drawn:
            yield from islice(drawn, length)

    print(prompt, end="", flush=True)  # as it was typed, whatever the model makes of it
    spaced, tail = prompt[-1:].isspace(), ""
    for i, piece in enumerate(vocabulary.pieces(ids())):
        if i >= len(prompt_ids):
            if i == len(prompt_ids) and spaced and vocabulary.level == "word":
                piece = piece.removeprefix(" ")
            print(piece, end="", flush=True)
        tail = (tail + piece)[-len(stop) :] if stop else ""
        if stop and i >= len(prompt_ids) and tail == stop:
            break
    print()
