"""Recurrent layers that read a sequence in both directions: TimeBiRNN, TimeBiLSTM, TimeBiGRU.

Also TimeBiMogrifier, TimeBiLSTMP and TimeBiSLSTM. Schuster and Paliwal 1997; Deep Learning from
Scratch 2, chapter 8 (TimeBiLSTM).
"""

from rnnfast.layers.directions import _TimeBi
from rnnfast.layers.heads import TimeSLSTM
from rnnfast.layers.projection import TimeLSTMP
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeMogrifier, TimeRNN
from rnnfast.typing import Array


class TimeBiRNN(_TimeBi):
    """A bidirectional RNN: two `TimeRNN`, `forward_rnn` and `backward_rnn`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeRNN`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, nonlinearity, device
        As in `TimeRNN`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, Wx2, Wh2, b2].

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".

    Examples
    --------
    >>> from rnnfast import TimeBiRNN
    >>> both = TimeBiRNN.create(3, 2, rng=0, device="cpu")
    >>> both.forward(np.ones((1, 4, 3), "f")).shape
    (1, 4, 4)
    """

    kind = TimeRNN
    forward_rnn: TimeRNN
    backward_rnn: TimeRNN

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array | None,
        Wx2: Array,
        Wh2: Array,
        b2: Array | None,
        stateful: bool = False,
        *,
        nonlinearity: str = "tanh",
        device: str | None = None,
    ) -> None:
        options = {"nonlinearity": nonlinearity}
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, options)


class TimeBiLSTM(_TimeBi):
    """A bidirectional LSTM: two `TimeLSTM`, `forward_lstm` and `backward_lstm`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeLSTM`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, cell_clip, device
        As in `TimeLSTM`.
    Wp1, Wp2 : array, optional
        The peepholes of both directions, as Wp of `TimeLSTM`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, Wx2, Wh2, b2], with each Wp after its b.

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks"; Deep Learning from
    Scratch 2, chapter 8.

    Examples
    --------
    >>> from rnnfast import TimeBiLSTM
    >>> both = TimeBiLSTM.create(3, 2, rng=0, device="cpu")
    >>> both.forward(np.ones((1, 4, 3), "f"), lengths=[3]).shape
    (1, 4, 4)
    >>> len(both.state)  # h and c of each direction
    4
    """

    kind = TimeLSTM
    forward_lstm: TimeLSTM
    backward_lstm: TimeLSTM

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array | None,
        Wx2: Array,
        Wh2: Array,
        b2: Array | None,
        stateful: bool = False,
        *,
        Wp1: Array | None = None,
        Wp2: Array | None = None,
        cell_clip: float | None = None,
        device: str | None = None,
    ) -> None:
        options = [{"Wp": Wp, "cell_clip": cell_clip} for Wp in (Wp1, Wp2)]
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)


class TimeBiGRU(_TimeBi):
    """A bidirectional GRU: two `TimeGRU`, `forward_gru` and `backward_gru`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeGRU`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, reset_after, z_keeps, device
        As in `TimeGRU`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, Wx2, Wh2, b2].

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".

    Examples
    --------
    >>> from rnnfast import TimeBiGRU
    >>> TimeBiGRU.create(3, 2, rng=0, reset_after=True, device="cpu")
    TimeBiGRU(D=3, H=2, reset_after=True, float32, cpu)
    """

    kind = TimeGRU
    forward_gru: TimeGRU
    backward_gru: TimeGRU

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array | None,
        Wx2: Array,
        Wh2: Array,
        b2: Array | None,
        stateful: bool = False,
        *,
        reset_after: bool = False,
        z_keeps: bool = False,
        device: str | None = None,
    ) -> None:
        options = {"reset_after": reset_after, "z_keeps": z_keeps}
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, options)


class TimeBiMogrifier(_TimeBi):
    """A bidirectional Mogrifier LSTM: `forward_mogrifier` and `backward_mogrifier`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeMogrifier`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, device
        As in `TimeMogrifier`.
    Wm1, Wm2, Wr1, Wr2 : array
        The matrices of the rounds of both directions, as Wm and Wr of `TimeMogrifier`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, Wm1, Wx2, Wh2, b2, Wm2], with each Wr after
    its Wm.

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    Melis et al. 2019, https://arxiv.org/abs/1909.01792.

    Examples
    --------
    >>> from rnnfast import TimeBiMogrifier
    >>> TimeBiMogrifier.create(3, 2, rounds=4, rank=1, rng=0, device="cpu")
    TimeBiMogrifier(D=3, H=2, rounds=4, rank=1, float32, cpu)
    """

    kind = TimeMogrifier
    forward_mogrifier: TimeMogrifier
    backward_mogrifier: TimeMogrifier

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array | None,
        Wx2: Array,
        Wh2: Array,
        b2: Array | None,
        stateful: bool = False,
        *,
        Wm1: Array,
        Wm2: Array,
        Wr1: Array | None = None,
        Wr2: Array | None = None,
        device: str | None = None,
    ) -> None:
        options = [{"Wm": Wm1, "Wr": Wr1}, {"Wm": Wm2, "Wr": Wr2}]
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)


class TimeBiLSTMP(_TimeBi):
    """A bidirectional LSTM with projections: two `TimeLSTMP`, `forward_lstmp`, `backward_lstmp`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeLSTMP`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, cell_clip, device
        As in `TimeLSTMP`.
    Wproj1, Wproj2 : array (H, P)
        The projections of both directions.

    Notes
    -----
    The output is (N, T, 2P); params is [Wx1, Wh1, b1, Wproj1, Wx2, Wh2, b2, Wproj2].

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    Sak et al. 2014, https://arxiv.org/abs/1402.1128.

    Examples
    --------
    >>> from rnnfast import TimeBiLSTMP
    >>> both = TimeBiLSTMP.create(3, 4, proj_size=2, rng=0, device="cpu")
    >>> both
    TimeBiLSTMP(D=3, H=4, proj_size=2, float32, cpu)
    >>> both.forward(np.ones((1, 5, 3), "f")).shape
    (1, 5, 4)
    """

    kind = TimeLSTMP
    forward_lstmp: TimeLSTMP
    backward_lstmp: TimeLSTMP

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array | None,
        Wx2: Array,
        Wh2: Array,
        b2: Array | None,
        stateful: bool = False,
        *,
        Wproj1: Array,
        Wproj2: Array,
        cell_clip: float | None = None,
        device: str | None = None,
    ) -> None:
        options = [{"Wproj": Wproj, "cell_clip": cell_clip} for Wproj in (Wproj1, Wproj2)]
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)


class TimeBiSLSTM(_TimeBi):
    """A bidirectional sLSTM: two `TimeSLSTM`, `forward_slstm` and `backward_slstm`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeSLSTM`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, device
        As in `TimeSLSTM`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, Wx2, Wh2, b2].

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    Beck et al. 2024, https://arxiv.org/abs/2405.04517.

    Examples
    --------
    >>> from rnnfast import TimeBiSLSTM
    >>> TimeBiSLSTM.create(3, 4, heads=2, rng=0, device="cpu")
    TimeBiSLSTM(D=3, H=4, heads=2, float32, cpu)
    """

    kind = TimeSLSTM
    forward_slstm: TimeSLSTM
    backward_slstm: TimeSLSTM

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array | None,
        Wx2: Array,
        Wh2: Array,
        b2: Array | None,
        stateful: bool = False,
        *,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, {})
