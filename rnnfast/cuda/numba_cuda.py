"""The only module that imports numba.cuda, so that a move to its successor touches one file.

Importing it needs the `cuda` extra, not a GPU. ImportError where numba-cuda is too old.
"""

import operator
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
        f'pip install "numba-cuda>={NEEDED}"'
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
    from numba.cuda import cgutils, dispatcher, nvvmutils, types
    from numba.cuda.compiler import _compile_pyfunc_with_fixup as compile_function
    from numba.cuda.descriptor import cuda_target
    from numba.cuda.extending import intrinsic

OPERATORS = [
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
    *(operator.iadd, operator.isub, operator.imul, operator.neg, operator.and_, operator.or_),
    *(operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne),
]


def remember_operators():
    """Makes Numba keep what operators of numbers give: it asks forty templates for each, each time.

    That was a third of what its front end took for a kernel. The answers are the same.
    """
    context = cuda_target.typing_context
    context.refresh()  # which loads the templates
    for op in OPERATORS:
        function = context.resolve_value_type(op)  # another one where templates have been added
        if "get_call_type" not in vars(function):
            function.get_call_type = _remembered(function.get_call_type)


def _remembered(ask):
    known = {}

    def get_call_type(context, args, kws):
        if kws or not all(isinstance(a, types.Number) for a in args):
            return ask(context, args, kws)
        if args not in known:
            known[args] = ask(context, args, kws)
        return known[args]

    return get_call_type


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
    "nvvmutils",
    "remember_operators",
    "types",
]
