"""The base of the optimisers: named numbers and arrays, checked, saved and restored."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.checks import is_numpy, writeable
from rnnfast.training.gradients import column_of, like, remove_duplicate


class BaseOptimizer:
    """Named numbers, and named lists of arrays with one array per parameter.

    The lists are None before the first update. Every update takes the same list of parameters:
    other shapes are a ValueError.
    """

    numbers: tuple[str, ...] = ("lr",)
    arrays: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ("iter",)  # numbers that repr does not show
    dtype: Any = None  # of the arrays; None is that of the parameter
    lr: float
    weight_decay: float = 0.0  # of those that have it among their numbers

    def __init__(self, **numbers: Any) -> None:
        for name in self.numbers:
            setattr(self, name, self._checked(name, numbers.get(name, 0)))
        for name in self.arrays:
            setattr(self, name, None)

    def __repr__(self) -> str:
        shown = [name for name in self.numbers if name not in self.hidden]
        if not self.weight_decay:
            shown = [name for name in shown if name != "weight_decay"]
        numbers = [f"{name}={getattr(self, name)!r}" for name in shown]
        return f"{type(self).__name__}({', '.join(numbers)})"

    def _checked(self, name: str, value: Any) -> Any:
        """value as one of `numbers`: a Python float, an int for iter."""
        owner = type(self).__name__
        if name == "iter":
            if (value := checks.integer(owner, name, value)) < 0:
                raise ValueError(f"{owner}: iter must be from 0 up, got {value}")
            return value
        value = checks.number(owner, name, value)
        unbounded = name in ("lr", "weight_decay")
        limit, wanted = (math.inf, "finite, from 0 up") if unbounded else (1, "in [0, 1)")
        if not 0 <= value < limit:
            raise ValueError(f"{owner}: {name} must be {wanted}, got {value}")
        return value

    def state_dict(self) -> dict[str, Any]:
        """Copy the state of the optimiser.

        Returns
        -------
        dict
            The numbers and copies of the arrays by name: lists of NumPy arrays, or None before
            the first update.
        """
        state: dict[str, Any] = {name: getattr(self, name) for name in self.numbers}
        for name in self.arrays:
            arrays = getattr(self, name)
            state[name] = None if arrays is None else [_to_numpy(array) for array in arrays]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`.

        Parameters
        ----------
        state : dict
            What `state_dict` of an optimiser of the same class returned.

        Raises
        ------
        ValueError
            The state does not fit; nothing is changed.
        """
        name = type(self).__name__
        expected = {*self.numbers, *self.arrays}
        if not isinstance(state, dict) or state.keys() != expected:
            found = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"{name}: state must have {sorted(expected)}, got {found}")
        try:
            numbers = {key: self._checked(key, state[key]) for key in self.numbers}
        except TypeError as error:
            raise ValueError(str(error)) from None
        lists = [state[key] for key in self.arrays]
        if any(arrays is None for arrays in lists):
            fits = all(arrays is None for arrays in lists)
        else:
            shapes = [[getattr(array, "shape", None) for array in arrays] for arrays in lists]
            fits = all(row == shapes[0] and None not in row for row in shapes)
        if not fits:
            raise ValueError(f"{name}: {', '.join(self.arrays)} must be equal lists of arrays")
        for key, value in numbers.items():
            setattr(self, key, value)
        for key, arrays in zip(self.arrays, lists, strict=True):
            setattr(self, key, None if arrays is None else [array.copy() for array in arrays])

    def array_dtype(self, param: Any) -> Any:
        """The dtype of the arrays of a parameter."""
        return self.dtype or param.dtype

    def _each(
        self, params: Sequence[Any], grads: Sequence[Any], *, arrays: bool = True
    ) -> Iterator[tuple[Any, ...]]:
        """(param, grad, its arrays ...) of every parameter, checked; the arrays start at zero.

        arrays: False makes none and yields none.
        """
        for name in self.numbers:
            self._checked(name, getattr(self, name))  # a script may have assigned other values
        params, grads = remove_duplicate(params, grads)
        for param in params:
            if not writeable(param):
                raise ValueError("update: param must be writable, got a read-only array")
        grads = [like(param, grad) for param, grad in zip(params, grads, strict=True)]
        names = self.arrays if arrays else ()
        for name in names:
            there = getattr(self, name)
            if there is None:
                there = [np.zeros_like(param, self.array_dtype(param)) for param in params]
                setattr(self, name, there)
            else:
                self._check_same(there, params)
                setattr(self, name, list(map(at_home, there, params)))
        return zip(params, grads, *(getattr(self, name) for name in names), strict=True)

    def _decay(self, param: Any) -> None:
        """The part of an update that is not the gradient's: param -= lr weight_decay param."""
        if self.weight_decay:
            column_of(param).scale(param, 1.0 - self.lr * self.weight_decay)

    def _check_same(self, arrays: Sequence[Any], params: Sequence[Any]) -> None:
        """ValueError unless there is one array for each parameter."""
        there = [(array.shape, array.dtype) for array in arrays]
        if there != [(param.shape, self.array_dtype(param)) for param in params]:
            owner = type(self).__name__
            raise ValueError(f"{owner}: the parameters are not those of the first update")


def _to_numpy(array: Any) -> Any:
    """A copy on the host."""
    return array.get() if hasattr(array, "get") else array.copy()


def at_home(array: Any, param: Any) -> Any:
    """array on the device of param: loaded arrays are NumPy's."""
    if is_numpy(array) and not is_numpy(param):
        moved = np.empty_like(param, array.dtype)
        moved.set(array)
        return moved
    return array
