"""The layers of a model while it only predicts: weights laid out once, the state restored."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def freezable(layers: Iterable[Any]) -> list[Any]:
    """The recurrent layers among layers and their parts: those that have weights to lay out."""
    found: list[Any] = []
    for layer in layers:
        if hasattr(layer, "freeze"):
            if hasattr(layer, "_agree"):
                layer._agree()  # an array put into its params is one of a part's
            found += freezable(layer.parts) if hasattr(layer, "parts") else [layer]
    return found


def freeze_all(layers: Iterable[Any], precision: str | None) -> None:
    """Freeze layers and their parts; if one cannot be frozen, those frozen here are not, either."""
    found = freezable(layers)
    new = [layer for layer in found if not layer.frozen]
    try:
        for layer in found:
            layer.freeze(precision)
    except BaseException:
        unfreeze_all(new)
        raise


def unfreeze_all(layers: Iterable[Any]) -> None:
    """Unfreeze layers; a signal while it does so is raised once all are unfrozen."""
    layers = list(layers)
    try:
        _unfreeze(layers)
    except BaseException:
        _unfreeze(layers)
        raise


def _unfreeze(layers: Iterable[Any]) -> None:
    for layer in layers:
        layer.unfreeze()


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Freeze the layers of one of rnnfast's models for one block.

    Layers that were frozen before stay so. Only rnnfast's own models call forward with train=False
    when they predict; all other models, such as the book's, are left unchanged.
    """
    own = model.layers if hasattr(model, "next_scores") else ()
    thawed = [layer for layer in freezable(own) if not layer.frozen]
    try:
        for layer in thawed:
            layer.freeze()
        yield
    finally:
        try:  # a signal may come before the first line of a function
            _unfreeze(thawed)
        except BaseException:
            _unfreeze(thawed)
            raise


@contextmanager
def own_state(model: Any) -> Iterator[None]:
    """Restore the state of a model after one block that changes it."""
    state = model.get_state()

    def restore() -> None:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            model.set_state(state)

    try:
        yield
    finally:
        try:
            restore()
        except BaseException:  # a signal
            restore()
            raise
