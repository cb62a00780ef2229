"""What the pages have beside their text: their languages, their notebooks, parts of the repository.

A page of another language has the name of the English one in a folder of its own: `ko/start` is
`start` in Korean. A line

    % README.md: How fast

in a page stands for that section of that file, or without `: How fast` for the whole file.
"""

import re
from pathlib import Path

import nbformat
from myst_nb.core.read import read_myst_markdown_notebook
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"en": "English", "ko": "한국어", "ja": "日本語", "zh-CN": "简体中文"}
FOLDERS = {"ko": "ko", "ja": "ja", "zh": "zh-CN"}
NOTEBOOK = {"en": "Notebook", "ko": "노트북", "ja": "ノートブック", "zh-CN": "笔记本"}
PART = re.compile(r"^% ([\w./]+\.md)(?:: (.+))?$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]*)(#[^)]*)?\)")
# Files of the repository that are pages of the site
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks": "benchmarks.md",
    "benchmarks/README.md": "benchmarks.md",
}


def language_of(page):
    """The language of a page, as a tag of HTML."""
    return FOLDERS.get(page.partition("/")[0], "en")


def translations(page, pages):
    """The same page in all languages that have it, by tag."""
    folder, _, rest = page.partition("/")
    name = rest if folder in FOLDERS else page
    places = {"en": name} | {tag: f"{folder}/{name}" for folder, tag in FOLDERS.items()}
    return {tag: places[tag] for tag in LANGUAGES if places[tag] in pages}


def section(text, title):
    """The section of a Markdown text with this title, without the title; None without it."""
    heading = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    if heading is None:
        return None
    rest = text[heading.end() :]
    end = re.search(rf"^#{{1,{len(heading[1])}}} ", re.sub("(?ms)^```.*?^```", blank, rest), re.M)
    return rest[: end.start()] if end else rest


def blank(match):
    """As many characters without a heading: a # in code begins none."""
    return " " * len(match[0])


def part(name, title):
    """A file of the repository or one of its sections, with links that hold in docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if title and (text := section(text, title)) is None:
        raise ExtensionError(f"{name} has no section {title!r}")

    def moved(link):
        target, anchor = link[1].removesuffix("/"), link[2] or ""
        path = (Path(name).parent / target).as_posix()
        if path in PAGES:
            return f"]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')})"
        if (ROOT / path).is_dir():  # the site has no pages for folders
            return "]"
        return f"](../{path})"

    return re.sub("([▲▼]) ", "\\1\N{NO-BREAK SPACE}", LINK.sub(moved, text))


def read_parts(app, page, source):
    """Put parts of the repository into a page."""
    source[0] = PART.sub(lambda match: part(match[1], match[2]), source[0])


def add_links(app, page, template, context, doctree):
    """Name a page's language, and put links to the others and to its notebook on its top."""
    if doctree is None:
        return
    tag = context["language"] = language_of(page)
    to = app.builder.get_relative_uri
    links = [
        f'<a lang="{other}" hreflang="{other}" href="{to(page, place)}">{LANGUAGES[other]}</a>'
        for other, place in translations(page, app.env.found_docs).items()
        if other != tag
    ]
    if is_notebook(app, page):
        up = "../" * page.count("/")
        href = f"{up}notebooks/{page}.ipynb"
        links.append(f'<a href="{href}" download>{NOTEBOOK[tag]} (.ipynb)</a>')
    if links:
        context["body"] = f'<p class="page-links">{" ".join(links)}</p>\n{context["body"]}'


def is_notebook(app, page):
    """Whether a page has code cells."""
    return "kernelspec" in app.env.metadata.get(page, {})


def write_notebooks(app, error):
    """Write every page with code cells as a Jupyter notebook, too."""
    if error or app.builder.format != "html":
        return
    for page in filter(lambda page: is_notebook(app, page), app.env.found_docs):
        text = Path(app.env.doc2path(page)).read_text(encoding="utf-8")
        path = Path(app.outdir, "notebooks", f"{page}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        notebook = read_myst_markdown_notebook(text)
        path.write_text(nbformat.writes(notebook), encoding="utf-8")


def setup(app):
    """Connect all of this to Sphinx."""
    app.connect("source-read", read_parts)
    app.connect("html-page-context", add_links)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
