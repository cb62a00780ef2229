"""Recurrent layers backwards in time and on top of each other. Chapter 6.

N batch, T time, D input, H hidden. Their interface is that of a single layer, see
rnnfast.layers.parts; the errors are those of rnnfast.layers.recurrent.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, overload

from rnnfast import checks
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.freezing import freezable
from rnnfast.layers.heads import TimeSLSTM
from rnnfast.layers.normalized import TimeLayerNormGRU, TimeLayerNormLSTM
from rnnfast.layers.options import of_steps
from rnnfast.layers.parts import Parts, undone_if_it_fails
from rnnfast.layers.projection import TimeLSTMP
from rnnfast.layers.recurrent import Lengths, checked_lengths
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeMogrifier, TimeRNN
from rnnfast.layers.unrolled import _Time
from rnnfast.typing import A, Array, Floats, Integers

Kind: TypeAlias = (
    TimeRNN
    | TimeLSTM
    | TimeGRU
    | TimeMogrifier
    | TimeLSTMP
    | TimeLayerNormLSTM
    | TimeLayerNormGRU
    | TimeSLSTM
)
OfLayers: TypeAlias = Sequence[Any] | float | None  # an argument of forward, one for each layer


def _of_layer(name: str) -> Any:
    """An attribute of a TimeReverse that is its layer's."""

    def get(self: "TimeReverse") -> Any:
        return getattr(self.layer, name)

    def replace(self: "TimeReverse", value: Any) -> None:
        setattr(self.layer, name, value)

    return property(get, replace)


class TimeReverse(Parts):
    """A recurrent layer that reads the sequence from its end to its start.

    Parameters
    ----------
    layer : recurrent layer
        A TimeRNN, TimeLSTM, TimeGRU, TimeMogrifier, TimeLSTMP, TimeLayerNormLSTM, TimeLayerNormGRU
        or TimeSLSTM.

    Raises
    ------
    TypeError
        For another layer.

    Notes
    -----
    hs[:, t] still belongs to xs[:, t]; the final state is that of t = 0. With lengths each sample
    starts at its own end.

    Examples
    --------
    >>> from rnnfast import TimeGRU, TimeReverse
    >>> TimeReverse(TimeGRU.create(3, 2, rng=0, device="cpu"))
    TimeReverse(TimeGRU(D=3, H=2, float32, cpu))
    """

    params: list[Any] = _of_layer("params")
    grads: list[Any] = _of_layer("grads")

    def __init__(self, layer: Kind) -> None:
        self._name = type(self).__name__
        if not isinstance(layer, _Time):
            kinds = "TimeRNN, TimeLSTM, TimeGRU, TimeMogrifier, TimeLSTMP, TimeLayerNormLSTM,"
            kinds += " TimeLayerNormGRU or TimeSLSTM"
            raise TypeError(f"{self._name}: layer must be a {kinds}, got {type(layer).__name__}")
        self.layer = layer
        self.parts = [layer]

    def _agree(self) -> None:
        """Nothing to do: the lists are the layer's own."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer!r})"

    @overload
    def forward(
        self,
        xs: Integers,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> Floats: ...
    @overload
    def forward(
        self,
        xs: A,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> A: ...
    def forward(
        self,
        xs: Any,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> Any:
        """Run the layer over a sequence, backwards.

        Parameters
        ----------
        xs : array (N, T, D)
            The input.
        train, lengths, candidate_mask, h_zoneout, c_zoneout
            As in `TimeLSTM.forward`, with the same errors. At [:, t] a mask or share belongs to
            xs[:, t].

        Returns
        -------
        array (N, T, H)
            hs.
        """
        checked = self.layer._checked_forward(xs, train)
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        given = {
            "candidate_mask": candidate_mask,
            "h_zoneout": h_zoneout,
            "c_zoneout": c_zoneout,
        }
        N, T = checked[0].shape[:2]
        own = of_steps(self.layer, N, T, given)
        return self.layer._forward(checked, train, lengths=lengths, reverse=True, **own)

    @overload
    def backward(self, dhs: A, *dstate: Any) -> A: ...
    @overload
    def backward(self, dhs: None, *dstate: Any) -> Any: ...

    def backward(self, dhs: Any, *dstate: Any) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array (N, T, H) or None
            The gradient of hs. None is zeros.
        *dstate : array (N, H) or None
            The gradients of `state`, or nothing.

        Returns
        -------
        array (N, T, D)
            dxs.
        """
        return self.layer.backward(dhs, *dstate)


class TimeStack(Parts):
    """A stack of recurrent layers, with dropout between them.

    Parameters
    ----------
    layers : iterable
        TimeRNN, TimeLSTM, TimeGRU, TimeMogrifier, TimeLSTMP, TimeLayerNorm*, TimeSLSTM, TimeBi*,
        TimeReverse
        or stacks. The output of each layer is as wide as the input of the next one.
    dropout_ratio : float
        The dropout of each layer's output but the last one's, in training.
    rng : int, optional
        A seed for all dropout layers, as in `TimeDropout`.

    Attributes
    ----------
    layers : list
        The layers.
    drop_layers : list of TimeDropout
        The dropout layers between them; empty if dropout_ratio is 0.
    params, grads : list of arrays
        Those of the layers, one layer after another.

    Raises
    ------
    TypeError, ValueError
        Without a layer, for a layer that is not recurrent, for widths that do not fit.

    References
    ----------
    Dropout between layers: Zaremba et al. 2014, https://arxiv.org/abs/1409.2329.
    Deep Learning from Scratch 2, chapter 6.

    Examples
    --------
    >>> from rnnfast import TimeBiGRU, TimeLSTM, TimeStack
    >>> both = TimeBiGRU.create(3, 2, rng=0, device="cpu")
    >>> stack = TimeStack([both, TimeLSTM.create(4, 5, rng=1, device="cpu")], dropout_ratio=0.5)
    >>> stack.forward(np.ones((1, 4, 3), "f")).shape
    (1, 4, 5)
    >>> len(stack.state)  # h of both directions; h and c
    4
    """

    def __init__(
        self, layers: Iterable[Any], dropout_ratio: float = 0.0, *, rng: int | None = None
    ) -> None:
        self._name = type(self).__name__
        self.parts = self.layers = list(layers)
        if not self.layers:
            raise ValueError(f"{self._name}: layers must hold a layer, got none")
        for layer in self.layers:
            if not hasattr(layer, "set_state"):
                kind = type(layer).__name__
                raise TypeError(f"{self._name}: layers must be recurrent layers, got {kind}")
        single = freezable(self.layers)
        if len({id(layer) for layer in single}) < len(single):
            raise ValueError(f"{self._name}: layers must be different ones, got a layer twice")
        for k, (below, above) in enumerate(pairwise(self.layers), 1):
            if _width(below) != _reads(above):
                raise ValueError(
                    f"{self._name}: layers[{k}] must read D = {_width(below)}, what is below "
                    f"gives, got {_reads(above)}"
                )
        dropout_ratio = checks.ratio(self._name, "dropout_ratio", dropout_ratio)
        between = range(len(self.layers) - 1 if dropout_ratio else 0)
        self.drop_layers = [
            TimeDropout(dropout_ratio, None if rng is None else (rng, k)) for k in between
        ]
        self._gather()

    def __repr__(self) -> str:
        entries = [f"[{', '.join(map(repr, self.layers))}]"]
        if self.drop_layers:
            drop = self.drop_layers[0]
            entries.append(f"dropout_ratio={drop.dropout_ratio}")
            entries += [] if drop._key is None else [f"rng={drop._key[0]}"]
        return f"{type(self).__name__}({', '.join(entries)})"

    @overload
    def forward(
        self,
        xs: Integers,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: OfLayers = None,
        h_zoneout: OfLayers = None,
        c_zoneout: OfLayers = None,
    ) -> Floats: ...
    @overload
    def forward(
        self,
        xs: A,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: OfLayers = None,
        h_zoneout: OfLayers = None,
        c_zoneout: OfLayers = None,
    ) -> A: ...
    def forward(
        self,
        xs: Any,
        *,
        train: bool = True,
        lengths: Lengths = None,
        candidate_mask: OfLayers = None,
        h_zoneout: OfLayers = None,
        c_zoneout: OfLayers = None,
    ) -> Any:
        """Run all layers over a sequence.

        Parameters
        ----------
        xs : array (N, T, D)
            The input.
        train, lengths
            As in `TimeLSTM.forward`, with the same errors. train=False applies no dropout.
        candidate_mask, h_zoneout, c_zoneout : list or tuple, or float, optional
            One for each layer, as its forward takes it: an array, a pair of both directions, a list
            of a stack; None for a layer without. A float of zoneout is for all layers.

        Returns
        -------
        array (N, T, H of the last layer)
            The output of the last layer.
        """
        given = {
            "candidate_mask": candidate_mask,
            "h_zoneout": h_zoneout,
            "c_zoneout": c_zoneout,
        }
        self._agree()
        arguments = self._of_parts("layer", **given)
        drops = iter(self.drop_layers)
        with undone_if_it_fails([*self.layers, *self.drop_layers]):
            for layer, own in zip(self.layers, arguments, strict=True):
                xs = layer.forward(xs, train=train, lengths=lengths, **own)
                drop = next(drops, None)
                if drop is not None:
                    xs = drop.forward(xs, train=train)
            return xs

    @overload
    def backward(self, dhs: A, *dstate: Any) -> A: ...
    @overload
    def backward(self, dhs: None, *dstate: Any) -> Any: ...

    def backward(self, dhs: Any, *dstate: Any) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array or None
            The gradient of the last layer's output. None is zeros.
        *dstate : array (N, H) or None
            The gradients of `state`, the final states of all layers; or nothing.

        Returns
        -------
        array (N, T, D)
            dxs.
        """
        self._agree()
        dstate = dstate or (None,) * len(self.state)
        self._check_rest(*dstate)
        shares = self._shared("backward: the states' gradients", dstate)
        drops = iter(reversed((*self.drop_layers, None)))
        for layer, own in reversed(shares):
            drop = next(drops, None)
            if drop is not None and drop.cache is not None:  # it dropped in forward
                dhs = drop.backward(dhs)
            dhs = layer.backward(dhs, *own)
        return dhs


def _width(layer: Any) -> int:
    """The width of a layer's output."""
    if isinstance(layer, TimeStack):
        return _width(layer.layers[-1])
    return sum(map(_width, layer.parts)) if isinstance(layer, Parts) else int(layer.Wh.shape[0])


def _reads(layer: Any) -> int:
    """The width of a layer's input."""
    return _reads(layer.parts[0]) if isinstance(layer, Parts) else int(layer.Wx.shape[0])
