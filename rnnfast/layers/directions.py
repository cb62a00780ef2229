"""The base of recurrent layers that read a sequence in both directions."""

from collections.abc import Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.initial import Initializer, create_recurrent
from rnnfast.layers.options import of_steps
from rnnfast.layers.parts import Parts, undone_if_it_fails
from rnnfast.layers.recurrent import Lengths, Recurrent, checked_lengths
from rnnfast.layers.weights import Weights, adopted, specs
from rnnfast.typing import A, Array, Floats, Integers


class _TimeBi(Parts):
    """Two layers, one forwards and one backwards; their outputs are concatenated."""

    kind: Any  # the class of the two layers

    def __init__(
        self,
        weights1: Weights,
        weights2: Weights,
        stateful: bool,
        device: str | None,
        options1: dict[str, Any],
        options2: dict[str, Any] | None = None,
    ) -> None:
        kind, name = self.kind, type(self).__name__
        self._name = name
        options2 = options1 if options2 is None else options2
        more: tuple[str, ...] = kind.more
        both = (
            adopted(name, more, (*weights1, *map(options1.get, more)), "1"),
            adopted(name, more, (*weights2, *map(options2.get, more)), "2"),
        )
        two_biases = checks.flag(name, "reset_after", options1.get("reset_after", False))
        expected = specs(name, kind.gates, more, both[0], "1", two_biases, kind.in_heads)
        for argument, W1, W2 in zip(("Wx", "Wh", "b", *more), *both, strict=True):
            if (W1 is None) != (W2 is None):
                kind2 = type(W2).__name__
                other = "None" if W1 is None else "an array"
                raise TypeError(
                    f"{name}: {argument}2 must be {other} as {argument}1 is, got {kind2}"
                )
        dtype = both[0][0].dtype
        pair: list[tuple[Weights, dict[str, Any]]] = []
        for suffix, weights, options in (("1", both[0], options1), ("2", both[1], options2)):
            names = [f"{argument}{suffix}" for argument in ("Wx", "Wh", "b", *more)]
            there = [checks.in_dtype(name, *W, dtype) for W in zip(names, weights, strict=True)]
            given = [W for W in there if W is not None]
            for W, (argument, shape, label) in zip(given, expected, strict=True):
                checks.exactly(name, argument[:-1] + suffix, W, dtype, shape, label)
            beside = {n: W for n, W in zip(more, there[3:], strict=True) if W is not None}
            pair.append((tuple(there[:3]), options | beside))
        self.parts = [
            kind(*weights, stateful, device=device, **options)._part_of(name)
            for weights, options in pair
        ]
        for layer, direction in zip(self.parts, ("forward", "backward"), strict=True):
            setattr(self, f"{direction}_{kind.column}", layer)
        self._gather()

    @classmethod
    def create(
        cls,
        D: int,
        H: int,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
        recurrent: str = "normal",
        forget_bias: float = 0.0,
        peepholes: str | None = None,
        rounds: int | None = None,
        rank: int | None = None,
        proj_size: int | None = None,
        heads: int | None = None,
        **options: Any,
    ) -> Self:
        """Make a layer from its sizes, with the initial weights of the book.

        The arguments are those of `TimeLSTM.create`. H is the number of units of one direction.
        The weights of the forward direction are drawn first.

        Examples
        --------
        >>> from rnnfast import TimeBiLSTM
        >>> TimeBiLSTM.create(100, 200, rng=0, forget_bias=1.0, device="cpu")
        TimeBiLSTM(D=100, H=200, float32, cpu)
        """
        draw = Initializer(cls.__name__, rng, dtype, device)
        more = {"peepholes": peepholes, "rounds": rounds, "rank": rank, "proj_size": proj_size}
        more["heads"] = heads
        return create_recurrent(
            cls, cls.kind, ("1", "2"), (D, H), draw, recurrent, forget_bias, more, options
        )

    def __repr__(self) -> str:
        layer: Recurrent = self.parts[0]
        entries, of_freezing = layer._entries(), layer._entries_of_freezing()
        if of_freezing and not self.frozen:  # one direction alone is frozen
            entries = entries[: -len(of_freezing)]
        return f"{type(self).__name__}({', '.join(entries)})"

    @overload
    def forward(
        self,
        xs: Integers,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: Sequence[Array | None] | None = None,
        h_zoneout: Sequence[Array | float | None] | float | None = None,
        c_zoneout: Sequence[Array | float | None] | float | None = None,
    ) -> Floats: ...
    @overload
    def forward(
        self,
        xs: A,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: Sequence[Array | None] | None = None,
        h_zoneout: Sequence[Array | float | None] | float | None = None,
        c_zoneout: Sequence[Array | float | None] | float | None = None,
    ) -> A: ...
    def forward(
        self,
        xs: Any,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: Sequence[Array | None] | None = None,
        h_zoneout: Sequence[Array | float | None] | float | None = None,
        c_zoneout: Sequence[Array | float | None] | float | None = None,
    ) -> Any:
        """Run both directions over a sequence.

        Parameters
        ----------
        xs : array (N, T, D)
            The input.
        train : bool
            False keeps nothing for a backward.
        lengths : array of int (N,), list or tuple, optional
            As in `TimeLSTM.forward`. The backward direction starts at the end of each sample.
        candidate_mask, h_zoneout, c_zoneout : pair of (array or None), or float, optional
            As in `TimeLSTM.forward`, of the forward and of the backward direction. At [:, t] an
            array belongs to xs[:, t]. A float is for both; it may also stand in a pair.

        Returns
        -------
        array (N, T, 2H)
            The outputs of the forward and of the backward direction, concatenated.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As in `TimeLSTM.forward`.
        """
        forward, backward = self.parts
        self._agree()
        checked = forward._checked_forward(xs, train), backward._checked_forward(xs, train)
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        given = {
            "candidate_mask": candidate_mask,
            "h_zoneout": h_zoneout,
            "c_zoneout": c_zoneout,
        }
        N, T = checked[0][0].shape[:2]
        own1, own2 = (
            of_steps(part, N, T, own)
            for part, own in zip(self.parts, self._of_parts("direction", **given), strict=True)
        )
        with undone_if_it_fails(self.parts):
            hs1 = forward._forward(checked[0], train, lengths=lengths, **own1)
            hs2 = backward._forward(checked[1], train, lengths=lengths, reverse=True, **own2)
            return checks.namespace(hs1).concatenate((hs1, hs2), axis=2)

    @overload
    def backward(self, dhs: A, *dstate: Any) -> A: ...
    @overload
    def backward(self, dhs: None, *dstate: Any) -> Any: ...

    def backward(self, dhs: Any, *dstate: Any) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array (N, T, 2H) or None
            The gradient of the output. None is zeros.
        *dstate : array (N, H) or None
            The gradients of `state`, the final states of both directions; or nothing.

        Returns
        -------
        array (N, T, D)
            dxs.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As in `TimeLSTM.backward`.
        """
        forward, backward = self.parts
        self._agree()
        (N, T, H), _ = forward._pending()[2], backward._pending()
        halves = None, None
        if dhs is not None:
            dhs = checks.real(self._name, "dhs", dhs)
            if dhs.shape != (N, T, 2 * H):
                label = f"(N, T, 2{self.kind.wide}) = {N, T, 2 * H}"
                raise checks.shape_error(self._name, "dhs", label, dhs)
            halves = dhs[:, :, :H], dhs[:, :, H:]
        dstate = dstate or (None,) * len(self.state)
        shares = self._shared("backward: the states' gradients", dstate)
        checked = [
            part._checked_backward(half, *own)
            for half, (part, own) in zip(halves, shares, strict=True)
        ]
        dxs = forward._backward(checked[0])
        dxs += backward._backward(checked[1])
        return dxs
