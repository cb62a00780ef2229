"""The state of a model: that of its recurrent layers."""

from collections.abc import Sequence
from typing import Any

from rnnfast.models.model import Model


class Stateful(Model):
    """A model whose `recurrent_layers` are stateful.

    Attributes
    ----------
    recurrent_layers : list
    """

    recurrent_layers: list[Any]

    def reset_state(self) -> None:
        """Set the state of every recurrent layer to zero."""
        for layer in self.recurrent_layers:
            layer.reset_state()

    def get_state(self) -> list[tuple[Any, ...]]:
        """Return the state of the model.

        Returns
        -------
        list of tuple
            (h,), (h, c) or (h, c, n, m) per recurrent layer; None in place of an array that is
            zero.
        """
        return [layer.state for layer in self.recurrent_layers]

    def set_state(self, states: Sequence[tuple[Any, ...]]) -> None:
        """Set the state of the model.

        Parameters
        ----------
        states : list of tuple
            As `get_state` returns it.

        Raises
        ------
        ValueError
            Unless it has a state for every recurrent layer. Nothing has been changed then.
        """
        if len(states) != len(self.recurrent_layers):
            count = len(self.recurrent_layers)
            raise ValueError(f"set_state: states must be one a layer, {count}, got {len(states)}")
        pairs = list(zip(self.recurrent_layers, states, strict=True))
        for layer, state in pairs:
            layer._adopted_states(*state)
        for layer, state in pairs:
            layer.set_state(*state)
