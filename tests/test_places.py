"""A new cell's places are those that CONTRIBUTING.md lists, and the lists of cells agree."""

import ast
import re

import house
import pytest

from rnnfast import kernels

SOURCES = house.ROOT / "src"

pytestmark = pytest.mark.skipif(not SOURCES.exists(), reason="the sources are not here")


def code(path):
    """What of a file is no comment and no docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".h", ".c"):
        return re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    if path.suffix in (".pyx", ".pxi", ".pxd"):
        return re.sub(r'#.*|"""[\s\S]*?"""', "", text)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [x for x in body if not isinstance(x, ast.Expr) or not is_text(x.value)]
    return ast.unparse(tree)


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def files_that_name(cell):
    found = {path for path in house.PACKAGE.rglob("*") if path.suffix in (".py", ".pyi", ".pxd")}
    found |= {path for path in SOURCES.rglob("*") if path.suffix in (".pyx", ".pxi", ".h", ".c")}
    found |= {house.ROOT / "setup.py"}
    others = {other for other in kernels.CELLS if other != cell}  # which may use what it has
    found = {path for path in found if path.stem not in others}
    return {
        path.relative_to(house.ROOT).as_posix()
        for path in found
        if path.stem == cell or re.search(rf"(?i)(\b|_|Time|Bi){cell}(\b|_)", code(path))
    }


def listed(cell):
    text = (house.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    entry = re.search(r"- \*\*A cell\*\*.*?(?=\n- \*\*)", text, re.S)[0]
    rows = [row for row in entry.splitlines() if row.strip().startswith("| `")]
    places = [re.findall(r"`([\w/.<>]+\.\w+)`", row.split("|")[1]) for row in rows]
    return [place.replace("<cell>", cell) for row in places for place in row]


@pytest.mark.parametrize("cell", ["gru"])
def test_the_list_of_places_is_complete(cell):
    places, examples = listed(cell), "rnnfast/examples/"
    found = {path for path in files_that_name(cell) if not path.startswith(examples)}
    assert not {path for path in found if not any(path.endswith(place) for place in places)}
    for place in places:
        folders = house.PACKAGE, SOURCES, house.ROOT / "tests", house.ROOT / "benchmarks"
        paths = [path.as_posix() for folder in folders for path in folder.rglob("*.*")]
        assert any(path.endswith(place) for path in paths), place


def test_one_list_of_cells_on_every_floor():
    header = (SOURCES / "kernels" / "kernels.h").read_text(encoding="utf-8")
    of_c = re.findall(r"X\((\w+)\)", re.search(r"#define CELLS\(X\)(.*)", header)[1])
    assert tuple(of_c) == kernels.CELLS
    modules = {path.stem for path in SOURCES.glob("*.pyx") if not path.stem.startswith("_")}
    assert modules == {*kernels.CELLS, "ops"}
    for cell in kernels.CELLS:
        assert (SOURCES / "kernels" / f"{cell}.h").exists()
        assert (house.PACKAGE / "cpu" / f"{cell}.pyi").exists()
