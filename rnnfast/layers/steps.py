"""One step of a recurrent layer: RNN, LSTM, GRU (chapters 5, 6 and 7), Mogrifier.

N batch, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from rnnfast.layers.options import cell_clip_option, convention_options, nonlinearity_option
from rnnfast.layers.rounds import Rounds
from rnnfast.layers.step_states import _StepOneState, _StepTwoStates
from rnnfast.typing import Array


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
    of_steps = ("h_zoneout",)

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
    of_steps = ("candidate_mask", "h_zoneout", "c_zoneout")

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
    of_steps = ("candidate_mask", "h_zoneout")

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
