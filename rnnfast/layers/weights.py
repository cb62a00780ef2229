"""The weights that a recurrent layer is made of: their names and their shapes.

N batch, D input, H hidden, G gates; of a Mogrifier LSTM r rounds and k, the rank of their matrices;
P, the width of h after a projection; K, the units of a head of an sLSTM. Layer-normalised cells
have vectors beside: gains gx and gh, (G*H,), and others, (H,).
"""

from typing import Any

from rnnfast import checks
from rnnfast.layers.base import Spec

# (Wx, Wh, b) and what the cell has beside; None for an array that is not there
Weights = tuple[Any, ...]


def adopted(owner: str, more: tuple[str, ...], weights: Weights, suffix: str = "") -> Weights:
    """Each of the weights through checks.adopt. more: the names of those after Wx, Wh and b."""
    names = (f"{name}{suffix}" for name in ("Wx", "Wh", "b", *more))
    return tuple(checks.adopt(owner, name, W) for name, W in zip(names, weights, strict=False))


def specs(
    owner: str,
    gates: int,
    more: tuple[str, ...],
    weights: Weights,
    suffix: str = "",
    two_biases: bool = False,
    in_heads: bool = False,
) -> tuple[Spec, ...]:
    """The spec (name, shape, label) of each weight, with H from `_width` and D from Wx.

    more: the names of the weights after Wx, Wh and b. two_biases: b is (2, G*H). in_heads: Wh is
    (H, G*K).
    """
    GH = "H" if gates == 1 else f"{gates}H"
    wide = "P" if "Wproj" in more else "H"
    label = f"(H, {gates}K)" if in_heads else f"({wide}, {GH})"
    Wx, Wh, b, *rest = weights
    rows, wide_Wh = checks.matrix(owner, f"Wh{suffix}", Wh, label)
    D, columns = checks.matrix(owner, f"Wx{suffix}", Wx, f"(D, {GH})")
    if "Wproj" in more:
        H, _ = checks.matrix(owner, f"Wproj{suffix}", rest[0], "(H, P)")
        if columns == wide_Wh and not columns % gates:  # the majority
            H = columns // gates
    elif in_heads:
        H = rows = _width_of_heads(owner, f"Wh{suffix}", gates, columns, Wh, b)
    else:
        H = rows = _width(gates, columns, Wh, b)
    b_shape, b_label = ((2, gates * H), f"(2, {GH})") if two_biases else ((gates * H,), f"({GH},)")
    known: tuple[Spec, ...] = (
        (f"Wx{suffix}", (D, gates * H), f"(D, {GH})"),
        (f"Wh{suffix}", (rows, wide_Wh if in_heads else gates * H), label),
        (f"b{suffix}", b_shape, b_label),
    )
    if "Wp" in more:
        full = getattr(rest[0], "ndim", 2) == 3  # matrices
        shape, label = ((3, H, H), "(3, H, H)") if full else ((3, H), "(3, H)")
        known += ((f"Wp{suffix}", shape, label),)
    elif "Wproj" in more:
        known += ((f"Wproj{suffix}", (H, rows), "(H, P)"),)
    elif "Wm" in more:
        known += _rounds(owner, D, H, rest, suffix)
    elif "gx" in more:
        known += _norms(owner, gates, H, more, rest, suffix)
    return tuple(spec for spec, W in zip(known, weights, strict=False) if W is not None)


def _width(gates: int, columns: int, Wh: Any, b: Any) -> int:
    """H, by the majority of Wx, Wh and b, so that the error names the third; else from Wh.

    columns: of Wx, which must be gates * H. Only Wh shows by its own shape whether it is right.
    """
    H, wide = Wh.shape
    of_b = getattr(b, "shape", (None,))[-1] if b is not None else None
    if columns == gates * H or columns % gates:
        return int(H)
    return columns // gates if wide != gates * H or of_b == columns else int(H)


def _width_of_heads(owner: str, name: str, gates: int, columns: int, Wh: Any, b: Any) -> int:
    """H, by Wx and b where they agree, else from Wh, whose heads must be whole."""
    H, wide = Wh.shape
    if columns % gates == 0 and getattr(b, "shape", (None,))[-1] == columns != gates * H:
        return columns // gates
    if wide % gates or H % (wide // gates):
        heads = f"(H, {gates}K) with a K that divides H"
        raise checks.shape_error(owner, name, heads, Wh)
    return int(H)


def _rounds(owner: str, D: int, H: int, given: list[Any], suffix: str) -> tuple[Spec, ...]:
    """The specs of Wm and Wr, with r and k from Wm."""
    Wm, Wr = given
    wide = "D" if Wr is None else "k"
    r, _, k = checks.weight(owner, f"Wm{suffix}", Wm, 3, f"(r, H, {wide})")
    return (
        (f"Wm{suffix}", (r, H, D if Wr is None else k), f"(r, H, {wide})"),
        (f"Wr{suffix}", (r, k, D), "(r, k, D)"),
    )


def norm_shapes(gates: int, H: int, more: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the gains and biases of a layer-normalised cell, by name."""
    return {name: (gates * H if name in ("gx", "gh") else H,) for name in more}


def _norms(
    owner: str, gates: int, H: int, more: tuple[str, ...], given: list[Any], suffix: str
) -> tuple[Spec, ...]:
    """The specs of the gains and biases, all of which have to be there."""
    found: list[Spec] = []
    for (name, shape), W in zip(norm_shapes(gates, H, more).items(), given, strict=True):
        label = f"({gates}H,)" if name in ("gx", "gh") else "(H,)"
        checks.weight(owner, f"{name}{suffix}", W, 1, label)
        found.append((f"{name}{suffix}", shape, label))
    return tuple(found)
