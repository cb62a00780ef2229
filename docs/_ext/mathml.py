"""Equations as MathML, which browsers draw themselves: no script, nothing from another server."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError


def mathml(node, as_block):
    """An equation of a page; an ExtensionError that shows it, if docutils cannot read it."""
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"equation {node.astext()!r}: {error}") from error


def inline(writer, node):
    """Write an equation inside a line."""
    writer.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block(writer, node):
    """Write an equation that stands alone."""
    equation = mathml(node, as_block=True)
    writer.body.append(f'<div class="equation">{equation}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer under the name of html_math_renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
