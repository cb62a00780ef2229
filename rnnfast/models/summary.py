"""A model as text: its layers with their weights, and a table of sizes."""

from typing import Any, NamedTuple

from rnnfast.layers.stacks import TimeStack


class Row(NamedTuple):
    """A layer of a model.

    Attributes
    ----------
    layer : str
        Its class; TimeReverse also names the layer inside.
    output : str
        The shape of its output: N batch, T time.
    weights : list of str
        Name and shape of each array, or the array with which it shares its memory.
    parameters, bytes : int
        Shared arrays count where they occur first.
    shared : list of str
        The weights that were counted before.
    """

    layer: str
    output: str
    weights: list[str]
    parameters: int
    bytes: int
    shared: list[str]


def describe(model: Any) -> str:
    """Format a model as its arguments, its number of parameters, and a line per layer."""
    found = rows(model)
    lines = [f"{_call(model)}: {sum(row.parameters for row in found):,} parameters"]
    for row in found:
        details = [*row.weights, f"{row.parameters:,} parameters"] if row.weights else []
        lines.append(f"  {row.layer}" + (": " if details else "") + ", ".join(details))
    return "\n".join(lines)


def table(model: Any) -> str:
    """Format a model as a table: layers, shapes of outputs, parameters, bytes, and the totals."""
    found = rows(model)
    total = sum(row.parameters for row in found), sum(row.bytes for row in found)
    cells = [("layer", "output", "parameters", "bytes", "")]
    for row in found:
        shared = f"  {', '.join(row.shared)}: counted once" if row.shared else ""
        cells.append((row.layer, row.output, f"{row.parameters:,}", f"{row.bytes:,}", shared))
    cells.append(("total", "", f"{total[0]:,}", f"{total[1]:,}", ""))
    a, b, c, d = (max(len(cell[k]) for cell in cells) for k in range(4))
    lines = [
        f"{layer:<{a}}  {output:<{b}}  {count:>{c}}  {size:>{d}}{shared}"
        for layer, output, count, size, shared in cells
    ]
    return "\n".join([_call(model), *lines])


def rows(model: Any) -> list[Row]:
    """List the layers of a model in order, those of a TimeStack one by one.

    Parameters
    ----------
    model : rnnfast.models.Model

    Returns
    -------
    list of Row
        Dropout layers between the layers of a TimeStack are left out.
    """
    sources = model._sources()
    found: list[Row] = []
    output = ""
    start = 0
    for layer in [*_flat(model.layers), *model.aside]:
        places = range(start, start + len(layer.params))  # in model.params
        start = places.stop
        if places:  # dropout keeps the shape
            axes = "N, T" if type(layer).__name__.startswith("Time") else "N"
            output = f"({axes}, {_width(layer)})" if layer not in model.aside else ""
        weights, shared = [], []
        parameters = size = 0
        for i in places:
            param, (name, source) = model.params[i], sources[i]
            weights.append(f"{name} {param.shape}" if source is None else f"{name} = {source}")
            if source is None:
                parameters += param.size
                size += param.size * param.dtype.itemsize
            else:
                shared.append(weights[-1])
        found.append(Row(_label(layer), output, weights, parameters, size, shared))
    return found


def _call(model: Any) -> str:
    """The call that makes a model of these sizes."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in model.sizes.items())
    return f"{type(model).__name__}({arguments})"


def _flat(layers: list[Any]) -> list[Any]:
    """The layers, with the layers of a stack in place of the stack."""
    found = []
    for layer in layers:
        found += _flat(layer.layers) if isinstance(layer, TimeStack) else [layer]
    return found


def _label(layer: Any) -> str:
    """The class of a layer, with its dropout ratio or the class of the layer inside."""
    inside = getattr(layer, "layer", None)
    detail = getattr(layer, "dropout_ratio", None) if inside is None else type(inside).__name__
    return type(layer).__name__ + ("" if detail is None else f"({detail})")


def _width(layer: Any) -> int:
    """The width of a layer's output."""
    if parts := getattr(layer, "parts", ()):
        return sum(map(_width, parts))
    width: int = layer.Wh.shape[0] if hasattr(layer, "Wh") else layer.params[0].shape[1]
    return width
