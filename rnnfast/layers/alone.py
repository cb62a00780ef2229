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


class _Locks:
    """The lock of a model in each process: a lock that is held at a fork is not the child's.

    A copy of a model gets locks of its own.
    """

    def __init__(self) -> None:
        self.of: dict[int, threading.RLock] = {}

    def __reduce__(self) -> tuple[type["_Locks"], tuple[()]]:
        return _Locks, ()


def lock_of(model: Any) -> threading.RLock:
    """The lock of a model."""
    locks: _Locks = model.__dict__.setdefault("_rnnfast_locks", _Locks())
    return locks.of.setdefault(os.getpid(), threading.RLock())


def one_at_a_time(method: M) -> M:
    """A method of a model that waits until no other thread is in one of these methods."""

    @wraps(method)
    def alone(self: Any, *args: Any, **options: Any) -> Any:
        with lock_of(self):
            return method(self, *args, **options)

    return cast(M, alone)
