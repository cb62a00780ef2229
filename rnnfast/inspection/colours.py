"""A text coloured by the activation of a unit, in a terminal or as an HTML page."""

import html
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnnfast import checks
from rnnfast.inspection.arguments import check_str, here, kind
from rnnfast.typing import Array

POSITIVE, NEGATIVE = (178, 24, 43), (33, 102, 172)  # red, blue: also for colour-blind readers


def to_html(
    tokens: str | list[str] | tuple[str, ...],
    values: ArrayLike | Array,
    title: str = "Activation of one unit",
) -> str:
    """Colour a text by the values of its tokens, as an HTML page.

    Parameters
    ----------
    tokens : str or list of str
        Characters or words.
    values : array (len(tokens),)
        Finite numbers: -1 and below is blue, 0 white, 1 and above red.
    title : str
        Title of the page.

    Returns
    -------
    str
        A complete page, to be written as UTF-8.

    Raises
    ------
    TypeError
        `tokens` or `title` is no text, or `values` are no real numbers.
    ValueError
        `values` has another length than `tokens`, or is not finite.

    References
    ----------
    A. Karpathy, J. Johnson, L. Fei-Fei, Visualizing and understanding recurrent networks, 2015,
    https://arxiv.org/abs/1506.02078.

    Examples
    --------
    >>> from rnnfast import inspection
    >>> page = inspection.to_html("ab", [0.0, 1.0])
    >>> '<span style="background:#b2182b;color:#fff" title="1.000">b</span>' in page
    True
    """
    numbers = _checked_text("to_html", tokens, values)
    check_str("to_html", "title", title)
    spans = []
    for token, value in zip(tokens, numbers, strict=True):
        (r, g, b), dark = _colour(value)
        white = ";color:#fff" if dark else ""
        style = f"background:#{r:02x}{g:02x}{b:02x}{white}"
        spans.append(f'<span style="{style}" title="{value:.3f}">{html.escape(token)}</span>')
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8">\n'
        f"<title>{title}</title>\n"
        "<style>pre { white-space: pre-wrap; overflow-wrap: anywhere; }</style>\n"
        f"</head><body>\n<h1>{title}</h1>\n<pre>{''.join(spans)}</pre>\n</body></html>\n"
    )


def to_terminal(tokens: str | list[str] | tuple[str, ...], values: ArrayLike | Array) -> str:
    r"""Colour a text by the values of its tokens, for a terminal with 24-bit colours.

    Parameters
    ----------
    tokens, values
        As in `to_html`.

    Returns
    -------
    str
        The text with escape sequences. Control characters in the tokens are replaced.

    Examples
    --------
    >>> from rnnfast import inspection
    >>> inspection.to_terminal("a", [0.0])
    '\x1b[48;2;255;255;255;38;2;0;0;0ma\x1b[0m'
    """
    numbers = _checked_text("to_terminal", tokens, values)
    parts = []
    for token, value in zip(tokens, numbers, strict=True):
        (r, g, b), dark = _colour(value)
        ink = 255 if dark else 0
        start = f"\x1b[48;2;{r};{g};{b};38;2;{ink};{ink};{ink}m"
        # the colour ends before the line does, or it would fill the rest of it
        lines = [
            "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line)
            for line in token.split("\n")
        ]
        parts.append("\n".join(f"{start}{line}\x1b[0m" if line else "" for line in lines))
    return "".join(parts)


def _colour(value: float) -> tuple[tuple[int, ...], bool]:
    """((r, g, b), whether the colour is dark) of a value from -1 to 1."""
    strength = min(abs(value), 1.0)
    end = POSITIVE if value > 0 else NEGATIVE
    colour = tuple(round(255 + (c - 255) * strength) for c in end)
    return colour, strength > 0.6


def _checked_text(owner: str, tokens: Any, values: Any) -> list[float]:
    """values as Python floats, one per token."""
    if not isinstance(tokens, str) and not (
        isinstance(tokens, (list, tuple)) and all(isinstance(token, str) for token in tokens)
    ):
        raise TypeError(f"{owner}: tokens must be a str or a list of str, got {kind(tokens)}")
    values = np.asarray(here(owner, "values", values))
    checks.real(owner, "values", values)
    if values.shape != (len(tokens),):
        raise checks.shape_error(owner, "values", f"one for each token, {(len(tokens),)}", values)
    if not np.isfinite(values).all():
        raise ValueError(f"{owner}: values must be finite, got nan or inf")
    found: list[float] = values.astype(np.float64).tolist()
    return found
