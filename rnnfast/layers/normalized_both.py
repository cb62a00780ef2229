"""Both directions of layer-normalised cells: TimeBiLayerNormLSTM, TimeBiLayerNormGRU."""

from rnnfast.layers.directions import _TimeBi
from rnnfast.layers.normalized import TimeLayerNormGRU, TimeLayerNormLSTM
from rnnfast.typing import Array


class TimeBiLayerNormLSTM(_TimeBi):
    """A bidirectional layer-normalised LSTM: `forward_lnlstm` and `backward_lnlstm`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeLayerNormLSTM`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, device
        As in `TimeLayerNormLSTM`.
    gx1, gh1, gc1, bc1, gx2, gh2, gc2, bc2 : array
        The gains and biases of both directions, as gx, gh, gc and bc of `TimeLayerNormLSTM`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, gx1, gh1, gc1, bc1, Wx2, ...].

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450.

    Examples
    --------
    >>> from rnnfast import TimeBiLayerNormLSTM
    >>> TimeBiLayerNormLSTM.create(3, 2, rng=0, device="cpu")
    TimeBiLayerNormLSTM(D=3, H=2, float32, cpu)
    """

    kind = TimeLayerNormLSTM
    forward_lnlstm: TimeLayerNormLSTM
    backward_lnlstm: TimeLayerNormLSTM

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
        gx1: Array,
        gh1: Array,
        gc1: Array,
        bc1: Array,
        gx2: Array,
        gh2: Array,
        gc2: Array,
        bc2: Array,
        device: str | None = None,
    ) -> None:
        options = [
            {"gx": gx1, "gh": gh1, "gc": gc1, "bc": bc1},
            {"gx": gx2, "gh": gh2, "gc": gc2, "bc": bc2},
        ]
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)


class TimeBiLayerNormGRU(_TimeBi):
    """A bidirectional layer-normalised GRU: `forward_lngru` and `backward_lngru`.

    Parameters
    ----------
    Wx1, Wh1, b1 : array
        The weights of the forward direction, as in `TimeLayerNormGRU`.
    Wx2, Wh2, b2 : array
        The weights of the backward direction, of the same shapes.
    stateful, device
        As in `TimeLayerNormGRU`.
    gx1, gh1, bh1, gx2, gh2, bh2 : array
        The gains and biases of both directions, as gx, gh and bh of `TimeLayerNormGRU`.

    Notes
    -----
    The output is (N, T, 2H); params is [Wx1, Wh1, b1, gx1, gh1, bh1, Wx2, ...].

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450.

    Examples
    --------
    >>> from rnnfast import TimeBiLayerNormGRU
    >>> TimeBiLayerNormGRU.create(3, 2, rng=0, device="cpu")
    TimeBiLayerNormGRU(D=3, H=2, float32, cpu)
    """

    kind = TimeLayerNormGRU
    forward_lngru: TimeLayerNormGRU
    backward_lngru: TimeLayerNormGRU

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
        gx1: Array,
        gh1: Array,
        bh1: Array,
        gx2: Array,
        gh2: Array,
        bh2: Array,
        device: str | None = None,
    ) -> None:
        options = [{"gx": gx1, "gh": gh1, "bh": bh1}, {"gx": gx2, "gh": gh2, "bh": bh2}]
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)
