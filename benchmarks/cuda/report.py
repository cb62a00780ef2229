"""The results of benchmarks/gpu.sh as Markdown tables.

    python -m benchmarks.cuda.report FOLDER [--into README.md]

FOLDER is the $OUT of the stages. A suite without a file has no table. --into also writes the tables
into a Markdown file, between its two marker lines.
"""

import argparse
import json
from pathlib import Path

from benchmarks.cuda.sweep import table as sweep_table
from benchmarks.report import bold, head, line, mark, put_between_markers
from benchmarks.rows import MODES, geometric_mean

BEGIN, END = "<!-- benchmarks.cuda.report: begin -->", "<!-- benchmarks.cuda.report: end -->"
STAR = " \\*"
KINDS = {"cell": "", "transfers": "With NumPy arrays in and out: "}
OURS = {"float32": "rnnfast", "tf32": "rnnfast-tf32"}  # shown with their plans
CYCLES, SECTORS = "cycles_per_warp_instruction", "sectors_per_ns"
PIECES = {  # of the planner's model: (item of micro.py, its number)
    "launch, us": ("launch", "us"),
    "cooperative launch, us": ("launch, cooperative", "us"),
    "meeting of all blocks, us": ("meet, 1 groups", "us"),
    "meeting of a quarter, us": ("meet, 4 groups", "us"),
    "meeting of a sixteenth, us": ("meet, 16 groups", "us"),
    "flag to another block, us": ("flag to block 1", "us"),
    "load of L2, cycles": ("load of L2 after load", "cycles"),
    "sectors of L2 a ns, all blocks the same": ("loads of L2, 65536 floats, the same", SECTORS),
    "sectors of L2 a ns, each block its own": ("loads of L2, 65536 floats each", SECTORS),
    # A multiprocessor has four schedulers, so that these can be less than a cycle
    "a warp's 128 bits a lane of shared memory, cycles of a multiprocessor": (
        "loads of shared memory, 4 apart",
        CYCLES,
    ),
    "a warp's FFMA, cycles of a multiprocessor": ("ffma, 256 threads", CYCLES),
    "a warp's mma of TF32, cycles of a multiprocessor": ("mma, 256 threads", CYCLES),
}


def read(folder, name):
    """{item: result} from a suite's file, for all items with a result."""
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        return {}
    items = json.loads(path.read_text(encoding="utf-8"))["items"]
    return {name: row["result"] for name, row in items.items() if "result" in row}


def labels_of(rows):
    """{name: label} of all contenders, and the names of the contenders with a ratio."""
    them = [(name, c) for row in rows for name, c in row["contenders"].items()]
    rated = {name for name, c in them if "ratio" in c}
    labels = {name: c["label"] for name, c in them}
    return labels, [name for name in labels if name in rated]


def median(row, name):
    found = row["contenders"].get(name, {})
    return found["ratio"][1] if "ratio" in found else None


def figure(value):
    return "-" if value is None else f"{value:.3g}"


def us(row, name):
    return row["contenders"].get(name, {}).get("us_per_step")


def kernels(row, name):
    """us of a step, only of rnnfast's own kernels."""
    found = row["contenders"].get(name, {}).get("kernels")
    return sum(found.values()) if found else None


def predicted(row, precision):
    """us of a step of the same kernels, predicted by the planner."""
    ways = row["plans"].get(precision, {})
    wanted = ("forward", "backward") if row["mode"] == "training" else ("forward",)
    plans = [ways.get(way, {}) for way in wanted]
    if any(plan.get("plan", "").startswith("steps") for plan in plans):
        return None  # it has products of cuBLAS, which are not among our kernels
    values = [plan.get("predicted") for plan in plans]
    return None if None in values else sum(values)


def cell_table(rows):
    """us of a time step of all contenders, ratios, geometric means, rnnfast's own kernels."""
    labels, rated = labels_of(rows)
    own = [(f"{labels[name]}: ", p, name) for p, name in OURS.items() if name in labels]
    yield from head(
        ("cell", "N, T, D, H"),
        *(f"{label}, us" for label in labels.values()),
        *(f"vs {labels[name]}" for name in rated),
        *(prefix + what for prefix, *_ in own for what in ("kernels", "predicted")),
    )
    for row in rows:
        yield line(
            row["cell"].upper(),
            ", ".join(map(str, row["shape"])),
            *(figure(us(row, name)) + STAR * bound_by_host(row, name) for name in labels),
            *(mark(median(row, name)) for name in rated),
            *(figure(v) for _, p, name in own for v in (kernels(row, name), predicted(row, p))),
        )
    if rated:
        means = [geometric_mean(r for row in rows if (r := median(row, n))) for n in rated]
        before, after = [""] * len(labels), [""] * (2 * len(own))
        columns = *before, *(bold(mark(m)) for m in means), *after
        yield line(bold("all"), "**geometric mean**", *columns)


def bound_by_host(row, name):
    """Whether this is rnnfast and the GPU waited for the host most of the time."""
    found = row["contenders"].get(name)
    if found is None or not name.startswith("rnnfast"):
        return False
    return found["host_us_per_call"] > 0.9 * found["us_per_step"] * row["shape"][1]


def iteration_table(rows):
    labels, rated = labels_of(rows)
    headings = [f"{label}, ms" for label in labels.values()]
    yield from head(("model", "D = H"), *headings, *(f"vs {labels[name]}" for name in rated))
    for row in rows:
        ms = [row["contenders"].get(name, {}).get("ms") for name in labels]
        ratios = [mark(median(row, name)) for name in rated]
        yield line(row["model"], str(row["width"]), *map(figure, ms), *ratios)


def epoch_table(rows):
    yield from head(
        ("BetterRnnlm by",),
        *("seconds of an epoch", "of 40", "words/s", "perplexity after one"),
    )
    for row in rows:
        seconds = f"{row['seconds']:.1f}", f"{row['seconds_of_40_epochs']:.0f}"
        words = f"{row['words_per_second']:,}"
        yield line(row["label"], *seconds, words, f"{row['valid_perplexity']:.2f}")


def piece_table(items):
    yield from head(("piece",), "measured")
    for what, (item, number) in PIECES.items():
        if item in items:
            yield line(what, figure(items[item][number]))


def describe(m):
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    clocks = ", ".join(f"{name} {value}" for name, value in m["clocks"].items())
    cudnn = f"cuDNN {m['cudnn']}; " if "cudnn" in m else "PyTorch with CUDA not installed; "
    return (
        f"{m['gpu']} (compute capability {m['compute_capability']}, {m['multiprocessors']} "
        f"multiprocessors; {clocks}; {m['power_limit']}); driver {m['driver']}, CUDA "
        f"{m['cuda_runtime']} (driver's {m['cuda_driver']}); {cudnn}rnnfast {m['rnnfast']}, "
        f"{packages}; Python {m['python']}, {m['system']}"
    )


def tables(folder):
    """(title, lines) of all tables that are not empty."""
    cells = read(folder, "cells").values()
    for kind, prefix in KINDS.items():
        for mode, title in MODES.items():
            rows = [row for row in cells if (row["kind"], row["mode"]) == (kind, mode)]
            if rows:
                yield (
                    f"{prefix}{title[0].lower()}{title[1:]}" if prefix else title,
                    cell_table(rows),
                )
    models = read(folder, "language").values()
    if rows := [row for row in models if "contenders" in row]:
        yield "One training iteration of a language model", iteration_table(rows)
    if rows := [row for row in models if "valid_perplexity" in row]:
        yield "An epoch on Penn Treebank", epoch_table(rows)
    if items := read(folder, "micro"):
        yield "What the pieces of a step take", piece_table(items)
    if lines := list(sweep_table(read(folder, "sweep").values())):
        yield "The race of plans", lines


def markdown(folder):
    lines = [
        "Times are medians by CUDA events, in us a time step. A ratio is the other's time divided "
        "by ours in the same precision, measured in turns in one run: ▲ 2.00 means that rnnfast "
        "is twice as fast, ▼ 0.50 that it takes twice as long. \\*: the host is the slower one, "
        "not the GPU. Kernels: the part of rnnfast's own kernels. Predicted: that by the planner.",
    ]
    if gpu := read(folder, "versions").get("gpu"):
        lines[:0] = [f"Machine: {describe(gpu)}.", ""]
    for title, table in tables(folder):
        lines += ["", f"### {title}", "", *table]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="$OUT of the stages")
    parser.add_argument("--into", type=Path, help="Markdown file with the marker lines")
    options = parser.parse_args()
    text = markdown(options.folder)
    print(text)
    if options.into:
        put_between_markers(options.into, text, BEGIN, END)


if __name__ == "__main__":
    main()
