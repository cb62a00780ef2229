"""What the cells' steps share: their order, the samples that take part, zoneout, caches."""

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


def at(x, t, on):
    """x (N, T, H) at step t, for the samples that take part; None stays None."""
    return None if x is None else only(on, x[:, t])


def times(x, mask):
    """x, multiplied where there is a mask."""
    return x if mask is None else x * mask


def zoned(share, old, new):
    """Zoneout of one state: `share` of the old one is kept."""
    return new if share is None else share * old + (1 - share) * new


def zoned_back(share, d):
    """The gradients of the old and of the new state from that of `zoned`."""
    return (0, d) if share is None else (share * d, (1 - share) * d)


def check_cache(cell, cache):
    """RuntimeError where there is no way back, or no longer."""
    if cache is None:
        raise RuntimeError(
            f"{cell}: backward needs the cache of a forward with train=True, got None"
        )
    if not cache:
        used = "this cache was used by an earlier backward; call forward again"
        raise RuntimeError(f"{cell}: {used}")
