"""One step of a cell with one state, h, and with two, h and c.

N batch, D input, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from typing import Any, overload

import numpy as np

from rnnfast import checks
from rnnfast.layers.options import of_steps
from rnnfast.layers.recurrent import Recurrent
from rnnfast.typing import A, Array, Floats, Integers


class _Step(Recurrent):
    """One step: a sequence of length 1."""

    def _forward(self, x: Any, *states: Any, train: bool, **given: Any) -> tuple[Any, ...]:
        """The next state. given: the masks and shares, or None."""
        weights = self._checked_weights(train)
        x = checks.real(self._name, "x", x)
        if x.ndim != 2 or x.shape[1] != self._D:
            raise checks.shape_error(self._name, "x", f"(N, D) = (N, {self._D})", x)
        N = x.shape[0]
        checks.fits(self._name, "(N, 8H)", N, 8 * max(self._H, self._P))
        state = self._checked_states(states, N, "{}_prev")
        own = of_steps(self, N, None, given)
        x = checks.cast(x, self.dtype)
        return self._run(x[:, np.newaxis], state, weights, train, own)[1]

    def _backward(self, dh_next: Any, *rest: Any) -> tuple[Any, ...]:
        """The gradients of x and of the state before the step."""
        N, T, H = self._pending()[2]
        dstate = self._checked_states((dh_next, *rest), N, "d{}_next")
        # h_next is both hs[:, 0] and the final state; its gradient is passed as the state's
        xp = np if dstate is None else checks.namespace(dstate[0])
        dhs = xp.zeros((N, T, H), self.dtype)
        dxs, dbefore = self._run_back(dhs, dstate, self._checked_grads())
        return dxs[:, 0], *dbefore


class _StepOneState(_Step):
    """A step of a cell whose state is h."""

    @overload
    def forward(
        self,
        x: Integers,
        h_prev: Array | None,
        *,
        train: bool = True,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
    ) -> Floats: ...
    @overload
    def forward(
        self,
        x: A,
        h_prev: Array | None,
        *,
        train: bool = True,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
    ) -> A: ...
    def forward(
        self,
        x: Any,
        h_prev: Array | None,
        *,
        train: bool = True,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
    ) -> Any:
        """Compute one step.

        Parameters
        ----------
        x : array (N, D)
            The input.
        h_prev : array (N, H) or None
            The state before the step. None is zeros.
        train : bool
            False keeps nothing for a backward.
        candidate_mask : array (N, H), optional
            Multiplies the candidate: recurrent dropout without memory loss. Not for RNN.
        h_zoneout : float or array (N, H), optional
            Zoneout: the share of h_prev that the step keeps, 0 or 1 in training; in evaluation the
            probability, a number.

        Returns
        -------
        array (N, H)
            h_next.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            If the layer is frozen and train is True.

        References
        ----------
        See `TimeLSTM.forward`.
        """
        given = {"candidate_mask": candidate_mask, "h_zoneout": h_zoneout}
        return self._forward(x, h_prev, train=train, **given)[0]

    def backward(self, dh_next: Array | None) -> tuple[Any, ...]:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dh_next : array (N, H) or None
            The gradient of h_next. None is zeros.

        Returns
        -------
        dx : array (N, D)
        dh_prev : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(dh_next)


class _StepTwoStates(_Step):
    """A step of a cell whose state is h and c."""

    states = ("h", "c")

    @overload
    def forward(
        self,
        x: Integers,
        h_prev: Array | None,
        c_prev: Array | None,
        *,
        train: bool = True,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> tuple[Floats, ...]: ...
    @overload
    def forward(
        self,
        x: A,
        h_prev: Array | None,
        c_prev: Array | None,
        *,
        train: bool = True,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> tuple[A, ...]: ...
    def forward(
        self,
        x: Any,
        h_prev: Array | None,
        c_prev: Array | None,
        *,
        train: bool = True,
        candidate_mask: Array | None = None,
        h_zoneout: Array | float | None = None,
        c_zoneout: Array | float | None = None,
    ) -> tuple[Any, ...]:
        """Compute one step.

        Parameters
        ----------
        x : array (N, D)
            The input.
        h_prev, c_prev : array (N, H) or None
            The state before the step. None is zeros.
        train : bool
            False keeps nothing for a backward.
        candidate_mask : array (N, H), optional
            Multiplies g: recurrent dropout without memory loss.
        h_zoneout, c_zoneout : float or array (N, H), optional
            Zoneout: the shares of h_prev and c_prev that the step keeps, 0 or 1 in training; in
            evaluation the probability, a number. Of an LSTMP h_zoneout is as wide as h.

        Returns
        -------
        h_next, c_next : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument.
        RuntimeError
            If the layer is frozen and train is True.

        References
        ----------
        See `TimeLSTM.forward`.
        """
        given = {
            "candidate_mask": candidate_mask,
            "h_zoneout": h_zoneout,
            "c_zoneout": c_zoneout,
        }
        return self._forward(x, h_prev, c_prev, train=train, **given)

    def backward(self, dh_next: Array | None, dc_next: Array | None) -> tuple[Any, ...]:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dh_next, dc_next : array (N, H) or None
            The gradients of h_next and c_next. None is zeros.

        Returns
        -------
        dx : array (N, D)
        dh_prev, dc_prev : array (N, H)

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(dh_next, dc_next)
