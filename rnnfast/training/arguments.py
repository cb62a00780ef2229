"""Argument checks that the training loops and the evaluation share."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from rnnfast import checks
from rnnfast.typing import Array


def checked_lengths(owner: str, lengths: ArrayLike | None, samples: int) -> NDArray[Any] | None:
    """lengths as an array with one entry per sample; the model checks the values."""
    if lengths is None:
        return None
    lengths = checks.on_host(owner, "lengths", lengths)
    if lengths.shape != (samples,):
        raise ValueError(f"{owner}: lengths must be ({samples},), got {lengths.shape}")
    return lengths


def given(lengths: Array | None, rows: Any = slice(None)) -> dict[str, Any]:
    """lengths as a keyword argument, empty for None: not every model has that argument."""
    return {} if lengths is None else {"lengths": lengths[rows]}


def ids(owner: str, name: str, value: Any) -> Any:
    """value as an array of integer ids (length,)."""
    if not hasattr(value, "dtype"):
        value = checks.on_host(owner, name, checks.listed(owner, name, value))
    if value.ndim != 1 or value.dtype.kind not in "iu":
        raise ValueError(
            f"{owner}: {name} must be integer ids (length,), got {value.dtype} {value.shape}"
        )
    return value


def checked_callbacks(owner: str, callbacks: Any) -> Sequence[Callable[..., Any]]:
    """callbacks, a list of functions."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        kind = type(callbacks).__name__
        raise TypeError(f"{owner}: callbacks must be a list of functions, got {kind}")
    for k, callback in enumerate(callbacks):
        if not callable(callback):
            kind = type(callback).__name__
            raise TypeError(f"{owner}: callbacks[{k}] must be a function, got {kind}")
    return callbacks
