"""The contract that every square of the grid keeps, and the devices.

Rows are cells (rnn, lstm, gru) and `ops`, columns are devices (reference, cpu, cuda); the square
of a cell and a device is the module `rnnfast.<device>.<cell>`, got by `load(cell, device)`:

    forward(xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None,
            **options) -> hs, state, cache
    backward(dhs, dstate, params, cache, grads) -> dxs, dstate
    pack(params, **options) -> packed

N batch, T time, D input, H hidden, G gates (1 rnn, 4 lstm, 3 gru); one dtype, that of the params,
float32 or float64; arrays of any strides, which live on the column's device.

- xs, dxs (N, T, D); hs, dhs (N, T, H). params (Wx, Wh, b): Wx (D, G*H), Wh (H, G*H), b (G*H,)
  or None. Gate blocks: lstm f, g, i, o; gru z, r, candidate. An lstm with peepholes has a fourth
  one, Wp (3, H) or (3, H, H), for f, i and o.
- state and dstate are tuples, (h,) for rnn and gru, (h, c) for lstm, each (N, H). The tuple that
  is handed in may be None, which means zeros: the first product with Wh is then skipped.
- reverse=True runs from t = T-1 down to 0. hs[:, t] still belongs to xs[:, t]; the final state is
  the one of t = 0.
- lengths (N,), NumPy's intp on every device, each in [0, T], or None, which costs nothing and means
  T: sample n takes part in the steps t < lengths[n] alone, whichever the direction. At any other
  its state stays, hs and dxs are 0, and what stands in xs and dhs is not looked at.
- h_mask (N, H), or None, which costs nothing: at every step h is multiplied with it before it
  meets Wh (variational dropout on the recurrent path), on the way back its gradient. hs and the
  states are not masked, nor is the h that a gru mixes with its candidate: rnnfast/reference has
  the equations.
- options: nonlinearity="tanh" or "relu" for rnn; cell_clip=None, or a positive float, for lstm;
  reset_after=False (if True b is (2, 3H)) and z_keeps=False for gru. `cache` remembers them,
  lengths, reverse and h_mask; pack is given the options that forward will be.
- One call runs the whole sequence; a single step is T = 1. With N = 0 or T = 0 hs is empty, the
  states come out as they went in (a copy) and grads are zero.
- Between forward and backward the caller may change what was returned, lengths, and the scores and
  targets of a loss. xs, ids, the state, h_mask and the params are referenced by `cache`, never
  written, and read again by backward: they have to stay as they are. So it is for the layers, too.
- What is returned is fresh and never rewritten by a later call.
- pack lays the weights out once for many calls: forward takes what it returns, which is opaque and
  holds copies, in the place of params where train=False, and gives the same bits. With train=True
  it is a TypeError.
- backward overwrites grads (dWx, dWh, db, with Wp also dWp) in place, whatever was in them. NumPy's
  may lie over what is read, CuPy's must not; none may lie over another. Without b there is no db
  (None, or left out at the end). backward consumes `cache`: a second one, or one with the None that
  train=False gives, is a RuntimeError.
- NaN in one sample stays in that sample (grads are sums over all of them).
- The same input gives the same bits, from run to run and for every number of threads.
- The cpu column looks for signals every 0.2 s. Where a handler raises (Ctrl-C), forward has changed
  nothing; backward has written no grads, but may have spent the cache. Its threads compute in the
  floating-point mode of who calls.
- Wrong sizes, types or read-only grads are a ValueError or a TypeError before anything is
  written or copied, and leave `cache` as it was. Sizes are asked from the arrays themselves, not
  from what a subclass says. The contract alone cannot crash the process.

The squares of `ops` have the functions of rnnfast/reference/ops.py, whose docstrings are their
contract; what is said above of inputs, outputs, gradients and errors holds for them too.
"""

import importlib
import os
import platform
import sys
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from rnnfast.checks import is_cupy
from rnnfast.cpu import _runtime
from rnnfast.version import __version__

CELLS = ("rnn", "lstm", "gru")
DEVICES = ("cuda", "cpu", "reference")  # the best first
MAX_THREADS = 1024

_precision = "highest"
_default = None  # set_device; None leaves it to RNNFAST_DEVICE
_context = ContextVar("rnnfast.device", default=None)  # a new thread starts without one


def load(name, device):
    """The module of a cell (or "ops") on one device, imported when it is first asked for.

    ValueError for a name that does not exist, RuntimeError with the reason where the device is
    not usable.
    """
    if name not in (*CELLS, "ops"):
        raise ValueError(f"load: name must be one of {(*CELLS, 'ops')}, got {name!r}")
    if device == "auto":
        raise ValueError(f"load: device must be one of {DEVICES}, got 'auto' (see resolve)")
    return importlib.import_module(f"rnnfast.{_usable(device)}.{name}")


# Devices


def devices():
    """The names of the usable devices, the best first."""
    return tuple(name for name in DEVICES if _why_missing(name) is None)


def get_device():
    """What `device()`, else `set_device`, else RNNFAST_DEVICE asks for; "auto" if none does."""
    chosen = _context.get() or _default
    return chosen or _known(os.environ.get("RNNFAST_DEVICE") or "auto", "RNNFAST_DEVICE")


def set_device(name):
    """The device of layers made from now on, in every thread: "auto" or one of DEVICES.

    With "auto" a layer goes where its weights live. ValueError for another name, RuntimeError
    with the reason where the device is not usable; nothing is changed then.
    """
    global _default
    _default = _usable(name)


@contextmanager
def device(name):
    """`with device("cpu"):` is `set_device` for one block, in this thread (or task) alone."""
    token = _context.set(_usable(name))
    try:
        yield
    finally:
        _context.reset(token)


def resolve(device, *arrays):
    """The device for a layer that holds `arrays`: one of DEVICES.

    `device` (the layer's argument) goes before `get_device()`. If that says "auto" the arrays
    decide, CuPy "cuda", others "cpu"; a mixture is a ValueError.
    """
    chosen = _usable(get_device() if device is None else device)
    if chosen != "auto":
        return chosen
    homes = {"cuda" if is_cupy(a) else "cpu" for a in arrays if a is not None} or {"cpu"}
    if len(homes) > 1:
        raise ValueError("device: the arrays must be all NumPy or all CuPy, got both")
    return _usable(homes.pop())


def home(device):
    """The device for weights that rnnfast itself makes: with "auto" the best usable one."""
    chosen = _usable(get_device() if device is None else device)
    return devices()[0] if chosen == "auto" else chosen


def move(array, device):
    """A NumPy array as the layers of `device` work with it: on "cuda" a CuPy array."""
    return load("ops", device).to_device(array) if device == "cuda" else array


def _known(name, argument="device"):
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a str, got {type(name).__name__}")
    if name not in ("auto", *DEVICES):
        raise ValueError(f"{argument} must be one of {('auto', *DEVICES)}, got {name!r}")
    return name


def _usable(name):
    if _known(name) != "auto":
        reason = _why_missing(name)
        if reason is not None:
            raise RuntimeError(f"device {name!r} is not usable: {reason}")
    return name


def _why_missing(name):
    return importlib.import_module(f"rnnfast.{name}").available()


# Threads of the cpu column


def get_num_threads():
    """How many threads a call of the cpu column may use."""
    return _runtime.num_threads()


def set_num_threads(n):
    """Use at most n threads in the cpu column. The results do not depend on it, bit for bit.

    The default is RNNFAST_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that affinity and
    cgroup limits leave to this process. TypeError unless n is an integer, ValueError unless it
    is from 1 to 1024.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"set_num_threads: n must be an int, got {type(n).__name__}")
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"set_num_threads: n must be from 1 to {MAX_THREADS}, got {n}")
    _runtime.set_num_threads(n)


# Precision of the cuda column


def get_float32_matmul_precision():
    """ "highest" or "high"; see set_float32_matmul_precision."""
    return _precision


def set_float32_matmul_precision(precision):
    """How the cuda column multiplies float32 matrices, in PyTorch's words.

    "highest" (the default) in float32; "high" on tensor cores, in TF32: inputs rounded to 10 bits,
    sums in float32, errors of up to some 4e-3. The other columns always compute in full precision.
    ValueError for another word.
    """
    global _precision
    if precision not in ("highest", "high"):
        raise ValueError(
            "set_float32_matmul_precision: precision must be 'highest' or 'high', "
            f"got {precision!r}"
        )
    _precision = precision


def show_config(plan=None):
    """Prints the version, instruction sets, threads and devices; a bug report starts with it.

    plan=("lstm", 20, 650): also how the cuda column would run that cell for N = 20 and H = 650.
    """
    if plan is not None:
        cell, N, H = plan
        load(cell, "reference")
        for name, size in (("N", N), ("H", H)):
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise ValueError(f"show_config: {name} must be an int from 1 up, got {size!r}")
    print(f"rnnfast {__version__}")
    print(f"  Python            {platform.python_version()} on {sys.platform} {platform.machine()}")
    print(f"  NumPy             {np.__version__}")
    print(f"  instruction set   {_runtime.simd()} (usable: {', '.join(_runtime.simds())})")
    print(f"  threads           {get_num_threads()}")
    print(f"  device            {get_device()} (usable: {', '.join(devices())})")
    for name in DEVICES:
        reason = _why_missing(name)
        if reason is not None:
            print(f"  {name:<17} missing: {reason}")
    if plan is not None and _why_missing("cuda") is None:
        for way, kernel in load("ops", "cuda").plans(cell, N, H, _precision):
            print(f"  {f'{cell} {way}':<17} {kernel}")
