"""A whole sequence in one call: TimeRNN, TimeLSTM, TimeGRU. Chapters 5, 6, 7 and appendix C.

N batch, T time, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from typing import Any, overload

import numpy as np

from rnnfast.layers.options import cell_clip_option, convention_options, nonlinearity_option
from rnnfast.layers.unrolled import _Time, _TimeOneState
from rnnfast.typing import A, Array


class TimeRNN(_TimeOneState):
    """A simple (Elman) RNN over a sequence.

    Parameters
    ----------
    Wx, Wh : array
        (D, H) and (H, H).
    b : array (H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    nonlinearity : {"tanh", "relu"}
        The activation.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b] and their gradients.
    h, dh : array (N, H) or None
        The final state, and after backward the gradient of the initial state.

    Notes
    -----
    h_t = tanh(x_t Wx + h_(t-1) Wh + b), or relu.

    References
    ----------
    Deep Learning from Scratch 2, chapter 5.

    Examples
    --------
    >>> from rnnfast import TimeRNN
    >>> rnn = TimeRNN(np.ones((3, 2)), np.zeros((2, 2)), np.zeros(2), device="cpu")
    >>> rnn.forward(np.full((1, 2, 3), 0.1))
    array([[[0.2913, 0.2913],
            [0.2913, 0.2913]]])
    >>> rnn.backward(np.ones((1, 2, 2))).shape
    (1, 2, 3)
    """

    column = "rnn"

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        stateful: bool = False,
        *,
        nonlinearity: str = "tanh",
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b), stateful, device, **nonlinearity_option(self, nonlinearity))


class TimeGRU(_TimeOneState):
    """A GRU over a sequence.

    Parameters
    ----------
    Wx, Wh : array
        (D, 3H) and (H, 3H), in blocks z, r, candidate.
    b : array (3H,) or None
        The bias; with reset_after (2, 3H). A bool here is `stateful`: TimeGRU(Wx, Wh, True) of the
        Korean edition, without a bias; params then has two entries.
    stateful : bool
        Start each forward from the final state of the one before.
    reset_after : bool
        Apply r after the product with Wh.
    z_keeps : bool
        z is the share of the old state that is kept, not the share that is renewed.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b] and their gradients.
    h, dh : array (N, H) or None
        The final state, and after backward the gradient of the initial state.

    Notes
    -----
    h' is the state of the step before::

        the book's GRU:    h_hat = tanh(x Wx_h + (r h') Wh_h + b_h)         h = (1 - z) h' + z h_hat
        reset_after=True:  h_hat = tanh(x Wx_h + b0_h + r (h' Wh_h + b1_h))  b is (2, 3H)
        z_keeps=True:                                                       h = z h' + (1 - z) h_hat

    cuDNN, PyTorch and Keras have both options; Cho et al. and ONNX (linear_before_reset=0) have
    z_keeps.

    References
    ----------
    Cho et al. 2014, https://arxiv.org/abs/1406.1078.
    Deep Learning from Scratch 2, chapter 7 and appendix C.

    Examples
    --------
    >>> from rnnfast import TimeGRU
    >>> gru = TimeGRU(np.ones((3, 6), "f"), np.ones((2, 6), "f"), z_keeps=True, device="cpu")
    >>> gru
    TimeGRU(D=3, H=2, b=None, z_keeps=True, float32, cpu)
    """

    column = "gru"
    gates = 3

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | bool | None = None,
        stateful: bool = False,
        *,
        reset_after: bool = False,
        z_keeps: bool = False,
        device: str | None = None,
    ) -> None:
        if isinstance(b, (bool, np.bool_)):
            if stateful:
                raise TypeError("TimeGRU: b must be an array or None, got bool beside stateful")
            b, stateful = None, bool(b)
        options = convention_options(self, reset_after, z_keeps)
        super().__init__((Wx, Wh, b), stateful, device, **options)


class TimeLSTM(_Time):
    """An LSTM over a sequence.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    Wp : array (3, H) or (3, H, H), optional
        Peepholes for f, i and o: the diagonals of three matrices, or the matrices. f and i see the
        cell of the step before, o the new one. Wp is the last entry of params.
    cell_clip : float, optional
        The cell stays in [-cell_clip, cell_clip]. Where it is at a bound, no gradient passes.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b] or [Wx, Wh, b, Wp], and their gradients.
    h, c, dh, dc : array (N, H) or None
        The final state, and after backward the gradient of the initial state.

    Notes
    -----
    c' and h' are the state of the step before::

        [A_f, A_g, A_i, A_o] = x Wx + h' Wh + b
        f = sigmoid(A_f)    g = tanh(A_g)    i = sigmoid(A_i)    o = sigmoid(A_o)
        c = f c' + g i      h = o tanh(c)

    References
    ----------
    Hochreiter and Schmidhuber 1997; Deep Learning from Scratch 2, chapter 6.
    Wp: Gers and Schmidhuber 2000; Graves 2013, https://arxiv.org/abs/1308.0850.
    cell_clip: Sak et al. 2014, https://arxiv.org/abs/1402.1128.

    Examples
    --------
    >>> from rnnfast import TimeLSTM
    >>> lstm = TimeLSTM.create(3, 2, rng=0, device="cpu")
    >>> hs = lstm.forward(np.ones((1, 4, 3), "f"))
    >>> hs.shape, lstm.h.shape
    ((1, 4, 2), (1, 2))
    >>> lstm.backward(np.ones_like(hs)).shape
    (1, 4, 3)
    """

    column = "lstm"
    gates = 4
    states = ("h", "c")

    c: Any
    dc: Any

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        stateful: bool = False,
        *,
        Wp: Array | None = None,
        cell_clip: float | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, Wp), stateful, device, **cell_clip_option(self, cell_clip))

    @property
    def state(self) -> tuple[Any, ...]:
        """(h, c), the arguments of set_state."""
        return self.h, self.c

    @property
    def dstate(self) -> tuple[Any, ...]:
        """(dh, dc) after backward: the gradient of the initial state."""
        return self.dh, self.dc

    def _keep(self, h: Any, c: Any) -> None:
        self.h, self.c = h, c

    @overload
    def backward(self, dhs: A, dh: Array | None = None, dc: Array | None = None) -> A: ...
    @overload
    def backward(self, dhs: None, dh: Array | None = None, dc: Array | None = None) -> Any: ...

    def backward(self, dhs: Any, dh: Any = None, dc: Any = None) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array (N, T, H) or None
            The gradient of hs. None is zeros: for a loss that depends only on the final state.
        dh, dc : array (N, H), optional
            The gradients of the final state. None is zeros.

        Returns
        -------
        array (N, T, D)
            dxs. `dh` and `dc` are now the gradients of the initial state.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(self._checked_backward(dhs, dh, dc))

    def set_state(self, h: Array | None, c: Array | None = None) -> None:
        """Start the next forward from h and c.

        Parameters
        ----------
        h, c : array (N, H) or None
            None is zeros.

        Raises
        ------
        ValueError
            For a wrong shape, or if the layer is not stateful.
        """
        self._set_state(h, c)
