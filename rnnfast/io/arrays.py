"""Arrays between a file and a model: checks, copies, and the way to and from a GPU."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks


def plain(value: Any) -> Any:
    """A number of NumPy as one of Python, for JSON; TypeError for anything else."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"JSON has no {type(value).__name__}")


def copy_into(params: Mapping[str, Any], loaded: Mapping[str, NDArray[Any]], path: str) -> None:
    """Copy loaded arrays into a model's parameters.

    Parameters
    ----------
    params : mapping
        Name -> array of NumPy or CuPy, written in place.
    loaded : mapping
        Name -> ndarray.
    path : str
        For error messages.

    Raises
    ------
    ValueError
        See `check_fits`. Nothing has been changed then.
    """
    check_fits(params, loaded, path)
    for name, param in params.items():
        if checks.is_numpy(param):
            param[...] = loaded[name]
        else:
            param.set(np.ascontiguousarray(loaded[name]))


def check_fits(params: Mapping[str, Any], loaded: Mapping[str, NDArray[Any]], path: str) -> None:
    """Check that loaded arrays fit a model's parameters.

    Parameters
    ----------
    params, loaded : mapping
        Name -> array.
    path : str
        For error messages.

    Raises
    ------
    ValueError
        For a missing or unknown name, a wrong shape, a wrong dtype, or a read-only parameter. The
        error names `path`.
    """
    if params.keys() != loaded.keys():
        raise ValueError(f"{path}: expected arrays {sorted(params)}, found {sorted(loaded)}")
    for name, param in params.items():
        expected, found = (param.shape, param.dtype), (loaded[name].shape, loaded[name].dtype)
        if expected != found:
            raise ValueError(
                f"{path}: {name} must be {expected[1]} {expected[0]}, found {found[1]} {found[0]}"
            )
        if not checks.writeable(param):
            raise ValueError(f"{path}: {name} is read-only; unfreeze() the model's layers first")


def to_numpy(array: Any) -> NDArray[Any]:
    """Copy an array from its device to the host.

    Parameters
    ----------
    array : array
        NumPy's or CuPy's.

    Returns
    -------
    ndarray
        `array` itself if it is NumPy's.
    """
    on_host: NDArray[Any] = array if checks.is_numpy(array) else array.get()
    return on_host


def to_device(array: NDArray[Any], like: Any) -> Any:
    """Copy an array to the device of another.

    Parameters
    ----------
    array : ndarray
    like : array
        NumPy's or CuPy's.

    Returns
    -------
    array
        Of the library of `like`; `array` itself if that is NumPy.
    """
    if checks.is_numpy(like):
        return array
    moved: Any = np.empty_like(like, shape=array.shape, dtype=array.dtype)
    moved.set(np.ascontiguousarray(array))
    return moved
