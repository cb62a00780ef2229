"""The order of time steps, and the samples that take part in each."""

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
