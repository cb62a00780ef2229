"""The book's Rnnlm on Penn Treebank, by rnnfast and by PyTorch in one run: time and perplexity.

    rnnfast data ptb --folder ptb
    python -m benchmarks.ptb ptb --epochs 4 --out benchmarks/results/ptb-rnnlm.json

The settings of chapter 6: batch 20, 35 steps, D = H = 100, SGD 20.0, clipping at 0.25, the same
initial weights. Both train alternately, a hundred iterations at a time, so that changes in the
machine's speed affect both.
"""

import argparse
import json
import math
import time

import numpy as np

from benchmarks.machine import describe
from benchmarks.model_contenders import MAX_GRAD, Job, N, PyTorch, Rnnfast, T
from rnnfast import data, io
from rnnfast.trainer import eval_perplexity

TURN = 100  # iterations
PAUSE = 0.2  # seconds, so that spinning threads of one contender do not slow down the next one


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where ptb.train.txt and ptb.test.txt are")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, help="of an epoch, fewer than there are")
    parser.add_argument("--out", help="JSON to write")
    options = parser.parse_args(argv)
    result = run(options.folder, options.epochs, options.iterations)
    for name, row in result["models"].items():
        print(
            f"{name:<10}{row['seconds']:8.1f} s {row['words_per_second']:9,.0f} words/s"
            f"   test perplexity {row['test_perplexity']:.2f}"
        )
    if options.out:
        io.write_atomically(options.out, (json.dumps(result, indent=1) + "\n").encode())


def run(folder, epochs, iterations=None):
    train, test = (_corpus(folder, part) for part in ("train", "test"))
    xs, ts = train[:-1], train[1:]
    count = min(iterations or math.inf, len(xs) // (N * T))
    job = Job("Rnnlm", 100, 0.0, 20.0)
    racers = [Rnnfast(job), PyTorch(job)]
    seconds, curves = dict.fromkeys((r.name for r in racers), 0.0), {r.name: [] for r in racers}
    for start in range(0, epochs * count, TURN):
        stop = min(start + TURN, epochs * count)
        batches = [data.sequence_batch(xs, ts, N, T, i * T) for i in range(start, stop)]
        for racer in racers:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            losses = [_step(racer, *batch) for batch in batches]
            seconds[racer.name] += time.perf_counter() - begin
            curves[racer.name].append(math.exp(sum(losses) / len(losses)))
            print(f"iter {stop}: {racer.name} perplexity {curves[racer.name][-1]:.2f}", flush=True)
    words = epochs * count * N * T
    return {
        "machine": describe(),
        "settings": {"epochs": epochs, "iterations": count, "batch_size": N, "time_size": T}
        | {"lr": job.lr, "max_grad": MAX_GRAD, "hidden": job.H, "turn": TURN},
        "models": {
            racer.name: {
                "seconds": round(seconds[racer.name], 2),
                "words_per_second": round(words / seconds[racer.name]),
                "test_perplexity": round(_perplexity(racer, job, test), 3),
                "perplexities": [round(p, 3) for p in curves[racer.name]],
            }
            for racer in racers
        },
    }


def _corpus(folder, part):
    return data.load_ptb(part, folder)[0]


def _step(racer, xs, ts):
    if isinstance(racer, PyTorch):
        xs, ts = (racer.torch.from_numpy(np.asarray(a, np.int64)) for a in (xs, ts))
    racer.xs, racer.ts = xs, ts
    return racer.step()


def _perplexity(racer, job, corpus):
    """The perplexity of a contender's weights, by rnnfast's evaluation, which is the book's."""
    model = job.ours()
    for param, trained in zip(model.params, racer.params(), strict=True):
        param[...] = trained
    return eval_perplexity(model, corpus)


if __name__ == "__main__":
    main()
