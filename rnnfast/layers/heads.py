"""The sLSTM of xLSTM, of one step and of a sequence: exponential gates, a normaliser, heads.

N batch, T time, D input, H hidden, K units of a head. Inputs and errors: see
rnnfast.layers.recurrent.
"""

from typing import Any, overload

from rnnfast.layers.recurrent import Recurrent
from rnnfast.layers.states import _TimeFourStates
from rnnfast.layers.step_states import _Step
from rnnfast.typing import A, Array, Floats, Integers


class Heads(Recurrent):
    """What both have beside: heads, and Wh of each of them."""

    column = "slstm"
    gates = 4
    in_heads = True

    @property
    def heads(self) -> int:
        """The number of heads, H / K."""
        return self.gates * self._H // int(self._specs[1][1][1])

    def _sizes(self) -> list[str]:
        return [*super()._sizes(), f"heads={self.heads}"]


class TimeSLSTM(Heads, _TimeFourStates):
    """An sLSTM over a sequence: the LSTM of xLSTM with exponential gates.

    Parameters
    ----------
    Wx : array
        (D, 4H), in blocks f, g, i, o.
    Wh : array
        (H, 4K): a matrix (K, 4K) for each head, one below the other, each in blocks f, g, i, o.
        The heads are H / K; with K = H there is one.
    b : array (4H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b] and their gradients.
    h, c, n, m : array (N, H) or None
        The final state: the output, the cell, its normaliser and its stabiliser.
    dh, dc, dn, dm : array (N, H) or None
        After backward the gradient of the initial state.
    heads : int
        H / K.

    Notes
    -----
    h', c', n' and m' are the state of the step before; heads(h', Wh) is the product of the K units
    of each head with its own matrix::

        [A_f, A_g, A_i, A_o] = x Wx + heads(h', Wh) + b
        m = max(log sigmoid(A_f) + m', A_i)         m = A_i where n' is 0, as at first
        f = exp(log sigmoid(A_f) + m' - m)    i = exp(A_i - m)
        g = tanh(A_g)                         o = sigmoid(A_o)
        c = f c' + i g    n = f n' + i        h = o c / n

    The input gate is exponential, the forget gate a sigmoid; m scales c and n so that neither
    overflows, and does not change h. g is z in the paper. It is the sLSTM of the package xlstm,
    without the convolution, the norm and the projections of its block. n has to be positive or 0.

    References
    ----------
    Beck et al. 2024, https://arxiv.org/abs/2405.04517.

    Examples
    --------
    >>> from rnnfast import TimeSLSTM
    >>> layer = TimeSLSTM.create(3, 4, heads=2, rng=0, device="cpu")
    >>> layer
    TimeSLSTM(D=3, H=4, heads=2, float32, cpu)
    >>> hs = layer.forward(np.ones((1, 5, 3), "f"))
    >>> hs.shape, layer.Wh.shape, layer.n.shape
    ((1, 5, 4), (4, 8), (1, 4))
    """

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        stateful: bool = False,
        *,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b), stateful, device)


class SLSTM(Heads, _Step):
    """One step of an sLSTM.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (H, 4K), as in `TimeSLSTM`.
    b : array (4H,) or None
        The bias.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeSLSTM`.

    References
    ----------
    Beck et al. 2024, https://arxiv.org/abs/2405.04517.

    Examples
    --------
    >>> from rnnfast import SLSTM
    >>> cell = SLSTM.create(3, 4, heads=2, rng=0, device="cpu")
    >>> h, c, n, m = cell.forward(np.ones((1, 3), "f"), None, None, None, None)
    >>> h.shape, n
    ((1, 4), array([[1., 1., 1., 1.]], dtype=float32))
    """

    states = ("h", "c", "n", "m")

    def __init__(self, Wx: Array, Wh: Array, b: Array | None, *, device: str | None = None) -> None:
        super().__init__((Wx, Wh, b), device)

    @overload
    def forward(
        self,
        x: Integers,
        h_prev: Array | None,
        c_prev: Array | None,
        n_prev: Array | None,
        m_prev: Array | None,
        *,
        train: bool = True,
    ) -> tuple[Floats, ...]: ...
    @overload
    def forward(
        self,
        x: A,
        h_prev: Array | None,
        c_prev: Array | None,
        n_prev: Array | None,
        m_prev: Array | None,
        *,
        train: bool = True,
    ) -> tuple[A, ...]: ...
    def forward(
        self,
        x: Any,
        h_prev: Array | None,
        c_prev: Array | None,
        n_prev: Array | None,
        m_prev: Array | None,
        *,
        train: bool = True,
    ) -> tuple[Any, ...]:
        """Compute one step.

        Parameters
        ----------
        x : array (N, D)
            The input.
        h_prev, c_prev, n_prev, m_prev : array (N, H) or None
            The state before the step. None is zeros.
        train : bool
            False keeps nothing for a backward.

        Returns
        -------
        h_next, c_next, n_next, m_next : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            If the layer is frozen and train is True.
        """
        return self._forward(x, h_prev, c_prev, n_prev, m_prev, train=train)

    def backward(
        self,
        dh_next: Array | None,
        dc_next: Array | None,
        dn_next: Array | None,
        dm_next: Array | None,
    ) -> tuple[Any, ...]:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dh_next, dc_next, dn_next, dm_next : array (N, H) or None
            The gradients of the next state. None is zeros.

        Returns
        -------
        dx : array (N, D)
        dh_prev, dc_prev, dn_prev, dm_prev : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(dh_next, dc_next, dn_next, dm_next)
