"""What each technique of `rnnfast train` gains on Penn Treebank, for about five million weights.

    rnnfast data ptb --folder ptb
    python -m benchmarks.ablation ptb --work ablation --out benchmarks/results/ptb-ablation.json

The baseline has two LSTM layers and none of the techniques. Each other row has one technique, with
the width at which it has about as many weights as the baseline, and the same training. A row is a
run of `rnnfast train` in a folder of its own: an interrupted row continues where it stopped, and a
finished one is not repeated. Beside the JSON the table is drawn as a picture of the same name.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import describe
from rnnfast import io, plot
from rnnfast.commands.run import CHECKPOINT
from rnnfast.models import LanguageModel, load_model
from rnnfast.models.summary import rows as layers_of

EPOCHS = 10
PARTS = "train", "valid", "test"
MODEL = "--level word --model custom --layers 2"
TRAINING = (
    "--batch-size 20 --time-size 35 --restart-every 0 --max-grad 0.25 --optimizer sgd --lr 20"
    " --lr-decay 4 --eval-interval 200 --sample 1 --no-plot"
)
WIDTH = 210  # 4.9 million weights, with a vocabulary of 10,000
AWD = (
    "--tie --input-dropout 0.3 --between-dropout 0.2 --output-dropout 0.3 --embedding-dropout 0.05"
    " --variational --weight-drop 0.3 --alpha 2 --beta 1 --vary-length --optimizer ntasgd"
)
# name: (options beside the baseline's, width)
ROWS = {
    "baseline": ("", WIDTH),
    "tied weights": ("--tie", 325),
    "dropout": ("--dropout 0.3", WIDTH),
    "variational dropout": ("--dropout 0.3 --variational", WIDTH),
    "embedding dropout": ("--embedding-dropout 0.1", WIDTH),
    "weight drop": ("--weight-drop 0.3", WIDTH),
    "AR and TAR": ("--alpha 2 --beta 1", WIDTH),
    "length varied": ("--vary-length", WIDTH),
    "NT-ASGD": ("--optimizer ntasgd", WIDTH),
    "past decode": ("--past-decode 0.001", WIDTH),
    "adversarial noise": ("--adversarial 0.005", WIDTH),
    "mixture of softmaxes": ("--mixtures 5", 204),
    "direct output": ("--mixtures 3 --mixtures-below 2", 204),
    "Mogrifier": ("--cell mogrifier --rounds 5 --rank 50", 202),
    "AWD-LSTM": (AWD, 325),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where ptb.train.txt, ptb.valid.txt and ptb.test.txt are")
    parser.add_argument("--work", required=True, help="folder for the runs")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=[*ROWS])
    parser.add_argument("--out", help="JSON to write, after each row")
    options = parser.parse_args(argv)
    found = {}
    for name in options.rows:
        command, out = arguments(name, options)
        if not finished(out):
            resume = ["--resume"] if (out / CHECKPOINT).exists() else ["--force"]
            subprocess.run([sys.executable, "-m", "rnnfast", *command, *resume], check=True)
        found[name] = measured(out, ROWS[name][0])
        row = found[name]
        print(
            f"{name:<24}{row['weights']:>12,} weights   valid {min(row['valid']):8.2f}"
            f"   test {row['test']:8.2f}",
            flush=True,
        )
        if options.out:
            result = {"machine": describe(), "epochs": options.epochs, "training": TRAINING}
            text = json.dumps(result | {"rows": found}, indent=1)
            io.write_atomically(options.out, (text + "\n").encode())
            draw(found, Path(options.out).with_suffix(".png"))


def arguments(name, options):
    """The arguments of `rnnfast` for a row, and its folder."""
    out, (more, width) = Path(options.work, name.replace(" ", "-").lower()), ROWS[name]
    train, valid, test = (str(Path(options.folder, f"ptb.{part}.txt")) for part in PARTS)
    command = ["train", train, "--valid", valid, "--test", test]
    command += f"{MODEL} --hidden {width} --embedding {width} {TRAINING} {more}".split()
    return [*command, "--epochs", str(options.epochs), "--out", str(out)], out


def events(out):
    """What a run has logged."""
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def finished(out):
    return any(event["event"] == "test" for event in events(out))


def measured(out, options):
    """The row of a finished run. Perplexities of the test text are those of the best epoch."""
    found = events(out)
    model, _ = load_model(out / f"{LanguageModel.__name__}.safetensors")
    return {
        "options": options,
        "weights": sum(layer.parameters for layer in layers_of(model)),
        "valid": [round(e["perplexity"], 2) for e in found if e["event"] == "valid"],
        "test": next(round(e["perplexity"], 2) for e in found if e["event"] == "test"),
    }


def draw(found, path):
    """Bars of the test perplexity, the best at the top, and the baseline as a line."""
    names = sorted(found, key=lambda name: found[name]["test"], reverse=True)
    picture = plot.figure(7, 1.2 + 0.32 * len(names))
    axes = picture.add_subplot()
    bars = axes.barh(names, [found[name]["test"] for name in names], color="#2a6f97", height=0.7)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    if "baseline" in found:
        axes.axvline(found["baseline"]["test"], color="#e0592a", linewidth=1)
    least = min(row["test"] for row in found.values())
    axes.set_xlim(left=0.8 * least)
    axes.set_xlabel("test perplexity")
    axes.spines[["top", "right"]].set_visible(False)
    plot.save(picture, path)


if __name__ == "__main__":
    main()
