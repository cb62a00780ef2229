"""The base of the models of rnnfast: named parameters, copies that keep tied weights tied."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.layers.freezing import freezable, freeze_all, unfreeze_all
from rnnfast.layers.shares import counted_targets
from rnnfast.models import summary
from rnnfast.models.base import BaseModel


class Model(BaseModel):
    """Base class of the models of rnnfast.

    Copies and pickles of a model keep tied weights tied.

    Parameters
    ----------
    layers : list
        The layers, in order.
    param_names : sequence of (str or None)
        The names of their parameters in weight files; None for a view of another parameter.
    sizes : dict
        The arguments of the constructor that rebuild the model.
    aside : sequence of layers
        Layers with parameters that only the loss uses. Their parameters come last.

    Attributes
    ----------
    layers, aside : list
    params, grads : list of array
        The arrays of the layers, in order.
    sizes : dict
    """

    layers: list[Any]
    aside: list[Any]
    params: list[Any]
    grads: list[Any]
    sizes: dict[str, Any]

    def __init__(
        self,
        layers: list[Any],
        param_names: Sequence[str | None],
        sizes: dict[str, Any],
        aside: Sequence[Any] = (),
    ) -> None:
        self.layers, self.aside = layers, list(aside)
        every = [*layers, *aside]
        self.params = [param for layer in every for param in layer.params]
        self.grads = [grad for layer in every for grad in layer.grads]
        self._names = param_names
        self.sizes = sizes

    def counted_targets(self, ts: Any, lengths: Any = None) -> Any:
        """How many targets of each sample count in the mean that is the loss.

        Parameters
        ----------
        ts, lengths
            Targets, and the lengths of samples, as forward takes them.

        Returns
        -------
        ndarray of int (N,)
        """
        return counted_targets(getattr(self, "loss_layer", None), ts)

    def freeze(self, precision: str | None = None) -> None:
        """Freeze the recurrent layers, for a model that only predicts; see `TimeLSTM.freeze`.

        Embeddings and affine layers keep their precision. If one layer cannot be frozen, none is.
        Generation and evaluation freeze a model without a precision themselves.
        """
        freeze_all(freezable(self.layers), precision)

    def unfreeze(self) -> None:
        """Unfreeze the recurrent layers, so that the model can be trained again."""
        unfreeze_all(freezable(self.layers))

    def __repr__(self) -> str:
        return summary.describe(self)

    def summary(self) -> None:
        """Print a table of the layers: shapes of outputs, parameters and bytes, and the totals.

        Shared weights are counted once. Dropout layers that are not in `layers` are not listed.

        Examples
        --------
        >>> from rnnfast.models import Rnnlm
        >>> Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4).summary()
        Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4)
        layer          output      parameters  bytes
        TimeEmbedding  (N, T, 4)           40    160
        TimeLSTM       (N, T, 4)          144    576
        TimeAffine     (N, T, 10)          50    200
        total                             234    936
        """
        print(summary.table(self))

    @property
    def param_names(self) -> list[str | None]:
        """The names of `params` in weight files; None for a view of another parameter.

        A parameter that is no longer tied to another has a name of its own, so that none is left
        out of the file.
        """
        named = [param for name, param in zip(self._names, self.params, strict=True) if name]
        return [
            f"untied_{i}" if name is None and _whose(param, named) is None else name
            for i, (name, param) in enumerate(zip(self._names, self.params, strict=True))
        ]

    def _sources(self) -> list[tuple[str, str | None]]:
        """The name of each of params, and the one that it is a view of ("embed_W.T") or None."""
        names = self.param_names
        named = [(name, p) for name, p in zip(names, self.params, strict=True) if name is not None]
        found: list[tuple[str, str | None]] = []
        for name, param in zip(names, self.params, strict=True):
            tie = None if name is not None else _whose(param, [p for _, p in named])
            if tie is None:
                found.append((name or "", None))
            else:
                found.append(("W", named[tie[0]][0] + (".T" if tie[1] else "")))
        return found

    def __getstate__(self) -> dict[str, Any]:
        """The attributes and the ties between params: copied, a view becomes an array."""
        ties = {i: _whose(param, self.params[:i]) for i, param in enumerate(self.params)}
        return self.__dict__ | {"_ties": {i: tie for i, tie in ties.items() if tie is not None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ties = state.pop("_ties")
        self.__dict__.update(state)
        for i, (j, turned) in ties.items():
            view = self.params[j].T if turned else self.params[j]
            if checks.place(self.params[i]) != checks.place(view):
                self._put(i, view)

    def _put(self, i: int, array: Any) -> None:
        """Replace params[i] by array, in every layer that has it."""
        old = self.params[i]
        for params in (
            self.params,
            *(part.params for part in _all_parts([*self.layers, *self.aside])),
        ):
            params[:] = [array if param is old else param for param in params]

    def _sizes(self) -> dict[str, Any]:
        return self.sizes

    def _beside(self, xs: Any, ys: Any) -> Any:
        """ys as a NumPy array if xs is one, else ys, on the device of the weights."""
        return to_numpy(ys) if checks.is_numpy(xs) else ys


def _whose(param: Any, others: Iterable[Any]) -> tuple[int, bool] | None:
    """(j, turned) if the memory of param is that of others[j], or of its transpose; else None."""
    where, turned = checks.place(param), checks.place(param.T)
    for j, other in enumerate(map(checks.place, others)):
        if other in (where, turned):
            return j, other != where
    return None


def _all_parts(layers: Iterable[Any]) -> Iterator[Any]:
    """The layers and, recursively, their parts."""
    for layer in layers:
        yield layer
        yield from _all_parts(getattr(layer, "parts", ()))
