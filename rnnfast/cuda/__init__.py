"""The CUDA column: kernels in Numba CUDA, arrays and launches by CuPy (the `cuda` extra).

NumPy arrays are copied to the GPU and the results back, which is slow; CuPy arrays stay where they
are and give CuPy arrays. (Layers make one of everything that speaks DLPack or the CUDA array
interface.) Work runs on CuPy's current stream; nothing waits for it but a copy to NumPy.
"""

import sys
import threading

MINIMUM = (8, 0)  # compute capability
_runtime = None  # a runtime that `use` put in the place of the GPU's
_gpus = {}  # the runtime of each device that was asked for
_get_device = None  # CuPy's, once it was imported
_making = threading.Lock()  # of such a runtime


def available():
    """Why this column cannot be used, or None."""
    return None if _runtime is not None else _why_missing()


def use(runtime):
    """Run this column on `runtime` (None: the GPU again); tests use it for a GPU in software."""
    global _runtime
    _runtime = runtime


def what_runs():
    """The runtime of this column; see rnnfast.cuda.runtime."""
    if _runtime is not None:
        return _runtime
    device = _current_device()
    return _gpus.get(device) or _gpu(device)


def _why_missing():
    """Asked anew while there is a reason, which may pass: a driver that was busy, a full GPU."""
    if _gpus:
        return None
    if sys.platform != "linux":
        return "it is written for Linux"
    from importlib.util import find_spec

    for module, package in (("numba_cuda", "numba-cuda"), ("cupy", "CuPy")):
        if find_spec(module) is None:
            return f'{package} is not installed: pip install "rnnfast[cuda]"'
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "there is no NVIDIA GPU"
        what_runs()
    except TooOld as error:
        return str(error)
    except Exception as error:  # a driver can be missing or too old in many ways
        return f"CUDA does not start: {' '.join(str(error).split()) or type(error).__name__}"
    return None


def _current_device():
    global _get_device
    if _get_device is None:
        import cupy

        _get_device = cupy.cuda.runtime.getDevice
    return _get_device()


class TooOld(RuntimeError):
    """A GPU of a compute capability that the kernels are not made for."""


def _gpu(device):
    """The runtime of a device, the same in every thread."""
    if device not in _gpus:
        from rnnfast.cuda.runtime import Gpu

        with _making:
            if device not in _gpus:
                gpu = Gpu()
                if gpu.compute_capability < MINIMUM:
                    capabilities = gpu.compute_capability, MINIMUM
                    found, needed = (".".join(map(str, cc)) for cc in capabilities)
                    raise TooOld(f"{gpu.name} has compute capability {found}, {needed} is needed")
                _gpus[device] = gpu
    return _gpus[device]
