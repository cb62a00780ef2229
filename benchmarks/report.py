"""The ratio table of a results file as Markdown, and as a picture beside it.

    python -m benchmarks.report results.json [--into README.md]

`results.json` comes from pytest-benchmark. The table is printed and drawn to results.png; --into
also puts both between the two marker lines of a Markdown file.
"""

import argparse
import json
import math
import os
from pathlib import Path

BEGIN, END = "<!-- benchmarks.report: begin -->", "<!-- benchmarks.report: end -->"
MODES = {"forward": "Inference (forward)", "training": "Training (forward + backward)"}
BUSY = 0.1  # cores; if others used more a row is marked
COLOURS = {"pytorch": "#e0592a", "numpy": "#2a6f97", "onnxruntime": "#5b8e5a"}
INK, PALE = "#22303c", "#8a97a3"


class Results:
    """rows[mode][cell][shape][contender] is the extra_info of one benchmark."""

    def __init__(self, path):
        entries = [b["extra_info"] for b in json.loads(Path(path).read_text())["benchmarks"]]
        entries = [e for e in entries if "contender" in e]
        if not entries:
            raise SystemExit(f"{path}: no benchmarks of cells in it")
        self.machine = entries[0]
        self.labels = {e["contender"]: e["label"] for e in entries}
        self.peers = [name for name in self.labels if name != "rnnfast"]
        self.rows = {}
        for e in entries:
            cells = self.rows.setdefault(e["mode"], {})
            row = cells.setdefault(e["cell"], {}).setdefault(tuple(e["shape"]), {})
            row[e["contender"]] = e

    def ratios(self, peer, mode, cell=None):
        """{(cell, shape): median of peer's time / our time} over a mode, or one cell of it."""
        return {
            (name, shape): row[peer]["ratio"][1]
            for name, shapes in self.rows.get(mode, {}).items()
            for shape, row in shapes.items()
            if peer in row and cell in (None, name)
        }


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def mark(ratio):
    if ratio is None:
        return "-"
    return f"{'▲' if ratio >= 1 else '▼'} {number(ratio)}"


def number(ratio):
    """Three digits; the sign of `mark` tells a loss of 0.999 from a win."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}"


def describe(m):
    parts = [
        f"{m['machine']}, {m['cores']} cores, threads: {m['threads']}, {m['dtype']}",
        f"rnnfast {m['rnnfast']} ({m['device']}, {m['simd']})",
        f"PyTorch {m['torch']} ({m['torch_simd']})" if "torch" in m else "PyTorch not installed",
        f"NumPy {m['numpy']} ({m['blas']})",
        f"Python {m['python']}, {m['system']}",
    ]
    return "; ".join(parts)


# Markdown


def markdown(results, picture=None):
    lines = [
        f"Machine: {describe(results.machine)}.",
        "",
        "A ratio is the other's time divided by ours, measured in turns in one run: ▲ 2.00 means "
        "that rnnfast is twice as fast, ▼ 0.50 that it takes twice as long.",
    ]
    if picture:
        lines += ["", f"![Ratios by cell and shape]({picture})"]
    for mode, title in MODES.items():
        if mode in results.rows:
            lines += ["", f"### {title}", "", *table(results, mode), "", *losses(results, mode)]
    return "\n".join(lines)


def table(results, mode):
    heads = ["cell", "N, T, D, H", "rnnfast ms", "GFLOP/s"]
    heads += [f"vs {results.labels[peer]}" for peer in results.peers]
    yield "| " + " | ".join(heads) + " |"
    yield "| --- | --- |" + " ---: |" * (len(heads) - 2)
    for cell, shapes in results.rows[mode].items():
        for shape, row in shapes.items():
            ours = row["rnnfast"]
            busy = " \\*" if is_busy(row) else ""
            yield table_row(
                cell.upper(),
                ", ".join(map(str, shape)) + busy,
                f"{ours['seconds'] * 1e3:.3g}",
                f"{ours['gflops']:.1f}",
                *(mark(row[p]["ratio"][1]) if p in row else "-" for p in results.peers),
            )
        yield means_row(results, mode, cell)
    if len(results.rows[mode]) > 1:
        yield means_row(results, mode, None)


def means_row(results, mode, cell):
    means = [geometric_mean(results.ratios(p, mode, cell).values()) for p in results.peers]
    name = cell.upper() if cell else "all"
    return table_row(
        f"**{name}**", "**geometric mean**", "", "", *(f"**{mark(m)}**" for m in means)
    )


def table_row(*columns):
    return "| " + " | ".join(columns) + " |"


def losses(results, mode):
    """Who is beaten how often, and every shape at which we are the slower one."""
    for peer in results.peers:
        ratios = results.ratios(peer, mode)
        lost = {row: ratio for row, ratio in ratios.items() if ratio < 1}
        text = f"- Against {results.labels[peer]}: faster in {len(ratios) - len(lost)} of "
        text += f"{len(ratios)} rows"
        if lost:
            text += f", slower in {len(lost)}: " + "; ".join(
                f"{cell.upper()} {', '.join(map(str, shape))} ({number(ratio)})"
                for (cell, shape), ratio in sorted(lost.items(), key=lambda item: item[1])
            )
        yield text + "."
    if any(is_busy(row) for cell in results.rows[mode].values() for row in cell.values()):
        yield f"- \\* Other processes used more than {BUSY:g} of a core meanwhile: measure again."


def is_busy(row):
    return (row["rnnfast"].get("others_cores") or 0) > BUSY


# Picture


def draw(results, path):
    """A panel for each mode and cell; a dot for each peer, right of 1 where we are faster."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    modes = [mode for mode in MODES if mode in results.rows]
    cells = list(dict.fromkeys(cell for mode in modes for cell in results.rows[mode]))
    shapes = [list(results.rows[mode][cell]) for mode in modes for cell in results.rows[mode]]
    longest = max(map(len, shapes))
    everything = [
        ratio for m in modes for p in results.peers for ratio in results.ratios(p, m).values()
    ]
    limits = 0.5 * min([*everything, 0.8]), 2 * max([*everything, 1.5])  # room for the numbers

    figure, axes = plt.subplots(
        len(modes),
        len(cells),
        figsize=(1.8 + 3.9 * len(cells), 1.4 + (0.7 + 0.38 * (longest + 1)) * len(modes)),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for mode, line in zip(modes, axes, strict=True):
        for cell, axis in zip(cells, line, strict=True):
            draw_panel(axis, results, mode, cell, limits)
            title = f"{cell.upper()}, {mode.replace('forward', 'inference')}"
            axis.set_title(title, loc="left", color=INK, weight="bold", size=11)
        for axis in line[1:]:
            axis.tick_params(labelleft=False)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=len(names), frameon=False)
    figure.suptitle(
        "How many times faster rnnfast is", x=0.01, ha="left", color=INK, size=16, weight="bold"
    )
    figure.supxlabel(
        "other's time / rnnfast's time (log scale); filled: rnnfast is faster, "
        "hollow: rnnfast is slower\n" + describe(results.machine).replace("; NumPy", ";\nNumPy"),
        color=PALE,
        size=8,
    )
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def draw_panel(axis, results, mode, cell, limits):
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shapes = list(results.rows[mode].get(cell, {}))
    mean_at = len(shapes) + 0.25
    axis.axvspan(limits[0], 1, color="#f3e9e6", zorder=0)
    inside = axis.get_xaxis_transform()
    axis.text(0.96, 0.015, "slower ", transform=inside, ha="right", size=7.5, color=PALE)
    axis.text(1.04, 0.015, " faster", transform=inside, ha="left", size=7.5, color=PALE)
    axis.axvline(1, color=INK, linewidth=1, zorder=1)
    axis.axhline(mean_at - 0.65, color=PALE, linewidth=0.6, zorder=1)
    for i, peer in enumerate(results.peers):
        offset = 0.3 * (i - (len(results.peers) - 1) / 2)
        colour = COLOURS.get(peer, PALE)
        ratios = results.ratios(peer, mode, cell)
        points = [(shapes.index(shape) + offset, r) for (_, shape), r in ratios.items()]
        if points:
            points.append((mean_at + offset, geometric_mean(ratios.values())))
        axis.plot([], [], "o", color=colour, label=results.labels[peer])
        for y, ratio in points:
            won, bold = ratio >= 1, "bold" if y > mean_at - 0.5 else "normal"
            axis.plot([1, ratio], [y, y], color=colour, linewidth=2, alpha=0.55, zorder=2)
            face = colour if won else "white"
            axis.plot(ratio, y, "o", color=colour, markerfacecolor=face, markersize=6, zorder=3)
            axis.annotate(
                f"{number(ratio)}x",
                (ratio, y),
                xytext=(6 if won else -6, 0),
                textcoords="offset points",
                ha="left" if won else "right",
                va="center",
                size=7.5,
                color=colour,
                weight=bold,
            )
    axis.set_xscale("log")
    axis.set_xlim(*limits)
    axis.set_ylim(mean_at + 0.85, -0.6)
    names = ["N{} T{} D{} H{}".format(*shape) for shape in shapes]
    axis.set_yticks([*range(len(shapes)), mean_at], [*names, "geometric mean"], size=8.5)
    axis.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axis.tick_params(length=0, colors=INK, labelsize=8.5)
    axis.grid(axis="x", color="#e3e7ea", zorder=0)
    axis.set_axisbelow(True)
    for side in axis.spines.values():
        side.set_visible(False)


def put_between_markers(path, text):
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path}: needs the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--into", type=Path, help="Markdown file with the marker lines")
    options = parser.parse_args()
    results = Results(options.results)
    picture = options.results.with_suffix(".png")
    draw(results, picture)
    print(markdown(results))
    if options.into:
        link = Path(os.path.relpath(picture, options.into.parent)).as_posix()
        put_between_markers(options.into, markdown(results, link))


if __name__ == "__main__":
    main()
