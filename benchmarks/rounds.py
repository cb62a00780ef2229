"""What the options for slow networks cost in perplexity: the book's Rnnlm on Penn Treebank.

    rnnfast data ptb --folder ptb
    python -m benchmarks.rounds ptb --work rounds --out benchmarks/results/mpi-rounds.json

All rows see the same words, in the same batches of 20 samples, which the ranks share. A row is a
run of `rnnfast train` under mpiexec in a folder of its own: an interrupted row continues where it
stopped, and a finished one is not repeated. The ranks have one thread each and share this machine's
cores, so the times say nothing; what a network makes of them is in `benchmarks.networks`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.ablation import PARTS, events
from benchmarks.machine import describe
from rnnfast import io
from rnnfast.commands.run import CHECKPOINT

TRAINING = (
    "--level word --model rnnlm --hidden 100 --embedding 100 --batch-size 20 --time-size 35"
    " --restart-every 0 --optimizer sgd --lr 20 --max-grad 0.25 --epochs 4 --eval-interval 200"
    " --sample 1 --no-plot --device cpu"
)
OPTIONS = {
    "every step": "",
    "every step, 16 bits": "--compress",
    "rounds of 10": "--sync-every 10",
    "rounds of 100": "--sync-every 100",
    "rounds of 100, 16 bits": "--sync-every 100 --compress",
}
ROWS = {"one process": (1, "")} | {
    f"{ranks} ranks, {name}": (ranks, options)
    for ranks in (2, 4)
    for name, options in OPTIONS.items()
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where ptb.train.txt, ptb.valid.txt and ptb.test.txt are")
    parser.add_argument("--work", required=True, help="folder for the runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=[*ROWS])
    parser.add_argument("--out", help="JSON to write, after each row")
    options = parser.parse_args(argv)
    found = {}
    for name in dict.fromkeys(options.rows):
        ranks, more = ROWS[name]
        out = Path(options.work, name.replace(",", "").replace(" ", "-"))
        train(options.folder, out, ranks, more)
        found[name] = measured(out, ranks, more)
        print(f"{name:<32}test {found[name]['test']:8.2f}", flush=True)
        if options.out:
            settings = {"machine": describe(), "training": TRAINING, "rows": found}
            io.write_atomically(options.out, (json.dumps(settings, indent=1) + "\n").encode())


def train(folder, out, ranks, options):
    """A run to its end, unless it has been there."""
    if any(event["event"] == "test" for event in events(out)):
        return
    text, valid, test = (str(Path(folder, f"ptb.{part}.txt")) for part in PARTS)
    command = ["mpiexec", "-n", str(ranks)] if ranks > 1 else []
    command += [sys.executable, "-m", "rnnfast", "train", text, "--valid", valid, "--test", test]
    command += f"{TRAINING} {options} --out {out}".split()
    command.append("--resume" if (out / CHECKPOINT).exists() else "--force")
    subprocess.run(command, check=True, env=os.environ | {"RNNFAST_NUM_THREADS": "1"})


def measured(out, ranks, options):
    """The row of a finished run."""
    found = events(out)
    return {
        "ranks": ranks,
        "options": options,
        "valid": [round(e["perplexity"], 2) for e in found if e["event"] == "valid"],
        "test": next(round(e["perplexity"], 2) for e in found if e["event"] == "test"),
    }


if __name__ == "__main__":
    main()
