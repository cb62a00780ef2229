"""The book's shipped Rnnlm weights on Penn Treebank, with dynamic evaluation and neural caches.

    rnnfast data ptb --folder ptb
    python -m benchmarks.dynamic ptb Rnnlm.pkl --out benchmarks/results/ptb-dynamic.json

Rnnlm.pkl is in ch06 of the book's repository. The settings below were chosen on the first 20,000
words of the validation text, among a few each; the test text was read with these only.
"""

import argparse
import json
from dataclasses import asdict

from benchmarks.machine import describe
from rnnfast import data, io
from rnnfast.models import Rnnlm
from rnnfast.trainer import (
    NeuralCache,
    eval_cache,
    eval_dynamic,
    eval_perplexity,
    gradient_mean_squares,
)

PARTS = "train", "valid", "test"
CHOSEN_ON = 20_000  # words of the validation text
CACHE = NeuralCache(500, theta=0.6, ratio=0.2)
BESIDE_RMS = NeuralCache(500, theta=0.6, ratio=0.1)
SGD = {"time_size": 20, "lr": 1.0, "decay": 0.003}
RMS = {"time_size": 20, "lr": 0.001, "decay": 0.003, "epsilon": 1e-4}
ROWS = {
    "plain": {},
    "SGD": SGD,
    "RMS": RMS,
    "cache": {"cache": CACHE},
    "SGD and cache": SGD | {"cache": CACHE},
    "RMS and cache": RMS | {"cache": BESIDE_RMS},
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where ptb.train.txt, ptb.valid.txt and ptb.test.txt are")
    parser.add_argument("weights", help="the book's Rnnlm.pkl")
    parser.add_argument("--out", help="JSON to write")
    options = parser.parse_args(argv)
    model = Rnnlm()
    model.load_params(options.weights)
    result = run(model, *(data.load_ptb(part, options.folder)[0] for part in PARTS))
    if options.out:
        io.write_atomically(options.out, (json.dumps(result, indent=1) + "\n").encode())


def run(model, train, valid, test):
    squares = gradient_mean_squares(model, train)
    rows = {}
    for name, settings in ROWS.items():
        more = {"mean_squares": squares} if "epsilon" in settings else {}
        found = [measure(model, ids, settings | more) for ids in (valid[: CHOSEN_ON + 1], test)]
        shown = {key: asdict(x) if key == "cache" else x for key, x in settings.items()}
        rows[name] = shown | {"validation": round(found[0], 2), "test": round(found[1], 2)}
        print(f"{name:<15}validation {found[0]:7.2f}   test {found[1]:7.2f}", flush=True)
    return {"rnnfast": describe()["rnnfast"], "validation_words": CHOSEN_ON, "models": rows}


def measure(model, ids, settings):
    """A perplexity: the book's, or of one sample from start to end, with these settings."""
    if not settings:
        return eval_perplexity(model, ids)
    return (eval_dynamic if "lr" in settings else eval_cache)(model, ids, **settings)


if __name__ == "__main__":
    main()
