"""What is installed and usable: `rnnfast.show_config`, for a bug report."""

import platform
import sys

import numpy as np

from rnnfast.cpu import _runtime
from rnnfast.kernels import (
    DEVICES,
    devices,
    get_device,
    get_float32_matmul_precision,
    get_num_threads,
    load,
    why_missing,
)
from rnnfast.version import __version__


def show_config(plan: tuple[str, int, int] | None = None) -> None:
    """Print the version, instruction sets, threads and devices. Put it into a bug report.

    Parameters
    ----------
    plan : tuple, optional
        (cell, N, H), for example ("lstm", 20, 650): print also how the cuda column would run
        this cell for N samples and H units.

    Raises
    ------
    ValueError
        For an unknown cell or a size that is not a positive integer.
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
    for device_name in DEVICES:
        reason = why_missing(device_name)
        if reason is not None:
            print(f"  {device_name:<17} missing: {reason}")
    if plan is not None and why_missing("cuda") is None:
        cell, N, H = plan
        for way, kernel in load("ops", "cuda").plans(cell, N, H, get_float32_matmul_precision()):
            print(f"  {f'{cell} {way}':<17} {kernel}")
