"""The base of the recurrent layers, of one step and of a sequence.

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
from functools import partial
from operator import is_
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.layers.base import Layer, grad, param
from rnnfast.layers.created import Created
from rnnfast.layers.weights import Weights, adopted, specs
from rnnfast.typing import Array

Lengths = Array | Sequence[int] | None  # the lengths of the samples

DEFAULTS = {"nonlinearity": "tanh", "reset_after": False, "z_keeps": False}  # of the columns

SMALL = 1 << 40  # elements; every array below this size can be addressed


class Recurrent(Created, Layer):
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
    more: tuple[str, ...] = ()  # the names of the weights after Wx, Wh and b
    wide = "H"  # the letter of the width of h
    in_heads = False  # whether Wh is (H, G*K)
    of_steps: tuple[str, ...] = ()  # arguments of forward, numbers of each step, that the cell has

    _there: tuple[bool, ...]
    _D: int
    _H: int
    _P: int  # the width of h, H without a projection
    _widths: tuple[int, ...]  # of each state
    _options: dict[str, Any]
    _given: dict[str, Any]  # those that the column must be told: a call without any is faster
    _packed: Any  # the column's packed weights; None unless frozen
    _precision: str | None  # of these
    _thaw: list[Any]  # the arrays that freeze has made read-only
    _weights: Weights
    _weights_of: list[Any] | None

    def __init__(self, weights: Weights, device: str | None, **options: Any) -> None:
        owner = type(self).__name__
        weights = adopted(owner, self.more, weights)
        two_biases = options.get("reset_after", False)
        found = specs(owner, self.gates, self.more, weights, "", two_biases, self.in_heads)
        there = tuple(W is not None for W in weights)
        while len(there) > 3 and not there[-1]:
            there = there[:-1]
        self._there = there  # which of the column's params
        super().__init__(device, [W for W in weights if W is not None], found)
        (self._D, columns), self._P = weights[0].shape, weights[1].shape[0]
        self._H = columns // self.gates
        self._widths = tuple(self._P if name == "h" else self._H for name in self.states)
        self._options = options
        self._given = {n: v for n, v in options.items() if v != DEFAULTS.get(n)}
        self._packed = self._precision = self._weights_of = None
        self._thaw = []

    Wx, Wh = param(0), param(1)
    dWx, dWh = grad(0), grad(1)

    def width_of(self, name: str) -> int:
        """Return how many numbers of a sample a mask or the shares of zoneout have.

        Parameters
        ----------
        name : {"h_mask", "h_zoneout", "candidate_mask", "c_zoneout"}

        Returns
        -------
        int
            The width of h for those of h, else H. They differ with a projection alone.
        """
        return self._P if name.startswith("h_") else self._H

    def freeze(self, precision: str | None = None) -> None:
        """Lay the weights out once, for many calls of forward(..., train=False).

        Until `unfreeze` the arrays in params are read-only, and a training forward is a
        RuntimeError. CuPy arrays have no read-only flag; load_params, checkpoints and optimizers
        refuse to write them.

        Parameters
        ----------
        precision : {None, "bf16", "int8"}
            None keeps the weights as they are. "bf16" rounds them to bfloat16 and "int8" to
            integers of 8 bits with a scale for each column of Wx and Wh, and rounds x and h alike
            in each step. Sums, gates and the state stay float32 (sums of integers are exact). Both
            are for float32 weights of RNN, LSTM and GRU on a CPU.

        Raises
        ------
        ValueError
            For another precision, and for one of another cell, of an LSTM with matrices of
            peepholes, of a GPU, and "int8" with relu, whose h has no bound.
        TypeError
            For a precision with float64 weights.
        RuntimeError
            If the layer is frozen with another precision.

        Notes
        -----
        Without a precision the results are the same bits. With one, how far hs is from the exact
        one depends on the model: mostly up to 2e-2 in "bf16" and 5e-2 in "int8", but where a unit
        is about to switch, a single value can be on the other side. Measure what you need it for.
        In "int8" a NaN of h is 0 for the next step's product, and an infinite x makes h NaN.
        If a weight is a view and is changed through its base array, the change has no effect until
        the next `freeze`. A copy of a frozen layer is not frozen.

        Examples
        --------
        >>> from rnnfast import TimeLSTM
        >>> lstm = TimeLSTM.create(100, 200, rng=0, device="cpu")
        >>> lstm.freeze("bf16")
        >>> lstm
        TimeLSTM(D=100, H=200, float32, cpu, frozen, bf16)
        """
        if precision not in (None, "bf16", "int8"):
            raise ValueError(
                f"{self._name}: precision must be None, 'bf16' or 'int8', got {precision!r}"
            )
        if self._packed is not None and precision != self._precision:
            raise RuntimeError(
                f"{self._name}: the layer is frozen with precision {self._precision!r}; "
                "unfreeze() it before that"
            )
        if self._packed is None:
            weights = self._checked_weights(True)
            try:
                packed = self._kernel.pack(weights, precision=precision, **self._options)
            except (TypeError, ValueError) as error:  # that names the cell
                words = str(error).removeprefix(f"{self.column}: ")
                raise type(error)(f"{self._name}: {words}") from None
            try:
                self._thaw = self.params[:]
                for p in self._thaw:
                    checks.freeze(p, self)
                self._precision, self._packed = precision, packed
            except BaseException:  # by a signal
                self.unfreeze()
                raise

    @property
    def frozen(self) -> bool:
        """True between freeze and unfreeze."""
        return self._packed is not None

    def unfreeze(self) -> None:
        """Make those params writeable again that were so before `freeze`.

        An array that belongs to another frozen layer, too, stays read-only until that layer is
        unfrozen. If a signal interrupts this, call it again.
        """
        for p in self._thaw:
            checks.thaw(p, self)
        self._packed = self._precision = None
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
        if self.more == ("Wp",) and len(self._there) > 3:
            shown.append(f"Wp={self._specs[-1][2]}")
        arguments = inspect.signature(type(self)).parameters
        for name, value in self._options.items():
            if name not in arguments or value != arguments[name].default:
                shown.append(f"{name}={value!r}")
        return shown

    def _entries(self) -> list[str]:
        return super()._entries() + self._entries_of_freezing()

    def _entries_of_freezing(self) -> list[str]:
        return ["frozen", *filter(None, [self._precision])] if self.frozen else []

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
        self, values: Sequence[Any], N: int, form: str = "{}"
    ) -> tuple[Any, ...] | None:
        """values as a tuple of arrays for the column, or None if all of them are zero.

        Zero is None, or the number 0 with which the book's loops start a gradient. form makes the
        name of an argument from that of its state: "d{}_next".
        """
        states: list[Any] = []
        zeros, dtype = 0, self.dtype
        usual = self.params[0].__class__
        for name, value, width in zip(self.states, values, self._widths, strict=True):
            shape = N, width
            if value.__class__ is usual and value.dtype is dtype and value.shape == shape:
                states.append(value)
                continue
            if value is None or (isinstance(value, (int, float)) and value == 0):
                states.append(None)
                zeros += 1
                continue
            argument = form.format(name)
            value = checks.real(self._name, argument, value)
            if value.shape != shape:
                label = f"{self._label(name)} = {shape}"
                error = checks.shape_error(self._name, argument, label, value)
                if argument == name and value.shape[1:] == shape[1:]:
                    kept = f"a state of batch {len(value)} is kept; reset_state() drops it"
                    error = ValueError(f"{error}: {kept}")
                raise error
            states.append(checks.cast(value, dtype))
        if zeros == len(states):
            return None
        if zeros:
            xp = checks.namespace(next(s for s in states if s is not None))
            shapes = [(N, width) for width in self._widths]
            states = [
                xp.zeros(shape, dtype) if s is None else s
                for s, shape in zip(states, shapes, strict=True)
            ]
        return tuple(states)

    def _label(self, name: str) -> str:
        """The shape of a state or its gradient, in letters."""
        return f"(N, {self.wide})" if name == "h" else "(N, H)"

    def _run(
        self,
        xs: Any,
        state: Any,
        weights: Any,
        train: bool,
        more: dict[str, Any],
    ) -> tuple[Any, tuple[Any, ...]]:
        """Call the column's forward with checked arguments; replace the cache.

        more: lengths, reverse, h_mask, and arrays of each step.
        """
        forward = self._kernel.forward
        if more or self._given:
            forward = partial(forward, **more, **self._given)
        hs, state, cache = forward(xs, state, weights, train=train)
        self.cache = None if cache is None else (cache, weights, hs.shape)
        return hs, state

    def _run_back(
        self, dhs: Any, dstate: tuple[Any, ...] | None, grads: list[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Call the column's backward with checked arguments; drop the cache."""
        cache, weights, _ = self._pending()
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
    lengths = checks.integers(owner, "lengths", checks.listed(owner, "lengths", lengths))
    if lengths.shape != (N,):
        raise checks.shape_error(owner, "lengths", f"(N,) = ({N},)", lengths)
    lengths = lengths.get() if checks.is_cupy(lengths) else lengths
    checks.in_range(owner, "lengths", lengths, T + 1)
    return None if (lengths == T).all() else np.ascontiguousarray(lengths, np.intp)
