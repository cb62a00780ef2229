"""The NumPy column: the specification, to be read together with the book.

It is slow and simple on purpose. All other columns must give the same results.
"""


def available():
    """The reason why this column cannot be used, None if it can. NumPy is always installed."""
