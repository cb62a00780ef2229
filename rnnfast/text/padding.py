"""Sequences of different lengths as one padded batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnnfast import checks

OWNER = "pad_sequences"


def pad_sequences(
    sequences: Sequence[ArrayLike],
    *,
    value: float = 0,
    time_size: int | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Put sequences of different lengths into one array, for ``forward(xs, lengths=...)``.

    Parameters
    ----------
    sequences : sequence of array (length, ...)
        Ids or vectors of each sample, of real numbers. All but the first side must be equal. A
        sequence may be empty.
    value : float
        What fills the end of the shorter ones.
    time_size : int, optional
        T, the length of the longest one or more. None is that of the longest one.
    dtype : optional
        That of the result. None is one that holds the numbers of all sequences.

    Returns
    -------
    xs : ndarray (N, T, ...)
        The sequences, each from its first step on.
    lengths : ndarray of intp (N,)
        Their lengths.

    Raises
    ------
    TypeError, ValueError
        A sequence is no array of real numbers or has another shape, there is none, one is longer
        than `time_size`, or the dtype cannot hold `value` or one of the numbers.

    Notes
    -----
    Targets that `forward` ignores have the value -1: ``pad_sequences(tags, value=-1)``.

    Examples
    --------
    >>> from rnnfast.data import pad_sequences
    >>> xs, lengths = pad_sequences([[3, 1, 2], [4], []])
    >>> xs
    array([[3, 1, 2],
           [4, 0, 0],
           [0, 0, 0]])
    >>> lengths
    array([3, 1, 0])
    """
    if isinstance(sequences, (str, bytes)) or not hasattr(sequences, "__len__"):
        got = type(sequences).__name__
        raise TypeError(f"{OWNER}: sequences must be a list of arrays, got {got}")
    if len(sequences) == 0:
        raise ValueError(f"{OWNER}: sequences must hold at least one, got none")
    arrays = [_checked(k, each) for k, each in enumerate(sequences)]
    full = [array for array in arrays if array.size] or arrays[:1]  # [] has neither sides nor dtype
    sides = full[0].shape[1:]
    for k, array in enumerate(arrays):
        if array.shape[1:] != sides and array.size:
            expected = f"(length, ...) = (length, {', '.join(map(str, sides))})"
            raise checks.shape_error(OWNER, f"sequences[{k}]", expected.replace(", )", ",)"), array)
    lengths = np.array([len(array) for array in arrays], np.intp)
    T = int(lengths.max())
    if time_size is not None:
        if checks.count(OWNER, "time_size", time_size, least=0) < T:
            raise ValueError(f"{OWNER}: time_size must be from {T} up, got {time_size}")
        T = time_size
    kind: np.dtype[Any] = np.result_type(*full) if dtype is None else np.dtype(dtype)
    if kind.kind not in "fiub":
        raise TypeError(f"{OWNER}: dtype must be one of real numbers, got {kind}")
    exact = isinstance(value, (int, np.integer))  # a float would round large ones
    number = np.asarray(value if exact else checks.number(OWNER, "value", value))
    filled = _as_kind("value", number, kind)
    xs = np.full((len(arrays), T, *sides), filled, kind)
    for k, array in enumerate(arrays):
        if array.size:
            xs[k, : len(array)] = _as_kind(f"sequences[{k}]", array, kind)
    return xs, lengths


def _checked(k: int, sequence: Any) -> NDArray[Any]:
    """A sequence as an array (length, ...) of real numbers."""
    name = f"sequences[{k}]"
    array: NDArray[Any] = checks.real(OWNER, name, checks.on_host(OWNER, name, sequence))
    if array.ndim == 0:
        raise checks.shape_error(OWNER, f"sequences[{k}]", "(length, ...)", array)
    return array


def _as_kind(name: str, array: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """An array in a dtype that holds its numbers: rounded as floats, exactly as integers."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: NDArray[Any] = array.astype(kind)
        wrong = array[found != array]
    if kind.kind != "f" and wrong.size:
        raise ValueError(f"{OWNER}: {name} must fit into {kind}, got {wrong.flat[0]}")
    return found
