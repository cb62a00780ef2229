"""Progress bars of tqdm."""

import sys
from functools import cache
from threading import RLock
from typing import Any


def bar(**options: Any) -> Any:
    """A progress bar on stderr that goes away at its end, hidden where stderr is no terminal."""
    return _kind()(file=sys.stderr, leave=False, disable=None, **options)


@cache
def _kind() -> Any:
    """A class of its own, so that other bars keep their lock: this one's is of threads alone.

    tqdm's own is of processes, too. With Python 3.14 it starts another process, which complains
    when this one is killed.
    """
    from tqdm import tqdm

    kind: Any = type("Bar", (tqdm,), {})
    kind.set_lock(RLock())
    return kind
