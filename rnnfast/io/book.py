"""The weights that the book's save_params pickles."""

import os

import numpy as np

from rnnfast.io.files import open_regular


def is_pickle(path):
    """True if a file begins as a pickle does. Errors as `open_regular`."""
    with open_regular(path) as file:
        start = file.read(9)
    if start[8:] == b"{":  # safetensors: eight bytes with the header's length, then JSON
        return False
    # Protocol 2 and later; before that a list began with a mark.
    return start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"(l", b"]q", b"](")


def load_pickle(path):
    """The list of arrays in a pickle as the book's save_params (on NumPy or CuPy) writes it.

    ValueError for anything else, of which nothing has been run then; see rnnfast.io.pickles.
    """
    from rnnfast.io import pickles  # with pickletools, which few need

    path = os.fspath(path)
    with open_regular(path) as file:
        content = file.read()
    try:
        return pickles.read(content)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a pickled list of arrays ({reason})") from None


def by_name(path, arrays, names, params):
    """A pickled list by name, in the model's types.

    The book lists a tied matrix at both ends, which has to be the same then; its view may be
    left out, too.
    """
    if len(arrays) == sum(name is not None for name in names):
        places = [i for i, name in enumerate(names) if name is not None]
    else:
        places = range(len(names))
    if len(arrays) != len(places):
        raise ValueError(f"{path}: expected {len(names)} arrays, found {len(arrays)}")
    loaded = {}
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
