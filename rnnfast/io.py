"""Weights on disk: safetensors, with a header that says which model they belong to.

The header is one JSON object under the metadata key `rnnfast`:

    {"format": 1, "model": "Rnnlm", "sizes": {"vocab_size": 103, ...}, "vocabulary": ["a", ...]}

`vocabulary` is null where a model has none.
"""

import contextlib
import json
import os
from typing import NamedTuple

import numpy as np

FORMAT = 1


class Weights(NamedTuple):
    params: dict  # name -> array
    model: str  # name of the model's class
    sizes: dict  # keyword arguments of its constructor
    vocabulary: list | None


def write_atomically(path, data):
    """Write bytes so that `path` is at any moment either the old file or the complete new one."""
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(path) or ".")


def save_weights(path, weights):
    """Write `Weights` to `path`, in full precision."""
    from safetensors.numpy import save

    header = {"format": FORMAT, "model": weights.model, "sizes": weights.sizes}
    header["vocabulary"] = weights.vocabulary
    # One metadata key, because safetensors writes several in no fixed order.
    metadata = {"rnnfast": json.dumps(header, ensure_ascii=False)}
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.params.items()}
    write_atomically(path, save(arrays, metadata))


def load_weights(path):
    """Read `Weights` from `path`.

    OSError if it cannot be read, ValueError if it is damaged or was not written by rnnfast.
    """
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # an OSError that names the file, whatever safetensors would say
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            params = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from None
    if "rnnfast" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one that rnnfast wrote")
    try:
        header = json.loads(metadata["rnnfast"])
        version = header["format"]
        weights = Weights(params, header["model"], dict(header["sizes"]), header["vocabulary"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged rnnfast header ({error!r})") from None
    if version != FORMAT:
        raise ValueError(f"{path}: weight format {version}, this version reads {FORMAT}")
    return weights


def copy_into(params, loaded, path):
    """Copy loaded arrays into a model's: both name -> array, checked before anything is written.

    ValueError for a missing or foreign name, a wrong shape or a wrong dtype; it names `path`.
    """
    if params.keys() != loaded.keys():
        raise ValueError(f"{path}: expected arrays {sorted(params)}, found {sorted(loaded)}")
    for name, param in params.items():
        expected, found = (param.shape, param.dtype), (loaded[name].shape, loaded[name].dtype)
        if expected != found:
            raise ValueError(
                f"{path}: {name} must be {expected[1]} {expected[0]}, found {found[1]} {found[0]}"
            )
    for name, param in params.items():
        param[...] = loaded[name]


def _sync_folder(folder):
    """Make the rename itself durable; Windows cannot open a folder and does not need it."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
