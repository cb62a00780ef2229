"""The rooms of the package and the imports between them, read from the sources.

`python tests/house.py` prints the table that CONTRIBUTING.md shows and draws docs/house.svg;
tests/test_house.py holds the sources to that table.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rnnfast"


def room(module):
    """ "rnnfast.layers.base" -> "layers"; "rnnfast" for the package's own names."""
    return module.partition(".")[2].partition(".")[0] or "rnnfast"


def rooms():
    """Every room: a folder of the package, or a file beside the folders."""
    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return names | {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"rnnfast"}


def arrows():
    """room -> the rooms it imports from, at any place in a file."""
    found = defaultdict(set)
    known = rooms()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        here = room(".".join(part for part in parts if part != "__init__"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _imported(node):
                there = room(module)
                there = there if there in known else "rnnfast"  # a name: rnnfast.Affine
                if there not in (here, "typing"):  # types are everybody's
                    found[here].add(there)
    return {name: found[name] for name in known}


def _imported(node):
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        whole = node.module == "rnnfast"
        modules = [f"rnnfast.{alias.name}" if whole else node.module for alias in node.names]
    else:
        modules = []
    return [module for module in modules if module.partition(".")[0] == "rnnfast"]


def table(text):
    """room -> the rooms that it may import from, as the table in CONTRIBUTING.md allows it."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]*\| ([^|]*)\|$", text, re.M)
    names = [name for name, _ in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"rooms with two rows: {sorted(twice)}")
    return {name: set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}


def floors(arrows):
    """The rooms in order: a list of floors, each of which imports from those below it alone.

    ValueError where rooms import each other in a circle.
    """
    found, left = [], dict(arrows)
    below = set()
    while left:
        floor = sorted(name for name, others in left.items() if others <= below)
        if not floor:
            raise ValueError(f"rooms that import each other: {sorted(left)}")
        found.append(floor)
        below.update(floor)
        for name in floor:
            del left[name]
    return found


def direct(arrows):
    """The arrows without those that others imply: a -> c where a -> b -> ... -> c."""

    def reached(name):
        return arrows[name].union(*map(reached, arrows[name]))

    return {
        name: {other for other in others if not any(other in reached(via) for via in others)}
        for name, others in arrows.items()
    }


def draw(arrows, path):
    """A picture of the floors, the lowest at the bottom, and of the direct arrows between them."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "rnnfast"  # the same file each time
    stories = floors(arrows)
    arrows = direct(arrows)
    width = max(map(len, stories))
    places = {}
    for height, floor in enumerate(stories):

        def above(name):
            """Where a room lies best: over those that it imports from."""
            found = [places[other][0] for other in arrows[name]]
            return sum(found) / len(found) if found else width

        for k, name in enumerate(sorted(floor, key=above)):
            places[name] = ((k + 0.5) * width / len(floor), height)
    picture = Figure(figsize=(1.7 * width, 1.0 * len(stories)), layout="constrained")
    axes = picture.add_subplot()
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(-0.5, len(stories) - 0.5))
    for name, others in sorted(arrows.items()):
        for other in sorted(others):
            style = {"arrowstyle": "->", "color": "0.7", "shrinkA": 11, "shrinkB": 11}
            axes.annotate("", places[other], places[name], arrowprops=style)
    for name, (x, y) in places.items():
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.3"}
        axes.text(x, y, name, ha="center", va="center", family="monospace", bbox=box)
    picture.savefig(path, format="svg", metadata={"Date": None})


def main():
    found = arrows()
    for floor in floors(found):
        for name in floor:
            print(f"| `{name}` | | {', '.join(f'`{other}`' for other in sorted(found[name]))} |")
    draw(found, ROOT / "docs" / "house.svg")


if __name__ == "__main__":
    sys.exit(main())
