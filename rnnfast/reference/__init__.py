"""The NumPy column: the specification, written to be read beside the book.

It is slow and plain on purpose. Every other column must give what these files give.
"""


def available():
    """Why this column cannot be used: None, NumPy is always there."""
