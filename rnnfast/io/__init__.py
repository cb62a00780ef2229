"""Weights and checkpoints on disk (rnnfast.io.weights), and files that are never written half."""

from rnnfast.io.book import is_pickle, load_pickle
from rnnfast.io.files import cache_folder, check_writable, open_regular, write_atomically
from rnnfast.io.weights import (
    FORMAT,
    Weights,
    check_fits,
    copy_into,
    load_arrays,
    load_header,
    load_into,
    load_weights,
    model_header,
    save_arrays,
    save_weights,
    to_device,
    to_numpy,
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
