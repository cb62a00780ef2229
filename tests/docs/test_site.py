"""The pages of the site: their cells, pictures, terms and places, without building it."""

import ast
import re

import pytest

cells = pytest.importorskip("docs.cells", reason="the sources are not here")
PAGES = sorted(cells.DOCS.rglob("*.md"))
NAMES = [path.relative_to(cells.DOCS).as_posix() for path in PAGES]
KOREAN = [path for path in PAGES if path.is_relative_to(cells.DOCS / "ko")]
NOTEBOOKS = cells.notebooks() + [other for other, _ in cells.pairs()]
FENCED = re.compile(r"^(`{3,}|:{3,}).*?^\1$", re.MULTILINE | re.DOTALL)


def read(path):
    return path.read_text(encoding="utf-8")


def prose(text):
    """A page without code."""
    return FENCED.sub("", text)


def terms():
    """Rows of the table of terms: (Korean, words that are not used)."""
    rows = [line.strip("|").split("|") for line in read(cells.DOCS / "terms.md").splitlines()]
    words = [[word.strip() for word in row] for row in rows if len(row) == 5][2:]
    return [(row[1], [word.strip() for word in row[2].split(",")]) for row in words]


def wrong_words(text):
    """Words of the text that the checklist replaces by others."""
    return {word: term for term, words in terms() for word in words if word in text}


def without_alternative(text):
    """Pictures of a page that have no alternative text: links, and cells that draw."""
    found = [match[0] for match in re.finditer(r"!\[\s*\]\([^)]*\)", text)]
    draws = re.compile(r"\bplt\.|\bImage\(|\.imshow\(")
    for cell in cells.cells(text):
        code = re.sub(r"^(import|from) .*", "", cell.code, flags=re.MULTILINE)
        if draws.search(code) and not re.search(r"^ +alt: \S", cell.options, re.MULTILINE):
            found.append(cell.code)
    return found


def listed():
    """Pages that a toctree names."""
    found = set()
    for path in PAGES:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", read(path), re.M | re.S):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            folder = path.parent.relative_to(cells.DOCS)
            found |= {(folder / line).as_posix() + ".md" for line in lines}
    return found


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: f"{page.parts[-3]}-{page.stem}")
def test_code_of_notebooks_is_python(page):
    found = cells.cells(read(page))
    assert len(found) == read(page).count("```{code-cell}") > 0
    for cell in found:
        assert ast.parse(cell.code).body


def test_korean_tutorials_are_the_english_ones():
    korean = [other.name for other, _ in cells.pairs()]
    assert korean == [path.name for path in cells.notebooks()]


@pytest.mark.parametrize("pair", list(cells.pairs()), ids=lambda pair: pair[0].stem)
def test_code_is_the_same_in_both_languages(pair):
    other, english = (cells.cells(read(path)) for path in pair)
    assert [cell.code for cell in other] == [cell.code for cell in english]
    assert [bool(cell.options) for cell in other] == [bool(cell.options) for cell in english]


def test_start_is_there_in_every_language():
    """The same commands, but for comments and prompts, which are in the reader's language."""
    pages = [cells.DOCS / folder / "start.md" for folder in ("", "ko", "ja", "zh")]
    shell, *others = (re.findall(r"^```sh\n(.*?)^```$", read(page), re.M | re.S) for page in pages)
    commands, *others = (
        [re.sub(r'#.*|"[^"]*"', "", block) for block in blocks] for blocks in (shell, *others)
    )
    assert all(blocks == commands for blocks in others)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_picture_has_alternative_text(page):
    assert without_alternative(read(page)) == []


def test_a_picture_without_alternative_text_is_found():
    assert without_alternative("![](a.png) ![ ](b.png) ![a curve](c.png)") == [
        "![](a.png)",
        "![ ](b.png)",
    ]
    cell = "```{code-cell}\nimport matplotlib.pyplot as plt\nplt.plot([1])\n```\n"
    assert len(without_alternative(cell)) == 1
    options = "```{code-cell}\n---\nmystnb:\n  image:\n    alt: a line\n---\n"
    assert without_alternative(cell.replace("```{code-cell}\n", options)) == []
    assert without_alternative("```{code-cell}\nimport matplotlib.pyplot as plt\n```\n") == []


def test_every_page_is_in_a_toctree():
    assert {*NAMES} - {"index.md"} == listed()


@pytest.mark.parametrize("page", KOREAN, ids=lambda page: page.stem)
def test_korean_pages_use_the_terms(page):
    assert wrong_words(prose(read(page))) == {}


def test_terms_are_those_of_the_pages():
    text = " ".join(map(read, KOREAN))
    korean = [re.sub(r" \(.*\)", "", term) for row, _ in terms() for term in row.split(", ")]
    assert len(korean) > 30
    assert [term for term in korean if term not in text] == []
    assert wrong_words("코퍼스로 배운다") == {"코퍼스": "말뭉치"}


def test_cells_are_copied_and_options_stay():
    page = "글\n\n```{code-cell}\n---\na: b\n---\nold\n```\n\n```{code-cell}\n```\n"
    copied = cells.with_code(page, ["x = 1\n", "y = 2\n"])
    assert cells.cells(copied) == [("---\na: b\n---\n", "x = 1\n"), ("", "y = 2\n")]
    assert cells.with_code(copied, ["x = 1\n", "y = 2\n"]) == copied
    with pytest.raises(ValueError, match="must have 1 code cells, got 2"):
        cells.with_code(page, ["x = 1\n"])


@pytest.mark.rest
@pytest.mark.parametrize("page", cells.notebooks(), ids=lambda page: page.stem)
@pytest.mark.filterwarnings("default")  # those of Jupyter's packages
def test_notebooks_run(page, tmp_path):
    read_page = pytest.importorskip("myst_nb.core.read")
    nbclient = pytest.importorskip("nbclient")
    notebook = read_page.read_myst_markdown_notebook(read(page))
    client = nbclient.NotebookClient(
        notebook, timeout=180, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
