"""Layer-normalised cells, for one step and over a sequence. Ba, Kiros and Hinton 2016.

N batch, T time, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from rnnfast.layers.recurrent import Recurrent
from rnnfast.layers.states import _TimeOneState, _TimeTwoStates
from rnnfast.layers.step_states import _StepOneState, _StepTwoStates
from rnnfast.typing import Array


class _NormLSTM(Recurrent):
    """A layer-normalised LSTM, of one step or of a sequence."""

    column = "lnlstm"
    gates = 4
    more = ("gx", "gh", "gc", "bc")
    of_steps = ("candidate_mask", "h_zoneout", "c_zoneout")


class LayerNormLSTM(_NormLSTM, _StepTwoStates):
    """One step of a layer-normalised LSTM.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    gx, gh, gc, bc
        As in `TimeLayerNormLSTM`.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeLayerNormLSTM`.

    References
    ----------
    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import LayerNormLSTM
    >>> cell = LayerNormLSTM.create(3, 2, rng=0, device="cpu")
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
        gx: Array,
        gh: Array,
        gc: Array,
        bc: Array,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, gx, gh, gc, bc), device)


class TimeLayerNormLSTM(_NormLSTM, _TimeTwoStates):
    """An LSTM with layer normalisation over a sequence.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    gx, gh : array (4H,)
        The gains of the normalised x Wx and h' Wh.
    gc, bc : array (H,)
        The gain and the bias of the normalised c.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b, gx, gh, gc, bc], and their gradients.
    h, c, dh, dc : array (N, H) or None
        The final state, and after backward the gradient of the initial state.

    Notes
    -----
    c' and h' are the state of the step before, LN(u; g) = g (u - mean(u)) / sqrt(var(u) + 1e-5)::

        [A_f, A_g, A_i, A_o] = LN(x Wx; gx) + LN(h' Wh; gh) + b
        f = sigmoid(A_f)    g = tanh(A_g)    i = sigmoid(A_i)    o = sigmoid(A_o)
        c = f c' + g i      h = o tanh(LN(c; gc) + bc)

    These are the equations 20 to 22 of the paper. Mean and variance (the mean square, not divided
    by one number less) are over all 4H numbers of a sample, not over the H numbers of each gate;
    some libraries do the latter. The paper's biases of the first two LN are part of b. The state c
    is not normalised. `create` makes gains of 1 and biases of 0. An `h_mask` is applied before the
    product with Wh.

    References
    ----------
    Ba, Kiros and Hinton 2016, "Layer Normalization", https://arxiv.org/abs/1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeLayerNormLSTM
    >>> layer = TimeLayerNormLSTM.create(3, 2, rng=0, device="cpu")
    >>> layer
    TimeLayerNormLSTM(D=3, H=2, float32, cpu)
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
        gx: Array,
        gh: Array,
        gc: Array,
        bc: Array,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, gx, gh, gc, bc), stateful, device)


class _NormGRU(Recurrent):
    """A layer-normalised GRU, of one step or of a sequence."""

    column = "lngru"
    gates = 3
    more = ("gx", "gh", "bh")
    of_steps = ("candidate_mask", "h_zoneout")


class LayerNormGRU(_NormGRU, _StepOneState):
    """One step of a layer-normalised GRU.

    Parameters
    ----------
    Wx, Wh : array
        (D, 3H) and (H, 3H), in blocks z, r, candidate.
    b : array (3H,) or None
        The bias.
    gx, gh, bh
        As in `TimeLayerNormGRU`.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeLayerNormGRU`.

    References
    ----------
    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import LayerNormGRU
    >>> cell = LayerNormGRU.create(3, 2, rng=0, device="cpu")
    >>> cell.forward(np.ones((1, 3), "f"), None).shape
    (1, 2)
    """

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        *,
        gx: Array,
        gh: Array,
        bh: Array,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, gx, gh, bh), device)


class TimeLayerNormGRU(_NormGRU, _TimeOneState):
    """A GRU with layer normalisation over a sequence.

    Parameters
    ----------
    Wx, Wh : array
        (D, 3H) and (H, 3H), in blocks z, r, candidate.
    b : array (3H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    gx, gh : array (3H,)
        The gains of the normalised x Wx and h' Wh.
    bh : array (H,)
        The bias of the candidate's normalised h' Wh.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b, gx, gh, bh], and their gradients.
    h, dh : array (N, H) or None
        The final state, and after backward the gradient of the initial state.

    Notes
    -----
    h' is the state of the step before, LN(u; g) = g (u - mean(u)) / sqrt(var(u) + 1e-5)::

        z, r = sigmoid(LN(x Wx_zr; gx_zr) + LN(h' Wh_zr; gh_zr) + b_zr)
        h_hat = tanh(LN(x Wx_h; gx_h) + b_h + r (LN(h' Wh_h; gh_h) + bh))
        h = (1 - z) h' + z h_hat

    These are the equations of the paper's supplement. z and r are normalised together, over their
    2H numbers, the candidate apart, over its H numbers; var is the mean square, not divided by one
    number less. r is applied after the product. The paper's biases of z and r are part of b.
    `create` makes gains of 1 and biases of 0. An `h_mask` is applied before the product with Wh.

    References
    ----------
    Ba, Kiros and Hinton 2016, "Layer Normalization", https://arxiv.org/abs/1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import TimeLayerNormGRU
    >>> layer = TimeLayerNormGRU.create(3, 2, rng=0, device="cpu")
    >>> layer
    TimeLayerNormGRU(D=3, H=2, float32, cpu)
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
        gx: Array,
        gh: Array,
        bh: Array,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, gx, gh, bh), stateful, device)
