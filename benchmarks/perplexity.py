"""What options that change the numbers cost in perplexity: the book's Rnnlm on Penn Treebank.

    rnnfast data ptb --folder ptb
    python -m benchmarks.perplexity ptb --work runs --out benchmarks/results/ptb-perplexity.json

bfloat16, and over MPI 16 bits and rounds of local updates. All rows see the same words, in the same
batches of 20 samples, which ranks share, and each has several seeds, because single runs differ by
as much as most options do. A run is one of `rnnfast train` in a folder of its own: an interrupted
one continues where it stopped, and a finished one is not repeated. Ranks share the cores of this
machine, so times say nothing; what a network makes of them is in `benchmarks.networks`.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.ablation import events, run_to_end, test_perplexity
from benchmarks.machine import describe
from benchmarks.scaling import mpiexec
from rnnfast import io

TRAINING = (
    "--level word --model rnnlm --hidden 100 --embedding 100 --batch-size 20 --time-size 35"
    " --restart-every 0 --optimizer sgd --lr 20 --max-grad 0.25 --epochs 4 --eval-interval 200"
    " --sample 1 --no-plot --device cpu"
)
DILOCO = "--outer-lr 0.7 --outer-momentum 0.9"
RANKS = {
    "every step": "",
    "every step, 16 bits": "--compress",
    "rounds of 10": "--sync-every 10",
    "rounds of 100": "--sync-every 100",
    "rounds of 100, 16 bits": "--sync-every 100 --compress",
    "rounds of 10, DiLoCo": f"--sync-every 10 {DILOCO}",
    "rounds of 100, DiLoCo": f"--sync-every 100 {DILOCO}",
}
ROWS = {"float32": (1, ""), "bfloat16": (1, "--matmul-precision medium")} | {
    f"{ranks} ranks, {name}": (ranks, options)
    for ranks in (2, 4)
    for name, options in RANKS.items()
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where ptb.train.txt, ptb.valid.txt and ptb.test.txt are")
    parser.add_argument("--work", required=True, help="folder for the runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=[*ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", help="JSON to write, after each row; it keeps what it has")
    options = parser.parse_args(argv)
    found = {}
    if options.out and Path(options.out).exists():
        found = json.loads(Path(options.out).read_text())["rows"]
    for name in dict.fromkeys(options.rows):
        tests = found.get(name, {}).get("test", {})
        for seed in map(str, options.seeds):
            if seed not in tests:
                tests[seed] = train(options, name, seed)
        mean = float(np.exp(np.mean(np.log([*tests.values()]))))
        found[name] = {"ranks": ROWS[name][0], "options": ROWS[name][1], "test": tests}
        found = {name: found[name] for name in ROWS if name in found}
        print(f"{name:<32}test {mean:8.2f}, of {len(tests)} seeds", flush=True)
        if options.out:
            settings = {"machine": describe(), "training": TRAINING, "rows": found}
            io.write_atomically(options.out, (json.dumps(settings, indent=1) + "\n").encode())


def train(options, name, seed):
    """A run to its end, unless it has been there; -> the perplexity of the test text."""
    ranks, more = ROWS[name]
    out = Path(options.work, f"{name} {seed}".replace(",", "").replace(" ", "-"))
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    run_to_end(
        options.folder,
        out,
        f"{TRAINING} {more} --seed {seed}".split(),
        launcher=[mpiexec(), "-n", str(ranks)] if ranks > 1 else [],
        env=os.environ | {"RNNFAST_NUM_THREADS": threads},
    )
    return test_perplexity(events(out))


if __name__ == "__main__":
    main()
