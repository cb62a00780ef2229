"""The cells and their layers: one table for models, tests and commands.

The classes have the details: `column`, the name of the kernels; `gates`; `states`.
"""

from typing import Any

from rnnfast.layers.bidirectional import (
    TimeBiGRU,
    TimeBiLSTM,
    TimeBiLSTMP,
    TimeBiMogrifier,
    TimeBiRNN,
    TimeBiSLSTM,
)
from rnnfast.layers.heads import TimeSLSTM
from rnnfast.layers.normalized import (
    TimeLayerNormGRU,
    TimeLayerNormLSTM,
)
from rnnfast.layers.normalized_both import TimeBiLayerNormGRU, TimeBiLayerNormLSTM
from rnnfast.layers.projection import TimeLSTMP
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeMogrifier, TimeRNN

# Any: the classes differ in their options.
_ONE_WAY: tuple[Any, ...] = (
    *(TimeRNN, TimeLSTM, TimeGRU, TimeMogrifier, TimeLSTMP),
    *(TimeLayerNormLSTM, TimeLayerNormGRU, TimeSLSTM),
)
_BOTH_WAYS: tuple[Any, ...] = (
    *(TimeBiRNN, TimeBiLSTM, TimeBiGRU, TimeBiMogrifier, TimeBiLSTMP),
    *(TimeBiLayerNormLSTM, TimeBiLayerNormGRU, TimeBiSLSTM),
)
RECURRENT: dict[str, Any] = {cls.column: cls for cls in _ONE_WAY}
BIDIRECTIONAL: dict[str, Any] = {cls.kind.column: cls for cls in _BOTH_WAYS}


def check_cell(owner: str, cell: Any) -> None:
    """ValueError unless `cell` is the name of a cell."""
    if not isinstance(cell, str) or cell not in RECURRENT:
        raise ValueError(f"{owner}: cell must be one of {tuple(RECURRENT)}, got {cell!r}")
