"""A cell over a whole sequence: its state, lengths, masks, forward and backward.

N batch, T time, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from collections.abc import Callable
from typing import Any, overload

from rnnfast import checks
from rnnfast.layers.options import of_steps
from rnnfast.layers.recurrent import SMALL, Lengths, Recurrent, checked_lengths
from rnnfast.layers.weights import Weights
from rnnfast.typing import A, Array, Floats, Integers

Checked = tuple[Any, tuple[Any, ...] | None, Any]  # of forward: xs, state, weights


class _Time(Recurrent):
    """A sequence.

    stateful=True starts each forward from the final state of the one before (`h`, and `c` of an
    LSTM; zeros at first and after reset_state), stateful=False from zeros. In both cases h and c
    are the final state afterwards. After backward, dh and dc are the gradient of the initial state.
    """

    stateful: bool
    h: Any
    dh: Any
    _Wh_mask: Any
    _keep: Callable[..., None]  # methods: make these arrays the state,
    _keep_gradients: Callable[..., None]  # or its gradients

    def __init__(
        self, weights: Weights, stateful: bool, device: str | None, **options: Any
    ) -> None:
        super().__init__(weights, device, **options)
        self.stateful = stateful
        self._Wh_mask = None
        self.reset_state()
        for name in self.states:
            setattr(self, f"d{name}", None)

    @property
    def state(self) -> tuple[Any, ...]:
        """The arrays of the state, in the order of `states`."""
        raise NotImplementedError

    @overload
    def forward(
        self,
        xs: Integers,
        *,
        train: bool = True,
        lengths: Lengths = None,
        h_mask: Array | None = None,
        Wh_mask: Array | None = None,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> Floats: ...
    @overload
    def forward(
        self,
        xs: A,
        *,
        train: bool = True,
        lengths: Lengths = None,
        h_mask: Array | None = None,
        Wh_mask: Array | None = None,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> A: ...
    def forward(
        self,
        xs: Any,
        *,
        train: bool = True,
        lengths: Lengths = None,
        h_mask: Array | None = None,
        Wh_mask: Array | None = None,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> Any:
        """Run the layer over a sequence.

        Parameters
        ----------
        xs : array (N, T, D)
            The input.
        train : bool
            False keeps nothing for a backward.
        lengths : array of int (N,), list or tuple, optional
            In [0, T]: the number of steps of each sample. After its last step the state of a sample
            stays, hs and all gradients are 0, and the values of xs are not used.
        h_mask : array (N, H), optional
            Multiplies h before every product with Wh, the same at every step: variational dropout
            on the recurrent path (`TimeDropout.draw` makes a mask). hs and the state are not
            masked.
        Wh_mask : array like Wh, optional
            Multiplies Wh in this call: DropConnect, the weight drop of AWD-LSTM. Not for a frozen
            layer.
        candidate_mask : array (N, T, H) or (N, H), optional
            Multiplies the candidate at every step, g of an LSTM and h_hat of a GRU: recurrent
            dropout without memory loss. (N, H) is the same at every step. Not for RNN and sLSTM.
        h_zoneout : float or array (N, T, H) or (N, H), optional
            Zoneout: the share of h that each step keeps, 0 or 1 in training; in evaluation the
            probability, a number. Of an LSTMP it is as wide as h. Not for sLSTM.
        c_zoneout : float or array (N, T, H) or (N, H), optional
            The same for the c of an LSTM, whatever it has beside. Not for sLSTM.

        Returns
        -------
        array (N, T, H)
            hs, the outputs of all steps.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            If the layer is frozen and train is True or Wh_mask is given.

        References
        ----------
        h_mask: Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287.
        Wh_mask: Merity et al. 2017, https://arxiv.org/abs/1708.02182.
        candidate_mask: Semeniuta, Severyn and Barth 2016, https://arxiv.org/abs/1603.05118.
        Zoneout: Krueger et al. 2016, https://arxiv.org/abs/1606.01305.

        Examples
        --------
        >>> from rnnfast import TimeGRU
        >>> gru = TimeGRU.create(3, 2, rng=0, device="cpu")
        >>> hs = gru.forward(np.ones((2, 5, 3), "f"), lengths=[5, 1])
        >>> hs.shape
        (2, 5, 2)
        >>> hs[1, 1:].any()
        np.False_
        """
        checked = self._checked_forward(xs, train)
        if lengths is h_mask is Wh_mask is candidate_mask is h_zoneout is c_zoneout is None:
            return self._forward(checked, train)
        xs, state, weights = checked
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        if h_mask is not None:
            h_mask = self._checked_mask("h_mask", h_mask, self._label("h"), (len(xs), self._P))
        if Wh_mask is not None:
            if self.frozen:
                raise RuntimeError(f"{self._name}: Wh_mask is not for a frozen layer")
            Wh_mask = self._checked_mask("Wh_mask", Wh_mask, "like Wh", self.Wh.shape)
            weights = (weights[0], weights[1] * Wh_mask, *weights[2:])
        given = {
            "candidate_mask": candidate_mask,
            "h_zoneout": h_zoneout,
            "c_zoneout": c_zoneout,
        }
        own = of_steps(self, len(xs), xs.shape[1], given)
        hs = self._forward((xs, state, weights), train, lengths=lengths, h_mask=h_mask, **own)
        self._Wh_mask = Wh_mask if train else None
        return hs

    def _keeps_state(self) -> bool:
        return self.stateful

    def _before(self) -> tuple[Any, ...]:
        """Everything that a forward changes."""
        return self.cache, self._Wh_mask, self.state

    def _restore(self, before: tuple[Any, ...]) -> None:
        """Undo a forward."""
        self.cache, self._Wh_mask, state = before
        self._keep(*state)

    def _checked_mask(self, name: str, mask: Any, label: str, shape: tuple[int, ...]) -> Any:
        """A mask of this shape, of the weights' dtype."""
        mask = checks.real(self._name, name, mask)
        if mask.shape != shape:
            raise checks.shape_error(self._name, name, f"{label} = {shape}", mask)
        return checks.cast(mask, self.dtype)

    def _checked_forward(self, xs: Any, train: bool) -> Checked:
        """The arguments of the column: xs, the initial state, the weights."""
        weights = self._checked_weights(train)
        # A quick test for the usual input, an array like Wx; all other input is checked in full.
        usual = self.params[0].__class__
        if not (xs.__class__ is usual and xs.dtype is self.dtype and xs.ndim == 3):
            xs = checks.real(self._name, "xs", xs)
        shape = xs.shape
        if len(shape) != 3 or shape[2] != self._D:
            raise checks.shape_error(self._name, "xs", f"(N, T, D) = (N, T, {self._D})", xs)
        N, T, D = shape
        if not 0 < N * T * (D + self._H + self._P) < SMALL:
            widest = max(D, 8 * max(self._H, self._P))
            checks.fits(self._name, "(N, T, max(D, 8H))", N, T, widest)
        state = None
        if self.stateful:
            state = self._checked_states(self.state, N)
        if xs.dtype is not self.dtype:
            xs = checks.cast(xs, self.dtype)
        return xs, state, weights

    def _forward(self, checked: Checked, train: bool, **more: Any) -> Any:
        """forward with checked arguments; more: see `_run`."""
        xs, state, weights = checked
        hs, state = self._run(xs, state, weights, train, more)
        self._Wh_mask = None
        self._keep(*state)
        return hs

    def _checked_backward(
        self, dhs: Any, *dstate: Any
    ) -> tuple[Any, tuple[Any, ...] | None, list[Any]]:
        """The arguments of the column's backward: dhs, dstate, grads."""
        shape = self._pending()[2]
        if dhs is None:
            dhs = checks.namespace(self.params[0]).zeros(shape, self.dtype)
        dhs = checks.real(self._name, "dhs", dhs)
        if dhs.shape != shape:
            raise checks.shape_error(self._name, "dhs", f"(N, T, {self.wide}) = {shape}", dhs)
        return checks.cast(dhs, self.dtype), *self._check_rest(*dstate)

    def _check_rest(self, *dstate: Any) -> tuple[tuple[Any, ...] | None, list[Any]]:
        """The arguments of the column's backward after dhs: dstate, grads."""
        N = self._pending()[2][0]
        given = self._checked_states(dstate, N, "d{}") if dstate else None
        return given, self._checked_grads()

    def _backward(self, checked: tuple[Any, tuple[Any, ...] | None, list[Any]]) -> Any:
        """backward with checked arguments."""
        dxs, dstate = self._run_back(*checked)
        mask = self._Wh_mask
        if mask is not None:
            dWh = self.grads[1]  # which stays the list's
            dWh *= mask
        self._keep_gradients(*dstate)
        return dxs

    def _set_state(self, *values: Any) -> None:
        """Make these arrays the state, checked."""
        for name, value in zip(self.states, self._adopted_states(*values), strict=True):
            setattr(self, name, value)

    def _adopted_states(self, *values: Any) -> list[Any]:
        """The arrays for set_state, checked."""
        taken = []
        if not self.stateful and any(value is not None for value in values):
            raise ValueError(
                f"{self._name}: stateful must be True for set_state, got False, with which every "
                "forward starts from zeros"
            )
        for name, value, width in zip(self.states, values, self._widths, strict=True):
            if value is not None:
                value = checks.real(self._name, name, value)
                if value.ndim != 2 or value.shape[1] != width:
                    label = f"{self._label(name)} = (N, {width})"
                    raise checks.shape_error(self._name, name, label, value)
            taken.append(value)
        batches = {len(value) for value in taken if value is not None}
        if len(batches) > 1:
            names, found = ", ".join(self.states), " and ".join(map(str, sorted(batches)))
            raise ValueError(f"{self._name}: {names} must be of one batch, got {found} samples")
        return taken

    def reset_state(self) -> None:
        """Start the next forward from zeros."""
        for name in self.states:
            setattr(self, name, None)
