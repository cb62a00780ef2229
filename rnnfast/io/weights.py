"""Weights and checkpoints on disk: safetensors, with a header that says what they belong to.

The header is one JSON object under the metadata key `rnnfast`:

    {"format": 1, "model": "Rnnlm", "sizes": {"vocab_size": 103, ...},
     "vocabulary": ["a", ...], "level": "char", "unknown": null, "prime": [17, ...]}

`vocabulary` is null where a model has none, `prime` ids of a text that it may read before others,
or null. Files are recognised by what is in them: those that the book's save_params pickles are read
too, by a reader that can make arrays and nothing else.
"""

import json
import os
from typing import NamedTuple

import numpy as np

from rnnfast import checks
from rnnfast.io import headers
from rnnfast.io.book import by_name, is_pickle, load_pickle
from rnnfast.io.files import open_regular, write_atomically

FORMAT = 1


class Weights(NamedTuple):
    params: dict  # name -> array
    model: str  # name of the model's class
    sizes: dict  # keyword arguments of its constructor
    vocabulary: list | None  # its tokens; when saving also a rnnfast.data vocabulary
    level: str = "char"  # what a token is, "char" or "word"
    unknown: str | None = None  # the token that stands for all others
    prime: list | None = None  # ids of a text that the model may read before others


def save_weights(path, weights):
    """Write `Weights` to `path`, in full precision.

    ValueError if that is to be a .pkl, or for what could not be read again: a vocabulary that is
    no list of distinct strings.
    """
    path = os.fspath(path)
    if path.lower().endswith((".pkl", ".pickle")):
        raise ValueError(f"{path}: weights are saved as .safetensors, pickles are only read")
    save_arrays(path, weights.params, model_header(path, *weights[1:]))


def model_header(path, model, sizes, vocabulary, level="char", unknown=None, prime=None):
    """What a file says of a model: the fields of `Weights` without the arrays.

    ValueError, naming `path`, for what could not be read again.
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
        headers.weights("", json.loads(json.dumps(header)))
    except headers.Wrong as error:
        raise ValueError(f"{path}: weights that could not be read again ({error})") from None
    return header


def load_weights(path):
    """Read `Weights` from `path`, a weight file or a checkpoint of one of rnnfast's models.

    OSError if it cannot be read, ValueError if it is damaged or was not written by rnnfast.
    """
    return _weights(path, *load_arrays(path))


def load_header(path):
    """The same without reading the arrays: `params` is empty."""
    return _weights(path, {}, load_arrays(path, only_header=True)[1])


def _weights(path, params, header):
    if "checkpoint" in header:
        if "model" not in header:
            raise ValueError(f"{path}: a checkpoint of a model that is not one of rnnfast's")
        inside = "params/"  # beside the optimiser's and the state
        params = {
            name.removeprefix(inside): array
            for name, array in params.items()
            if name.startswith(inside)
        }
    names = ("model", "sizes", "vocabulary")
    rest = header.get("level", "char"), header.get("unknown"), header.get("prime")
    return Weights(params, *(header[name] for name in names), *rest)


def save_arrays(path, arrays, header):
    """Write arrays by name and a JSON object to `path`: all of it, or nothing."""
    from safetensors.numpy import save

    # One metadata key, because safetensors writes several in no fixed order.
    metadata = {"rnnfast": json.dumps({"format": FORMAT, **header})}
    arrays = {name: np.ascontiguousarray(to_numpy(array)) for name, array in arrays.items()}
    write_atomically(path, save(arrays, metadata))


def load_arrays(path, *, only_header=False):
    """Read what `save_arrays` wrote -> (arrays by name, header); errors as `load_weights`."""
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open_regular(path) as file:  # what names the file, whatever safetensors would say
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        head = file.read(length) if 8 + length <= size else b""
    try:
        headers.weigh(head, headers.room(size))
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "rnnfast" not in metadata:
                raise ValueError(f"{path}: a safetensors file, but not one that rnnfast wrote")
            names = () if only_header else file.keys()
            arrays = {name: _tensor(path, file, name) for name in names}
    except (SafetensorError, headers.Wrong) as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from None
    return arrays, _checked_header(path, metadata["rnnfast"], size)


def _tensor(path, file, name):
    try:
        return file.get_tensor(name)
    except Exception as error:  # of a type that NumPy does not have, of more than it can address
        raise ValueError(f"{path}: {name} cannot be read ({error!r})") from None


def _checked_header(path, source, size):
    """The header in a file of so many bytes."""
    what = "damaged rnnfast header"
    try:
        header = headers.parse(source, headers.room(size))
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
            if "model" in header:  # one of rnnfast's
                headers.weights("", header)
    except headers.Wrong as error:
        raise ValueError(f"{path}: {what} ({error})") from None
    return header


def load_into(path, names, params):
    """Copy the weights in a file into a model's `params`, in place.

    names: what weight files call them; None for one that is another's view. The file may be one
    of ours or a list of arrays that the book's save_params pickled (float16, in the order of
    params). OSError if it cannot be read; ValueError, and nothing changed, if it does not fit.
    """
    path = os.fspath(path)
    named = {name: param for name, param in zip(names, params, strict=True) if name is not None}
    if is_pickle(path):
        copy_into(named, by_name(path, load_pickle(path), names, params), path)
    else:
        copy_into(named, load_weights(path).params, path)


def copy_into(params, loaded, path):
    """Copy loaded arrays into a model's: both name -> array, checked before anything is written."""
    check_fits(params, loaded, path)
    for name, param in params.items():
        if checks.is_numpy(param):
            param[...] = loaded[name]
        else:
            param.set(np.ascontiguousarray(loaded[name]))


def check_fits(params, loaded, path):
    """ValueError for a missing or foreign name, a wrong shape or a wrong dtype; it names `path`."""
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


def to_numpy(array):
    """array itself, or its copy from the device it lives on."""
    return array if checks.is_numpy(array) else array.get()


def to_device(array, like):
    """array itself, or its copy on the device where `like` lives."""
    if checks.is_numpy(like):
        return array
    moved = np.empty_like(like, shape=array.shape, dtype=array.dtype)
    moved.set(np.ascontiguousarray(array))
    return moved
