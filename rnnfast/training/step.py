"""One iteration of training; on a GPU it becomes one launch. Chapters 5 and 6."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.kernels import load
from rnnfast.training.arguments import given
from rnnfast.training.captured import Captured, key_of
from rnnfast.training.gradients import clip_grads, remove_duplicate
from rnnfast.typing import Array, Model, Optimizer


class TrainingStep:
    """One iteration: forward, backward, each shared weight once, clipping, the update.

    On a GPU, launching the hundred kernels of an iteration takes longer than running them. A step
    with a language model of `rnnfast.models` therefore records the second of equal iterations as a
    CUDA graph, and from then on launches that: one call in the place of a hundred. Equal are
    iterations with batches of one shape, the same settings of model and optimiser and the same
    arrays of weights. Whenever one of these changes, iterations run as they are until two are equal
    again. The results are the same in any case.

    Parameters
    ----------
    model : Model
        One of rnnfast.models, or a model of the book such as Rnnlm.
    optimizer : Optimizer
        One of rnnfast.optim, or any with `update(params, grads)`. No two updates of ASGD are equal.
    max_grad : float, optional
        Bound of the gradient's norm, see `clip_grads`; None does not clip.
    check : callable, optional
        Called with the loss and None before backward, and with the loss and the norm before the
        update, where they are on the CPU. It may raise.

    Attributes
    ----------
    recorded : bool
        Whether the last call was the launch of a graph.

    Raises
    ------
    TypeError, ValueError
        `max_grad` is not a positive number or None.

    References
    ----------
    Deep Learning from Scratch 2, common/trainer.py.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import models, optim, trainer
    >>> model = models.Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0, device="cpu")
    >>> step = trainer.TrainingStep(model, optim.SGD(lr=1.0), max_grad=0.25)
    >>> loss, norm = step(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))
    >>> round(float(loss), 1)
    2.3
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        max_grad: float | None = None,
        *,
        check: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.model: Any = model
        self.optimizer: Any = optimizer
        if max_grad is not None and not checks.number("TrainingStep", "max_grad", max_grad) > 0:
            raise ValueError(f"TrainingStep: max_grad must be positive or None, got {max_grad}")
        self.max_grad, self._check = max_grad, check or _no_check
        self.recorded = False
        self._key: Any = None  # of the last iteration
        self._graph: Any = None
        self._captured: Any = None
        self._refused: Any = None  # the key of an iteration that cannot be recorded

    def __call__(self, xs: Any, ts: Any, lengths: Array | None = None) -> tuple[Any, Any]:
        """Train on a batch.

        Parameters
        ----------
        xs, ts : array
            What the model's forward takes: of a language model ids and targets (N, T).
        lengths : array of int (N,), optional
            For models that take it.

        Returns
        -------
        loss : float
            The loss. On a GPU a 0-d array, which the next call may overwrite.
        norm : float or None
            The norm of the gradient before clipping, likewise; None without `max_grad`.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        """
        key = None if lengths is not None else key_of(self.model, self.optimizer, xs, ts)
        key = key and (*key, self.max_grad)
        self.recorded = False
        if key is None or key != self._key:
            self._key, self._graph, self._captured = key, None, None
            return self._run(xs, ts, lengths)
        if key == self._refused:
            return self._run(xs, ts)
        if self._captured is None or not self._captured.begin(xs, ts):
            return self._record(xs, ts)
        try:
            self._graph.launch()
        finally:  # whatever signal comes, the host counts what the GPU counts
            self._captured.end()
        self.recorded = True
        found: tuple[Any, Any] = self._graph.result
        return found

    def _run(self, xs: Any, ts: Any, lengths: Any = None) -> tuple[Any, Any]:
        """The iteration as it is."""
        loss = self.model.forward(xs, ts, **given(lengths))
        on_host = not checks.is_cupy(loss)  # else it would have to wait for the GPU
        if on_host:
            self._check(loss, None)
        self.model.backward()
        params, grads = remove_duplicate(self.model.params, self.model.grads)
        norm = None if self.max_grad is None else clip_grads(grads, self.max_grad)
        if on_host:
            self._check(loss, norm)
        self.optimizer.update(params, grads)
        return loss, norm

    def _record(self, xs: Any, ts: Any) -> tuple[Any, Any]:
        """The iteration, computed as it is, and recorded for the next one."""
        self._graph, random = load("ops", "cuda").graph(), _random_state()
        if self._graph is None:
            self._refused = self._key
            return self._run(xs, ts)
        found: tuple[Any, Any] = self._graph.rehearse(lambda: self._run(xs, ts))
        captured = Captured(self.model, self.optimizer)

        def work() -> tuple[Any, Any]:
            result = self._run(*inputs)
            captured.carry()
            return result

        with self._graph.memory():
            inputs = captured.take(xs, ts)
        try:
            self._graph.capture(work)
            fits = True
        except (RuntimeError, MemoryError):
            fits = False  # what cannot be captured, or not in the memory that is left
        finally:
            once = captured.give_back()
        if fits and once and _random_state() == random:  # its masks would come from the host
            self._captured = captured
        else:
            self._refused, self._graph, self._captured = self._key, None, None
        return found


def _no_check(loss: Any, norm: Any) -> None:
    pass


def _random_state() -> Any:
    """What tells whether np.random drew numbers."""
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    return kind, keys.tobytes(), *rest
