"""Reads a results file for the report and its picture; the targets of the project."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

MODES = {"forward": "Inference (forward)", "training": "Training (forward + backward)"}
PRECISIONS = {"bf16": "In bfloat16", "int8": "Inference in 8 bits"}
OURS = ("rnnfast", "rnnfast-unfrozen")
RIVALS = ("pytorch", "onnxruntime", "openvino")  # "the fastest" is the fastest one of these
BUSY = 0.1  # cores; a row is marked if other processes used more
FAR = 0.25  # a row is marked, too, if more than this share of its blocks ran on far cores


class Results:
    """The extra_info of all benchmarks of a file, by subject.

    rows[mode][cell][shape][contender], models[model][contender], overheads[cell], dots[width],
    variants[cell, shape], precisions[cell, shape][contender]
    """

    def __init__(self, path):
        entries = [b["extra_info"] for b in json.loads(Path(path).read_text())["benchmarks"]]
        cells = [e for e in entries if "cell" in e]
        reduced = [e for e in entries if "precision_of" in e]
        variants = [e for e in entries if "variants_of" in e]
        if not cells + reduced + variants:
            raise SystemExit(f"{path}: no benchmarks of cells, precisions or variants in it")
        self.machine = (cells + reduced + variants)[0]
        self.labels = {e["contender"]: e["label"] for e in cells}
        self.peers = [name for name in self.labels if name not in OURS]
        self.rows, self.models = {}, {}
        for e in cells:
            row = self.rows.setdefault(e["mode"], {}).setdefault(e["cell"], {})
            row.setdefault(tuple(e["shape"]), {})[e["contender"]] = e
        for e in entries:
            if "model" in e:
                self.models.setdefault(e["model"], {})[e["contender"]] = e
        self.precisions = {}
        for e in reduced:
            row = self.precisions.setdefault((e["precision_of"], tuple(e["shape"])), {})
            row[e["contender"]] = e
        self.overheads = {e["overhead_of"]: e for e in entries if "overhead_of" in e}
        self.dots = {e["dot_width"]: e for e in entries if "dot_width" in e}
        self.variants = {(e["variants_of"], tuple(e["shape"])): e for e in variants}

    def values(self, value, mode, cell=None):
        """{(cell, shape): value(row)} of a mode, or of one cell in it, without None."""
        return {
            (name, shape): value(row)
            for name, shapes in self.rows.get(mode, {}).items()
            for shape, row in shapes.items()
            if cell in (None, name) and value(row) is not None
        }

    def ratios(self, peer, mode, cell=None):
        return self.values(lambda row: ratio(row, peer), mode, cell)


def ratio(row, peer, key="ratio"):
    """Median of the peer's time / our time, or None."""
    return row[peer][key][1] if key in row.get(peer, {}) else None


def fastest_rival(row, key="ratio"):
    """The ratio to the fastest one of PyTorch, ONNX Runtime and OpenVINO."""
    return min((r for p in RIVALS if (r := ratio(row, p, key)) is not None), default=None)


def fastest(row, precision):
    """The ratio to the fastest peer of the same precision, or None."""
    ratios = (e["ratio"][1] for e in row.values() if e["precision"] == precision and "ratio" in e)
    return min(ratios, default=None)


def gain(row, precision):
    """Our time in float32 / our time in the precision."""
    return row[f"rnnfast-{precision}"]["gain"][1]


def share(row):
    """Our share of the FMA ceiling, or None."""
    shares = row["rnnfast"].get("ceiling_share")
    return shares and shares[1]


def is_busy(row):
    ours = row["rnnfast"]
    return (ours.get("others_cores") or 0) > BUSY or ours.get("far", 0) > FAR


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def number(value):
    """Three digits; ▲ and ▼ in the report distinguish 0.999 from 1."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


@dataclass
class Target:
    """A target for some rows: at least `goal`, in each row or in the geometric mean."""

    text: str
    values: dict  # name of a row, or of the mean: value
    goal: float
    percent: bool = False

    def misses(self):
        """The rows below the target, the worst first."""
        below = {name: value for name, value in self.values.items() if value < self.goal}
        return dict(sorted(below.items(), key=lambda item: item[1]))


def targets(results):
    """The targets for which the file has values."""
    goals = {"lstm": (1.1, 1.8), "gru": (1.3, 2.5), "rnn": (1.3, 2.5)}
    shares = {"lstm": (0.85, 0.8), "gru": (0.7, 0.7), "rnn": (0.7, 0.7)}
    book = results.ratios("numpy", "training")
    found = []

    def each_and_mean(what, values, each, mean):
        found.append(Target(f"{what}, each row", values, each))
        found.append(Target(f"{what}, geometric mean", mean_of(values), mean))

    for cell, (each, mean) in goals.items():
        values = results.ratios("pytorch", "training", cell)
        each_and_mean(f"{cell.upper()} training vs PyTorch", values, each, mean)
    for cell in goals:
        values = results.values(fastest_rival, "forward", cell)
        each_and_mean(f"{cell.upper()} inference vs the fastest", values, 1.0, 1.3)
    for cell, goals_of_modes in shares.items():
        for mode, goal in zip(MODES, goals_of_modes, strict=True):
            values = {
                name: value
                for name, value in results.values(share, mode, cell).items()
                if name[1][0] >= 20 and name[1][3] >= 256
            }
            what = f"{cell.upper()} {mode}, share of the FMA ceiling, N >= 20 and H >= 256"
            found.append(Target(what, values, goal, percent=True))
    found.append(Target("Training vs the book's cost, geometric mean", mean_of(book), 7.0))
    return [target for target in found if target.values]


def mean_of(values):
    return {"mean": geometric_mean(values.values())} if values else {}
