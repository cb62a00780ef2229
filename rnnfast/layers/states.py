"""A sequence of a cell with one state, h, with two, h and c, and with four, h, c, n and m.

N batch, T time, H hidden. Inputs and errors: see rnnfast.layers.recurrent.
"""

from typing import Any, overload

from rnnfast.layers.unrolled import _Time
from rnnfast.typing import A, Array


class _TimeOneState(_Time):
    """A sequence of a cell whose state is h."""

    @property
    def state(self) -> tuple[Any, ...]:
        """(h,), the arguments of set_state."""
        return (self.h,)

    @property
    def dstate(self) -> tuple[Any, ...]:
        """(dh,) after backward: the gradient of the initial state."""
        return (self.dh,)

    def _keep(self, h: Any) -> None:
        self.h = h

    def _keep_gradients(self, dh: Any) -> None:
        self.dh = dh

    @overload
    def backward(self, dhs: A, dh: Array | None = None) -> A: ...
    @overload
    def backward(self, dhs: None, dh: Array | None = None) -> Any: ...

    def backward(self, dhs: Any, dh: Any = None) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array (N, T, H) or None
            The gradient of hs. None is zeros: for a loss that depends only on the final state.
        dh : array (N, H), optional
            The gradient of the final state. None is zeros.

        Returns
        -------
        array (N, T, D)
            dxs. `dh` is now the gradient of the initial state.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(self._checked_backward(dhs, dh))

    def set_state(self, h: Array | None) -> None:
        """Start the next forward from h.

        Parameters
        ----------
        h : array (N, H) or None
            None is zeros.

        Raises
        ------
        TypeError, ValueError
            For a wrong type, dtype or shape, or if the layer is not stateful.
        """
        self._set_state(h)


class _TimeTwoStates(_Time):
    """A sequence of a cell whose state is h and c."""

    states = ("h", "c")

    c: Any
    dc: Any

    @property
    def state(self) -> tuple[Any, ...]:
        """(h, c), the arguments of set_state."""
        return self.h, self.c

    @property
    def dstate(self) -> tuple[Any, ...]:
        """(dh, dc) after backward: the gradient of the initial state."""
        return self.dh, self.dc

    def _keep(self, h: Any, c: Any) -> None:
        self.h, self.c = h, c

    def _keep_gradients(self, dh: Any, dc: Any) -> None:
        self.dh, self.dc = dh, dc

    @overload
    def backward(self, dhs: A, dh: Array | None = None, dc: Array | None = None) -> A: ...
    @overload
    def backward(self, dhs: None, dh: Array | None = None, dc: Array | None = None) -> Any: ...

    def backward(self, dhs: Any, dh: Any = None, dc: Any = None) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array (N, T, H) or None
            The gradient of hs. None is zeros: for a loss that depends only on the final state.
        dh, dc : array (N, H), optional
            The gradients of the final state. None is zeros.

        Returns
        -------
        array (N, T, D)
            dxs. `dh` and `dc` are now the gradients of the initial state.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(self._checked_backward(dhs, dh, dc))

    def set_state(self, h: Array | None, c: Array | None = None) -> None:
        """Start the next forward from h and c.

        Parameters
        ----------
        h, c : array (N, H) or None
            None is zeros.

        Raises
        ------
        TypeError, ValueError
            For a wrong type, dtype or shape, or if the layer is not stateful.
        """
        self._set_state(h, c)


class _TimeFourStates(_Time):
    """A sequence of a cell whose state is h, c, n and m."""

    states = ("h", "c", "n", "m")

    c: Any
    n: Any
    m: Any
    dc: Any
    dn: Any
    dm: Any

    @property
    def state(self) -> tuple[Any, ...]:
        """(h, c, n, m), the arguments of set_state."""
        return self.h, self.c, self.n, self.m

    @property
    def dstate(self) -> tuple[Any, ...]:
        """(dh, dc, dn, dm) after backward: the gradient of the initial state."""
        return self.dh, self.dc, self.dn, self.dm

    def _keep(self, h: Any, c: Any, n: Any, m: Any) -> None:
        self.h, self.c, self.n, self.m = h, c, n, m

    def _keep_gradients(self, dh: Any, dc: Any, dn: Any, dm: Any) -> None:
        self.dh, self.dc, self.dn, self.dm = dh, dc, dn, dm

    @overload
    def backward(
        self,
        dhs: A,
        dh: Array | None = None,
        dc: Array | None = None,
        dn: Array | None = None,
        dm: Array | None = None,
    ) -> A: ...
    @overload
    def backward(
        self,
        dhs: None,
        dh: Array | None = None,
        dc: Array | None = None,
        dn: Array | None = None,
        dm: Array | None = None,
    ) -> Any: ...

    def backward(
        self, dhs: Any, dh: Any = None, dc: Any = None, dn: Any = None, dm: Any = None
    ) -> Any:
        """Compute the gradients; `grads` are written in place.

        Parameters
        ----------
        dhs : array (N, T, H) or None
            The gradient of hs. None is zeros: for a loss that depends only on the final state.
        dh, dc, dn, dm : array (N, H), optional
            The gradients of the final state. None is zeros.

        Returns
        -------
        array (N, T, D)
            dxs. `dh`, `dc`, `dn` and `dm` are now the gradients of the initial state.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or grads that cannot be written.
        RuntimeError
            Without the forward of a training step before it.
        """
        return self._backward(self._checked_backward(dhs, dh, dc, dn, dm))

    def set_state(
        self,
        h: Array | None,
        c: Array | None = None,
        n: Array | None = None,
        m: Array | None = None,
    ) -> None:
        """Start the next forward from h, c, n and m.

        Parameters
        ----------
        h, c, n, m : array (N, H) or None
            None is zeros. Where n is 0, the next step begins anew with m = A_i, as the first one.

        Raises
        ------
        TypeError, ValueError
            For a wrong type, dtype or shape, or if the layer is not stateful.
        """
        self._set_state(h, c, n, m)
