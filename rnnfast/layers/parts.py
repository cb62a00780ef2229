"""The base of layers made of recurrent layers: of both directions, of one backwards, of stacks.

They have the interface of a single layer: params, grads, forward, backward, `state`, `set_state`,
`dstate`, reset_state, freeze and unfreeze.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from operator import is_
from typing import Any

from rnnfast import checks
from rnnfast.layers.freezing import freeze_all, unfreeze_all


@contextmanager
def undone_if_it_fails(layers: Sequence[Any]) -> Iterator[None]:
    """Within the block a forward of these layers changes all of their states, or none."""
    before = [(layer, layer._before()) for layer in layers if hasattr(layer, "_before")]
    try:
        yield
    except BaseException:
        for layer, earlier in before:
            layer._restore(earlier)
        raise


class Parts:
    """The base of layers that consist of recurrent layers, or of other such layers.

    Attributes
    ----------
    parts : list
        The layers.
    params, grads : list of arrays
        Those of the parts, one part after another. An array that the caller puts into one of these
        lists, or into that of a part, is in both from the next forward or backward on.
    """

    parts: list[Any]
    params: list[Any]
    grads: list[Any]
    _known: tuple[list[Any], list[Any]]  # params and grads when they last agreed with the parts'
    _name: str  # in messages

    def _gather(self) -> None:
        """Make `params` and `grads` those of the parts."""
        self.params = [param for part in self.parts for param in part.params]
        self.grads = [grad for part in self.parts for grad in part.grads]
        self._known = self.params[:], self.grads[:]

    def _agree(self) -> None:
        """Give to the parts what was put into `params` and `grads`, and take what they got."""
        for part in self.parts:
            if isinstance(part, Parts):
                part._agree()
        for name, known in zip(("params", "grads"), self._known, strict=True):
            own, lists = getattr(self, name), [getattr(part, name) for part in self.parts]
            theirs = list(chain.from_iterable(lists))
            if len(own) != len(known):
                expected = f"{name} must hold {len(known)} arrays"
                raise ValueError(f"{self._name}: {expected}, got {len(own)}")
            if len(theirs) != len(known):  # the part will complain
                continue
            if not (all(map(is_, own, known)) and all(map(is_, theirs, known))):
                three = zip(own, theirs, known, strict=True)
                own[:] = [a if a is not before else b for a, b, before in three]
                known[:] = own
                rest = iter(own)
                for arrays in lists:
                    arrays[:] = islice(rest, len(arrays))

    def _check_rest(self, *dstate: Any) -> None:
        """Check all arguments of the parts' backward but dhs, before any gradient is written."""
        for part, own in reversed(self._shared("backward: the states' gradients", dstate)):
            part._check_rest(*own)

    @property
    def state(self) -> tuple[Any, ...]:
        """The final states of the parts, one after another: the arguments of set_state."""
        return tuple(value for part in self.parts for value in part.state)

    @property
    def dstate(self) -> tuple[Any, ...]:
        """The gradients of the initial states after backward, in the same order."""
        return tuple(value for part in self.parts for value in part.dstate)

    def set_state(self, *values: Any) -> None:
        """Start the next forward from these states.

        Parameters
        ----------
        *values : array (N, H) or None
            One for each entry of `state`. None is zeros.

        Raises
        ------
        ValueError
            For a wrong number of states, or as in `TimeLSTM.set_state`.
        """
        shares = self._shared("set_state: the states", values)
        self._adopted_states(*values)
        for part, own in shares:
            part.set_state(*own)

    def _adopted_states(self, *values: Any) -> None:
        """Check the arrays for set_state."""
        for part, own in self._shared("set_state: the states", values):
            part._adopted_states(*own)

    def _shared(self, what: str, values: Sequence[Any]) -> list[tuple[Any, tuple[Any, ...]]]:
        """(part, its values) of all parts. ValueError unless there is one value for each state."""
        counts = [len(part.state) for part in self.parts]
        if len(values) != sum(counts):
            raise ValueError(f"{self._name}: {what} must be {sum(counts)}, got {len(values)}")
        rest = iter(values)
        return [
            (part, tuple(next(rest) for _ in range(count)))
            for part, count in zip(self.parts, counts, strict=True)
        ]

    def _of_parts(self, each: str, **given: Any) -> list[dict[str, Any]]:
        """The masks and shares of zoneout that are given, as the forward of each part takes them.

        A list or tuple has one for each part, None for none; a number is for all. each: what the
        parts are, for messages.
        """
        own: list[dict[str, Any]] = [{} for _ in self.parts]
        for name, values in given.items():
            if values is None or checks.is_number(values):
                values = [values] * len(own)
            if not isinstance(values, (list, tuple)):
                kind = type(values).__name__
                expected = f"a list or tuple with one for each {each}"
                raise TypeError(f"{self._name}: {name} must be {expected}, got {kind}")
            if len(values) != len(own):
                expected = f"{len(own)}, one for each {each}"
                raise ValueError(f"{self._name}: {name} must be {expected}, got {len(values)}")
            for arguments, value in zip(own, values, strict=True):
                if value is not None:
                    arguments[name] = value
        return own

    @property
    def stateful(self) -> bool:
        """Whether every part starts from the final state of the forward before."""
        return all(part.stateful for part in self.parts)

    def _before(self) -> Any:
        """Everything that a forward changes."""
        return [part._before() for part in self.parts]

    def _restore(self, before: Any) -> None:
        """Undo a forward that failed or was interrupted by a signal in one of the parts."""
        for part, own in zip(self.parts, before, strict=True):
            part._restore(own)

    def reset_state(self) -> None:
        """Start the next forward from zeros."""
        for part in self.parts:
            part.reset_state()

    def freeze(self, precision: str | None = None) -> None:
        """Freeze all parts; see `TimeLSTM.freeze`. If one cannot be, none is."""
        freeze_all([self], precision)

    def unfreeze(self) -> None:
        """Unfreeze all parts; see `TimeLSTM.unfreeze`."""
        unfreeze_all(self.parts)

    @property
    def frozen(self) -> bool:
        """True between freeze and unfreeze."""
        return all(part.frozen for part in self.parts)
