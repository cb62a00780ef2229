"""The LSTM with a projection, LSTMP, of one step and of a sequence: h is not as wide as c.

N batch, T time, D input, H cells, P width of h. Inputs and errors: see rnnfast.layers.recurrent.
"""

from rnnfast.layers.options import cell_clip_option
from rnnfast.layers.recurrent import Recurrent
from rnnfast.layers.states import _TimeTwoStates
from rnnfast.layers.step_states import _StepTwoStates
from rnnfast.typing import Array


class Projection(Recurrent):
    """What both have beside: the width of h."""

    column = "lstmp"
    gates = 4
    more = ("Wproj",)
    wide = "P"
    of_steps = ("candidate_mask", "h_zoneout", "c_zoneout")

    @property
    def proj_size(self) -> int:
        """The width of h, P."""
        return self._P

    def _sizes(self) -> list[str]:
        return [*super()._sizes(), f"proj_size={self._P}"]


class TimeLSTMP(Projection, _TimeTwoStates):
    """An LSTM with a projection over a sequence: h is Wproj times what the cell shows.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (P, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    stateful : bool
        Start each forward from the final state of the one before.
    Wproj : array (H, P)
        The projection.
    cell_clip : float, optional
        The cell stays in [-cell_clip, cell_clip]. Where it is at a bound, no gradient passes.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Attributes
    ----------
    params, grads : list
        [Wx, Wh, b, Wproj] and their gradients.
    h, dh : array (N, P) or None
        The final h, and after backward the gradient of the initial one. An h_mask is (N, P), too.
    c, dc : array (N, H) or None
        The same for the cell.
    proj_size : int
        P.

    Notes
    -----
    c' and h' are the state of the step before; hs is (N, T, P)::

        [A_f, A_g, A_i, A_o] = x Wx + h' Wh + b
        f = sigmoid(A_f)    g = tanh(A_g)    i = sigmoid(A_i)    o = sigmoid(A_o)
        c = f c' + g i      h = (o tanh(c)) Wproj

    It is PyTorch's nn.LSTM(proj_size=P), whose weight_hr is Wproj transposed. P may be any size;
    with P below H the layer has fewer weights than an LSTM with as many cells. There are no
    peepholes.

    References
    ----------
    Sak et al. 2014, https://arxiv.org/abs/1402.1128.

    Examples
    --------
    >>> from rnnfast import TimeLSTMP
    >>> layer = TimeLSTMP.create(3, 4, proj_size=2, rng=0, device="cpu")
    >>> layer
    TimeLSTMP(D=3, H=4, proj_size=2, float32, cpu)
    >>> hs = layer.forward(np.ones((1, 5, 3), "f"))
    >>> hs.shape, layer.h.shape, layer.c.shape
    ((1, 5, 2), (1, 2), (1, 4))
    """

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        stateful: bool = False,
        *,
        Wproj: Array,
        cell_clip: float | None = None,
        device: str | None = None,
    ) -> None:
        options = cell_clip_option(self, cell_clip)
        super().__init__((Wx, Wh, b, Wproj), stateful, device, **options)


class LSTMP(Projection, _StepTwoStates):
    """One step of an LSTM with a projection.

    Parameters
    ----------
    Wx, Wh : array
        (D, 4H) and (P, 4H), in blocks f, g, i, o.
    b : array (4H,) or None
        The bias.
    Wproj, cell_clip
        As in `TimeLSTMP`.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; default: `rnnfast.get_device()`.

    Notes
    -----
    The equations are in `TimeLSTMP`.

    References
    ----------
    Sak et al. 2014, https://arxiv.org/abs/1402.1128.

    Examples
    --------
    >>> from rnnfast import LSTMP
    >>> cell = LSTMP.create(3, 4, proj_size=2, rng=0, device="cpu")
    >>> h, c = cell.forward(np.ones((1, 3), "f"), None, None)
    >>> h.shape, c.shape
    ((1, 2), (1, 4))
    """

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array | None,
        *,
        Wproj: Array,
        cell_clip: float | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__((Wx, Wh, b, Wproj), device, **cell_clip_option(self, cell_clip))
