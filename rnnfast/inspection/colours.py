"""A text coloured by the activation of a unit, in a terminal or as a page."""

import html

import numpy as np

from rnnfast import checks
from rnnfast.inspection.arguments import check_str, here, kind

POSITIVE, NEGATIVE = (178, 24, 43), (33, 102, 172)  # red, blue: told apart by the colour-blind too


def to_html(tokens, values, title="Activation of one unit"):
    """A page of its own: the text, each token on the colour of its value.

    tokens: a str, or a list of them (characters or words). values: (len(tokens),) finite numbers;
    -1 and below is blue, 0 white, 1 and above red. Returns the page as a str, to be written as
    UTF-8.
    """
    values = _checked_text("to_html", tokens, values)
    check_str("to_html", "title", title)
    spans = []
    for token, value in zip(tokens, values, strict=True):
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


def to_terminal(tokens, values):
    """The same for a terminal with 24-bit colours, as a str. Control characters are replaced."""
    values = _checked_text("to_terminal", tokens, values)
    parts = []
    for token, value in zip(tokens, values, strict=True):
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


def _colour(value):
    """((r, g, b), whether it is dark) of a value from -1 to 1."""
    strength = min(abs(value), 1.0)
    end = POSITIVE if value > 0 else NEGATIVE
    colour = tuple(round(255 + (c - 255) * strength) for c in end)
    return colour, strength > 0.6


def _checked_text(owner, tokens, values):
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
    return values.astype(np.float64).tolist()
