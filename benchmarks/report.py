"""The tables of a results file as Markdown, and a picture beside it.

    python -m benchmarks.report results.json [more.json ...] [--into README.md]

The files come from pytest-benchmark. All tables of the first one are printed, and a picture is
drawn to results.png. Further files, of another instruction set or machine, add their ratios to
PyTorch and their tables of precisions. --into also writes the output between the two marker lines
of a Markdown file.
"""

import argparse
import os
from pathlib import Path

from benchmarks.rows import (
    BUSY,
    MODES,
    PRECISIONS,
    Results,
    fastest,
    fastest_rival,
    gain,
    geometric_mean,
    is_busy,
    number,
    ratio,
    share,
    targets,
)

BEGIN, END = "<!-- benchmarks.report: begin -->", "<!-- benchmarks.report: end -->"
BUSY_NOTE = (
    f"\\* Other processes used more than {BUSY:g} of a core meanwhile, or the cores were far from "
    "each other: measure again."
)
NAMES = {"numpy": "the book's cost"}  # shorter than the label


def mark(value):
    if value is None:
        return "-"
    return f"{'▲' if value >= 1 else '▼'} {number(value)}"


def percent(value):
    return "-" if value is None else f"{100 * value:.0f}%"


def bold(text):
    return f"**{text}**" if text else ""


def describe(m):
    parts = [
        f"{m['machine']}, {m['cores']} cores, threads: {m['threads']}, {m['dtype']}",
        f"rnnfast {m['rnnfast']} ({m['device']}, {m['simd']})",
        f"PyTorch {m['torch']} ({m['torch_simd']})" if "torch" in m else "PyTorch not installed",
        f"ONNX Runtime {m['onnxruntime']}" if "onnxruntime" in m else "no ONNX Runtime",
        f"OpenVINO {m['openvino']}" if "openvino" in m else "no OpenVINO",
        f"NumPy {m['numpy']} ({m['blas']})",
        f"Python {m['python']}, {m['system']}",
    ]
    return "; ".join(parts)


def line(*columns):
    return "| " + " | ".join(columns) + " |"


def head(left, *right):
    """The first two lines of a table: left-aligned columns, right-aligned columns."""
    return [line(*left, *right), "|" + " --- |" * len(left) + " ---: |" * len(right)]


def sizes(shape, busy):
    return ", ".join(map(str, shape)) + " \\*" * busy


def row_name(name):
    """LSTM 20, 35, 100, 100; a geometric mean has no name of its own."""
    return "" if name == "mean" else f"{name[0].upper()} {', '.join(map(str, name[1]))} "


def ratio_columns(results, mode):
    """{heading: function of a row} of the ratios to print."""
    columns = {}
    for peer in results.peers:
        name = NAMES.get(peer, results.labels[peer])
        columns[f"vs {name}"] = lambda row, peer=peer: ratio(row, peer)
    if mode == "forward":
        columns["vs the fastest"] = fastest_rival
        columns["not frozen: vs the fastest"] = lambda row: fastest_rival(row, "ratio_unfrozen")
    return {heading: value for heading, value in columns.items() if results.values(value, mode)}


def table(results, mode):
    ratios = ratio_columns(results, mode)
    yield from head(("cell", "N, T, D, H"), "ms", "GFLOP/s", "of the ceiling", *ratios)
    for cell, shapes in results.rows[mode].items():
        for shape, row in shapes.items():
            ours = row["rnnfast"]
            yield line(
                cell.upper(),
                sizes(shape, is_busy(row)),
                f"{ours['seconds'] * 1e3:.3g}",
                f"{ours['gflops']:.1f}",
                percent(share(row)),
                *(mark(value(row)) for value in ratios.values()),
            )
        yield means(results, mode, cell, ratios)
    if len(results.rows[mode]) > 1:
        yield means(results, mode, None, ratios)


def means(results, mode, cell, ratios):
    values = [geometric_mean(results.values(v, mode, cell).values()) for v in ratios.values()]
    name = cell.upper() if cell else "all"
    return line(bold(name), "**geometric mean**", "", "", "", *(bold(mark(v)) for v in values))


def losses(results, mode):
    """How often we are faster than each peer, and all shapes where we are slower."""
    for heading, value in ratio_columns(results, mode).items():
        ratios = results.values(value, mode)
        lost = sorted((r, row) for row, r in ratios.items() if r < 1)
        text = f"- {heading[0].upper()}{heading[1:]}: faster in {len(ratios) - len(lost)} of "
        text += f"{len(ratios)} rows"
        if lost:
            rows = "; ".join(f"{row_name(row)}({number(r)})" for r, row in lost)
            text += f", slower in {len(lost)}: {rows}"
        yield text + "."
    if any(is_busy(row) for cell in results.rows[mode].values() for row in cell.values()):
        yield f"- {BUSY_NOTE}"


def target_table(results):
    yield from head(("target", "", "below it"))
    for target in targets(results):
        show = percent if target.percent else number
        misses = target.misses()
        text = f"{target.text}: {show(target.goal)}"
        if "mean" in target.values:
            value = show(target.values["mean"])
            yield line(text, f"{'missed' if misses else 'reached'}: {value}", "")
            continue
        count = f"{len(target.values) - len(misses)} of {len(target.values)}"
        below = "; ".join(f"{row_name(name)}({show(value)})" for name, value in misses.items())
        yield line(text, f"{'missed' if misses else 'reached'}: {count}", below)


def model_table(results):
    peers = [p for p in ("pytorch", "numpy") if any(p in row for row in results.models.values())]
    headings = [f"vs {NAMES.get(p, results.labels.get(p, p))}" for p in peers]
    yield from head(("model", "D = H"), "rnnfast ms", *headings)
    for model, row in results.models.items():
        ours = row["rnnfast"]
        busy = " \\*" if is_busy(row) else ""
        ratios = [mark(ratio(row, peer)) for peer in peers]
        yield line(model + busy, str(ours["width"]), f"{ours['seconds'] * 1e3:.3g}", *ratios)


def overhead_table(results):
    names = list(next(iter(results.overheads.values()))["overhead"])
    yield from head(
        ("us beyond the kernel's step (target: under 4)",), *(f"{name}" for name in names)
    )
    for cell, e in results.overheads.items():
        yield line(cell.upper(), *(f"{e['overhead'][name] * 1e6:.2f}" for name in names))


def dot_table(results):
    labels = next(iter(results.dots.values()))["labels"]
    yield from head(("np.dot and LSTM forward in turns / both alone",), *labels.values())
    for width, e in results.dots.items():
        values = (number(e["alternating"][name][1]) for name in labels)
        yield line(f"{width} x {width}", *values)


def variant_table(results):
    yield from head(("time in training / the plain layer's", "N, T, D, H"), "")
    for (cell, shape), e in results.variants.items():
        costs = ", ".join(f"{name} {number(cost)}" for name, cost in variant_costs(e))
        yield line(cell.upper(), sizes(shape, is_busy({"rnnfast": e})), costs)


def variant_costs(entry):
    """Of each variant, its name and its time by the plain layer's."""
    if "cost" in entry:  # of older files: quartiles
        return [(name, cost[1]) for name, cost in entry["cost"].items()]
    plain, *others = entry["least_ms"].items()
    return [(name, ms / plain[1]) for name, ms in others]


def precision_table(results, precision):
    """Our time in float32; each contender's in the precision; ratios."""
    everything = [e for row in results.precisions.values() for e in row.values()]
    names = {e["contender"]: e["label"] for e in everything if e["precision"] == precision}
    names = {"rnnfast-float32": "our float32", **names}
    ratios = {"vs the fastest": fastest, "vs our float32": gain}
    yield from head(("cell", "N, T, D, H"), *(f"{name} ms" for name in names.values()), *ratios)
    known = {key: row for key, row in results.precisions.items() if f"rnnfast-{precision}" in row}
    cells = list(dict.fromkeys(cell for cell, _ in known))
    for cell in cells:
        rows = {shape: row for (of, shape), row in known.items() if of == cell}
        for shape, row in rows.items():
            yield line(
                cell.upper(),
                sizes(shape, is_busy({"rnnfast": row["rnnfast-float32"]})),
                *(f"{row[name]['seconds'] * 1e3:.3g}" if name in row else "-" for name in names),
                *(mark(ratio_of(row, precision)) for ratio_of in ratios.values()),
            )
        yield precision_means(cell.upper(), rows, precision, names, ratios)
    if len(cells) > 1:
        yield precision_means("all", known, precision, names, ratios)


def precision_means(title, rows, precision, names, ratios):
    means = []
    for ratio_of in ratios.values():
        values = [ratio_of(row, precision) for row in rows.values()]
        means.append(geometric_mean(value for value in values if value is not None))
    blanks = [""] * len(names)
    return line(bold(title), "**geometric mean**", *blanks, *(bold(mark(mean)) for mean in means))


def precision_errors(results, precision):
    """The largest error of each contender."""
    errors = {}
    for row in results.precisions.values():
        for e in row.values():
            if e["precision"] == precision:
                errors[e["label"]] = max(e["error"], errors.get(e["label"], 0.0))
    text = ", ".join(f"{label} {error:.2g}" for label, error in errors.items())
    yield f"- The largest error of hs against float32, \\|error\\| / (1 + \\|ref\\|): {text}."


def precision_lines(results):
    """Everything of test_precision.py."""
    lines = []
    measured = {e["precision"] for row in results.precisions.values() for e in row.values()}
    for precision, title in PRECISIONS.items():
        if precision not in measured:
            continue
        lines += ["", f"### {title}", "", *precision_table(results, precision)]
        lines += ["", *precision_errors(results, precision)]
    machine = results.machine
    versions = ", ".join(machine.get("extensions") or ["none"])
    lines += [f"- The fastest is the fastest peer of the precision. Instructions: {versions}."]
    busy = [is_busy({"rnnfast": row["rnnfast-float32"]}) for row in results.precisions.values()]
    return lines + [f"- {BUSY_NOTE}"] * any(busy)


def compact(results):
    """Shares of the ceiling and ratios only; \\* as in the large tables."""
    ratios = {
        "forward": {"vs PyTorch": vs_pytorch, "vs the fastest": fastest_rival},
        "training": {"vs PyTorch": vs_pytorch},
    }
    headings = [f"{mode}: {name}" for mode in MODES for name in ("of the ceiling", *ratios[mode])]
    yield from head(("cell", "N, T, D, H"), *headings)
    cells = results.rows.get("training") or results.rows["forward"]
    for cell, shapes in cells.items():
        for shape in shapes:
            columns, busy = [], False
            for mode in MODES:
                row = results.rows.get(mode, {}).get(cell, {}).get(shape)
                if row is None:
                    columns += ["-"] * (1 + len(ratios[mode]))
                    continue
                columns += [percent(share(row)), *(mark(of(row)) for of in ratios[mode].values())]
                busy = busy or is_busy(row)
            yield line(cell.upper(), sizes(shape, busy), *columns)
        means = []
        for mode in MODES:
            values = [results.values(of, mode, cell).values() for of in ratios[mode].values()]
            means += ["", *(bold(mark(geometric_mean(each))) for each in values)]
        yield line(bold(cell.upper()), "**geometric mean**", *means)


def vs_pytorch(row):
    return ratio(row, "pytorch")


def markdown(results, others=(), picture=None):
    lines = [
        f"Machine: {describe(results.machine)}.",
        "",
        "A ratio is the other's time divided by ours, measured in turns in one run: ▲ 2.00 means "
        "that rnnfast is twice as fast, ▼ 0.50 that it takes twice as long. The fastest is "
        "the fastest one of PyTorch, ONNX Runtime and OpenVINO at that shape.",
    ]
    ceilings = [e["ceiling_gflops"] for e in entries(results) if "ceiling_gflops" in e]
    if ceilings:
        lines += ["", f"FMA ceiling: {min(ceilings):.0f} to {max(ceilings):.0f} GFLOP/s."]
    if picture:
        lines += ["", f"![Ratios by cell and shape]({picture})"]
    for mode, title in MODES.items():
        if mode in results.rows:
            lines += ["", f"### {title}", "", *table(results, mode), "", *losses(results, mode)]
    if results.rows:
        lines += ["", "### Targets", "", *target_table(results)]
    if any(is_busy({"rnnfast": e}) for e in entries(results)):
        lines += ["", "Rows marked with \\* are included, but not reliable: measure them again."]
    if results.models:
        lines += ["", "### One training iteration of a language model", "", *model_table(results)]
    if results.overheads:
        lines += ["", "### Calls", "", *overhead_table(results)]
    if results.dots:
        lines += ["", "### Beside NumPy's threads", "", *dot_table(results)]
    if results.variants:
        lines += ["", "### Variants", "", *variant_table(results)]
    if results.precisions:
        lines += precision_lines(results)
    for other in others:
        machine = other.machine
        peer = ", beside OpenVINO" if "openvino" in machine else ""
        title = f"{machine['simd']}, {machine['machine']}{peer}"
        lines += ["", f"### {title}", "", f"{describe(machine)}."]
        if other.rows:
            lines += ["", *compact(other)]
        if other.variants:
            lines += ["", *variant_table(other)]
        if other.precisions:
            lines += precision_lines(other)
    return "\n".join(lines)


def entries(results):
    """The extra_info of our rows."""
    return [
        row["rnnfast"]
        for mode in results.rows.values()
        for c in mode.values()
        for row in c.values()
    ]


def put_between_markers(path, text, begin=BEGIN, end=END):
    before, found_begin, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"{path}: needs the lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON of pytest-benchmark")
    parser.add_argument("--into", type=Path, help="Markdown file with the marker lines")
    options = parser.parse_args()
    from benchmarks.picture import draw

    results, *others = map(Results, options.results)
    picture = options.results[0].with_suffix(".png")
    if results.rows:
        draw(results, picture, describe(results.machine))
    print(markdown(results, others))
    if options.into:
        link = Path(os.path.relpath(picture, options.into.parent)).as_posix()
        text = markdown(results, others, link if results.rows else None)
        put_between_markers(options.into, text)


if __name__ == "__main__":
    main()
