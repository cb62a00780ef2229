"""`rnnfast cells`: a text coloured by what one unit does."""

from rnnfast.commands.arguments import (
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


def add(commands):
    command = add_command(
        commands,
        "cells",
        cells,
        "colour a text by what one unit does",
        "Show TEXT on the colours of one unit's activation (blue -1, red 1), in the terminal or "
        "as an HTML page: the unit that follows a property of the text best, or any other.",
    )
    add_model(command)
    option = command.add_argument
    option("text", metavar="TEXT", help="the text itself; - reads it from stdin")
    what = "what the unit is to follow: within quotes or brackets, position in line or word, "
    what += "upper case, digits (default: line)"
    option("--property", choices=tuple(PROPERTIES), help=what)
    option("--top", type=positive_int, metavar="N", help="units to list (default: 5)")
    option("--unit", type=natural_int, metavar="N", help="this unit, whatever it follows")
    option("--layer", type=natural_int, metavar="N", help="of this recurrent layer (default: 0)")
    option("--html", metavar="FILE", help="page to write")
    add_unknown(command)
    add_vocabulary(command)


def cells(
    model,
    text,
    *,
    property="line",
    layer=None,
    unit=None,
    top=5,
    html=None,
    unknown=None,
    vocabulary=None,
    level=None,
):
    """Show a text on the colours of one unit's activation, in the terminal or as a page `html`.

    unit, of `layer` (the first): which; None takes, of all units, the one that follows `property`
    best, and prints the `top` of them with their correlation. text: "-" reads it from stdin.
    unknown: as in evaluate_file.
    """
    if html is not None:
        check_writable(html)
    model, vocabulary = open_model(model, vocabulary, level)
    text = given_text(text)
    ids = encode(vocabulary, text, unknown, "TEXT: ")
    if len(ids) == 0:
        raise ValueError("TEXT must not be empty")
    layers = activations(model, ids)
    if unit is None:
        if vocabulary.level != "char":
            raise ValueError("--property is about characters; name a --unit of this word model")
        values = PROPERTIES[property](text)
        if unknown == "skip":
            values = values[[token in vocabulary.token_to_id for token in text]]
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
    if not (0 <= layer < len(layers) and 0 <= unit < layers[layer].shape[1]):
        raise ValueError(
            f"--layer must be below {len(layers)} and --unit below "
            f"{layers[0].shape[1]}, got {layer} and {unit}"
        )
    values = layers[layer][:, unit]
    tokens = list(vocabulary.pieces(ids.tolist()))
    if html is None:
        print(to_terminal(tokens, values))
    else:
        title = f"{type(model).__name__}: layer {layer}, unit {unit}"
        write_atomically(html, to_html(tokens, values, title).encode())
        print(f"page: {html}")
