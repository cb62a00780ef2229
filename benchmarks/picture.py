"""The picture of a results file: how many times faster rnnfast is, by cell and shape."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.rows import MODES, geometric_mean, number

COLOURS = {
    "pytorch": "#e0592a",
    "numpy": "#2a6f97",
    "onnxruntime": "#5b8e5a",
    "openvino": "#8a5aa8",
}
INK, PALE, BAND = "#22303c", "#8a97a3", "#e3e7ea"


def draw(results, path, machine):
    """A panel per mode and cell; a dot per peer, right of 1 if rnnfast is faster."""
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
        figsize=(1.8 + 3.9 * len(cells), 1.4 + (0.7 + 0.42 * (longest + 1)) * len(modes)),
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
        "hollow: rnnfast is slower\n" + machine.replace("; NumPy", ";\nNumPy"),
        color=PALE,
        size=8,
    )
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def draw_panel(axis, results, mode, cell, limits):
    shapes = list(results.rows[mode].get(cell, {}))
    mean_at = len(shapes) + 0.25
    axis.axvspan(limits[0], 1, color="#f3e9e6", zorder=0)
    inside = axis.get_xaxis_transform()
    axis.text(0.96, 0.015, "slower ", transform=inside, ha="right", size=7.5, color=PALE)
    axis.text(1.04, 0.015, " faster", transform=inside, ha="left", size=7.5, color=PALE)
    axis.axvline(1, color=INK, linewidth=1, zorder=1)
    axis.axhline(mean_at - 0.65, color=PALE, linewidth=0.6, zorder=1)
    for i in range(0, len(shapes), 2):  # bands group the dots of a shape
        axis.axhspan(i - 0.5, i + 0.5, color=BAND, alpha=0.5, linewidth=0, zorder=0.5)
    peers = [peer for peer in results.peers if results.ratios(peer, mode)]
    for i, peer in enumerate(peers):
        offset = 0.27 * (i - (len(peers) - 1) / 2)
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
