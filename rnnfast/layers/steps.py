"""One step of a recurrent layer: RNN, LSTM, GRU (chapters 5, 6 and 7), Mogrifier.

N batch, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from typing import Any, overload

import numpy as np

from rnnfast import checks
from rnnfast.layers.options import cell_clip_option, convention_options, nonlinearity_option
from rnnfast.layers.recurrent import Recurrent
from rnnfast.layers.rounds import Rounds
from rnnfast.typing import A, Array, Floats, Integers


class _Step(Recurrent):
    """One step: a sequence of length 1."""

    def _forward(self, x: Any, *states: Any, train: bool) -> tuple[Any, ...]:
        """The next state."""
        weights = self._checked_weights(train)
        x = checks.real(self._name, "x", x)
        if x.ndim != 2 or x.shape[1] != self._D:
            raise checks.shape_error(self._name, "x", f"(N, D) = (N, {self._D})", x)
        N = x.shape[0]
        checks.fits(self._name, "(N, 8H)", N, 8 * max(self._H, self._P))
        state = self._checked_states([f"{s}_prev" for s in self.states], states, N)
        x = checks.cast(x, self.dtype)
        return self._run(x[:, np.newaxis], state, weights, train)[1]

    def _backward(self, dh_next: Any, *rest: Any) -> tuple[Any, ...]:
        """The gradients of x and of the state before the step."""
        N, T, H = self._pending()[2]
        names = [f"d{s}_next" for s in self.states]
        dstate = self._checked_states(names, (dh_next, *rest), N)
        # h_next is both hs[:, 0] and the final state; its gradient is passed as the state's
        xp = np if dstate is None else checks.namespace(dstate[0])
        dhs = xp.zeros((N, T, H), self.dtype)
        dxs, dbefore = self._run_back(dhs, dstate, self._checked_grads())
        return dxs[:, 0], *dbefore


class _StepOneState(_Step):
    """A step of a cell whose state is h."""

    @overload
    def forward(self, x: Integers, h_prev: Array | None, *, train: bool = True) -> Floats: ...
    @overload
    def forward(self, x: A, h_prev: Array | None, *, train: bool = True) -> A: ...
    def forward(self, x: Any, h_prev: Array | None, *, train: bool = True) -> Any:
        """Compute one step.

        Parameters
        ----------
        x : array (N, D)
            The input.
        h_prev : array (N, H) or None
            The state before the step. None is zeros.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        array (N, H)
            h_next.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            If the layer is frozen and train is True.
        """
        return self._forward(x, h_prev, train=train)[0]

    def backward(self, dh_next: Array | None) -> tuple[Any, ...]:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dh_next : array (N, H) or None
            The gradient of h_next. None is zeros.

        Returns
        -------
        dx : array (N, D)
        dh_prev : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(dh_next)


class _StepTwoStates(_Step):
    """A step of a cell whose state is h and c."""

    states = ("h", "c")

    @overload
    def forward(
        self, x: Integers, h_prev: Array | None, c_prev: Array | None, *, train: bool = True
    ) -> tuple[Floats, ...]: ...
    @overload
    def forward(
        self, x: A, h_prev: Array | None, c_prev: Array | None, *, train: bool = True
    ) -> tuple[A, ...]: ...
    def forward(
        self, x: Any, h_prev: Array | None, c_prev: Array | None, *, train: bool = True
    ) -> tuple[Any, ...]:
        """Compute one step.

        Parameters
        ----------
        x : array (N, D)
            The input.
        h_prev, c_prev : array (N, H) or None
            The state before the step. None is zeros.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        h_next, c_next : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            If the layer is frozen and train is True.
        """
        return self._forward(x, h_prev, c_prev, train=train)

    def backward(self, dh_next: Array | None, dc_next: Array | None) -> tuple[Any, ...]:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dh_next, dc_next : array (N, H) or None
            The gradients of h_next and c_next. None is zeros.

        Returns
        -------
        dx : array (N, D)
        dh_prev, dc_prev : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(dh_next, dc_next)


class RNN(_StepOneState):
    """One step of a simple (Elman) RNN.

    Parameters
    ----------
    Wx, Wh : array
        (D, H) and (H, H).
    b : array (H,) or None
        The bias.
    nonlinearity : {"tanh", "relu"}
        The activation.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    h_next = tanh(x Wx + h_prev Wh + b), or relu.

    References
    ----------
    Deep Learning from Scratch 2, chapter 5.

    Examples
    --------
    >>> from rnnfast import RNN
    >>> rnn = RNN(np.ones((3, 2)), np.ones((2, 2)), np.zeros(2), device="cpu")
    >>> rnn.forward(np.full((1, 3), 0.1), np.array([[0.1, 0.2]]))
    array([[0.537, 0.537]])
    """

    column = "rnn"

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        *,
        nonlinearity: str = "tanh",
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b), device, **nonlinearity_option(self, nonlinearity))


class LSTM(_StepTwoStates):
    """One step of an LSTM.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    Wp, cell_clip
        As in `TimeLSTM`.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeLSTM`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 6.

    Examples
    --------
    >>> from rnnfast import LSTM
    >>> lstm = LSTM.create(3, 2, rng=0, device="cpu")
    >>> h, c = lstm.forward(np.ones((1, 3), "f"), None, None)
    >>> h.shape, c.shape
    ((1, 2), (1, 2))
    """

    column = "lstm"
    gates = 4
    more = ("Wp",)

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        *,
        Wp: Array | None = None,
        cell_clip: float | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, Wp), device, **cell_clip_option(self, cell_clip))


class GRU(_StepOneState):
    """One step of a GRU.

    Parameters
    ----------
    Wx, Wh : array
        (D, 3H) and (H, 3H), in blocks z, r, candidate.
    b : array (3H,) or None
        The bias; with reset_after (2, 3H).
    reset_after, z_keeps : bool
        As in `TimeGRU`.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeGRU`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 7 and appendix C.

    Examples
    --------
    >>> from rnnfast import GRU
    >>> gru = GRU.create(3, 2, rng=0, device="cpu")
    >>> gru.forward(np.ones((1, 3), "f"), None).shape
    (1, 2)
    """

    column = "gru"
    gates = 3

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | bool | None = None,
        *,
        reset_after: bool = False,
        z_keeps: bool = False,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b), device, **convention_options(self, reset_after, z_keeps))


class Mogrifier(Rounds, _StepTwoStates):
    """One step of a Mogrifier LSTM.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    Wm, Wr
        As in `TimeMogrifier`.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeMogrifier`.

    References
    ----------
    Melis et al. 2019, https://arxiv.org/abs/1909.01792.

    Examples
    --------
    >>> from rnnfast import Mogrifier
    >>> cell = Mogrifier.create(3, 2, rounds=3, rank=1, rng=0, device="cpu")
    >>> cell
    Mogrifier(D=3, H=2, rounds=3, rank=1, float32, cpu)
    >>> h, c = cell.forward(np.ones((1, 3), "f"), None, None)
    >>> h.shape, c.shape
    ((1, 2), (1, 2))
    """

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        *,
        Wm: Array,
        Wr: Array | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, Wm, Wr), device)
