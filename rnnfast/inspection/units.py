"""Properties of the text to which single units of a character model respond."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnfast import checks
from rnnfast.inspection.arguments import check_str, here
from rnnfast.io.weights import to_numpy
from rnnfast.text import sampling
from rnnfast.typing import Array, LanguageModel


def activations(model: LanguageModel, ids: Sequence[int] | Array) -> list[NDArray[Any]]:
    """Activations of all units of all recurrent layers along a text.

    Parameters
    ----------
    model : models.LanguageModelBase
        A language model. It reads the ids from a zero state, in inference mode; its own state is
        restored afterwards.
    ids : array of int (length,)
        The text.

    Returns
    -------
    list of array (length, H)
        One array per recurrent layer.

    Raises
    ------
    TypeError
        `model` is not one of rnnfast.models.
    ValueError
        `ids` is empty, or has ids that the model does not know.

    Examples
    --------
    >>> from rnnfast import inspection, models
    >>> model = models.SimpleRnnlm(4, wordvec_size=3, hidden_size=5, rng=0)
    >>> [hs.shape for hs in inspection.activations(model, [0, 1, 2])]
    [(3, 5)]
    """
    known: Any = model  # vocab_size checks that it is one of rnnfast.models
    V = sampling.vocab_size("activations", known)
    ids = np.asarray(here("activations", "ids", ids))
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"activations: ids must be (length,) integers, got {ids.dtype} {ids.shape}"
        )
    checks.in_range("activations", "ids", ids, V)
    state = known.get_state()
    model.reset_state()
    try:
        xs: Any = ids[np.newaxis]
        found: list[NDArray[Any]] = []
        for layer in model.layers[:-1]:
            xs = layer.forward(xs, train=False, **known.masks(layer, xs))
            if layer in known.recurrent_layers:
                found.append(to_numpy(xs[0]))
        return found
    finally:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            known.set_state(state)


class Unit(NamedTuple):
    """A unit, and its correlation with a property of the text.

    Attributes
    ----------
    layer, unit : int
        The recurrent layer, and the unit in it; both start at 0.
    correlation : float
        From -1 to 1.
    """

    layer: int
    unit: int
    correlation: float


def rank_units(
    activations: Sequence[Any], values: ArrayLike | Array, top: int | None = None
) -> list[Unit]:
    """Rank units by their correlation with a property of the text.

    Parameters
    ----------
    activations : list of array (length, H)
        One array per layer, from the function `activations`.
    values : array (length,)
        The property at each character, numbers or bool; PROPERTIES computes some from a text.
    top : int, optional
        Number of units; None for all.

    Returns
    -------
    list of Unit
        The best first: those with the highest absolute value of the correlation. The correlation
        of a constant unit is 0.

    Raises
    ------
    TypeError
        `activations` is one array, not a list of arrays.
    ValueError
        The lengths differ, or `values` is constant or not finite.

    References
    ----------
    A. Karpathy, J. Johnson, L. Fei-Fei, Visualizing and understanding recurrent networks, 2015,
    https://arxiv.org/abs/1506.02078.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import inspection
    >>> hs = np.array([[0.5, 0.3], [-0.5, 0.4], [0.5, 0.2]])
    >>> best = inspection.rank_units([hs], inspection.upper_case("aBc"), top=1)[0]
    >>> best.layer, best.unit, round(abs(best.correlation), 3)
    (0, 0, 1.0)
    """
    owner = "rank_units"
    if checks.is_array(activations):
        raise TypeError(f"{owner}: activations must be a list, one array a layer, got an array")
    given = np.asarray(here(owner, "values", values))
    checks.real(owner, "values", given)
    if given.ndim != 1 or given.size < 2:
        raise checks.shape_error(owner, "values", "(length,), from 2 up", given)
    wanted: NDArray[np.float64] = given.astype(np.float64)
    if not np.isfinite(wanted).all():
        raise ValueError(f"{owner}: values must be finite, got nan or inf")
    wanted -= wanted.mean()
    if not wanted.any():
        raise ValueError(f"{owner}: values must differ somewhere, got the same everywhere")
    top = None if top is None else checks.count(owner, "top", top)
    units: list[Unit] = []
    for k, hs in enumerate(activations):
        hs = here(owner, f"activations[{k}]", hs)
        checks.real(owner, f"activations[{k}]", hs)
        if hs.ndim != 2 or len(hs) != len(wanted):
            expected = f"(length, H) = ({len(wanted)}, H)"
            raise checks.shape_error(owner, f"activations[{k}]", expected, hs)
        hs = hs.astype(np.float64)
        if not np.isfinite(hs).all():
            raise ValueError(f"{owner}: activations[{k}] must be finite, got nan or inf")
        constant = (hs == hs[0]).all(axis=0)
        hs -= hs.mean(axis=0)
        scale = np.linalg.norm(hs, axis=0) * np.linalg.norm(wanted)
        correlations = np.where(constant, 0.0, wanted @ hs / np.where(constant, 1.0, scale))
        units += [Unit(k, unit, float(c)) for unit, c in enumerate(correlations)]
    return sorted(units, key=lambda unit: -abs(unit.correlation))[:top]


def inside_quotes(text: str) -> NDArray[np.float64]:
    """Mark the characters inside quotation marks.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    float64 (len(text),)
        1 between a quotation mark (" or the curly pair) and the next one, and at the
        closing one; else 0.

    Examples
    --------
    >>> inside_quotes('a"b"')
    array([0., 0., 1., 1.])
    """
    check_str("inside_quotes", "text", text)
    inside = False
    found: list[bool] = []
    for character in text:
        found.append(inside)
        if character == '"':
            inside = not inside
        elif character in "\u201c\u201d":
            inside = character == "\u201c"
    return np.array(found, dtype=np.float64)


def inside_brackets(text: str) -> NDArray[np.float64]:
    """Count the open brackets, ( [ or {, at each character.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    float64 (len(text),)
        Number of open brackets.

    Examples
    --------
    >>> inside_brackets('f(x)')
    array([0., 0., 1., 0.])
    """
    check_str("inside_brackets", "text", text)
    depth = 0
    found: list[int] = []
    for character in text:
        if character in ")]}":
            depth = max(depth - 1, 0)
        found.append(depth)
        if character in "([{":
            depth += 1
    return np.array(found, dtype=np.float64)


def position_in_line(text: str) -> NDArray[np.float64]:
    """Number the characters of each line.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    float64 (len(text),)
        0 at the first character of a line, then 1, 2, ...; the line break belongs to its
        line.

    Examples
    --------
    >>> position_in_line('ab\\nc')
    array([0., 1., 2., 0.])
    """
    check_str("position_in_line", "text", text)
    position = 0
    found: list[int] = []
    for character in text:
        found.append(position)
        position = 0 if character == "\n" else position + 1
    return np.array(found, dtype=np.float64)


def position_in_word(text: str) -> NDArray[np.float64]:
    """Number the characters of each word.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    float64 (len(text),)
        0 where there is no letter or digit, then 1, 2, ... along a word.

    Examples
    --------
    >>> position_in_word('is it')
    array([1., 2., 0., 1., 2.])
    """
    check_str("position_in_word", "text", text)
    position = 0
    found: list[int] = []
    for character in text:
        position = position + 1 if character.isalnum() else 0
        found.append(position)
    return np.array(found, dtype=np.float64)


def upper_case(text: str) -> NDArray[np.float64]:
    """Mark the upper-case letters.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    float64 (len(text),)
        1 for an upper-case letter, else 0.

    Examples
    --------
    >>> upper_case('aB')
    array([0., 1.])
    """
    check_str("upper_case", "text", text)
    return np.array([character.isupper() for character in text], dtype=np.float64)


def digit(text: str) -> NDArray[np.float64]:
    """Mark the digits.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    float64 (len(text),)
        1 for a digit, else 0.

    Examples
    --------
    >>> digit('a1')
    array([0., 1.])
    """
    check_str("digit", "text", text)
    return np.array([character.isdigit() for character in text], dtype=np.float64)


# name -> function(text) -> (len(text),) float64, for rank_units
PROPERTIES: dict[str, Callable[[str], NDArray[np.float64]]] = {
    "quotes": inside_quotes,
    "brackets": inside_brackets,
    "line": position_in_line,
    "word": position_in_word,
    "upper": upper_case,
    "digit": digit,
}
