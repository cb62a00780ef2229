"""What the layers of a Mogrifier LSTM share: its sizes, of which the rounds are one."""

from rnnfast.layers.recurrent import Recurrent


class Rounds(Recurrent):
    """A Mogrifier LSTM, of one step or of a sequence."""

    column = "mogrifier"
    gates = 4
    more = ("Wm", "Wr")
    of_steps = ("candidate_mask", "h_zoneout", "c_zoneout")

    @property
    def rounds(self) -> int:
        """The number of rounds, r."""
        return int(self._specs[-1][1][0])

    @property
    def rank(self) -> int | None:
        """The rank of the factorised matrices, k; None for whole matrices."""
        return int(self._specs[-1][1][1]) if len(self._there) > 4 else None

    def _sizes(self) -> list[str]:
        rank = [] if self.rank is None else [f"rank={self.rank}"]
        return [*super()._sizes(), f"rounds={self.rounds}", *rank]
