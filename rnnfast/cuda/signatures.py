"""The arguments of kernels go by their names: a name has one type, and a launch names each.

A kernel's parameters are the only list of its arguments. `signature_of` derives the types from it,
`by_name` makes a function that launches the kernel. So a wrong name is an error, and never an
array in the place of another.
"""

import inspect
import re
from functools import cache

import numpy as np

# One name means one type in all kernels
REALS = [  # arrays of the kernel's own dtype
    *("A", "Ah", "Ah2", "B", "dB2", "Wh", "b", "Wp", "m", "hs", "dhs", "x", "x2", "seen", "seen2"),
    *("came", "through", "h", "c", "c_next", "cp", "dh", "dA_o"),
    *("a", "gated", "made", "y", "rows", "d", "dA"),
    *("gx", "gh", "gc", "bc", "bh", "gates", "u", "dv", "norms"),
    *("candidate_mask", "share", "old", "state", "dstate", "past", "c_new"),
    # to here those of the cells
    *("W", "out", "dout", "dW"),
    *("p", "g", "v"),
    *("losses", "maxima", "scales", "factor", "dx", "mask"),
    *("prior", "mixed", "shares", "dprior", "shifts", "log_p"),
]
REAL_NUMBERS = ["lr", "rate", "beta1", "beta2", "scale"]
STATES = ["initial", "final", "states", "dstates"]  # tuples, an array for each state of the cell
KEPT = ["kept"]  # the same for what the cell keeps
LISTS = [
    "params",
    "grads",
    "means",
    "squares",
]  # tuples of arrays, and of how many numbers each has: "sizes"
TYPES = {
    "ends": "*i",
    **dict.fromkeys(["parts", "total", "by"], "*d"),
    **dict.fromkeys(["ids", "order", "ts"], "*q"),
    **dict.fromkeys(["N", "T", "t", "start", "ahead", "train"], "i"),
    **dict.fromkeys(["M", "K", "V", "D", "size", "ignored"], "q"),
    **dict.fromkeys(["key0", "key1", "step", "threshold"], "Q"),
    "launches": "*Q",
    **dict.fromkeys(["max_norm", "first", "decay1", "decay2"], "d"),
}
TOKEN = re.compile(r"(\d*)(\*?[fdiqQ])")  # "3*f": how many, letter


def parameters(function):
    """The names of a kernel's arguments, in their order."""
    return tuple(inspect.signature(function).parameters)


def signature_of(function, dtype, cell=None, count=0):
    """The types of a kernel's arguments, in the letters of Compiler.types, from their names.

    cell: of kernels that take states and what a cell keeps. count: the arrays in a list.
    """
    letter = np.dtype(dtype).char
    types = TYPES | dict.fromkeys(REALS, f"*{letter}") | dict.fromkeys(REAL_NUMBERS, letter)
    if cell is not None:
        types |= dict.fromkeys(STATES, f"{len(cell.states)}*{letter}")
        types |= dict.fromkeys(KEPT, f"{len(cell.kept)}*{letter}")
    if count:
        types |= dict.fromkeys(LISTS, f"{count}*{letter}") | {"sizes": f"{count}q"}
    names = parameters(function)
    if unknown := [name for name in names if name not in types]:
        known = "arguments must be among those of signatures.py"
        raise TypeError(f"{function.__name__}: {known}, got {unknown}")
    return " ".join(types[name] for name in names)


def tokens(signature):
    """[(how many, letter)] of "3*f *i i": 3 pointers in a tuple, one alone (0), a number (0)."""
    found = [TOKEN.fullmatch(token) for token in signature.split()]
    return [(int(match[1] or 0), match[2]) for match in found]


def flat_letters(signature):
    """The letter of each parameter that the compiled kernel has: tuples come one by one."""
    return [letter for count, letter in tokens(signature) for _ in range(count or 1)]


def flat_arguments(args):
    """The arguments of a kernel one by one, those of its tuples too."""
    return [x for arg in args for x in (arg if isinstance(arg, tuple) else (arg,))]


def by_name(launch, function):
    """launch(blocks, *arguments), as a function of `blocks` and the kernel's arguments by name.

    Python itself brings the names into order, and raises TypeError for a wrong or a missing one.
    Do not name more than 15 in one call: Python then makes a dict, which takes as long as the
    launch. Give the others to `bind`.
    """
    return _bind(launch, ("blocks", *parameters(function)), function.__name__, {})


def bind(kernel, launch=None, /, **given):
    """A kernel of gpu.kernel with these of its arguments: a function of the others, by name.

    launch: takes the arguments in the place of the kernel, in their order.
    """
    if unknown := [name for name in given if name not in kernel.names]:
        expected = f"arguments must be among {', '.join(kernel.names)}"
        raise TypeError(f"{kernel.__name__}: {expected}, got {unknown}")
    return _bind(launch or kernel.launch, kernel.names, kernel.__name__, given)


def _bind(launch, names, label, given):
    bound = _binder(names, tuple(given))(launch, **given)
    bound.__name__ = bound.__qualname__ = label  # for the words of Python's errors
    bound.launch, bound.names = launch, names
    return bound


@cache
def _binder(names, given):
    """A function of launch and what is given, which makes the function of all other names."""
    rest = [name for name in names if name not in given]
    makes = f"lambda {', '.join(['*', *rest]) if rest else ''}: launch({', '.join(names)})"
    return eval(f"lambda {', '.join(['launch', *given])}: {makes}")
