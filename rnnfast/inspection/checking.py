"""The gradients of a layer's backward against differences of its forward. Chapter 1's idea."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.layers.initial import generator

OWNER = "gradient_check"
STEP, TOLERANCE = 1e-5, 1e-6  # of float64
LEAST = 1e-3  # the part of the largest gradient below which an array's own are only rounding errors


@dataclass(frozen=True)
class CheckedArray:
    """The worst element of one array in a `GradientReport`.

    Attributes
    ----------
    name : str
        "Wx" for a weight, "inputs[0]" for the first argument of forward.
    shape : tuple of int
    checked : int
        How many of its elements were checked.
    index : tuple of int
        Where the worst of them is.
    backward, numeric : float
        Its gradient by backward, and by the difference of two losses.
    error : float
        How far they are apart, divided by the largest gradient of the array.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    index: tuple[int, ...]
    backward: float
    numeric: float
    error: float


@dataclass(frozen=True)
class GradientReport:
    """What `gradient_check` has found. Printed, it is a table.

    Attributes
    ----------
    layer : str
        The repr of the layer.
    tolerance : float
    arrays : tuple of CheckedArray
        One for each weight and each input with a gradient.
    """

    layer: str
    tolerance: float
    arrays: tuple[CheckedArray, ...]

    @property
    def passed(self) -> bool:
        """Whether no error is above the tolerance."""
        return self.worst.error <= self.tolerance

    @property
    def worst(self) -> CheckedArray:
        """The array with the worst element."""
        return max(self.arrays, key=lambda array: array.error)

    def __str__(self) -> str:
        worst = self.worst
        verdict = "passed" if self.passed else "FAILED"
        place = f"{worst.name}{list(worst.index)}"
        lines = [
            f"{self.layer}: {verdict}, tolerance {self.tolerance:g}; the worst element is {place}"
        ]
        rows = [("array", "shape", "checked", "worst", "backward", "numeric", "error")]
        for array in self.arrays:
            numbers = f"{array.backward:.9g}", f"{array.numeric:.9g}", f"{array.error:.1e}"
            where = str(array.shape), str(array.checked), str(list(array.index))
            rows.append((array.name, *where, *numbers))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def gradient_check(
    layer: Any,
    *inputs: Any,
    elements: int | None = 100,
    step: float | None = None,
    tolerance: float | None = None,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> GradientReport:
    """Compare the gradients of a layer's or model's backward with differences of its forward.

    Parameters
    ----------
    layer : Layer or Model
        Anything with ``forward``, ``backward``, `params` and `grads`: a layer of rnnfast or of your
        own, a loss layer, a model. It is not changed; copies of it are computed with.
    *inputs
        What its forward takes. Arrays of integers, such as ids and targets, have no gradient.
    elements : int or None
        How many elements of each array are checked, drawn at random; None for all.
    step : float, optional
        Half the difference of an element in two forwards. None is 1e-5.
    tolerance : float, optional
        The largest error that passes. None is 1e-6.
    rng : int or numpy.random.Generator
        Draws the elements and the gradient of the output.
    **options
        Keyword arguments of forward: ``lengths=[3, 1]``.

    Returns
    -------
    GradientReport
        `passed`, and the worst element of each array.

    Raises
    ------
    TypeError
        The layer has no forward, backward, params and grads, or an array is not float64 and `step`
        and `tolerance` are not given: differences of float32 drown in rounding errors.
    ValueError
        A gradient has not the shape of its array, or there is nothing to check.

    Notes
    -----
    The loss is the output of a loss layer or model, else the sum of the output times a gradient
    that is drawn at random. For each element p::

        numeric = (loss(p + step) - loss(p - step)) / (2 step)

    Each forward starts from the present state of the layer and of np.random, so that dropout draws
    the same mask. Final states that are no output of forward have no part in the loss.

    References
    ----------
    Deep Learning from Scratch 2, chapter 1; Deep Learning from Scratch, chapter 5.

    Examples
    --------
    >>> from rnnfast import Affine
    >>> from rnnfast.inspection import gradient_check
    >>> affine = Affine.create(3, 2, rng=0, dtype="float64", device="cpu")
    >>> report = gradient_check(affine, np.ones((4, 3)))
    >>> report.passed
    True
    >>> [array.name for array in report.arrays]
    ['W', 'b', 'inputs[0]']
    """
    step, tolerance = _checked(layer, inputs, step, tolerance)
    if elements is not None:
        checks.count(OWNER, "elements", elements)
    draw = generator(OWNER, rng)
    state = np.random.get_state()
    try:
        forward = _Forward(layer, inputs, options, state, draw)
        found = []
        for name, grad, moved in forward.gradients():
            places = np.arange(grad.size)
            if elements is not None and grad.size > elements:
                places = np.sort(draw.choice(grad.size, elements, replace=False))
            indices = [tuple(map(int, np.unravel_index(k, grad.shape))) for k in places]
            numeric = [(moved(at, step) - moved(at, -step)) / (2 * step) for at in indices]
            if indices:
                found.append((name, grad, indices, np.array(numeric)))
    finally:
        np.random.set_state(state)
    if not found:
        raise ValueError(f"{OWNER}: layer must have a weight or an input with a gradient, got none")
    largest = max(_scale(grad, numeric) for _, grad, _, numeric in found)
    least = LEAST * largest
    arrays = tuple(_worst(name, grad, at, numeric, least) for name, grad, at, numeric in found)
    return GradientReport(repr(layer), tolerance, arrays)


class _Forward:
    """A layer and its inputs, for many forwards from the same state."""

    def __init__(
        self,
        layer: Any,
        inputs: Sequence[Any],
        options: dict[str, Any],
        state: Any,
        draw: np.random.Generator,
    ) -> None:
        self.layer, self.inputs, self.options, self.state = layer, inputs, options, state
        self.own, outputs = self._run(self.layer, self.inputs)
        self.scalar = all(getattr(y, "ndim", 0) == 0 for y in outputs)
        self.douts: list[Any] = []
        if not self.scalar:
            drawn = (draw.standard_normal(y.shape).astype(y.dtype) for y in outputs)
            self.douts = list(map(checks.beside, outputs, drawn))
        self.result = self.own.backward(*self.douts)

    def _run(self, layer: Any, inputs: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        """A copy of the layer after its forward, and the outputs."""
        own = copy.deepcopy(layer)
        np.random.set_state(self.state)
        y = own.forward(*map(_own, inputs), **self.options)
        return own, y if isinstance(y, (tuple, list)) else (y,)

    def _loss(self, layer: Any, inputs: Sequence[Any]) -> float:
        outputs = self._run(layer, inputs)[1]
        if self.scalar:
            return sum(float(y) for y in outputs)
        pairs = zip(outputs, self.douts, strict=True)
        return sum(float((y * dy).sum(dtype=np.float64)) for y, dy in pairs)

    def gradients(self) -> Iterator[tuple[str, Any, Callable[[tuple[int, ...], float], float]]]:
        """(name, gradient by backward, loss after an element has been moved) of every array."""
        names, seen = _names(self.own), set()
        for i, (param, grad) in enumerate(zip(self.own.params, self.own.grads, strict=True)):
            if i in seen:
                continue
            total = np.array(to_numpy(grad), np.float64)
            for j in range(i + 1, len(self.own.params)):  # a shared weight has several gradients
                turned = _turned(param, self.own.params[j])
                if turned is not None:
                    seen.add(j)
                    more = to_numpy(self.own.grads[j])
                    total += more.T if turned else more
            yield names[i], _like(names[i], param, total), self._of_param(i)
        dinputs = self.result if isinstance(self.result, (tuple, list)) else (self.result,)
        for k, (x, dx) in enumerate(zip(self.inputs, dinputs, strict=False)):
            if dx is not None and _is_floating(x):
                name = f"inputs[{k}]"
                yield name, _like(name, x, np.array(to_numpy(dx), np.float64)), self._of_input(k)

    def _of_param(self, i: int) -> Callable[[tuple[int, ...], float], float]:
        def moved(index: tuple[int, ...], by: float) -> float:
            own = copy.deepcopy(self.layer)
            own.params[i][index] += by
            return self._loss(own, self.inputs)

        return moved

    def _of_input(self, k: int) -> Callable[[tuple[int, ...], float], float]:
        def moved(index: tuple[int, ...], by: float) -> float:
            inputs = [*map(_own, self.inputs)]
            inputs[k][index] += by
            return self._loss(self.layer, inputs)

        return moved


def _checked(
    layer: Any, inputs: Sequence[Any], step: float | None, tolerance: float | None
) -> tuple[float, float]:
    """The step and the tolerance, once all arguments are right."""
    for name in ("forward", "backward", "params", "grads"):
        if not hasattr(layer, name):
            kind = type(layer).__name__
            raise TypeError(f"{OWNER}: layer must have {name}, got a {kind} without")
    for name, value in (("step", step), ("tolerance", tolerance)):
        if value is not None and not 0 < checks.number(OWNER, name, value) < math.inf:
            raise ValueError(f"{OWNER}: {name} must be finite, above 0, got {value}")
    if step is None or tolerance is None:
        named = zip(_names(layer), layer.params, strict=True)
        arrays = dict(named) | {f"inputs[{k}]": x for k, x in enumerate(inputs)}
        for name, x in arrays.items():
            if _is_floating(x) and x.dtype != np.float64:
                raise TypeError(
                    f"{OWNER}: {name} must be float64, got {x.dtype}; to check it in spite of "
                    "rounding errors give step and tolerance"
                )
    return (STEP if step is None else step), (TOLERANCE if tolerance is None else tolerance)


def _names(layer: Any) -> list[str]:
    """The names of a layer's weights."""
    specs = getattr(layer, "_specs", ())
    known = getattr(layer, "param_names", None) or [spec[0] for spec in specs]
    names = [*known, *[None] * len(layer.params)]
    return [names[i] or f"params[{i}]" for i in range(len(layer.params))]


def _own(x: Any) -> Any:
    """A copy of an array, other objects themselves."""
    return x.copy() if checks.is_array(x) else x


def _is_floating(x: Any) -> bool:
    return checks.is_array(x) and x.dtype.kind == "f"


def _turned(param: Any, other: Any) -> bool | None:
    """Whether another weight is the transpose of one, not the same; None: it shares no memory."""
    where = checks.place(other)
    if where == checks.place(param):
        return False
    return True if where == checks.place(param.T) else None


def _like(name: str, x: Any, grad: Any) -> Any:
    """A gradient of the shape of its array."""
    if grad.shape != x.shape:
        expected = f"like {name}, {x.shape}"
        raise checks.shape_error(OWNER, f"the gradient of {name}", expected, grad)
    return grad


def _scale(grad: Any, numeric: Any) -> float:
    """The largest finite gradient by the one way or the other."""
    sizes = np.abs(np.concatenate((grad.ravel(), numeric)))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0))


def _worst(
    name: str, grad: Any, indices: list[tuple[int, ...]], numeric: Any, least: float
) -> CheckedArray:
    """The worst element of an array."""
    by_backward = np.array([grad[index] for index in indices])
    scale = max(_scale(grad, numeric), least) or 1.0
    errors = np.abs(by_backward - numeric) / scale
    errors[~np.isfinite(errors)] = math.inf
    k = int(errors.argmax())
    values = float(by_backward[k]), float(numeric[k]), float(errors[k])
    return CheckedArray(name, grad.shape, len(indices), indices[k], *values)
