"""How models check their sizes and make their layers."""

from collections.abc import Callable
from typing import Any

from rnnfast import checks
from rnnfast.layers.cells import BIDIRECTIONAL, RECURRENT, check_cell
from rnnfast.layers.embedding import TimeEmbedding
from rnnfast.layers.initial import ROUNDS, Initializer


def _cell(owner: str, name: str, value: Any) -> Any:
    """Check the name of a cell."""
    check_cell(owner, value)
    return value


Check = Callable[[str, str, Any], Any]  # (owner, name, value) -> the value as it is kept

_COUNT: Check = checks.count
_CHECKS: dict[str, Check] = {
    "cell": _cell,
    "dropout": checks.ratio,
    "input_dropout": checks.ratio,
    "between_dropout": checks.ratio,
    "output_dropout": checks.ratio,
    "embedding_dropout": checks.ratio,
    "weight_drop": checks.ratio,
    "latent_dropout": checks.ratio,
    "recurrent_dropout": checks.ratio,
    "h_zoneout": checks.ratio,
    "c_zoneout": checks.ratio,
    "alpha": checks.nonnegative,
    "beta": checks.nonnegative,
    "past_decode": checks.nonnegative,
    "adversarial": checks.nonnegative,
    "frage": checks.nonnegative,
    "frage_rate": checks.nonnegative,
    "balance": checks.nonnegative,
    "bidirectional": checks.flag,
    "pass_cell": checks.flag,
    "reverse": checks.flag,
    "tie_weights": checks.flag,
    "variational_dropout": checks.flag,
}


def checked_sizes(owner: str, **sizes: Any) -> dict[str, Any]:
    """Check the arguments of a model's constructor, in their order.

    Parameters
    ----------
    owner : str
        The model's class, for error messages.
    **sizes
        Arguments by name. All that _CHECKS does not list are counts, from 1 up.

    Returns
    -------
    dict
        Name -> value as a Python int, float, bool or str: the model's `sizes`.

    Raises
    ------
    TypeError, ValueError
        For the first wrong one.
    """
    return {name: _CHECKS.get(name, _COUNT)(owner, name, x) for name, x in sizes.items()}


def given_sizes(owner: str, **options: Any) -> dict[str, Any]:
    """Check those arguments that are not None; the others stay out of the model's `sizes`.

    Parameters
    ----------
    owner, **options
        As in `checked_sizes`.

    Returns
    -------
    dict
        As of `checked_sizes`.

    Raises
    ------
    TypeError, ValueError
        For the first wrong one.
    """
    return checked_sizes(owner, **{name: x for name, x in options.items() if x is not None})


def check_rounds(owner: str, sizes: dict[str, Any]) -> None:
    """Give the sizes of a model with Mogrifier LSTMs their default; ValueError for another cell."""
    if sizes["cell"] == "mogrifier":
        sizes.setdefault("rounds", ROUNDS)
        return
    for name in ("rounds", "rank"):
        if name in sizes:
            cell, got = sizes["cell"], sizes[name]
            raise ValueError(f"{owner}: {name} must be None with cell {cell!r}, got {got}")


# Sizes of a model -> the argument of a recurrent layer's forward
OF_STEPS = {
    "recurrent_dropout": "candidate_mask",
    "h_zoneout": "h_zoneout",
    "c_zoneout": "c_zoneout",
}


def check_of_steps(owner: str, sizes: dict[str, Any]) -> None:
    """ValueError for recurrent dropout or zoneout of a cell that does not have it."""
    cell = sizes["cell"]
    for name, argument in OF_STEPS.items():
        if name in sizes and argument not in RECURRENT[cell].of_steps:
            got = sizes[name]
            raise ValueError(f"{owner}: {name} must be None with cell {cell!r}, got {got}")


def check_heads(owner: str, sizes: dict[str, Any], last: int) -> None:
    """Give the sizes of a model with sLSTMs their default; else ValueError.

    last: the width of the last layer. The heads of a layer have equally many units.
    """
    if sizes["cell"] != "slstm":
        if "heads" in sizes:
            cell, got = sizes["cell"], sizes["heads"]
            raise ValueError(f"{owner}: heads must be None with cell {cell!r}, got {got}")
        return
    heads = sizes.setdefault("heads", 1)
    widths = {"hidden_size": sizes["hidden_size"], "the width of the last layer": last}
    for name, width in widths.items():
        if width % heads:
            raise ValueError(f"{owner}: heads must divide {name} = {width}, got {heads}")


def check_projection(owner: str, sizes: dict[str, Any]) -> None:
    """Give the sizes of a model with LSTMs with a projection their default; else ValueError."""
    if sizes["cell"] == "lstmp":
        sizes.setdefault("proj_size", sizes["hidden_size"])
    elif "proj_size" in sizes:
        cell, got = sizes["cell"], sizes["proj_size"]
        raise ValueError(f"{owner}: proj_size must be None with cell {cell!r}, got {got}")


def embedding(draw: Initializer, sizes: dict[str, Any]) -> TimeEmbedding:
    """Make the embedding of a model: (vocab_size, wordvec_size), normal, divided by 100."""
    W = draw.normal(sizes["vocab_size"], sizes["wordvec_size"], 100)
    return TimeEmbedding(W, device=draw.device)


def recurrent_layers(
    draw: Initializer,
    sizes: dict[str, Any],
    D: int,
    *,
    last: int | None = None,
    stateful: bool = False,
) -> tuple[list[Any], list[str]]:
    """Make the recurrent layers of a model, the lowest first.

    Parameters
    ----------
    draw : Initializer
    sizes : dict
        cell, hidden_size, layers; optionally bidirectional, rounds, rank, proj_size and heads.
    D : int
        Input width of the first layer.
    last : int, optional
        The width of the last layer's h; None is that of the others, hidden_size or proj_size.
    stateful : bool
        As in TimeLSTM.

    Returns
    -------
    layers : list
    names : list of str
        The names of their weights in weight files.
    """
    cell, H, layers = sizes["cell"], sizes["hidden_size"], sizes["layers"]
    bidirectional = sizes.get("bidirectional", False)
    kind: Any = (BIDIRECTIONAL if bidirectional else RECURRENT)[cell]
    directions = ("forward_", "backward_") if bidirectional else ("",)
    projected = cell == "lstmp"
    P = sizes.get("proj_size", H) if projected else H  # the width of h
    made: list[Any] = []
    names: list[str] = []
    for k in range(1, layers + 1):
        P = last if last is not None and k == layers else P
        H = H if projected else P
        weights: list[Any] = []
        beside: dict[str, Any] = {}
        for way in range(1, len(directions) + 1):
            weights += draw.recurrent(RECURRENT[cell].gates, D, H, P, sizes.get("heads", 1))
            own: dict[str, Any] = {}
            if cell == "mogrifier":
                own = draw.rounds(D, H, sizes.get("rounds", ROUNDS), sizes.get("rank"))
            elif projected:
                own = {"Wproj": draw.normal(H, P)}
            elif "gx" in RECURRENT[cell].more:
                own = draw.norms(RECURRENT[cell].gates, H, RECURRENT[cell].more)
            suffix = way if bidirectional else ""
            beside |= {f"{name}{suffix}": W for name, W in own.items()}
        made.append(kind(*weights, stateful=stateful, device=draw.device, **beside))
        D = P * len(directions)
        number = "" if layers == 1 else k
        each = len(made[-1].params) // len(directions)
        for direction in directions:
            own_names = ("Wx", "Wh", "b", *RECURRENT[cell].more)[:each]
            names += [f"{direction}{cell}_{name}{number}" for name in own_names]
    return made, names


def h_places(stack: Any, cell: str) -> range:
    """The positions of h in the state of a stack; the last layer's come last."""
    return range(0, len(stack.state), len(RECURRENT[cell].states))


def filled(state: tuple[Any, ...], stack: Any) -> tuple[Any, ...]:
    """A state extended with None (zeros) to the length that a stack takes."""
    return (*state, *[None] * (len(stack.state) - len(state)))
