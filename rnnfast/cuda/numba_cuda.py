"""The only module that imports numba.cuda, so that a move to its successor touches one file.

Importing it needs the `cuda` extra, not a GPU.
"""

import numpy as np

# numba-cuda up to 0.30 reads this name at its first compile; NumPy 2.5 no longer has it.
if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack

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
