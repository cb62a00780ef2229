"""A whole sequence in one call: TimeRNN, TimeLSTM, TimeGRU, TimeMogrifier.

Chapters 5, 6, 7 and appendix C of the book; the Mogrifier LSTM is not in it. The layer-normalised
cells are in rnnfast.layers.normalized.

N batch, T time, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

import numpy as np

from rnnfast.layers.options import cell_clip_option, convention_options, nonlinearity_option
from rnnfast.layers.rounds import Rounds
from rnnfast.layers.unrolled import _TimeOneState, _TimeTwoStates
from rnnfast.typing import Array


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
    of_steps = ("h_zoneout",)

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
    of_steps = ("candidate_mask", "h_zoneout")

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


class TimeLSTM(_TimeTwoStates):
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
    more = ("Wp",)
    of_steps = ("candidate_mask", "h_zoneout", "c_zoneout")

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


class TimeMogrifier(Rounds, _TimeTwoStates):
    """A Mogrifier LSTM over a sequence: before each step, x and h gate each other.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    Wm : array (r, H, D), or (r, H, k) with Wr
        The matrices of the r rounds, one after the other.
    Wr : array (r, k, D), optional
        With it the matrices have rank k: each is a Wm[i] times Wr[i].
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b, Wm] or [Wx, Wh, b, Wm, Wr], and their gradients.
    h, c, dh, dc : array (N, H) or None
        The final state, and after backward the gradient of the initial state.
    rounds, rank : int
        r and k; rank is None without Wr.

    Notes
    -----
    M_1 ... M_r are the matrices, h' and c' the state of the step before::

        x = 2 sigmoid(h' M_i) x        i = 1, 3, 5, ...
        h' = 2 sigmoid(x M_i^T) h'     i = 2, 4, 6, ...

    one round after another, and then the step of an LSTM from x, h' and c', as in `TimeLSTM`. In
    the paper's words, whose vectors are columns, M_i^T is Q^i for odd i and M_i is R^i for even i.
    The gates of the rounds have no bias. An `h_mask` is applied before the rounds.

    References
    ----------
    Melis et al. 2019, https://arxiv.org/abs/1909.01792.

    Examples
    --------
    >>> from rnnfast import TimeMogrifier
    >>> layer = TimeMogrifier.create(3, 2, rounds=5, rng=0, device="cpu")
    >>> layer
    TimeMogrifier(D=3, H=2, rounds=5, float32, cpu)
    >>> layer.forward(np.ones((1, 4, 3), "f")).shape
    (1, 4, 2)
    """

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        stateful: bool = False,
        *,
        Wm: Array,
        Wr: Array | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, Wm, Wr), stateful, device)
