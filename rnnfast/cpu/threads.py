"""How many threads a call of the CPU column may use."""

import numpy as np

from rnnfast.cpu import _runtime

MAX_THREADS = 1024


def get_num_threads() -> int:
    """Return the largest number of threads that a call of the cpu column uses."""
    return _runtime.num_threads()


def set_num_threads(n: int) -> None:
    """Set the largest number of threads that a call of the cpu column uses.

    The results do not depend on it, bit for bit. The default is RNNFAST_NUM_THREADS, else
    OMP_NUM_THREADS, else the number of CPUs that affinity and cgroup limits leave to this process.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError
        If n is not an integer.
    ValueError
        If n is outside 1 to 1024.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"set_num_threads: n must be an int, got {type(n).__name__}")
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"set_num_threads: n must be from 1 to {MAX_THREADS}, got {n}")
    _runtime.set_num_threads(n)
