"""The base of the recurrent layers, of one step and of a sequence: RNN, LSTM and GRU.

The layers check their arguments, keep the state from call to call and leave the mathematics to
their column (rnnfast.kernels). N batch, T time, D input, H hidden.

Deep Learning from Scratch 2, chapter 5 (RNN), 6 (LSTM), 7 and appendix C (GRU). The equations of
all variants are in rnnfast/reference.

Inputs may be views with any strides, and read-only. Real or integer inputs are cast to the dtype
of the weights, float32 or float64; all outputs have this dtype. Wrong input is a TypeError (kind,
dtype) or a ValueError (shape, value) before anything is changed. A backward without its forward is
a RuntimeError.
"""

import inspect
from collections.abc import Sequence
from operator import is_
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.base import Layer, Spec, grad, param
from rnnfast.layers.initial import Initializer, create_recurrent
from rnnfast.typing import Array

Lengths = Array | Sequence[int] | None  # the lengths of the samples
Weights = tuple[Any, ...]  # (Wx, Wh, b) or (Wx, Wh, b, Wp), None for an array that is not there

SMALL = 1 << 40  # elements; every array below this size can be addressed


def adopted(owner: str, weights: Weights, suffix: str = "") -> Weights:
    """(Wx, Wh, b) or (Wx, Wh, b, Wp), each through checks.adopt."""
    names = (f"{name}{suffix}" for name in ("Wx", "Wh", "b", "Wp"))
    return tuple(checks.adopt(owner, name, W) for name, W in zip(names, weights, strict=False))


def specs(
    owner: str, gates: int, weights: Weights, suffix: str = "", two_biases: bool = False
) -> tuple[Spec, ...]:
    """The spec (name, shape, label) of each weight, with H from `_width` and D from Wx.

    weights: (Wx, Wh, b) or (Wx, Wh, b, Wp). two_biases: b is (2, G*H).
    """
    GH = "H" if gates == 1 else f"{gates}H"
    Wx, Wh, *_ = weights
    checks.matrix(owner, f"Wh{suffix}", Wh, f"(H, {GH})")
    D, columns = checks.matrix(owner, f"Wx{suffix}", Wx, f"(D, {GH})")
    H = _width(gates, columns, Wh, weights[2])
    b_shape, b_label = ((2, gates * H), f"(2, {GH})") if two_biases else ((gates * H,), f"({GH},)")
    full = getattr(weights[-1], "ndim", 2) == 3  # a Wp of matrices
    known: tuple[Spec, ...] = (
        (f"Wx{suffix}", (D, gates * H), f"(D, {GH})"),
        (f"Wh{suffix}", (H, gates * H), f"(H, {GH})"),
        (f"b{suffix}", b_shape, b_label),
        (f"Wp{suffix}", (3, H, H), "(3, H, H)") if full else (f"Wp{suffix}", (3, H), "(3, H)"),
    )
    return tuple(spec for spec, W in zip(known, weights, strict=False) if W is not None)


def _width(gates: int, columns: int, Wh: Any, b: Any) -> int:
    """H, by the majority of Wx, Wh and b, so that the error names the third; else from Wh.

    columns: of Wx, which must be gates * H. Only Wh shows by its own shape whether it is right.
    """
    H, wide = Wh.shape
    of_b = getattr(b, "shape", (None,))[-1] if b is not None else None
    if columns == gates * H or columns % gates:
        return int(H)
    return columns // gates if wide != gates * H or of_b == columns else int(H)


class Recurrent(Layer):
    """A recurrent layer: its weights, freezing, and the calls of its column.

    Parameters
    ----------
    weights : tuple
        (Wx, Wh, b) and more; None for an array that is not there.
    device : str, optional
        See `Layer`.
    **options
        Options of the column's forward.
    """

    gates = 1
    states: tuple[str, ...] = ("h",)

    _there: tuple[bool, ...]
    _D: int
    _H: int
    _options: dict[str, Any]
    _packed: Any  # the column's packed weights; None unless frozen
    _thaw: list[Any]  # the arrays that freeze has made read-only
    _weights: Weights
    _weights_of: list[Any] | None

    def __init__(self, weights: Weights, device: str | None, **options: Any) -> None:
        owner = type(self).__name__
        weights = adopted(owner, weights)
        two_biases = options.get("reset_after", False)
        found = specs(owner, self.gates, weights, two_biases=two_biases)
        there = tuple(W is not None for W in weights)
        self._there = there if there[-1] else there[:3]  # which of the column's params
        super().__init__(device, [W for W in weights if W is not None], found)
        self._D, self._H = weights[0].shape[0], weights[1].shape[0]
        self._options = options
        self._packed = self._weights_of = None

    @classmethod
    def create(
        cls,
        D: int,
        H: int,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
        recurrent: str = "normal",
        forget_bias: float = 0.0,
        peepholes: str | None = None,
        **options: Any,
    ) -> Self:
        """Make a layer from its sizes, with the initial weights of the book.

        Parameters
        ----------
        D, H : int
            The width of the input and the number of units.
        rng : int or numpy.random.Generator, optional
            A seed or a generator. The default is `np.random`.
        dtype : {"float32", "float64"}
            The dtype of the weights.
        device : str, optional
            With "auto" (see `rnnfast.get_device`) the weights lie on the GPU if one is usable.
        recurrent : {"normal", "orthogonal"}
            How Wh is drawn. "orthogonal": the block (H, H) of each gate is an orthogonal matrix.
        forget_bias : float
            The initial bias of the forget gate. LSTM only.
        peepholes : {None, "diagonal", "full"}
            Draw Wp (3, H) or (3, H, H). LSTM only.
        **options
            Keywords of the constructor: stateful, nonlinearity, cell_clip, reset_after, z_keeps.

        Returns
        -------
        layer
            An instance of this class.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument. No number has been drawn then.

        Notes
        -----
        Wx is normal / sqrt(D); Wh and Wp are normal / sqrt(H); b is zero (Deep Learning from
        Scratch 2, chapter 6). The numbers are drawn in float64, in the order Wx, Wh, Wp; of two
        directions, forward comes first.

        References
        ----------
        Orthogonal matrices: Saxe et al. 2013, https://arxiv.org/abs/1312.6120.
        A forget bias of 1: Jozefowicz et al. 2015, "An empirical exploration of recurrent network
        architectures".

        Examples
        --------
        >>> from rnnfast import GRU, TimeLSTM
        >>> TimeLSTM.create(100, 200, rng=0, stateful=True, device="cpu")
        TimeLSTM(D=100, H=200, stateful=True, float32, cpu)
        >>> lstm = TimeLSTM.create(3, 2, rng=0, recurrent="orthogonal", forget_bias=1.0)
        >>> [float(bias) for bias in lstm.params[2]]
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> GRU.create(3, 2, reset_after=True).params[2].shape
        (2, 6)
        """
        draw = Initializer(cls.__name__, rng, dtype, device)
        return create_recurrent(
            cls, cls, ("",), (D, H), draw, recurrent, forget_bias, peepholes, options
        )

    Wx, Wh = param(0), param(1)
    dWx, dWh = grad(0), grad(1)

    def freeze(self) -> None:
        """Lay the weights out once, for many calls of forward(..., train=False).

        Until `unfreeze` the arrays in params are read-only, and a training forward is a
        RuntimeError. CuPy arrays have no read-only flag; load_params, checkpoints and optimizers
        refuse to write them.

        Notes
        -----
        The results are the same bits. If a weight is a view and is changed through its base array,
        the change has no effect until the next `freeze`. A copy of a frozen layer is not frozen.
        """
        if self._packed is None:
            weights = self._checked_weights(True)
            self._packed = self._kernel.pack(weights, **self._options)
            self._thaw = self.params[:]
            for p in self._thaw:
                checks.freeze(p, self)

    @property
    def frozen(self) -> bool:
        """True between freeze and unfreeze."""
        return self._packed is not None

    def unfreeze(self) -> None:
        """Make those params writeable again that were so before `freeze`.

        An array that belongs to another frozen layer, too, stays read-only until that layer is
        unfrozen.
        """
        if self._packed is not None:
            self._packed = None
            for p in self._thaw:
                checks.thaw(p, self)
            self._thaw = []

    def _sizes(self) -> list[str]:
        return [f"D={self._D}", f"H={self._H}"]

    def _choices(self) -> list[str]:
        return self._options_shown() + (["stateful=True"] if self._keeps_state() else [])

    def _keeps_state(self) -> bool:
        """Whether the state goes from one forward to the next."""
        return False

    def _options_shown(self) -> list[str]:
        """The variant of the cell for repr: no bias, peepholes, options."""
        shown = [] if self._there[2] else ["b=None"]
        if len(self._there) > 3:
            shown.append(f"Wp={self._specs[-1][2]}")
        arguments = inspect.signature(type(self)).parameters
        for name, value in self._options.items():
            if name not in arguments or value != arguments[name].default:
                shown.append(f"{name}={value!r}")
        return shown

    def _entries(self) -> list[str]:
        return super()._entries() + (["frozen"] if self.frozen else [])

    def _checked_weights(self, train: bool) -> Any:
        """The params for the column, or the packed ones of a frozen layer."""
        if self._packed is not None:
            if train:
                raise RuntimeError(
                    f"{self._name}: the layer is frozen; unfreeze() it or use train=False"
                )
            if not all(map(is_, self.params, self._checked)):
                raise RuntimeError(f"{self._name}: params were replaced; unfreeze() before that")
            return self._packed
        params = self._checked_params()
        if self._weights_of is not self._checked:
            given = iter(params)
            self._weights = tuple(next(given) if there else None for there in self._there)
            self._weights_of = self._checked
        return self._weights

    def _checked_states(
        self, names: Sequence[str], values: Sequence[Any], N: int
    ) -> tuple[Any, ...] | None:
        """values as a tuple of (N, H) arrays for the column, or None if all of them are zero.

        Zero is None, or the number 0 with which the book's loops start a gradient.
        """
        states: list[Any] = []
        zeros, shape, dtype = 0, (N, self._H), self.dtype
        usual = self.params[0].__class__
        for name, value in zip(names, values, strict=True):
            if value.__class__ is usual and value.dtype is dtype and value.shape == shape:
                states.append(value)
                continue
            if value is None or (isinstance(value, (int, float)) and value == 0):
                states.append(None)
                zeros += 1
                continue
            value = checks.real(self._name, name, value)
            if value.shape != shape:
                error = checks.shape_error(self._name, name, f"(N, H) = {shape}", value)
                if names is self.states and value.shape[1:] == shape[1:]:
                    kept = f"a state of batch {len(value)} is kept; call reset_state()"
                    error = ValueError(f"{error}: {kept}")
                raise error
            states.append(checks.cast(value, dtype))
        if zeros == len(states):
            return None
        if zeros:
            xp = checks.namespace(next(s for s in states if s is not None))
            states = [xp.zeros(shape, self.dtype) if s is None else s for s in states]
        return tuple(states)

    def _run(
        self,
        xs: Any,
        state: Any,
        weights: Any,
        train: bool,
        lengths: Any = None,
        reverse: bool = False,
        h_mask: Any = None,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Call the column's forward with checked arguments; replace the cache."""
        hs, state, cache = self._kernel.forward(
            xs,
            state,
            weights,
            train=train,
            lengths=lengths,
            reverse=reverse,
            h_mask=h_mask,
            **self._options,
        )
        self.cache = None if cache is None else (cache, weights, hs.shape)
        return hs, state

    def _run_back(
        self, dhs: Any, dstate: tuple[Any, ...] | None, grads: list[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Call the column's backward with checked arguments; drop the cache."""
        cache, weights, _ = self.cache
        if len(grads) < len(weights):  # None for each weight that is not there
            given = iter(grads)
            grads = [next(given) if there else None for there in self._there]
        result: tuple[Any, tuple[Any, ...]]
        result = self._kernel.backward(dhs, dstate, weights, cache, grads)
        self.cache = None
        return result


def checked_lengths(owner: str, lengths: Any, N: int, T: int) -> Any:
    """lengths as the columns take them, NumPy's intp; None if all of them are T.

    A tuple or a list is accepted. An array on a GPU is copied to the host and synchronizes.
    """
    if isinstance(lengths, (tuple, list)):
        lengths = np.asarray(lengths, None if lengths else np.intp)
    lengths = checks.integers(owner, "lengths", lengths)
    if lengths.shape != (N,):
        raise checks.shape_error(owner, "lengths", f"(N,) = ({N},)", lengths)
    lengths = lengths.get() if checks.is_cupy(lengths) else lengths
    checks.in_range(owner, "lengths", lengths, T + 1)
    return None if (lengths == T).all() else np.ascontiguousarray(lengths, np.intp)
