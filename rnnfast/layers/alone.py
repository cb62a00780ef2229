"""Calls of one model by several threads: one after the other.

A forward leaves the final state in the layers and what follows reads it there, so a call that comes
between would give one thread the results of the other.
"""

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

M = TypeVar("M", bound=Callable[..., Any])


def lock_of(model: Any) -> threading.RLock:
    """The lock of a model in this process: one that a thread held at a fork is not the child's."""
    owner, lock = model.__dict__.setdefault("_lock", (os.getpid(), threading.RLock()))
    if owner != os.getpid():
        model.__dict__["_lock"] = (os.getpid(), threading.RLock())
        return lock_of(model)
    found: threading.RLock = lock
    return found


def one_at_a_time(method: M) -> M:
    """A method of a model that waits until no other thread is in one of these methods."""

    @wraps(method)
    def alone(self: Any, *args: Any, **options: Any) -> Any:
        with lock_of(self):
            return method(self, *args, **options)

    return cast(M, alone)
