"""`rnnfast cells`: a text, coloured by the activation of one unit."""

from rnnfast.commands.arguments import (
    Commands,
    add_command,
    add_model,
    add_unknown,
    add_vocabulary,
    natural_int,
    positive_int,
)
from rnnfast.commands.inputs import encode, given_text, open_model
from rnnfast.inspection.colours import to_html, to_terminal
from rnnfast.inspection.units import PROPERTIES, activations, rank_units
from rnnfast.io.files import check_writable, write_atomically


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "cells",
        cells,
        "colour a text by the activation of one unit",
        "Show TEXT on the colours of one unit's activation (blue -1, red 1), in the terminal or "
        "as an HTML page. By default it is the unit that follows a property of the text best.",
    )
    add_model(command)
    option = command.add_argument
    option("text", metavar="TEXT", help="the text itself; - reads it from stdin")
    what = "property that the unit follows: inside quotes or brackets, position in line or word, "
    what += "upper case, digits (default: line)"
    option("--property", choices=tuple(PROPERTIES), help=what)
    option("--top", type=positive_int, metavar="N", help="number of units to list (default: 5)")
    option(
        "--unit", type=natural_int, metavar="N", help="show this unit, whatever property it follows"
    )
    option("--layer", type=natural_int, metavar="N", help="recurrent layer of --unit (default: 0)")
    option("--html", metavar="FILE", help="HTML page to write")
    add_unknown(command)
    add_vocabulary(command)


def cells(
    model: str,
    text: str,
    *,
    property: str = "line",
    layer: int | None = None,
    unit: int | None = None,
    top: int = 5,
    html: str | None = None,
    unknown: str | None = None,
    vocabulary: str | None = None,
    level: str | None = None,
) -> None:
    """Show a text on the colours of one unit's activation, in the terminal or as a page.

    Parameters
    ----------
    model : str
        A weight file.
    text : str
        The text itself; "-" reads it from stdin.
    property : str
        A property of the text in `rnnfast.inspection.units.PROPERTIES`.
    layer : int, optional
        The recurrent layer of `unit`. None is the first.
    unit : int, optional
        The unit to show. None takes, of all units, the one that follows `property` best, and
        prints the correlation of the best `top` units.
    top : int
        Number of units to list.
    html : str, optional
        HTML page to write. None prints to the terminal.
    unknown, vocabulary, level : str, optional
        As in `rnnfast.commands.eval.evaluate_file`.

    Raises
    ------
    OSError, ValueError
        If a file cannot be read or written, the text is empty or has unknown tokens, no unit can
        follow the property, or the model has no such unit.
    """
    if layer is not None and unit is None:
        raise ValueError("--layer needs --unit")
    if html is not None:
        check_writable(html)
    net, words = open_model(model, vocabulary, level)
    text = given_text(text)
    ids = encode(words, text, unknown, "TEXT: ")
    if len(ids) == 0:
        raise ValueError("TEXT must not be empty")
    layers = activations(net, ids)
    if unit is None:
        if words.level != "char":
            raise ValueError("--property is about characters; name a --unit of this word model")
        values = PROPERTIES[property](text)
        if unknown == "skip":
            values = values[[token in words.token_to_id for token in text]]
        if (values == values[:1]).all():
            raise ValueError(
                f"--property {property}: it is the same at each of the {len(ids)} characters of "
                "TEXT, so that no unit can follow it; give a longer TEXT, or a --unit"
            )
        units = rank_units(layers, values, top=top)
        for found in units:
            place = f"layer {found.layer}, unit {found.unit}"
            print(f"{place:<24}correlation with {property}: {found.correlation:+.3f}")
        layer, unit = units[0].layer, units[0].unit
    layer = layer or 0
    if not 0 <= layer < len(layers):
        raise ValueError(f"--layer must be below {len(layers)}, got {layer}")
    if not 0 <= unit < layers[layer].shape[1]:
        width = layers[layer].shape[1]
        raise ValueError(f"--unit must be below {width} in layer {layer}, got {unit}")
    values = layers[layer][:, unit]
    tokens = list(words.pieces(ids.tolist()))
    if html is None:
        print(to_terminal(tokens, values))
    else:
        title = f"{type(net).__name__}: layer {layer}, unit {unit}"
        write_atomically(html, to_html(tokens, values, title).encode())
        print(f"page: {html}")
