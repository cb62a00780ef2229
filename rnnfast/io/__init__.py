"""Weights and checkpoints on disk (rnnfast.io.weights), and atomic writing of files."""

from rnnfast.io.arrays import check_fits, copy_into, to_device, to_numpy
from rnnfast.io.book import is_pickle, load_pickle
from rnnfast.io.files import cache_folder, check_writable, open_regular, write_atomically
from rnnfast.io.weights import (
    FORMAT,
    Weights,
    load_arrays,
    load_header,
    load_into,
    load_weights,
    model_header,
    save_arrays,
    save_weights,
)

__all__ = [
    "FORMAT",
    "Weights",
    "cache_folder",
    "check_fits",
    "check_writable",
    "copy_into",
    "is_pickle",
    "load_arrays",
    "load_header",
    "load_into",
    "load_pickle",
    "load_weights",
    "model_header",
    "open_regular",
    "save_arrays",
    "save_weights",
    "to_device",
    "to_numpy",
    "write_atomically",
]
