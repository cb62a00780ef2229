"""Types for annotations: arrays of either kind, layers, models, optimisers.

`Array` is what NumPy's and CuPy's arrays have in common, so that a function that takes one works
with both, and a function from `A` to `A` returns NumPy arrays for NumPy arrays. A layer that casts
integers to the dtype of its weights returns `Floats` for `Integers`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


class Array(Protocol):
    """An array of NumPy or CuPy."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def T(self) -> Any: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


A = TypeVar("A", bound=Array)
Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


class Layer(Protocol):
    """A layer of the book: what a model lists in `layers`."""

    params: list[Any]
    grads: list[Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...
    def backward(self, *args: Any, **kwargs: Any) -> Any: ...


class Model(Protocol):
    """What a trainer needs of a model: forward gives the loss, backward fills `grads`."""

    params: list[Any]
    grads: list[Any]

    def forward(self, xs: Any, ts: Any, /) -> Any: ...
    def backward(self) -> Any: ...


class TextModel(Protocol):
    """What sampling needs of a language model. Its state is one of each recurrent layer."""

    layers: list[Any]
    recurrent_layers: list[Any]

    @property
    def vocab_size(self) -> int: ...
    def next_scores(self, xs: Any, /) -> Any: ...
    def reset_state(self) -> None: ...
    def get_state(self) -> list[Any]: ...
    def set_state(self, states: Any, /) -> None: ...


class Optimizer(Protocol):
    """What a trainer needs of an optimiser."""

    lr: float

    def update(self, params: list[Any], grads: list[Any]) -> None: ...


class LanguageModel(Model, Protocol):
    """A model with a recurrent state that scores the next id: the book's Rnnlm, or one like it."""

    @property
    def layers(self) -> Sequence[Any]: ...
    def predict(self, xs: Any, /) -> Any: ...
    def reset_state(self) -> Any: ...
