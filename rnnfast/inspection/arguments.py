"""Argument checks that the functions of rnnfast.inspection share."""

from typing import Any

from rnnfast import checks
from rnnfast.io.weights import to_numpy


def here(owner: str, name: str, x: Any) -> Any:
    """x unchanged, but an array on a GPU as a NumPy array."""
    x = checks.adopt(owner, name, x)
    return to_numpy(x) if checks.is_cupy(x) else x


def check_str(owner: str, name: str, value: object) -> None:
    """TypeError unless value is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{owner}: {name} must be a str, got {kind(value)}")


def kind(x: object) -> str:
    """The name of x's class, for messages."""
    return type(x).__name__
