"""The options of the cells, checked, as their columns take them."""

from typing import Any

import numpy as np

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


def of_steps(layer: Any, N: int, T: int | None, given: dict[str, Any]) -> dict[str, Any]:
    """The masks and shares of zoneout that are not None, checked, (N, T, H) for the column.

    h_zoneout is as wide as h, so (N, T, P) with a projection. T is None for one step, T = 1 for the
    column. A number is only for zoneout. What is the same for all steps has stride 0 there, and no
    memory of its own.
    """
    return {
        name: _of_each_step(layer, name, value, N, T)
        for name, value in given.items()
        if value is not None
    }


def _of_each_step(layer: Any, name: str, value: Any, N: int, T: int | None) -> Any:
    """One of them."""
    owner, width = layer._name, layer.width_of(name)
    letter = layer.wide if name == "h_zoneout" else "H"
    shape = (N, 1 if T is None else T, width)
    if name not in layer.of_steps:
        kind = type(value).__name__
        raise ValueError(f"{owner}: {name} must be None, which this cell does not have, got {kind}")
    if name.endswith("zoneout") and checks.is_number(value):
        if not 0 <= value <= 1:
            raise ValueError(f"{owner}: {name} must be in [0, 1], got {value}")
        xp = checks.namespace(layer.params[0])
        return xp.broadcast_to(xp.full(width, value, layer.dtype), shape)
    value = checks.real(owner, name, value)
    shapes: dict[str, tuple[Any, ...]] = {} if T is None else {f"(N, T, {letter})": shape}
    shapes |= {f"(N, {letter})": (N, width)}
    if value.shape not in shapes.values():
        label = " or ".join(f"{letters} = {sizes}" for letters, sizes in shapes.items())
        raise checks.shape_error(owner, name, label, value)
    value = checks.cast(value, layer.dtype)
    if value.ndim == 2:
        value = checks.namespace(value).broadcast_to(value[:, np.newaxis], shape)
    return value
