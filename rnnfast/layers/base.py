"""The base of all layers: params and grads, the column of kernels, copying, repr."""

from collections.abc import Sequence
from itertools import combinations, product
from operator import is_
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rnnfast import checks
from rnnfast.kernels import get_device, load, resolve

Spec = tuple[str, tuple[int, ...], str]  # ("Wx", (100, 400), "(D, 4H)")
# Attributes of the book's layers that have no counterpart, and why
OF_THE_BOOK = {
    "layers": ": all steps are computed at once, so no step has a layer of its own (for the values "
    "of gates see rnnfast.inspection.gates)",
}


def param(i: int) -> property:
    """params[i] as an attribute. An array that is assigned to it is checked at once."""

    def get(self: "Layer") -> Any:
        return self.params[i]

    def replace(self: "Layer", W: Any) -> None:
        self._replace(i, W)

    return property(get, replace)


def grad(i: int) -> property:
    """grads[i] as an attribute."""

    def get(self: "Layer") -> Any:
        return self.grads[i]

    return property(get)


class Layer:
    """A layer of the book: `params`, `grads`, forward, backward.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "reference"}, optional
        Where the layer computes. The default is the value of `rnnfast.get_device()` when the layer
        is made.
    params : sequence of arrays
        The weights.
    specs : sequence of tuple
        (name, shape, label) of each weight: ("Wx", (100, 400), "(D, 4H)").

    Attributes
    ----------
    params, grads : list of arrays
        The weights and their gradients, in the same order. backward writes into the arrays of
        `grads` and never replaces them. An array that the caller puts into `params` must have the
        shape and the dtype of the old one.
    dtype : numpy.dtype or None
        The dtype of the weights; None if there are none.
    device : str
        The device. A layer without weights may have "auto": then the input decides.
    cache
        The values that forward keeps for backward. `rnnfast.kernels` lists the arrays that may
        change meanwhile.

    Notes
    -----
    Backward belongs to the last forward and is called in the same thread: where several threads
    train with one layer, none gets the gradients of another's input but an error.

    A layer can be deep-copied and pickled. The copy has no cache: it needs a forward before its
    backward.
    """

    column = "ops"  # the row of the grid: the module of the device that this layer calls
    of_cache: tuple[str, ...] = ()  # attributes that are in the cache; None without a forward

    params: list[Any]
    grads: list[Any]
    dtype: Any
    device: str
    _cache: tuple[Any, int]  # and the thread that it belongs to
    _name: str  # in messages
    _specs: Sequence[Spec]
    _kernel: Any  # the column's module; None while the device is "auto"
    _checked: list[Any]  # params that passed the checks
    _apart: list[Any] | None  # grads without overlap

    def __init__(
        self, device: str | None, params: Sequence[Any] = (), specs: Sequence[Spec] = ()
    ) -> None:
        self._name = type(self).__name__
        self._specs = specs
        self.dtype = params[0].dtype if params else None
        params = [
            checks.in_dtype(self._name, spec[0], p, self.dtype)
            for p, spec in zip(params, specs, strict=True)
        ]
        params = [
            checks.exactly(self._name, name, p, self.dtype, shape, label)
            for p, (name, shape, label) in zip(params, specs, strict=True)
        ]
        if params:
            self.device = resolve(device, *params)
            if self.device != "cuda" and any(map(checks.is_cupy, params)):
                raise TypeError(
                    f"{self._name}: on device {self.device!r} the weights must be NumPy arrays, "
                    "got CuPy ones"
                )
        else:  # with "auto" the input will decide
            self.device = get_device() if device is None else device
        self._bind()
        self.params = params
        self._checked = self.params[:]
        self.grads = [np.zeros_like(p) for p in params]
        self._apart = None
        self.cache = None

    def __repr__(self) -> str:
        """The layer with its sizes, its options other than the defaults, dtype and device."""
        return f"{type(self).__name__}({', '.join(self._entries())})"

    def _entries(self) -> list[str]:
        """The entries of repr."""
        dtype = [] if self.dtype is None else [str(self.dtype)]
        device = [] if self.device == "auto" else [self.device]
        return [*self._sizes(), *self._choices(), *dtype, *device]

    def _sizes(self) -> list[str]:
        """The sizes for repr: ["D=100", "H=200"]."""
        return []

    def _choices(self) -> list[str]:
        """The options for repr that differ from their defaults: ["stateful=True"]."""
        return []

    def _bind(self) -> None:
        """Look up the column's module."""
        self._kernel = None if self.device == "auto" else load(self.column, self.device)

    def _part_of(self, owner: str) -> Self:
        """This layer, which speaks in messages of the layer that has it as a part."""
        self._name = owner
        return self

    def _column(self, x: Any) -> Any:
        """The column's module, for a layer without weights, which x may have to choose."""
        return self._kernel or load(self.column, resolve(self.device, x))

    def _replace(self, i: int, W: Any) -> None:
        """Put W into params[i], checked."""
        name, shape, label = self._specs[i]
        self.params[i] = checks.exactly(self._name, name, W, self.dtype, shape, label)

    def _checked_params(self) -> list[Any]:
        """params, after a cheap test: the caller may have put other arrays into the list."""
        params = self.params
        if len(params) != len(self._checked) or not all(map(is_, params, self._checked)):
            self._check_count("params", params)
            for i, (name, shape, label) in enumerate(self._specs):
                params[i] = checks.exactly(self._name, name, params[i], self.dtype, shape, label)
            self._checked = params[:]
        return params

    def _checked_grads(self) -> list[Any]:
        """grads, once it is sure that backward can write all of them."""
        grads, known = self.grads, self._apart
        if known is None or len(grads) != len(known) or not all(map(is_, grads, known)):
            self._check_count("grads", grads)
            for i, (name, shape, label) in enumerate(self._specs):
                name = f"grads (d{name})"
                grads[i] = checks.exactly(self._name, name, grads[i], self.dtype, shape, label)
            self._check_apart(grads)
            self._apart = grads[:]
        for g in grads:
            if g.__class__ is np.ndarray and not g.flags.writeable:
                name = next(spec[0] for spec, x in zip(self._specs, grads, strict=True) if x is g)
                raise ValueError(f"{self._name}: grads (d{name}) must be writeable, got read-only")
        return grads

    def _check_apart(self, grads: list[Any]) -> None:
        """Check that no two grads overlap, so that no gradient is written over another.

        On a GPU no gradient may overlap a weight either, which may still be read.
        """
        named = [(f"d{spec[0]}", g) for spec, g in zip(self._specs, grads, strict=True)]
        pairs = list(combinations(named, 2))
        if checks.is_cupy(grads[0]):
            params = [(spec[0], p) for spec, p in zip(self._specs, self.params, strict=True)]
            pairs += product(params, named)
        for (name, a), (other, b) in pairs:
            if checks.shares(a, b):
                raise ValueError(
                    f"{self._name}: grads ({other}) must have memory of its own, got that of {name}"
                )

    def _check_count(self, which: str, arrays: Sequence[Any]) -> None:
        """Check that it is a list with one array for each weight."""
        if not isinstance(arrays, list):
            kind = type(arrays).__name__
            raise TypeError(f"{self._name}: {which} must be a list of arrays, got {kind}")
        if len(arrays) != len(self._specs):
            names = ", ".join(name for name, _, _ in self._specs)
            raise ValueError(f"{self._name}: {which} must hold {names}, got {len(arrays)} arrays")

    @property
    def cache(self) -> Any:
        return self._cache[0]

    @cache.setter
    def cache(self, cache: Any) -> None:
        self._cache = cache, get_ident()

    def _pending(self) -> Any:
        """The cache for backward."""
        cache, thread = self._cache  # read once: a call in another thread may drop it
        if cache is None:
            needs = f"{self._name}: backward needs the forward of a training step before it"
            module = getattr(getattr(type(self), "forward", None), "__module__", None) or ""
            if module.partition(".")[0] != "rnnfast":
                own = f"a forward of {type(self).__name__} has to call that of the class it extends"
                raise RuntimeError(f"{needs}, one for each backward; {own}")
            raise RuntimeError(f"{needs}, one for each backward")
        if thread != get_ident():
            raise RuntimeError(
                f"{self._name}: backward needs a forward before it in the same thread, got that of "
                "another thread"
            )
        return cache

    def _absent(self, name: str) -> Any:
        """An attribute that is not there: so a class that extends this one may set it."""
        if hasattr(type(self), name):  # a property that has failed: its own error
            return object.__getattribute__(self, name)
        if name in type(self).of_cache:
            cache = self.cache
            return None if cache is None else self._of_cache(name, cache)
        why = OF_THE_BOOK.get(name, "")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{why}")

    if not TYPE_CHECKING:  # or a checker would take every name for an attribute
        __getattr__ = _absent

    def _of_cache(self, name: str, cache: Any) -> Any:
        """What the last forward of training has kept, by its name in the book."""
        raise NotImplementedError(name)

    def _checked_dout(self, dout: Any, shape: tuple[int, ...]) -> Any:
        """dout, of the shape of the output."""
        dout = checks.real(self._name, "dout", dout)
        if dout.shape != shape:
            raise checks.shape_error(self._name, "dout", f"like the output, {shape}", dout)
        return dout

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_kernel"]  # a module cannot be pickled
        state["_cache"] = None, 0
        state["_apart"] = None
        if "_packed" in state:  # the copy of a frozen layer is not frozen
            state["_packed"] = state["_weights_of"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_packed" in state:
            for param in state.get("_thaw", ()):
                checks.unlock(param)
            state["_thaw"] = []
        self.__dict__.update(state)
        self._bind()
