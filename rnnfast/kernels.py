"""The contract of the kernels, and the devices.

The kernels form a grid. Rows are cells (`CELLS`) and `ops`; columns are devices (reference,
cpu, cuda). The module `rnnfast.<device>.<cell>` is one square of the grid; `load(cell, device)`
imports it. Every square has the same functions:

    forward(xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None,
            **options) -> hs, state, cache
    backward(dhs, dstate, params, cache, grads) -> dxs, dstate
    pack(params, *, precision=None, **options) -> packed

Sizes: N batch, T time, D input, H hidden, G gates (1 rnn, 3 gru and lngru, 4 the others), P the
width of h, which is H but for an lstmp, K the units of a head of an slstm. All arrays have the
dtype of the params, float32 or float64. They may have any strides, and live on the column's device.

Arrays

- xs, dxs (N, T, D); hs, dhs (N, T, P). params is (Wx, Wh, b): Wx (D, G*H), Wh (P, G*H), b (G*H,)
  or None. Gate blocks: lstm f, g, i, o; gru z, r, candidate. An lstm with peepholes has a fourth
  array, Wp (3, H) or (3, H, H), for f, i and o. A mogrifier is an lstm with a fourth array Wm
  (r, H, D), the matrices of its r rounds, or with two: Wm (r, H, k) and Wr (r, k, D), k their rank.
  An lstmp is an lstm with a fourth array Wproj (H, P), the projection to its h. lnlstm and lngru
  are a layer-normalised lstm and gru: after b come the gains gx and gh (G*H,), and gc and bc (H,)
  or bh (H,). Wh of an slstm is (H, 4K): each of its heads, K units, has a matrix (K, 4K) with the
  blocks f, g, i, o, and they lie one below the other.
- state and dstate are tuples of arrays, h (N, P) and c (N, H): (h,) for rnn, gru and lngru, (h, c)
  for the others, but (h, c, n, m) for slstm, with the normaliser n and the stabiliser m (N, H). As
  an argument either may be None, which means zeros: the first product with Wh is then skipped.

Options of forward

- reverse=True runs from t = T-1 down to 0. hs[:, t] still belongs to xs[:, t]; the final state is
  that of t = 0.
- lengths (N,) are integers in [0, T], NumPy's intp on every device. Sample n takes part only in the
  steps t < lengths[n], in both directions. At any other step its state stays, hs and dxs are 0, and
  the values of xs and dhs are not used. None means T for every sample, and costs nothing.
- h_mask (N, P) multiplies h at every step before the product with Wh (variational dropout on the
  recurrent path), in a mogrifier before the rounds; backward multiplies the gradient of h. It
  applies neither to hs and the states nor to the h that a gru mixes with its candidate. The
  equations are in rnnfast/reference. None costs nothing.
- candidate_mask (N, T, H), of all cells but rnn and slstm, multiplies the candidate at every step:
  g of an lstm, h_hat of a gru (recurrent dropout without memory loss). h_zoneout (N, T, P), of all
  cells but slstm, and c_zoneout (N, T, H), of those with (h, c), are the shares of the old h and c
  that a step keeps (zoneout; without training the probabilities). They come last in a step: after
  cell_clip and projection, and peepholes, tanh(c), normalisations of c and the gates see the new
  state without them. At [:, t] they belong to xs[:, t]. A
  stride may be 0, for one mask of all steps or one number. No gradient flows to them. None costs
  nothing.
- Options of a cell: nonlinearity="tanh" or "relu" for rnn; cell_clip=None or a positive float for
  lstm and lstmp; reset_after=False (if True, b is (2, 3H)) and z_keeps=False for gru. `cache`
  remembers these and all above. pack takes those of a cell that forward will get.

Calls

- One call runs the whole sequence; a single step is T = 1. With N = 0 or T = 0, hs is empty, the
  final state is a copy of the initial state, and grads are zero.
- Returned arrays are fresh. No later call writes into them.
- Between forward and backward the caller may change the returned arrays, lengths, and the scores
  and targets of a loss. xs, ids, the state, all masks, the shares of zoneout and the params must
  not change: `cache` refers to them, and backward reads them again (but never writes them). The
  same holds for the layers.
- pack lays the weights out once for many calls. Its result is opaque and holds copies. forward
  takes it in the place of params if train=False, and gives the same bits; with train=True it is a
  TypeError. precision="bf16" or "int8" rounds Wx and Wh, and x and h in every step, as
  rnnfast/reference/packed.py says: rnn, lstm and gru on cpu and reference, in float32. With params
  these compute in bfloat16 after set_float32_matmul_precision("medium"), as "bf16" does; sums of
  products with a single row may be in another order.
- backward overwrites grads, one for each of params (dWx, dWh, db, ...), in place, whatever their
  values were. They may overlap the arrays that are read; no two grads may overlap.
  Without b there is no db (None, or left out at the end).
- backward consumes `cache`. A second backward, or one with the None that train=False returns, is a
  RuntimeError.

Guarantees

- NaN in one sample stays in that sample (grads are sums over all samples).
- The same input gives the same bits, in every run and for every number of threads.
- The cpu column checks for signals every 0.2 s. If a handler raises (Ctrl-C), forward has changed
  nothing, and backward has written no grads; it may be called again with the same cache.
- The threads of the cpu column compute in the floating-point mode of the calling thread.
- In the cpu and cuda columns, wrong sizes, wrong types or read-only grads are a ValueError or a
  TypeError before anything is written or copied, and `cache` stays as it was. (For the reference
  column the layers check.) Sizes come from the arrays themselves, not from the methods of a
  subclass. No call of these functions can crash the process, whatever its arguments are.

The squares of `ops` have the functions of rnnfast/reference/ops.py; the docstrings there are their
contract. The rules above for inputs, outputs, gradients and errors hold for them, too.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from rnnfast.checks import is_cupy
from rnnfast.cpu import _runtime
from rnnfast.cpu.threads import MAX_THREADS as MAX_THREADS
from rnnfast.cpu.threads import get_num_threads as get_num_threads
from rnnfast.cpu.threads import set_num_threads as set_num_threads

CELLS = ("rnn", "lstm", "gru", "mogrifier", "lstmp", "lnlstm", "lngru", "slstm")
DEVICES = ("cuda", "cpu", "reference")  # the best first
PRECISIONS = ("highest", "high", "medium")  # of float32 products, as PyTorch names them

_precision = "highest"
_default: str | None = None  # set_device; None leaves it to RNNFAST_DEVICE
# device(): a new thread starts with None
_context: ContextVar[str | None] = ContextVar("rnnfast.device", default=None)


def load(name: str, device: str) -> ModuleType:
    """Import the module of a cell on one device.

    Parameters
    ----------
    name : str
        One of `CELLS`, or "ops".
    device : str
        One of `DEVICES`.

    Returns
    -------
    module
        The square of the grid. It is imported at the first call.

    Raises
    ------
    ValueError
        For an unknown name.
    RuntimeError
        If the device is not usable; the message gives the reason.

    Examples
    --------
    >>> load("lstm", "reference").__name__
    'rnnfast.reference.lstm'
    """
    if name not in (*CELLS, "ops"):
        raise ValueError(f"load: name must be one of {(*CELLS, 'ops')}, got {name!r}")
    if device == "auto":
        raise ValueError(f"load: device must be one of {DEVICES}, got 'auto' (see resolve)")
    return importlib.import_module(f"rnnfast.{_usable(device)}.{name}")


# Devices


def devices() -> tuple[str, ...]:
    """Return the names of the usable devices, the best first.

    Examples
    --------
    >>> "cpu" in devices()
    True
    """
    return tuple(name for name in DEVICES if why_missing(name) is None)


def get_device() -> str:
    """Return the device of new layers: "auto" or one of `DEVICES`.

    The first of these that is set decides: `device()`, `set_device`, the environment variable
    RNNFAST_DEVICE. If none is set, it is "auto".
    """
    chosen = _context.get() or _default
    return chosen or _known(os.environ.get("RNNFAST_DEVICE") or "auto", "RNNFAST_DEVICE")


def set_device(name: str) -> None:
    """Set the device of layers that are made from now on, in every thread.

    Parameters
    ----------
    name : str
        "auto" or one of `DEVICES`. With "auto" the device of a layer is where its weights are.

    Raises
    ------
    ValueError
        For another name.
    RuntimeError
        If the device is not usable; the message gives the reason. Nothing is changed then.
    """
    global _default
    _default = _usable(name)


@contextmanager
def device(name: str) -> Iterator[None]:
    """Set the device of new layers for one block, in this thread (or task) only.

    Parameters
    ----------
    name : str
        As in `set_device`, with the same errors.

    Examples
    --------
    >>> with device("reference"):
    ...     get_device()
    'reference'
    """
    token = _context.set(_usable(name))
    try:
        yield
    finally:
        _context.reset(token)


def resolve(device: str | None, *arrays: Any) -> str:
    """Return the device for a layer that holds `arrays`.

    Parameters
    ----------
    device : str or None
        The argument of the layer; None stands for `get_device()`.
    *arrays
        NumPy or CuPy arrays, or None. They decide if the device is "auto": "cuda" for CuPy
        arrays, else "cpu".

    Returns
    -------
    str
        One of `DEVICES`.

    Raises
    ------
    ValueError
        For a mixture of NumPy and CuPy arrays with "auto".

    Examples
    --------
    >>> import numpy as np
    >>> resolve("auto", np.zeros(3))
    'cpu'
    """
    chosen = _usable(get_device() if device is None else device)
    if chosen != "auto":
        return chosen
    homes = {"cuda" if is_cupy(a) else "cpu" for a in arrays if a is not None} or {"cpu"}
    if len(homes) > 1:
        raise ValueError("device: the arrays must be all NumPy or all CuPy, got both")
    return _usable(homes.pop())


def home(device: str | None) -> str:
    """Return the device for weights that rnnfast itself makes: with "auto" the best usable one."""
    chosen = _usable(get_device() if device is None else device)
    return devices()[0] if chosen == "auto" else chosen


def move(array: Any, device: str) -> Any:
    """Return a NumPy array in the memory of `device`: on "cuda" as a CuPy array."""
    return load("ops", device).to_device(array) if device == "cuda" else array


def _known(name: Any, argument: str = "device") -> str:
    """name, the name of a device or "auto"."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a str, got {type(name).__name__}")
    if name not in ("auto", *DEVICES):
        raise ValueError(f"{argument} must be one of {('auto', *DEVICES)}, got {name!r}")
    return name


def _usable(name: str) -> str:
    """name, the name of a usable device or "auto"."""
    if _known(name) != "auto":
        reason = why_missing(name)
        if reason is not None:
            raise RuntimeError(f"device {name!r} is not usable: {reason}")
    return name


def why_missing(name: str) -> str | None:
    """The reason why a device is not usable; None if it is."""
    reason: str | None = importlib.import_module(f"rnnfast.{name}").available()
    return reason


# Precision of float32 products


def get_float32_matmul_precision() -> str:
    """Return "highest", "high" or "medium"; see `set_float32_matmul_precision`."""
    return _precision


def set_float32_matmul_precision(precision: str) -> None:
    """Set how float32 matrices are multiplied, in training and in inference.

    The name and the values are those of PyTorch. Only products of matrices change: sums, gates,
    states, gradients and weights stay float32. float64 is never affected.

    Parameters
    ----------
    precision : {"highest", "high", "medium"}
        "highest" (the default): float32, on cuda in the steps forward also by three products in
        TF32, with errors of up to about 3e-6. "high": on cuda TF32 on tensor cores, with inputs
        rounded to 10 bits, sums in float32 and errors of up to about 4e-3; on cpu and reference as
        "highest". "medium": on cpu and reference both factors are rounded to bfloat16 (7 bits), in
        forward and backward, and sums are float32; on cuda as "high".

    Raises
    ------
    ValueError
        For another value.

    Notes
    -----
    Change the precision between training steps: on cpu and reference the backward of a recurrent
    layer and of a fused loss multiplies as its forward did, all else as it is set at that moment.

    On cpu and reference "medium" concerns the products of RNN, LSTM and GRU, of affine layers, of
    their softmax loss and of mixtures of softmaxes. Other cells, and an LSTM with whole peephole
    matrices, multiply in float32. Frozen layers keep the precision of `freeze`.

    On a CPU "medium" is for AMX. Other processors give the same numbers, up to the order of sums,
    but may take longer than with "highest". So may small layers, single steps of layers that are
    not frozen, and affine layers of few rows, because each call rounds and packs the weights. The
    instructions for bfloat16 round to nearest and treat denormals as 0, in every floating-point
    mode of the calling thread.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(
            "set_float32_matmul_precision: precision must be 'highest', 'high' or 'medium', "
            f"got {precision!r}"
        )
    _runtime.set_bf16(precision == "medium")
    _precision = precision
