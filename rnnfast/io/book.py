"""Weights that the book's save_params pickled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast.io.files import StrPath, open_regular, path_text


def is_pickle(path: StrPath) -> bool:
    """Whether a file begins as a pickle of a list does.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    bool

    Raises
    ------
    OSError, ValueError
        See `open_regular`.
    """
    with open_regular(path) as file:
        start = file.read(9)
    if start[8:] == b"{":  # safetensors: eight bytes with the header's length, then JSON
        return False
    # Protocol 2 and later. In protocols 0 and 1 a list begins with a mark.
    return start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"(l", b"]q", b"](")


def load_pickle(path: StrPath) -> list[NDArray[Any]]:
    """Read the arrays of a pickle that the book's save_params wrote, on NumPy or CuPy.

    Nothing in the file is executed; see rnnfast.io.pickles.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    list of ndarray

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is anything else than a pickled list of arrays.
    """
    from rnnfast.io import pickles  # imports pickletools, which few need

    path = path_text(path)
    with open_regular(path) as file:
        content = file.read()
    try:
        return pickles.read(content)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a pickled list of arrays ({reason})") from None


def by_name(
    path: str, arrays: Sequence[NDArray[Any]], names: Sequence[str | None], params: Sequence[Any]
) -> dict[str, NDArray[Any]]:
    """Name the arrays of a pickled list and convert them to the dtypes of the model.

    Parameters
    ----------
    path : str
        For error messages.
    arrays : sequence of ndarray
        What `load_pickle` returned.
    names : sequence of (str or None)
        The names of `params`; None for a view of another parameter.
    params : sequence of array
        The model's parameters: shapes and dtypes.

    Returns
    -------
    dict
        Name -> array, without the views.

    Raises
    ------
    ValueError
        For a wrong number of arrays, a wrong shape, or tied arrays that differ.

    Notes
    -----
    The book's file has a tied matrix twice, once at each end. Both must be equal. The file may
    also leave out the view.
    """
    places: Sequence[int] = range(len(names))
    if len(arrays) == sum(name is not None for name in names):
        places = [i for i, name in enumerate(names) if name is not None]
    if len(arrays) != len(places):
        raise ValueError(f"{path}: expected {len(names)} arrays, found {len(arrays)}")
    loaded: dict[str, NDArray[Any]] = {}
    for i, array in zip(places, arrays, strict=True):
        name, param = names[i], params[i]
        if array.shape != param.shape:
            what = name or f"array {i + 1}"
            raise ValueError(f"{path}: {what} must be {param.shape}, found {array.shape}")
        array = array.astype(param.dtype)
        if name is not None:
            loaded[name] = array
        elif not any(np.array_equal(array.T, other) for other in loaded.values()):
            raise ValueError(f"{path}: array {i + 1} must be tied to another, but differs from all")
    return loaded
