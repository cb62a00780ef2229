"""The code cells of the tutorials: those of the English pages are copied into the other languages.

    python docs/cells.py

A page in another language has the same cells in the same order. Its own are the text and the
options of a cell, such as the alternative text of a picture. To begin a page, leave the cells
empty and run this.
"""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(---\n.*?^---\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


class Cell(NamedTuple):
    """A code cell.

    Attributes
    ----------
    options : str
        The lines between `---`, with these; empty without options.
    code : str
        Its lines of Python.
    """

    options: str
    code: str


def cells(text):
    """All code cells of a page."""
    return [Cell(match[1] or "", match[2]) for match in CELL.finditer(text)]


def with_code(text, codes):
    """A page whose cells have these codes, one for each.

    Raises
    ------
    ValueError
        There are more or fewer codes than cells.
    """
    count = len(cells(text))
    if count != len(codes):
        raise ValueError(f"the page must have {len(codes)} code cells, got {count}")
    rest = iter(codes)
    return CELL.sub(lambda match: f"```{{code-cell}}\n{match[1] or ''}{next(rest)}```", text)


def notebooks(folder=DOCS):
    """The tutorials of a folder: of docs the English ones, of docs/ko the Korean ones."""
    return [path for path in sorted((folder / "tutorials").glob("*.md")) if path.stem != "index"]


def pairs():
    """Every page of another language with the English one: (its path, that path)."""
    for folder in (DOCS / "ko",):
        for path in notebooks(folder):
            yield path, DOCS / "tutorials" / path.name


if __name__ == "__main__":
    for other, english in pairs():
        codes = [cell.code for cell in cells(english.read_text(encoding="utf-8"))]
        before = other.read_text(encoding="utf-8")
        try:
            after = with_code(before, codes)
        except ValueError as error:
            raise SystemExit(f"{other}: {error}") from None
        if after != before:
            other.write_text(after, encoding="utf-8")
            print(other)
