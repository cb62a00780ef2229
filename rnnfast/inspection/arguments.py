"""What the functions of rnnfast.inspection ask of their arguments."""

from rnnfast import checks
from rnnfast.io.weights import to_numpy


def here(owner, name, x):
    """x as it is, but an array on a GPU as NumPy's."""
    x = checks.adopt(owner, name, x)
    return to_numpy(x) if checks.is_cupy(x) else x


def check_str(owner, name, value):
    if not isinstance(value, str):
        raise TypeError(f"{owner}: {name} must be a str, got {kind(value)}")


def kind(x):
    return type(x).__name__
