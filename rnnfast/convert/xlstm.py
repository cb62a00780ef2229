"""The sLSTM of the packages xlstm and flashrnn. https://github.com/NX-AI/xlstm and /flashrnn

Their gates are i, f, z, o, of which z is g here. Neither has weights of the input: both take what x
makes of each gate, so a matrix Wx is the caller's. K are the units of a head, H = heads K.

    xlstm, sLSTMCell     _recurrent_kernel_ (heads, 4K, K), from all units of a head to a gate's
                         backend "cuda": (heads, K, 4K)
                         _bias_ (4H,): gate by gate; "cuda": head by head
                         Wx (D, 4H): gate by gate
    flashrnn             R (4, heads, K, K), to each unit from each; b (4, heads, K)
                         Wx (D, 4, heads, K)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.convert.common import floats, reorder
from rnnfast.io.weights import to_numpy
from rnnfast.kernels import move, resolve
from rnnfast.layers.heads import TimeSLSTM

OURS, THEIRS = "fgio", "ifgo"  # z is g
KERNEL, BIAS = "_recurrent_kernel_", "_bias_"
BACKENDS = ("vanilla", "cuda")


def from_xlstm(
    source: Any,
    *,
    Wx: Any = None,
    prefix: str = "",
    stateful: bool = False,
    device: str | None = None,
) -> TimeSLSTM:
    """Make a layer from an sLSTMCell of the package xlstm, or from its state dict.

    Parameters
    ----------
    source : module or mapping
        A cell of either backend, or a mapping from names to tensors or NumPy arrays. The shape of
        the recurrent kernel tells the backend.
    Wx : array (D, 4H), optional
        What makes the cell's input of x, in blocks i, f, z, o. By default the layer takes that
        input itself: D is 4H.
    prefix : str
        Beginning of the names: "slstm_cell." for the cell of an sLSTMLayer's state dict. Other
        names are ignored.
    stateful, device
        As in TimeSLSTM.

    Returns
    -------
    TimeSLSTM

    Raises
    ------
    ValueError
        Missing names, wrong shapes.
    TypeError
        Another source; dtypes other than float32 and float64, or a mixture of them.

    Notes
    -----
    In the sLSTMLayer around it, `fgate` makes the input of gate i and `igate` that of gate f.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import convert
    >>> cell = {"_recurrent_kernel_": np.ones((2, 12, 3)), "_bias_": np.ones(24)}
    >>> convert.from_xlstm(cell, Wx=np.ones((5, 24)), device="cpu")
    TimeSLSTM(D=5, H=6, heads=2, float64, cpu)
    """
    owner = "from_xlstm"
    state: Any = source.state_dict() if hasattr(source, "state_dict") else source
    if not isinstance(state, Mapping):
        kind = type(source).__name__
        raise TypeError(f"{owner}: source must be an sLSTMCell or its state dict, got {kind}")
    names = prefix + KERNEL, prefix + BIAS
    for name in names:
        if name not in state:
            raise ValueError(f"{owner}: source must have {name!r}, got {sorted(map(str, state))}")
    R, b = (floats(owner, name, state[name]) for name in names)
    label = "(heads, 4K, K) or (heads, K, 4K)"
    heads, *sides = checks.weight(owner, names[0], R, 3, label)
    K = min(sides)
    if max(sides) != 4 * K:
        raise checks.shape_error(owner, names[0], label, R)
    checks.exactly(owner, names[1], b, R.dtype, (4 * heads * K,), "(4H,)")
    if sides[0] == K:
        R = R.reshape(heads, K, 4, K)
        b = b.reshape(heads, 4, K).transpose(1, 0, 2)
    else:
        R = R.reshape(heads, 4, K, K).transpose(0, 3, 1, 2)
    return _made(owner, R, b, Wx, "(D, 4H)", (4 * heads * K,), stateful, device)


def from_flashrnn(
    R: Any,
    b: Any,
    *,
    Wx: Any = None,
    stateful: bool = False,
    device: str | None = None,
) -> TimeSLSTM:
    """Make a layer from the weights of flashrnn(..., function="slstm").

    Parameters
    ----------
    R : array (4, heads, K, K)
        The recurrent weights, to each unit (axis 2) from each (axis 3).
    b : array (4, heads, K)
        The bias.
    Wx : array (D, 4, heads, K), optional
        What makes flashrnn's input of x. By default the layer takes that input itself, its last
        three axes as one: D is 4H.
    stateful, device
        As in TimeSLSTM.

    Returns
    -------
    TimeSLSTM

    Raises
    ------
    TypeError, ValueError
        As in `from_xlstm`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import convert
    >>> convert.from_flashrnn(np.ones((4, 2, 3, 3)), np.ones((4, 2, 3)), device="cpu")
    TimeSLSTM(D=24, H=6, heads=2, float64, cpu)
    """
    owner, label = "from_flashrnn", "(4, heads, K, K)"
    R, b = floats(owner, "R", R), floats(owner, "b", b)
    gates, heads, K, other = checks.weight(owner, "R", R, 4, label)
    if gates != 4 or other != K:
        raise checks.shape_error(owner, "R", label, R)
    checks.exactly(owner, "b", b, R.dtype, (4, heads, K), "(4, heads, K)")
    shape = 4, heads, K
    return _made(owner, R.transpose(1, 3, 0, 2), b, Wx, "(D, 4, heads, K)", shape, stateful, device)


def _made(
    owner: str,
    R: NDArray[Any],
    b: NDArray[Any],
    Wx: Any,
    label: str,
    shape: tuple[int, ...],
    stateful: bool,
    device: str | None,
) -> TimeSLSTM:
    """The layer of R (heads, K, 4, K) and b (4, heads, K); Wx is (D, *shape) or None."""
    H, K, columns = R.shape[0] * R.shape[1], R.shape[1], 4 * R.shape[0] * R.shape[1]
    if Wx is None:
        Wx = np.eye(columns, dtype=R.dtype)
    else:
        Wx = floats(owner, "Wx", Wx)
        D, *_ = checks.weight(owner, "Wx", Wx, len(shape) + 1, label)
        checks.exactly(owner, "Wx", Wx, R.dtype, (D, *shape), label)
        Wx = Wx.reshape(D, columns)
    given = Wx, R.reshape(H, 4 * K), b.reshape(columns)
    made = [reorder(W, THEIRS, OURS) for W in given]
    home = resolve(device, *made)
    Wx, Wh, b = (move(W, home) for W in made)
    return TimeSLSTM(Wx, Wh, b, stateful, device=device)


def to_xlstm(
    layer: TimeSLSTM, *, backend: str = "vanilla", prefix: str = "", grads: bool = False
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """State dict of a layer for an sLSTMCell of the package xlstm, and its Wx.

    Parameters
    ----------
    layer : TimeSLSTM
    backend : {"vanilla", "cuda"}
        That of the cell: its recurrent kernel and bias lie differently.
    prefix : str
        Beginning of the names.
    grads : bool
        True gives the gradients, to compare with ``parameter.grad``.

    Returns
    -------
    dict
        Names and NumPy arrays, in the dtype of the layer. Without a bias, a bias of zeros.
    array (D, 4H)
        What makes the cell's input of x, in blocks i, f, z, o.

    Raises
    ------
    TypeError, ValueError
        For another layer, an unknown backend.

    Examples
    --------
    >>> from rnnfast import TimeSLSTM, convert
    >>> state, Wx = convert.to_xlstm(TimeSLSTM.create(5, 6, heads=2, rng=0, device="cpu"))
    >>> {name: W.shape for name, W in state.items()}, Wx.shape
    ({'_recurrent_kernel_': (2, 12, 3), '_bias_': (24,)}, (5, 24))
    """
    if backend not in BACKENDS:
        raise ValueError(f"to_xlstm: backend must be one of {BACKENDS}, got {backend!r}")
    Wx, R, b = _taken("to_xlstm", layer, grads)
    heads, K = R.shape[:2]
    if backend == "vanilla":
        R = R.transpose(0, 2, 3, 1).reshape(heads, 4 * K, K)
    else:
        R, b = R.reshape(heads, K, 4 * K), b.transpose(1, 0, 2)
    state = {prefix + KERNEL: np.ascontiguousarray(R), prefix + BIAS: b.reshape(-1).copy()}
    return state, Wx


def to_flashrnn(
    layer: TimeSLSTM, *, grads: bool = False
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The weights of a layer for flashrnn(..., function="slstm"): R, b and Wx.

    Parameters
    ----------
    layer : TimeSLSTM
    grads : bool
        True gives the gradients.

    Returns
    -------
    array (4, heads, K, K), array (4, heads, K), array (D, 4, heads, K)
        As in `from_flashrnn`. Without a bias, a bias of zeros.

    Raises
    ------
    TypeError
        For another layer.

    Examples
    --------
    >>> from rnnfast import TimeSLSTM, convert
    >>> layer = TimeSLSTM.create(5, 6, heads=2, rng=0, device="cpu")
    >>> [W.shape for W in convert.to_flashrnn(layer)]
    [(4, 2, 3, 3), (4, 2, 3), (5, 4, 2, 3)]
    """
    Wx, R, b = _taken("to_flashrnn", layer, grads)
    return np.ascontiguousarray(R.transpose(2, 0, 3, 1)), b, Wx.reshape(len(Wx), *b.shape)


def _taken(owner: str, layer: Any, grads: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Wx (D, 4H), R (heads, K, 4, K) and b (4, heads, K), copies in the order i, f, z, o."""
    checks.of_kind(owner, "layer", layer, TimeSLSTM)
    Wx, Wh, *bias = (to_numpy(W) for W in (layer.grads if grads else layer.params))
    H, K = len(Wh), Wh.shape[1] // 4
    b = bias[0] if bias else np.zeros(4 * H, Wx.dtype)
    R = reorder(Wh, OURS, THEIRS).reshape(H // K, K, 4, K)
    return reorder(Wx, OURS, THEIRS), R, reorder(b, OURS, THEIRS).reshape(4, H // K, K)
