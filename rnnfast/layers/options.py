"""The options of the cells, checked, as their columns take them."""

from typing import Any

from rnnfast import checks
from rnnfast.layers.base import Layer


def nonlinearity_option(layer: Layer, nonlinearity: Any) -> dict[str, Any]:
    """The checked option of an RNN, for the column."""
    if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
        raise ValueError(
            f"{type(layer).__name__}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
        )
    return {"nonlinearity": nonlinearity}


def cell_clip_option(layer: Layer, cell_clip: Any) -> dict[str, Any]:
    """The checked option of an LSTM, for the column."""
    if cell_clip is None:
        return {}
    owner = type(layer).__name__
    if not checks.is_number(cell_clip):
        kind = type(cell_clip).__name__
        raise TypeError(f"{owner}: cell_clip must be a number or None, got {kind}")
    if not 0 < cell_clip < float("inf"):
        raise ValueError(f"{owner}: cell_clip must be positive and finite, got {cell_clip}")
    return {"cell_clip": float(cell_clip)}


def convention_options(layer: Layer, reset_after: Any, z_keeps: Any) -> dict[str, Any]:
    """The checked options of a GRU, for the column."""
    owner = type(layer).__name__
    reset_after = checks.flag(owner, "reset_after", reset_after)
    return {"reset_after": reset_after, "z_keeps": checks.flag(owner, "z_keeps", z_keeps)}
