"""The cells and their layers: the one table that models, tests and commands read.

Classes say the rest of themselves: `column`, the name of the kernels; `gates`; `states`.
"""

from rnnfast.layers.bidirectional import TimeBiGRU, TimeBiLSTM, TimeBiRNN
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN

RECURRENT = {cls.column: cls for cls in (TimeRNN, TimeLSTM, TimeGRU)}
BIDIRECTIONAL = {cls.kind.column: cls for cls in (TimeBiRNN, TimeBiLSTM, TimeBiGRU)}


def check_cell(owner, cell):
    """ValueError unless `cell` is the name of one."""
    if not isinstance(cell, str) or cell not in RECURRENT:
        raise ValueError(f"{owner}: cell must be one of {tuple(RECURRENT)}, got {cell!r}")
