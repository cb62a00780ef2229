"""The tables of a GPU's results file as Markdown.

    python -m benchmarks.cuda.report results.json [--into README.md]

The file comes from pytest benchmarks/cuda --benchmark-json. --into also puts the tables between the
two marker lines of a Markdown file.
"""

import argparse
import json
from pathlib import Path

from benchmarks.report import bold, head, line, mark, put_between_markers
from benchmarks.rows import MODES, geometric_mean

BEGIN, END = "<!-- benchmarks.cuda.report: begin -->", "<!-- benchmarks.cuda.report: end -->"
KINDS = {"cell": "", "transfers": "With NumPy arrays in and out: "}


class Results:
    """extra_info by what it is of: cells[kind][mode][cell, shape][name], models[model][name]."""

    def __init__(self, path):
        entries = [b["extra_info"] for b in json.loads(Path(path).read_text())["benchmarks"]]
        entries = [e for e in entries if "seconds" in e]  # the others were not timed
        if not entries:
            raise SystemExit(f"{path}: nothing was timed in it")
        self.machine = entries[0]
        self.cells, self.models = {kind: {} for kind in KINDS}, {}
        for e in entries:
            if "model" in e:
                self.models.setdefault(e["model"], {})[e["contender"]] = e
            for kind in KINDS:
                if kind in e:
                    rows = self.cells[kind].setdefault(e["mode"], {})
                    rows.setdefault((e[kind], tuple(e["shape"])), {})[e["contender"]] = e


def names_of(rows):
    """{name: label} of the contenders of some rows, and of those that have a ratio."""
    every = {name: e["label"] for row in rows.values() for name, e in row.items()}
    rated = {name for row in rows.values() for name, e in row.items() if "ratio" in e}
    return every, [name for name in every if name in rated]


def table(rows):
    """us a time step of everybody, and ratios with their geometric means."""
    labels, rated = names_of(rows)
    headings = [f"{labels[name]}, us" for name in labels]
    yield from head(("cell", "N, T, D, H"), *headings, *(f"vs {labels[name]}" for name in rated))
    for (cell, shape), row in rows.items():
        yield line(
            cell.upper(),
            ", ".join(map(str, shape)),
            *(f"{row[name]['us_per_step']:.3g}" if name in row else "-" for name in labels),
            *(mark(median(row, name)) for name in rated),
        )
    means = [geometric_mean(r for row in rows.values() if (r := median(row, n))) for n in rated]
    if rated:
        blanks = [""] * len(labels)
        yield line(bold("all"), "**geometric mean**", *blanks, *(bold(mark(m)) for m in means))


def median(row, name):
    return row[name]["ratio"][1] if "ratio" in row.get(name, {}) else None


def model_table(models):
    labels, rated = names_of(models)
    headings = [f"{labels[name]}, ms" for name in labels]
    yield from head(("model", "D = H"), *headings, *(f"vs {labels[name]}" for name in rated))
    for model, row in models.items():
        yield line(
            model,
            str(next(iter(row.values()))["width"]),
            *(f"{row[name]['seconds'] * 1e3:.3g}" if name in row else "-" for name in labels),
            *(mark(median(row, name)) for name in rated),
        )


def bound_by_host(results):
    """Rows of ours where the host took nearly all of the time, so that the GPU waited for it."""
    found = []
    for rows in results.cells["cell"].values():
        for (cell, shape), row in rows.items():
            for name, e in row.items():
                if name.startswith("rnnfast") and e["host_seconds"] > 0.9 * e["seconds"]:
                    found.append(
                        f"{cell.upper()} {', '.join(map(str, shape))} {e['mode']} ({name})"
                    )
    return found


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


def markdown(results):
    lines = [
        f"Machine: {describe(results.machine)}.",
        "",
        "Times are medians by CUDA events, in us a time step. A ratio is the other's time divided "
        "by ours in the same precision, measured in turns in one run: ▲ 2.00 means that rnnfast "
        "is twice as fast, ▼ 0.50 that it takes twice as long.",
    ]
    for kind, prefix in KINDS.items():
        for mode, title in MODES.items():
            if rows := results.cells[kind].get(mode):
                title = f"{prefix}{title[0].lower()}{title[1:]}" if prefix else title
                lines += ["", f"### {title}", "", *table(rows)]
    if results.models:
        title = "### One training iteration of a language model"
        lines += ["", title, "", *model_table(results.models)]
    if found := bound_by_host(results):
        lines += ["", f"The host is the slower one, not the GPU, in {'; '.join(found)}."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--into", type=Path, help="Markdown file with the marker lines")
    options = parser.parse_args()
    text = markdown(Results(options.results))
    print(text)
    if options.into:
        put_between_markers(options.into, text, BEGIN, END)


if __name__ == "__main__":
    main()
