"""How a training run ends before its time: divergence, Ctrl-C, SIGTERM."""

import signal
import threading
from contextlib import contextmanager


class Diverged(RuntimeError):
    """Training has left all bounds."""


def diverged(epoch, iter, loss, norm):
    """The error that says where training diverged."""
    return Diverged(
        f"training diverged at epoch {epoch}, iter {iter} (loss {loss}, gradient norm {norm}); "
        "try a smaller learning rate"
    )


class Stop(KeyboardInterrupt):
    """A run that a signal ended, after all was saved; `signum` is its number, None for none."""

    def __init__(self, message, signum):
        super().__init__(message)
        self.signum = signum


@contextmanager
def stop_on_interrupt(trainer):
    """Within the block the first Ctrl-C or SIGTERM is trainer.stop(); a second one ends at once.

    Gives a list, into which the signal's number goes. A signal that has another handler keeps it.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    received = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals are another thread's
        return
    ours = {signum for signum, handler in usual.items() if signal.getsignal(signum) is handler}

    def restore():
        for signum in ours:
            signal.signal(signum, usual[signum])

    def stop(signum, frame):
        restore()
        received.append(signum)
        trainer.stop()

    for signum in ours:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        restore()
