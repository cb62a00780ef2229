"""`rnnfast score`: the probability of a text, token by token."""

import json
from contextlib import closing

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
)
from rnnfast.commands.inputs import bits, encode, given_text, ids_before, open_model, unknowns
from rnnfast.text.base import counted
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.evaluation import perplexity, warn_if_blind
from rnnfast.training.scoring import SCORE_STEPS, token_scores


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "score",
        score,
        "print the probability of a text, token by token",
        "A language model gives the probability of a sequence. Print the log-probability of each "
        "token given the tokens before it, and the log-probability of the whole TEXT.",
    )
    add_model(command)
    command.add_argument("text", metavar="TEXT", help="the text itself; - reads it from stdin")
    add_prime(command)
    add_unknown(command)
    add_precision(command)
    add_vocabulary(command)
    add_machine(command)


def score(
    model: str,
    text: str,
    *,
    prime: str | None = None,
    unknown: str | None = None,
    vocabulary: str | None = None,
    level: str | None = None,
    precision: str | None = None,
) -> None:
    """Print the log-probability of each token given the tokens before it, and of the whole text.

    Parameters
    ----------
    model : str
        A weight file.
    text : str
        The text itself; "-" reads it from stdin.
    prime, unknown, vocabulary, level : str, optional
        As in `rnnfast.commands.eval.evaluate_file`.
    precision : {"bf16", "int8"}, optional
        Of the weights of recurrent layers, see `rnnfast.TimeLSTM.freeze`.

    Raises
    ------
    OSError, ValueError
        If a file cannot be read, or the text has unknown tokens or no token to score.

    Notes
    -----
    If `prime` is not given, the end of a line is read after the prime of the weight file, so that
    the text begins a line. If nothing is read before the text, its first token is not scored.
    """
    net, words = open_model(model, vocabulary, level, precision)
    text = given_text(text)
    ids = encode(words, text, unknown, "TEXT: ")
    before = ids_before(prime, words, unknown)
    whole = np.concatenate([before, ids])
    unit, scored = UNITS[words.level][:-1], len(whole) - max(len(before), 1)
    if len(ids) == 0 or scored < 1:
        raise ValueError(f"TEXT has {counted(len(ids), unit)}: too few to score")
    total, hits, left = 0.0, 0, len(whole) - 1
    with closing(token_scores(net, whole)) as found:
        for logs, right in found:  # printed at once, because a text may be long
            first = max(left - scored, 0)  # of the prime
            at, logs, right = len(whole) - left + first, logs[first:], right[first:]
            for i, value in zip(whole[at : at + len(logs)].tolist(), logs.tolist(), strict=True):
                print(f"{value:10.4f}  {json.dumps(words.tokens[i], ensure_ascii=False)}")
            total, hits, left = total + logs.sum(), hits + right.sum(), left - SCORE_STEPS
    print(
        f"log-probability: {total:.4f} (natural; {counted(scored, unit)}"
        f"{unknowns(words, ids, text, unknown)})"
    )
    ppl = perplexity(-total / scored)
    print(f"perplexity: {ppl:.2f}{bits(words.level, ppl)}, accuracy: {hits / scored:.2%}")
    warn_if_blind(ppl, len(words), len(before) > 1)
