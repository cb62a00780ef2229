"""Threads that come into each other's way."""

import sys
import threading
from contextlib import contextmanager


def in_threads(*works):
    """Call functions in a thread each, which take turns as often as can be. The errors."""
    errors = []

    def run(work):
        try:
            work()
        except Exception as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    return errors


@contextmanager
def held_elsewhere(lock):
    """Another thread has a lock within the block."""
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with lock:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()
