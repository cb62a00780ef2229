"""`rnnfast score`: the probability of a text, token by token."""

import json
from contextlib import closing

import numpy as np

from rnnfast.commands.arguments import (
    add_command,
    add_model,
    add_prime,
    add_unknown,
    add_vocabulary,
)
from rnnfast.commands.inputs import bits, encode, given_text, ids_before, open_model, unknowns
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.evaluation import perplexity, warn_if_blind
from rnnfast.training.scoring import SCORE_STEPS, token_scores


def add(commands):
    command = add_command(
        commands,
        "score",
        score,
        "print the probability of a text, token by token",
        "A language model is the probability of a sequence: print the log-probability of each "
        "token given those before it, and of the whole TEXT.",
    )
    add_model(command)
    command.add_argument("text", metavar="TEXT", help="the text itself; - reads it from stdin")
    add_prime(command)
    add_unknown(command)
    add_vocabulary(command)


def score(model, text, *, prime=None, unknown=None, vocabulary=None, level=None):
    """Print each token's log-probability given those before it, and the text's in total.

    text: "-" reads it from stdin. prime and unknown: as in evaluate_file. Without a prime of the
    caller's the text is taken to follow the end of a line, too; if nothing is before it, its first
    token is not scored.
    """
    model, vocabulary = open_model(model, vocabulary, level)
    text = given_text(text)
    ids = encode(vocabulary, text, unknown, "TEXT: ")
    before = ids_before(prime, vocabulary, unknown)
    whole = np.concatenate([before, ids])
    unit, scored = UNITS[vocabulary.level], len(whole) - max(len(before), 1)
    if len(ids) == 0 or scored < 1:
        raise ValueError(f"TEXT has {len(ids)} {unit}: too few to score")
    total, hits, left = 0.0, 0, len(whole) - 1
    with closing(token_scores(model, whole)) as found:
        for logs, right in found:  # printed as they come: a text may be long
            first = max(left - scored, 0)  # of the prime
            at, logs, right = len(whole) - left + first, logs[first:], right[first:]
            for i, value in zip(whole[at : at + len(logs)].tolist(), logs.tolist(), strict=True):
                print(f"{value:10.4f}  {json.dumps(vocabulary.tokens[i], ensure_ascii=False)}")
            total, hits, left = total + logs.sum(), hits + right.sum(), left - SCORE_STEPS
    print(
        f"log-probability: {total:.4f} (natural; {scored} {unit}"
        f"{unknowns(vocabulary, ids, text, unknown)})"
    )
    ppl = perplexity(-total / scored)
    print(f"perplexity: {ppl:.2f}{bits(vocabulary.level, ppl)}, accuracy: {hits / scored:.2%}")
    warn_if_blind(ppl, len(vocabulary), len(before) > 1)
