"""Weights and checkpoints on disk: safetensors, with a header that says what they belong to.

The header is one JSON object under the metadata key `rnnfast`:

    {"format": 1, "model": "Rnnlm", "sizes": {"vocab_size": 103, ...},
     "vocabulary": ["a", ...], "level": "char", "unknown": null, "prime": [17, ...]}

`vocabulary` is null where a model has none, `prime` ids of a text that it may read before others,
or null. Files are recognised by what is in them: those that the book's save_params pickles are read
too, by a reader that can make arrays and nothing else.
"""

import contextlib
import errno
import json
import os
import stat
import sys
import tempfile
from typing import NamedTuple

import numpy as np

from rnnfast import checks, headers

FORMAT = 1


class Weights(NamedTuple):
    params: dict  # name -> array
    model: str  # name of the model's class
    sizes: dict  # keyword arguments of its constructor
    vocabulary: list | None  # its tokens; when saving also a rnnfast.data vocabulary
    level: str = "char"  # what a token is, "char" or "word"
    unknown: str | None = None  # the token that stands for all others
    prime: list | None = None  # ids of a text that the model may read before others


def cache_folder():
    """RNNFAST_CACHE, else `rnnfast` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    if folder := os.environ.get("RNNFAST_CACHE"):
        return folder
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual), "rnnfast")


def open_regular(path):
    """open(path, "rb"). ValueError for a pipe or a device, which may keep us waiting or never end.

    OSError if it cannot be read.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder open says that it is one
        raise ValueError(f"{path}: must be a regular file, got a pipe or a device")
    return open(path, "rb")


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
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename, error.filename2 = path, None  # not the temporary one, or none
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(path) or ".")


def check_writable(path):
    """OSError, naming `path`, where a file cannot be written there; what is there stays."""
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    if not path or os.path.isdir(path) or not os.path.isdir(folder):
        code = errno.EISDIR if path and os.path.isdir(path) else errno.ENOENT
        raise OSError(code, os.strerror(code), path)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None


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
        copy_into(named, _named(path, load_pickle(path), names, params), path)
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


# The book's pickles


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

    ValueError for anything else, of which nothing has been run then; see rnnfast.pickles.
    """
    from rnnfast import pickles

    path = os.fspath(path)
    with open_regular(path) as file:
        content = file.read()
    try:
        return pickles.read(content)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a pickled list of arrays ({reason})") from None


def _named(path, arrays, names, params):
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


def _sync_folder(folder):
    """Make the rename itself durable; Windows cannot open a folder and does not need it."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
