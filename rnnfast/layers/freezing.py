"""The layers of a model while it only predicts: weights laid out once, the state restored."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def freezable(layers: Iterable[Any]) -> list[Any]:
    """The layers that have weights to lay out."""
    return [layer for layer in layers if hasattr(layer, "freeze")]


def freeze_all(layers: Iterable[Any], precision: str | None) -> None:
    """Freeze layers; if one cannot be frozen, those that were not frozen before are no more."""
    thawed = []
    try:
        for layer in layers:
            if not layer.frozen:
                thawed.append(layer)
            layer.freeze(precision)
    except BaseException:
        for layer in thawed:
            layer.unfreeze()
        raise


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Freeze the layers of one of rnnfast's models for one block.

    Layers that were frozen before stay so. Only rnnfast's own models call forward with train=False
    when they predict; all other models, such as the book's, are left unchanged.
    """
    own = model.layers if hasattr(model, "next_scores") else ()
    layers = freezable(own)
    thawed = [layer for layer in layers if not layer.frozen]
    try:
        for layer in thawed:
            layer.freeze()
        yield
    finally:
        for layer in thawed:
            layer.unfreeze()


@contextmanager
def own_state(model: Any) -> Iterator[None]:
    """Restore the state of a model after one block that changes it."""
    state = model.get_state()
    try:
        yield
    finally:
        model.reset_state()
        if any(array is not None for arrays in state for array in arrays):
            model.set_state(state)
