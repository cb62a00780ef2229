from collections.abc import Sequence
from typing import Any

import numpy as np

def forward(
    xs: np.ndarray,
    state: Sequence[np.ndarray | None] | None,
    params: Sequence[np.ndarray | None],
    *,
    train: bool = True,
    lengths: np.ndarray | None = None,
    reverse: bool = False,
    h_mask: np.ndarray | None = None,
    candidate_mask: np.ndarray | None = None,
    h_zoneout: np.ndarray | None = None,
    c_zoneout: np.ndarray | None = None,
    cell_clip: float | None = None,
) -> tuple[np.ndarray, tuple[np.ndarray, ...], Any]: ...
def backward(
    dhs: np.ndarray,
    dstate: Sequence[np.ndarray | None] | None,
    params: Sequence[np.ndarray | None],
    cache: Any,
    grads: Sequence[np.ndarray | None],
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]: ...
def pack(
    params: Sequence[np.ndarray | None],
    *,
    precision: None = None,
    cell_clip: float | None = None,
) -> Any: ...
