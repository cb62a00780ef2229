"""What single units of a character model respond to (Karpathy et al. 2015)."""

from typing import NamedTuple

import numpy as np

from rnnfast import checks
from rnnfast.inspection.arguments import check_str, here
from rnnfast.io.weights import to_numpy
from rnnfast.text import sampling


def activations(model, ids):
    """What every unit of every recurrent layer gives for ids (length,): a list of (length, H).

    model: a models.BaseModel. It reads the ids from a zero state, in inference mode; its own state
    is there again afterwards.
    """
    V = sampling.vocab_size("activations", model)
    ids = np.asarray(here("activations", "ids", ids))
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"activations: ids must be (length,) integers, got {ids.dtype} {ids.shape}"
        )
    checks.in_range("activations", "ids", ids, V)
    state = model.get_state()
    model.reset_state()
    try:
        xs, found = ids[np.newaxis], []
        for layer in model.layers[:-1]:
            xs = layer.forward(xs, train=False)
            if layer in model.recurrent_layers:
                found.append(to_numpy(xs[0]))
        return found
    finally:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            model.set_state(state)


class Unit(NamedTuple):
    layer: int
    unit: int
    correlation: float


def rank_units(activations, values, top=None):
    """Units by how well they follow a property of the text, the best first: a list of Unit.

    activations: (length, H) of each layer, as the function of that name gives them. values
    (length,): the property at each character, numbers or bool; PROPERTIES makes some of a text.
    A unit follows it as well as its correlation, positive or negative, is far from zero; that of a
    unit which never changes is 0. top: how many units, None for all.
    """
    owner = "rank_units"
    if checks.is_array(activations):
        raise TypeError(f"{owner}: activations must be a list, one array a layer, got an array")
    values = np.asarray(here(owner, "values", values))
    checks.real(owner, "values", values)
    if values.ndim != 1 or values.size < 2:
        raise checks.shape_error(owner, "values", "(length,), from 2 up", values)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{owner}: values must be finite, got nan or inf")
    values -= values.mean()
    if not values.any():
        raise ValueError(f"{owner}: values must differ somewhere, got the same everywhere")
    top = None if top is None else checks.count(owner, "top", top)
    units = []
    for k, hs in enumerate(activations):
        hs = here(owner, f"activations[{k}]", hs)
        checks.real(owner, f"activations[{k}]", hs)
        if hs.ndim != 2 or len(hs) != len(values):
            expected = f"(length, H) = ({len(values)}, H)"
            raise checks.shape_error(owner, f"activations[{k}]", expected, hs)
        hs = hs.astype(np.float64)
        constant = (hs == hs[0]).all(axis=0)
        hs -= hs.mean(axis=0)
        scale = np.linalg.norm(hs, axis=0) * np.linalg.norm(values)
        correlations = np.where(constant, 0.0, values @ hs / np.where(constant, 1.0, scale))
        units += [Unit(k, unit, float(c)) for unit, c in enumerate(correlations)]
    return sorted(units, key=lambda unit: -abs(unit.correlation))[:top]


def inside_quotes(text):
    """1 between a quotation mark (" or the curly pair) and the next one, and at the closing one."""
    check_str("inside_quotes", "text", text)
    inside, found = False, []
    for character in text:
        found.append(inside)
        if character == '"':
            inside = not inside
        elif character in "\u201c\u201d":
            inside = character == "\u201c"
    return np.array(found, dtype=np.float64)


def inside_brackets(text):
    """How many brackets, ( [ or {, are open at each character."""
    check_str("inside_brackets", "text", text)
    depth, found = 0, []
    for character in text:
        if character in ")]}":
            depth = max(depth - 1, 0)
        found.append(depth)
        if character in "([{":
            depth += 1
    return np.array(found, dtype=np.float64)


def position_in_line(text):
    """0 at the first character of a line, then 1, 2, ...; the line's end counts to it."""
    check_str("position_in_line", "text", text)
    position, found = 0, []
    for character in text:
        found.append(position)
        position = 0 if character == "\n" else position + 1
    return np.array(found, dtype=np.float64)


def position_in_word(text):
    """0 where there is no letter or digit, then 1, 2, ... along a word."""
    check_str("position_in_word", "text", text)
    position, found = 0, []
    for character in text:
        position = position + 1 if character.isalnum() else 0
        found.append(position)
    return np.array(found, dtype=np.float64)


def upper_case(text):
    """1 for an upper-case letter."""
    check_str("upper_case", "text", text)
    return np.array([character.isupper() for character in text], dtype=np.float64)


def digit(text):
    """1 for a digit."""
    check_str("digit", "text", text)
    return np.array([character.isdigit() for character in text], dtype=np.float64)


# name -> function(text) -> (len(text),) float64, for rank_units
PROPERTIES = {
    "quotes": inside_quotes,
    "brackets": inside_brackets,
    "line": position_in_line,
    "word": position_in_word,
    "upper": upper_case,
    "digit": digit,
}
