"""What all layers share: params and grads, the column they compute with, copying."""

from itertools import combinations, product
from operator import is_

import numpy as np

from rnnfast import checks
from rnnfast.kernels import get_device, load, resolve


def param(i):
    """params[i] by name; setting it is setting the list's entry, checked at once."""
    return property(lambda self: self.params[i], lambda self, W: self._replace(i, W))


def grad(i):
    """grads[i] by name."""
    return property(lambda self: self.grads[i])


class Layer:
    """A layer of the book: `params`, `grads`, forward, backward.

    params and grads are lists in the same order. backward writes into the arrays of grads and
    never replaces them; an array put into params has to have the old one's shape and dtype.
    `cache` is what forward left for backward; what may be changed meanwhile is said in
    rnnfast.kernels. A layer can be deep-copied and pickled; the copy
    has no cache, so it needs a forward before its backward.

    device: "auto", "cpu", "cuda" or "reference", and by default what `rnnfast.get_device()`
    says when the layer is made.
    """

    column = "ops"  # the row of the grid: which module of the device this layer calls

    def __init__(self, device, params=(), specs=()):
        """specs has (name, shape, label) of each of the params: ("Wx", (100, 400), "(D, 4H)")."""
        self._name = type(self).__name__
        self._specs = specs
        self.dtype = params[0].dtype if params else None
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
        else:  # with "auto" the arrays that come will decide
            self.device = get_device() if device is None else device
        self._bind()
        self.params = params
        self._checked = self.params[:]
        self.grads = [np.zeros_like(p) for p in params]
        self._apart = None  # grads that were found not to overlap
        self.cache = None

    def _bind(self):
        self._kernel = None if self.device == "auto" else load(self.column, self.device)

    def _column(self, x):
        """The column's module, for a layer without weights that may not be bound yet."""
        return self._kernel or load(self.column, resolve(self.device, x))

    def _replace(self, i, W):
        name, shape, label = self._specs[i]
        self.params[i] = checks.exactly(self._name, name, W, self.dtype, shape, label)

    def _checked_params(self):
        """params, after a cheap look: the caller may have put other arrays into the list."""
        params = self.params
        if len(params) != len(self._checked) or not all(map(is_, params, self._checked)):
            self._check_count("params", params)
            for i, (name, shape, label) in enumerate(self._specs):
                params[i] = checks.exactly(self._name, name, params[i], self.dtype, shape, label)
            self._checked = params[:]
        return params

    def _checked_grads(self):
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

    def _check_apart(self, grads):
        """Every one of grads has memory of its own: what is written into one stays.

        On a GPU it is written where the params may still be read.
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

    def _check_count(self, which, arrays):
        if len(arrays) != len(self._specs):
            names = ", ".join(name for name, _, _ in self._specs)
            raise ValueError(f"{self._name}: {which} must hold {names}, got {len(arrays)} arrays")

    def _pending(self):
        """The cache that backward works from."""
        if self.cache is None:
            raise RuntimeError(
                f"{self._name}: backward needs the forward of a training step before it"
            )
        return self.cache

    def _check_dout(self, dout, shape):
        dout = checks.real(self._name, "dout", dout)
        if dout.shape != shape:
            raise checks.shape_error(self._name, "dout", f"like the output, {shape}", dout)

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["_kernel"]  # a module
        state["cache"] = None
        state["_apart"] = None
        if "_packed" in state:  # a frozen layer's copy is not frozen
            state["_packed"] = state["_weights_of"] = None
            state.pop("_thaw", None)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._bind()
