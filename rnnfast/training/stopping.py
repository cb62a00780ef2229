"""Early ends of a training run: divergence, Ctrl-C, SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Diverged(RuntimeError):
    """Training has diverged: a loss or a gradient is not finite, or the loss stays too high."""


def diverged(epoch: int, iter: int, loss: Any, norm: Any) -> Diverged:
    """The error that says where training diverged."""
    gradient = "" if norm is None else f", gradient norm {norm:.6g}"
    return Diverged(
        f"training diverged at epoch {epoch}, iter {iter} (loss {loss:.6g}{gradient}); "
        "try a smaller learning rate"
    )


class Stop(KeyboardInterrupt):
    """A run was ended by a signal, after everything was saved.

    Parameters
    ----------
    message : str
        The text of the error.
    signum : int or None
        Number of the signal; None without a signal.
    """

    def __init__(self, message: str, signum: int | None) -> None:
        super().__init__(message)
        self.signum = signum


class _Stoppable(Protocol):
    def stop(self) -> Any: ...


@contextmanager
def stop_on_interrupt(trainer: _Stoppable) -> Iterator[list[int]]:
    """Stop a trainer after the current iteration on Ctrl-C or SIGTERM.

    Within the block the first signal calls ``trainer.stop()``. The usual handlers are back from
    then on, so that a second signal ends the process at once.

    Parameters
    ----------
    trainer : Trainer or RnnlmTrainer
        Or any object with a method ``stop()``.

    Yields
    ------
    list of int
        Empty; receives the number of the signal.

    Notes
    -----
    A signal that already has a handler other than Python's default keeps it. Outside the main
    thread nothing is changed, since Python handles signals in the main thread only.

    Examples
    --------
    >>> from rnnfast.trainer import stop_on_interrupt
    >>> class Loop:
    ...     def stop(self): print("stopped")
    >>> import signal
    >>> with stop_on_interrupt(Loop()) as received:
    ...     signal.raise_signal(signal.SIGINT)
    stopped
    >>> received == [signal.SIGINT]
    True
    """
    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    ours = {signum for signum, handler in usual.items() if signal.getsignal(signum) is handler}

    def restore() -> None:
        for signum in ours:
            signal.signal(signum, usual[signum])

    def stop(signum: int, frame: object) -> None:
        restore()
        received.append(signum)
        trainer.stop()

    for signum in ours:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        restore()
