"""The order of time steps, the samples that take part in each, and the check of a cache."""

import numpy as np


def in_order(T, reverse):
    """The time steps in the order of computation."""
    return reversed(range(T)) if reverse else range(T)


def at_work(lengths, t):
    """The samples that take part in step t: True for all of them, or a mask (N, 1)."""
    return True if lengths is None else (t < lengths)[:, None]


def only(on, x):
    """x for the samples that take part, 0 for the others, even if x is NaN there."""
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
