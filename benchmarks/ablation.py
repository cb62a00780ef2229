"""What each technique of `rnnfast train` gains on Penn Treebank, for about five million weights.

    rnnfast data ptb --folder ptb
    python -m benchmarks.ablation ptb --work ablation --out benchmarks/results/ptb-ablation.json

The baseline has two LSTM layers and none of the techniques. Each other row has one technique, with
the width at which it has about as many weights as the baseline, and the same training. A row is a
run of `rnnfast train` in a folder of its own: an interrupted row continues where it stopped, and a
finished one is not repeated. Beside the JSON the table is drawn as a picture of the same name.

On a GPU, which `rnnfast train` uses if there is one, several rows at a time (--jobs 4) keep it
busy.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import describe
from rnnfast import io, kernels, plot
from rnnfast.commands.arguments import positive_int
from rnnfast.commands.folder import CHECKPOINT
from rnnfast.commands.settings import count_parameters
from rnnfast.models import LanguageModel, load_model

EPOCHS = 10
PARTS = "train", "valid", "test"
WEIGHTS = f"{LanguageModel.__name__}.safetensors"  # of a run
MODEL = "--level word --model custom --layers 2"
TRAINING = (
    "--batch-size 20 --time-size 35 --restart-every 0 --max-grad 0.25 --optimizer sgd --lr 20"
    " --lr-decay 4 --eval-interval 200 --sample 1 --no-plot"
)
WIDTH = 210  # 4.9 million weights, with a vocabulary of 10,000
AWD = (
    "--tie --input-dropout 0.3 --between-dropout 0.2 --output-dropout 0.3 --embedding-dropout 0.05"
    " --variational --weight-drop 0.3 --alpha 2 --beta 1 --vary-length --optimizer ntasgd"
    " --weight-decay 1.2e-6"
)


class Row(NamedTuple):
    """options: those beside the baseline's; first: of the first half of the epochs, if others.

    The second half then starts from the weights of the first.
    """

    options: str
    width: int = WIDTH
    first: str | None = None


ROWS = {
    "baseline": Row(""),
    "tied weights": Row("--tie", 325),
    "dropout": Row("--dropout 0.3"),
    "variational dropout": Row("--dropout 0.3 --variational"),
    "embedding dropout": Row("--embedding-dropout 0.1"),
    "weight drop": Row("--weight-drop 0.3"),
    "recurrent dropout": Row("--recurrent-dropout 0.3"),
    "zoneout": Row("--h-zoneout 0.05 --c-zoneout 0.3"),
    "AR and TAR": Row("--alpha 2 --beta 1"),
    "length varied": Row("--vary-length"),
    "NT-ASGD": Row("--optimizer ntasgd"),
    "past decode": Row("--past-decode 0.001"),
    "adversarial noise": Row("--adversarial 0.005"),
    "FRAGE": Row("--frage 0.1"),
    "gradual learning": Row("--layers 2", first="--layers 1"),
    "layer normalisation": Row("--cell lnlstm"),
    "layer normalisation, lr 5": Row("--cell lnlstm --lr 5"),
    "projection, lr 5": Row("--cell lstmp --hidden 370 --proj-size 185 --lr 5", 185),
    "mixture of softmaxes": Row("--mixtures 5", 204),
    "direct output": Row("--mixtures 3 --mixtures-below 2", 204),
    "Mogrifier": Row("--cell mogrifier --rounds 5 --rank 50", 202),
    "AWD-LSTM": Row(AWD, 325),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where ptb.train.txt, ptb.valid.txt and ptb.test.txt are")
    parser.add_argument("--work", required=True, help="folder for the runs")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=[*ROWS])
    parser.add_argument("--out", help="JSON to write, after each row; it keeps its other rows")
    parser.add_argument(
        "--precision", choices=kernels.PRECISIONS, default="highest", help="of float32 products"
    )
    parser.add_argument("--jobs", type=positive_int, default=1, help="rows at a time")
    options = parser.parse_args(argv)
    found, failed = {}, 0
    if options.out and Path(options.out).exists():
        found = json.loads(Path(options.out).read_text())["rows"]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [pool.submit(run, options, row) for row in dict.fromkeys(options.rows)]
        try:
            for done in as_completed(rows):
                name, result = done.result()
                if isinstance(result, subprocess.CalledProcessError):
                    failed += 1
                    print(f"{name:<24}failed: exit code {result.returncode}", flush=True)
                    continue
                found[name] = result
                valid, test = min(result["valid"]), result["test"]
                weights = f"{name:<24}{result['weights']:>12,} weights"
                print(f"{weights}   valid {valid:8.2f}   test {test:8.2f}", flush=True)
                if options.out:
                    write(options, found)
        finally:
            for row in rows:  # after Ctrl-C no other one begins
                row.cancel()
    return 1 if failed else 0


def run(options, name):
    """A row, and its result or the CalledProcessError of its training."""
    row, out = ROWS[name], Path(options.work, name.replace(" ", "-").lower())
    epochs, start = options.epochs, []
    try:
        if row.first is not None:
            first = out.with_name(f"{out.name}-first")
            train(options, row.width, row.first, epochs // 2, first)
            epochs, start = epochs - epochs // 2, ["--init", str(first / WEIGHTS)]
        train(options, row.width, row.options, epochs, out, start)
    except subprocess.CalledProcessError as error:
        return name, error
    return name, measured(out, row)


def write(options, found):
    """The JSON and the picture of the rows that there are."""
    settings = {"machine": describe(), "device": kernels.home(None), "epochs": options.epochs}
    settings["precision"] = options.precision
    found = {name: found[name] for name in ROWS if name in found}
    text = json.dumps(settings | {"training": TRAINING, "rows": found}, indent=1)
    io.write_atomically(options.out, (text + "\n").encode())
    draw(found, Path(options.out).with_suffix(".png"))


def train(options, width, row, epochs, out, start=()):
    """The run of a row in a folder, to its end."""
    arguments = f"{MODEL} --hidden {width} --embedding {width} {TRAINING} {row}".split()
    arguments += ["--matmul-precision", options.precision, "--epochs", str(epochs), *start]
    run_to_end(options.folder, out, arguments)


def run_to_end(folder, out, arguments, launcher=(), env=None):
    """`rnnfast train` on Penn Treebank, unless this folder has a finished run; resumed if begun."""
    if any(event["event"] == "test" for event in events(out)):
        return
    text, valid, test = (str(Path(folder, f"ptb.{part}.txt")) for part in PARTS)
    command = [*launcher, sys.executable, "-m", "rnnfast", "train", text]
    command += ["--valid", valid, "--test", test, *arguments, "--out", str(out)]
    command.append("--resume" if (out / CHECKPOINT).exists() else "--force")
    subprocess.run(command, check=True, env=env)


def events(out):
    """What a run has logged."""
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_perplexity(found):
    """That of a finished run."""
    return next(round(e["perplexity"], 2) for e in found if e["event"] == "test")


def measured(out, row):
    """The row of a finished run. Perplexities of the test text are those of the best epoch."""
    found = events(out)
    model, _ = load_model(out / WEIGHTS)
    return {
        "options": row.options if row.first is None else f"{row.first}, then {row.options}",
        "weights": count_parameters(model),
        "valid": [round(e["perplexity"], 2) for e in found if e["event"] == "valid"],
        "test": test_perplexity(found),
    }


def draw(found, path):
    """The test perplexity of each row as a dot, joined to the baseline's line; best at the top."""
    names = sorted(found, key=lambda name: found[name]["test"], reverse=True)
    tests = [found[name]["test"] for name in names]
    start = found["baseline"]["test"] if "baseline" in found else max(tests)
    colours = ["#2a6f97" if test <= start else "#e0592a" for test in tests]
    picture = plot.figure(7, 1.2 + 0.32 * len(names))
    axes = picture.add_subplot()
    axes.axvline(start, color="#888888", linewidth=1)
    axes.hlines(names, start, tests, colors=colours, linewidth=2)
    axes.scatter(tests, names, c=colours, s=36, zorder=3)
    for name, test in zip(names, tests, strict=True):
        side = -1 if test < start else 1
        axes.annotate(
            f"{test:.1f}",
            (test, name),
            (8 * side, 0),
            textcoords="offset points",
            ha="right" if side < 0 else "left",
            va="center",
        )
    axes.margins(x=0.12)
    axes.set_xlabel("test perplexity")
    axes.spines[["top", "right"]].set_visible(False)
    plot.save(picture, path)


if __name__ == "__main__":
    sys.exit(main())
