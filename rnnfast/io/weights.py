"""Weights and checkpoints on disk: safetensors, with a header that describes the model.

The header is one JSON object under the metadata key `rnnfast`:

    {"format": 1, "model": "Rnnlm", "sizes": {"vocab_size": 103, ...},
     "vocabulary": ["a", ...], "level": "char", "unknown": null, "prime": [17, ...]}

`vocabulary` is null for a model without one. `prime` has ids of a text that the model may read
before any other, or is null. Files are recognised by their content. Files that the book's
save_params pickled are read too, by a reader that can make arrays and nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnfast.io import headers
from rnnfast.io.arrays import check_fits as check_fits
from rnnfast.io.arrays import copy_into as copy_into
from rnnfast.io.arrays import plain
from rnnfast.io.arrays import to_device as to_device
from rnnfast.io.arrays import to_numpy as to_numpy
from rnnfast.io.book import by_name, is_pickle, load_pickle
from rnnfast.io.files import StrPath, open_regular, path_text, write_atomically

FORMAT = 1


class Weights(NamedTuple):
    """The contents of a weight file.

    Attributes
    ----------
    params : dict
        Name -> array.
    model : str
        Name of the model's class.
    sizes : dict
        Keyword arguments of its constructor.
    vocabulary : list of str or None
        Its tokens. For saving, a vocabulary of rnnfast.data is accepted as well.
    level : {"char", "word"}
        The kind of token.
    unknown : str or None
        The token for all others.
    prime : list of int or None
        Ids of a text that the model may read before any other.
    """

    params: dict[str, Any]
    model: str
    sizes: dict[str, Any]
    vocabulary: Any
    level: str = "char"
    unknown: str | None = None
    prime: list[int] | None = None


def save_weights(path: StrPath, weights: Weights) -> None:
    """Write `Weights` to a file, in full precision.

    Parameters
    ----------
    path : str or PathLike
        The file, ``.safetensors`` by convention.
    weights : Weights

    Raises
    ------
    ValueError
        If `path` ends with .pkl or .pickle, or if the file could not be read again: the vocabulary
        is not a list of distinct strings.
    OSError
        If the file cannot be written.
    """
    path = path_text(path)
    if path.lower().endswith((".pkl", ".pickle")):
        raise ValueError(f"{path}: weights are saved as .safetensors, pickles are only read")
    save_arrays(path, weights.params, model_header(path, *weights[1:]))


def model_header(
    path: str,
    model: str,
    sizes: dict[str, Any],
    vocabulary: Any,
    level: str = "char",
    unknown: str | None = None,
    prime: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Build the header of a weight file.

    Parameters
    ----------
    path : str
        For error messages.
    model, sizes, vocabulary, level, unknown, prime
        See `Weights`. A vocabulary of rnnfast.data has its own level, unknown and prime.

    Returns
    -------
    dict
        The fields of `Weights` without `params`, ready for JSON.

    Raises
    ------
    ValueError
        If the header could not be read again. The error names `path`.
    """
    header = {
        "model": model,
        "sizes": sizes,
        "vocabulary": getattr(vocabulary, "tokens", vocabulary),
        "level": getattr(vocabulary, "level", level),
        "unknown": getattr(vocabulary, "unknown", unknown),
        "prime": list(map(int, getattr(vocabulary, "prime", prime) or ())) or None,
    }
    try:
        headers.weights("", json.loads(json.dumps(header, default=plain)))
    except (headers.Wrong, TypeError) as error:
        raise ValueError(f"{path}: weights that could not be read again ({error})") from None
    return header


def load_weights(path: StrPath) -> Weights:
    """Read a weight file, or the weights in a checkpoint of one of rnnfast's models.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    Weights

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or was not written by rnnfast.
    """
    return _weights(path, *load_arrays(path))


def load_header(path: StrPath) -> Weights:
    """Read a weight file without its arrays.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    Weights
        `params` is empty.

    Raises
    ------
    OSError, ValueError
        See `load_weights`.
    """
    return _weights(path, {}, load_arrays(path, only_header=True)[1])


def _weights(path: StrPath, params: dict[str, Any], header: dict[str, Any]) -> Weights:
    """The weights of a file, from its arrays and its header."""
    if "checkpoint" in header:
        if "model" not in header:
            raise ValueError(f"{path}: a checkpoint of a model that is not one of rnnfast's")
        inside = "params/"  # a checkpoint also has the optimizer's arrays and the state
        params = {
            name.removeprefix(inside): array
            for name, array in params.items()
            if name.startswith(inside)
        }
    return Weights(
        params,
        header["model"],
        header["sizes"],
        header["vocabulary"],
        header.get("level", "char"),
        header.get("unknown"),
        header.get("prime"),
    )


def save_arrays(path: StrPath, arrays: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON object to a file, all or nothing.

    Parameters
    ----------
    path : str or PathLike
    arrays : mapping
        Name -> array of NumPy or CuPy.
    header : mapping
        What JSON can express; numbers may be NumPy's.

    Raises
    ------
    OSError
        If the file cannot be written.
    TypeError
        If JSON cannot express a field of the header. The error names it.
    """
    from safetensors.numpy import save

    fields = []
    for name, value in {"format": FORMAT, **header}.items():
        try:
            fields.append(f"{json.dumps(name)}: {json.dumps(value, default=plain)}")
        except (TypeError, ValueError) as error:
            raise TypeError(f"{path_text(path)}: {name} must be a JSON value ({error})") from None
    # One metadata key, because safetensors writes several in no fixed order.
    metadata = {"rnnfast": "{" + ", ".join(fields) + "}"}
    arrays = {name: np.ascontiguousarray(to_numpy(array)) for name, array in arrays.items()}
    write_atomically(path, save(arrays, metadata))


def load_arrays(
    path: StrPath, *, only_header: bool = False
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a file that `save_arrays` wrote.

    Parameters
    ----------
    path : str or PathLike
    only_header : bool
        Do not read the arrays.

    Returns
    -------
    arrays : dict
        Name -> ndarray; empty if `only_header`.
    header : dict

    Raises
    ------
    OSError, ValueError
        See `load_weights`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = path_text(path)
    with open_regular(path) as file:  # and once: a file that is mapped could be cut meanwhile
        data = file.read()
    end = 8 + int.from_bytes(data[:8], "little")
    head = data[8:end] if end <= len(data) else b""
    try:
        headers.weigh(head, headers.room(len(data)))
        arrays = load(data)
    except (SafetensorError, headers.Wrong) as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from None
    except (KeyError, ValueError) as error:  # a type that NumPy does not have, or a shape
        raise ValueError(f"{path}: an array cannot be read ({error!r})") from None
    metadata = json.loads(head).get("__metadata__") or {}
    if "rnnfast" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one that rnnfast wrote")
    return {} if only_header else arrays, _checked_header(path, metadata["rnnfast"], len(data))


def _checked_header(path: str, source: str, size: int) -> dict[str, Any]:
    """The header in a file of `size` bytes, parsed and checked."""
    what = "damaged rnnfast header"
    try:
        header: dict[str, Any] = headers.parse(source, headers.room(size))
        headers.record(format=headers.integer(0))("", header)
        if header["format"] != FORMAT:
            version = header["format"]
            raise ValueError(f"{path}: weight format {version}, this version reads {FORMAT}")
        if header.get("checkpoint") is None:
            header.pop("checkpoint", None)
            headers.weights("", header)
        else:
            what = "damaged checkpoint"
            headers.checkpoint("", header)
            if "model" in header:  # a checkpoint of one of rnnfast's models
                headers.weights("", header)
    except headers.Wrong as error:
        raise ValueError(f"{path}: {what} ({error})") from None
    return header


def load_into(path: StrPath, names: Sequence[str | None], params: Sequence[Any]) -> None:
    """Copy the weights in a file into a model's parameters, in place.

    Parameters
    ----------
    path : str or PathLike
        A weight file of rnnfast, or a list of arrays that the book's save_params pickled (float16,
        in the order of `params`).
    names : sequence of (str or None)
        The names of `params` in weight files; None for a view of another parameter.
    params : sequence of array
        NumPy's or CuPy's.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the weights do not fit. Nothing has been changed then.
    """
    path = path_text(path)
    named = {name: param for name, param in zip(names, params, strict=True) if name is not None}
    if is_pickle(path):
        copy_into(named, by_name(path, load_pickle(path), names, params), path)
    else:
        copy_into(named, load_weights(path).params, path)
