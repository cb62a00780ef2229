"""`rnnfast generate`: text that a model writes."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from rnnfast.commands.arguments import (
    Commands,
    add_command,
    add_machine,
    add_model,
    add_precision,
    add_prime,
    add_unknown,
    add_vocabulary,
    natural_int,
    nonempty,
    nonnegative_float,
    positive_int,
    probability,
)
from rnnfast.commands.inputs import encode, given_text, ids_before, open_model
from rnnfast.text import sampling

TEMPERATURE = 0.8  # the default


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "generate",
        generate,
        "generate text with a model",
        "Print text that a model generates. Each token is printed when it is drawn.",
    )
    add_model(command)
    option = command.add_argument
    what = "text to continue; - reads it from stdin (default: the start of a line)"
    option("--prompt", metavar="TEXT", help=what)
    add_prime(command)
    option("--length", type=positive_int, metavar="N", help="tokens to draw (default: 400)")
    what = "below 1 likely tokens become likelier; 0 takes the likeliest token (default: "
    temperature = f"{what}{TEMPERATURE})"
    option("--temperature", type=nonnegative_float, metavar="X", help=temperature)
    option("--top-k", type=positive_int, metavar="N", help="draw from the N likeliest tokens")
    what = "draw from the fewest tokens whose probabilities add up to X"
    option("--top-p", type=probability, metavar="X", help=what)
    option("--seed", type=natural_int, metavar="N", help="seed, for a reproducible text")
    option("--stop", type=nonempty, metavar="TEXT", help="stop after this text")
    what = "token that is never drawn, like the unknown token; may be repeated"
    option("--skip", action="append", metavar="TOKEN", help=what)
    add_unknown(command)
    add_precision(command)
    add_vocabulary(command)
    add_machine(command)


def generate(
    model: str,
    *,
    prompt: str = "",
    prime: str | None = None,
    unknown: str | None = None,
    length: int = 400,
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | None = None,
    skip: Sequence[str] = (),
    vocabulary: str | None = None,
    level: str | None = None,
    precision: str | None = None,
) -> None:
    """Print `prompt` and text that continues it, each token when it is drawn.

    Parameters
    ----------
    model : str
        A weight file.
    prompt : str
        Text to continue. "-" reads it from stdin, with the ends of its lines.
    prime : str, optional
        Text that the model reads before the prompt, as in `rnnfast.commands.score.score`. It is
        not printed.
    length : int
        Number of tokens to draw.
    temperature, top_k, top_p
        As in `rnnfast.sampling.generate`.
    seed : int, optional
        Seed, for a reproducible text.
    stop : str, optional
        Generation stops after this text.
    skip : sequence of str
        Tokens that are never drawn. The unknown token is never drawn, either.
    unknown, vocabulary, level : str, optional
        As in `rnnfast.commands.eval.evaluate_file`.
    precision : {"bf16", "int8"}, optional
        Of the weights of recurrent layers, see `rnnfast.TimeLSTM.freeze`.

    Raises
    ------
    OSError, ValueError
        If a file cannot be read, or a token is not in the vocabulary.
    """
    net, words = open_model(model, vocabulary, level, precision)
    prompt = given_text(prompt, "--prompt")
    prompt_ids: list[int] = encode(words, prompt, unknown, "--prompt: ").tolist()
    start = [*ids_before(prime, words, unknown).tolist(), *prompt_ids] or [0]
    skipped = {*skip, *([words.unknown] if words.unknown is not None else [])}
    for token in skipped:
        if token not in words.token_to_id:
            raise ValueError(f"--skip: {token!r} is not among the vocabulary's tokens")
    given = {"temperature": temperature, "rng": seed, "top_k": top_k, "top_p": top_p}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if skipped:
        options["skip_ids"] = sorted(words.token_to_id[token] for token in skipped)
    if seed is None:
        options["rng"] = np.random.default_rng()

    def ids() -> Iterator[int]:
        yield from prompt_ids
        with closing(sampling.stream(net, start, **options)) as drawn:
            yield from islice(drawn, length)

    print(prompt, end="", flush=True)  # as it was typed, not as the vocabulary would write it
    spaced, tail, kept = prompt[-1:].isspace(), "", len(stop or "") - 1
    for i, piece in enumerate(words.pieces(ids())):
        if i >= len(prompt_ids):
            if i == len(prompt_ids) and spaced and words.level == "word":
                piece = piece.removeprefix(" ")
            print(piece, end="", flush=True)
        tail += piece
        if stop and i >= len(prompt_ids) and stop in tail:
            break
        tail = tail[-kept:] if kept > 0 else ""
    print()
