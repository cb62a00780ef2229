"""Sequence lengths that vary from batch to batch, as AWD-LSTM has them."""

from typing import Any

import numpy as np

from rnnfast import checks

FULL = 0.95  # the probability of a length around time_size; else it is around time_size / 2
DEVIATION = 5.0  # the standard deviation around that
LEAST = 5
KEY = 2**64 - 1  # of Philox, beside the seed: no dropout layer has it


def checked_seed(owner: str, name: str, seed: Any) -> int:
    """seed as an int, a key of Philox: in [0, 2**64)."""
    found = checks.integer(owner, name, seed)
    if not 0 <= found < 2**64:
        raise ValueError(f"{owner}: {name} must be in [0, 2**64), got {found}")
    return found


def random_length(time_size: int, seed: int, iteration: int) -> int:
    """Draw the number of steps of an iteration.

    Parameters
    ----------
    time_size : int
        T, the usual number of steps.
    seed : int
        In [0, 2**64).
    iteration : int
        From 0 up. The number depends only on these three, so that a resumed run draws the same.

    Returns
    -------
    int
        From 5 up.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument.

    Notes
    -----
    ::

        base   = T with probability 0.95, else T / 2
        length = max(5, floor(normal(mean=base, deviation=5)))

    The learning rate of the iteration is multiplied by length / T, so that each step of the text
    has the same weight.

    References
    ----------
    Merity et al. 2017, https://arxiv.org/abs/1708.02182, section 5.

    Examples
    --------
    >>> from rnnfast.training.lengths import random_length
    >>> lengths = [random_length(70, 0, i) for i in range(1000)]
    >>> sum(60 <= length < 80 for length in lengths) > 900, min(lengths) < 40
    (True, True)
    """
    owner = "random_length"
    time_size = checks.count(owner, "time_size", time_size)
    seed = checked_seed(owner, "seed", seed)
    iteration = checks.count(owner, "iteration", iteration, least=0)
    key, counter = np.array([seed, KEY], np.uint64), np.array([0, 0, 0, iteration], np.uint64)
    draw = np.random.Generator(np.random.Philox(key=key, counter=counter))
    base = time_size if draw.random() < FULL else time_size / 2
    return max(LEAST, int(draw.normal(base, DEVIATION)))
