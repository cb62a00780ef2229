"""Which steps a cell takes, in what order, and that they are taken back once."""

import numpy as np


def in_order(T, reverse):
    return reversed(range(T)) if reverse else range(T)


def at_work(lengths, t):
    """(N, 1), which samples take part in step t: all of them, or those that are long enough."""
    return True if lengths is None else (t < lengths)[:, None]


def only(on, x):
    """x of the samples that take part, 0 of the others, whatever stands there."""
    return x if on is True else np.where(on, x, 0)


def check_cache(cell, cache):
    """RuntimeError where there is no way back, or no longer."""
    if cache is None:
        raise RuntimeError(
            f"{cell}: backward needs the cache of a forward with train=True, got None"
        )
    if not cache:
        used = "this cache was used by an earlier backward; call forward again"
        raise RuntimeError(f"{cell}: {used}")
