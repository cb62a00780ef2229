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
import io
import json
import os
import pickle
import sys
import tempfile
from typing import NamedTuple

import numpy as np

from rnnfast import checks

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
    """Write `Weights` to `path`, in full precision. ValueError if that is to be a .pkl."""
    path = os.fspath(path)
    if path.lower().endswith((".pkl", ".pickle")):
        raise ValueError(f"{path}: weights are saved as .safetensors, pickles are only read")
    save_arrays(path, weights.params, model_header(*weights[1:]))


def model_header(model, sizes, vocabulary, level="char", unknown=None, prime=None):
    """What a file says of a model: the fields of `Weights` without the arrays."""
    return {
        "model": model,
        "sizes": sizes,
        "vocabulary": getattr(vocabulary, "tokens", vocabulary),
        "level": getattr(vocabulary, "level", level),
        "unknown": getattr(vocabulary, "unknown", unknown),
        "prime": list(map(int, getattr(vocabulary, "prime", prime) or ())) or None,
    }


def load_weights(path):
    """Read `Weights` from `path`, a weight file or a checkpoint of one of rnnfast's models.

    OSError if it cannot be read, ValueError if it is damaged or was not written by rnnfast.
    """
    params, header = load_arrays(path)
    return _weights(path, params, header)


def load_header(path):
    """The same without reading the arrays: `params` is empty."""
    return _weights(path, {}, load_arrays(path, only_header=True)[1])


def _weights(path, params, header):
    try:
        if header.get("checkpoint") is not None:
            if "model" not in header:
                raise ValueError(f"{path}: a checkpoint of a model that is not one of rnnfast's")
            inside = "params/"  # beside the optimiser's and the state
            params = {
                name.removeprefix(inside): array
                for name, array in params.items()
                if name.startswith(inside)
            }
        tokens, level = header["vocabulary"], header.get("level", "char")
        rest = header.get("unknown"), header.get("prime")
        weights = Weights(params, header["model"], dict(header["sizes"]), tokens, level, *rest)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged rnnfast header ({error!r})") from None
    return weights


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
    with open(path, "rb"):  # an OSError that names the file, whatever safetensors would say
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = () if only_header else file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from None
    if "rnnfast" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one that rnnfast wrote")
    try:
        header = json.loads(metadata["rnnfast"])
        version = header["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged rnnfast header ({error!r})") from None
    if version != FORMAT:
        raise ValueError(f"{path}: weight format {version}, this version reads {FORMAT}")
    return arrays, header


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
        if not checks.writeable(param):
            raise ValueError(f"{path}: {name} is read-only; unfreeze() the model's layers first")
    for name, param in params.items():
        if checks.is_numpy(param):
            param[...] = loaded[name]
        else:
            param.set(np.ascontiguousarray(loaded[name]))


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
    """True if a file begins as a pickle does. OSError if it cannot be read."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # safetensors: eight bytes with the header's length, then JSON
        return False
    # Protocol 2 and later; before that a list began with a mark.
    return start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"(l", b"]q", b"](")


def load_pickle(path):
    """The list of arrays in a pickle as the book's save_params (on NumPy or CuPy) writes it.

    ValueError for anything else, of which nothing has been run then: no name in the file leads
    to a function or class but to stand-ins that make arrays of real numbers.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read()
    try:
        arrays = _ArrayUnpickler(io.BytesIO(content)).load()
        if not isinstance(arrays, (list, tuple)):
            raise pickle.UnpicklingError("not a list")
        return [_finished(array) for array in arrays]
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a pickled list of arrays ({reason})") from None


class _ArrayUnpickler(pickle._Unpickler):
    """The one in Python: its memory is bounded by the file, and REDUCE calls what we return."""

    def find_class(self, module, name):
        try:
            return _STAND_INS[module.replace("_core", "core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to something outside")

    def get_extension(self, code):
        raise pickle.UnpicklingError("it refers to something outside")


class _Name:
    """What a name in a pickle leads to. It can be called; it cannot be changed (BUILD)."""

    __slots__ = ("_make",)

    def __init__(self, make):
        self._make = make

    def __call__(self, *args):
        return self._make(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("it changes a name")


class _DType:
    """numpy.dtype("f2", ...), whose state says the order of its bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code, align=0, copy=1):
        if not isinstance(code, str) or code not in ("f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"arrays must be of floating point numbers, got {code!r}")
        self.code = code
        self.order = "<"

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "="):
            raise pickle.UnpicklingError("a dtype that is no number's")
        self.order = state[1]


class _Array:
    """An array that waits for its state: (version, shape, dtype, is_fortran, bytes)."""

    __slots__ = ("array",)

    def __init__(self, *ignored):
        self.array = None

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array without a state")
        _, shape, dtype, fortran, content = state
        self.array = _array(content, dtype, shape, "F" if fortran else "C").array


def _array(content, dtype, shape, order="C"):
    """numpy.core.numeric._frombuffer, of protocol 5."""
    if not isinstance(dtype, _DType) or not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array that is not one of numbers")
    values = np.frombuffer(content, dtype.order + dtype.code)
    made = _Array()
    made.array = values.reshape(shape, order="F" if order == "F" else "C")
    return made


def _finished(made):
    if not isinstance(made, _Array) or made.array is None:
        raise pickle.UnpicklingError("something else than arrays is in it")
    return made.array


def _latin1(text, encoding):
    """_codecs.encode, which is how protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes text")
    return text.encode("latin-1")


_NDARRAY = _Name(_Array)
_STAND_INS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _NDARRAY,
    ("numpy.core.numeric", "_frombuffer"): _Name(_array),
    ("cupy.core.core", "array"): _Name(lambda made, *ignored: made),
    ("_codecs", "encode"): _Name(_latin1),
    ("builtins", "bytearray"): _Name(lambda content=b"": bytes(content)),
}


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
