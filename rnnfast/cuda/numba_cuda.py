"""The only module that imports numba.cuda, so that a move to its successor touches one file.

Importing it needs the `cuda` extra, not a GPU. ImportError where numba-cuda is too old.
"""

import os
import re
import warnings
from importlib.metadata import version

import numpy as np

NEEDED = "0.30.4"  # older ones fail beside NumPy 2.5


def numbers(text):
    """The first three numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


found = version("numba-cuda")
if numbers(found) < numbers(NEEDED):
    raise ImportError(
        f"numba-cuda {found} is installed, {NEEDED} or newer is needed: "
        f"pip install 'numba-cuda>={NEEDED}'"
    )

# Numba reads this name at its first compile; NumPy 2.5 no longer has it.
if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack

for name in ("CUDA_HOME", "CUDA_PATH"):
    if os.environ.get(name) == "":  # Numba would look for NVVM's library in the folder ""
        del os.environ[name]

# Beside NumPy 2.5 the import warns, which `python -W error` makes an error. Python's filters are
# shared by all threads: this one does no harm should another thread restore them too early.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module=r"(numba|cuda|llvmlite)\b")
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from llvmlite import ir
    from numba import cuda
    from numba.cuda import cgutils, dispatcher, types
    from numba.cuda.compiler import _compile_pyfunc_with_fixup as compile_function
    from numba.cuda.extending import intrinsic

__all__ = [
    "Linker",
    "LinkerOptions",
    "ObjectCode",
    "cgutils",
    "compile_function",
    "cuda",
    "dispatcher",
    "intrinsic",
    "ir",
    "types",
]
